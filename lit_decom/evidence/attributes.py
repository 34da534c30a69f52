"""What a network keeps outside its parameters: noted, so that it can be compared and put back."""

import operator
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from lit_decom.isolation import (
    contents_of,
    held_by,
    is_at,
    is_installed,
    is_plain,
    package_of,
    reachable,
    set_state,
    slots_of,
    state_of,
)

_OURS = "lit_decom"
_LIBRARIES = {_OURS, "torch", "lightning", "pytorch_lightning", "lightning_fabric"}
_MUTABLE = {dict, OrderedDict, list, set}
_NO_STATE = (type, nn.Parameter, Dataset, DataLoader, Optimizer)
_STATE = (nn.Module, Tensor, np.ndarray, dict, list, tuple, set, frozenset, deque, partial, MethodType, SimpleNamespace)


class Note(Protocol):
    """What an object held when it was noted."""

    def changed(self) -> bool:
        """Whether it holds something else now."""

    def put_back(self) -> None:
        """Let it hold that again."""


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Run a block after which a network has the attributes that it had, with the contents that they had.

    That is what :func:`noted` finds: submodules, hooks, buffers, metrics, counters, collections, tensors, generators.

    Args:
        model: the network.
    """
    notes = [note for _, _, note in noted(model)]
    for module in model.modules():
        for name, value in list(vars(module).items()):
            # Such as the states of a metric that began in a validation: autograd lets nobody write into them here.
            if isinstance(value, Tensor) and value.is_inference():
                vars(module)[name] = value.clone()
    try:
        yield
    finally:
        for note in notes:
            if note.changed():
                note.put_back()


def noted(model: nn.Module) -> Iterator[tuple[str, str, Note]]:
    """Note what a network holds beside the numbers in its parameters.

    Of tensors and arrays in what :func:`kept_by` finds the numbers are noted, of random generators where they are, of
    all else which objects it holds.

    Args:
        model: the network.

    Yields:
        The name of the submodule that something hangs on, that of its attribute (empty for the attributes as such), and
        the note of it.
    """
    for path, module in model.named_modules():
        yield path, "", _Attributes(module)
    for path, name, held in kept_by(model):
        yield from ((path, name, note) for note in _notes_of(held))


def kept_by(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Find what hangs on the submodules of a network and can be state of it.

    Attributes of all submodules, and what can be reached from there: entries of collections, variables that hooks share
    with the function that made them, attributes of objects whose class is not from a library, or from one that modules
    of the network are from. Not looked into are data sets, loaders, optimizers and the Trainer.

    Args:
        model: the network.

    Yields:
        The name of a submodule, that of an attribute of it, and an object that is reached from there, each once.
    """
    modules = dict(model.named_modules())
    packages = {package_of(type(module)) for module in modules.values()} - _LIBRARIES
    seen = set(map(id, modules.values()))

    def inner(value: Any) -> list[Any]:
        return held_by(value) if _is_of_network(value, packages) else []

    for path, module in modules.items():
        for name, value in [*vars(module).items(), *_scripted_buffers(module)]:
            if _is_empty(value) or is_plain(value):  # nearly all of them; asked here, for the time that it takes
                continue
            for held in reachable([value], inner, seen):
                if _is_of_network(held, packages):
                    yield path, name, held


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; NaN is equal to NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _is_of_network(value: Any, packages: set[str]) -> bool:
    """Whether something can be state of a network, by what it is and by the packages that the network is from."""
    if type(value) is nn.Parameter or isinstance(value, _NO_STATE):  # the first is quicker to tell
        return False
    if isinstance(value, _STATE) or state_of(value) is not None:
        return True
    package = package_of(value if isinstance(value, FunctionType) else type(value))
    return package in packages or not (is_installed(package) or package == _OURS)


def _notes_of(value: Any) -> Iterator[Note]:
    if state_of(value) is not None:
        yield _Random(value)
    elif isinstance(value, Tensor):
        if _has_numbers(value):
            yield _Numbers(value)
    elif isinstance(value, np.ndarray):
        if not value.dtype.hasobject:
            yield _Array(value)
    elif isinstance(value, FunctionType):
        yield from (_Variable(cell) for cell in value.__closure__ or ())
    else:
        if isinstance(value, dict | list | set | deque):
            yield _Entries(value)
        if hasattr(value, "__dict__") or slots_of(value):
            yield _Attributes(value)


def _has_numbers(tensor: Tensor) -> bool:
    """Whether numbers are to be put back: not those of parameters, and in a graph they are results of the training."""
    if isinstance(tensor, nn.Parameter) or nn.parameter.is_lazy(tensor):
        return False
    return tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.grad_fn is None


def _scripted_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers of a module of TorchScript, which are no attributes that Python sees."""
    return list(module.named_buffers(recurse=False)) if isinstance(module, torch.jit.ScriptModule) else []


class _Attributes:
    """Which objects the attributes of an object are; and that the collections among them are empty which are so."""

    def __init__(self, owner: Any) -> None:
        self._owner, self._held = owner, getattr(owner, "__dict__", {})
        self._before, self._slots = dict(self._held), slots_of(owner)
        # A module has about fifteen: one note of them all takes a tenth of the time of a note of each.
        self._empty = list(filter(_is_empty, self._before.values()))

    def changed(self) -> bool:
        if any(self._empty) or not _same_objects(self._before, self._held):
            return True
        return bool(self._slots) and not _same_objects(self._slots, slots_of(self._owner))

    def put_back(self) -> None:
        # Not by setattr, which may run an object's own code.
        self._held.clear()
        self._held.update(self._before)
        for collection in self._empty:
            collection.clear()
        for name, value in self._slots.items():
            object.__setattr__(self._owner, name, value)


class _Entries:
    """Which objects a collection holds, in their order."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self._before: Any = dict(collection) if isinstance(collection, dict) else list(collection)

    def changed(self) -> bool:
        if isinstance(self._collection, dict):
            return not _same_objects(self._before, self._collection)
        return not _same_entries(self._before, list(self._collection))

    def put_back(self) -> None:
        self._collection.clear()
        is_ordered = isinstance(self._collection, list | deque)
        (self._collection.extend if is_ordered else self._collection.update)(self._before)


class _Variable:
    """Which object is the value of a variable that a function shares with the one that made it."""

    def __init__(self, cell: CellType) -> None:
        self._cell, self._before = cell, contents_of(cell)

    def changed(self) -> bool:
        return not _same_entries(self._before, contents_of(self._cell))

    def put_back(self) -> None:
        if self._before:
            self._cell.cell_contents = self._before[0]
        else:
            del self._cell.cell_contents


class _Numbers:
    """The numbers in a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._before = tensor, tensor.detach().clone()

    def changed(self) -> bool:
        return not same_numbers(self._tensor, self._before)

    def put_back(self) -> None:
        with torch.inference_mode(self._tensor.is_inference()), torch.no_grad():
            if self._tensor.shape != self._before.shape:  # as observers of quantisation do when they see a first batch
                self._tensor.resize_(self._before.shape)
            self._tensor.copy_(self._before)


class _Array:
    """The numbers in an array."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array, self._before = array, array.copy()

    def changed(self) -> bool:
        return self._array.shape != self._before.shape or self._array.tobytes() != self._before.tobytes()

    def put_back(self) -> None:
        self._array[...] = self._before


class _Random:
    """Where a random generator is."""

    def __init__(self, generator: Any) -> None:
        self._generator, self._before = generator, state_of(generator)

    def changed(self) -> bool:
        return not is_at(self._generator, self._before)

    def put_back(self) -> None:
        set_state(self._generator, self._before)


def _is_empty(value: Any) -> bool:
    return type(value) in _MUTABLE and not value


def _same_objects(before: dict[Any, Any], now: dict[Any, Any]) -> bool:
    return list(before) == list(now) and _same_entries(list(before.values()), list(now.values()))


def _same_entries(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))
