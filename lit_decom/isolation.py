"""Keeping random states as they are: the global ones of Python, NumPy and torch, and those that objects hold."""

import pickle
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

_LONG = 1000
_ATOMS = frozenset(
    (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, range, slice)
)
_COLLECTIONS = (dict, list, tuple, set, frozenset, deque)
_LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}


@contextmanager
def isolated_random_state(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Run a block whose random draws leave no trace.

    Saves the global generators of Python, NumPy, torch and, if ``device`` is a CUDA device, of that device, and
    restores them at the end, also after an exception.

    Args:
        seed: seeds all of them inside the block; None leaves them where they are.
        device: the accelerator that the block draws on.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the global one is the point
    cuda = [device] if device is not None and device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                torch.default_generator.manual_seed(seed)
                for cuda_device in cuda:
                    with torch.cuda.device(cuda_device):
                        torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def rewound_generators(*owners: object) -> Iterator[None]:
    """Run a block after which the random generators that objects hold are where they were.

    Found are those that can be reached by attributes (also of the class), entries of collections, and what functions
    and methods refer to: closures, defaults, bound arguments and the global names that they use.

    Args:
        owners: a loader, a dataset or a collate function, for instance, whose transforms draw from a generator of
            their own.
    """
    states = [(value, state) for value in reachable(owners, _of_data) if (state := state_of(value)) is not None]
    try:
        yield
    finally:
        for generator, state in states:
            set_state(generator, state)


def reachable(
    roots: Iterable[Any], inner: Callable[[Any], Iterable[Any]], seen: set[int] | None = None
) -> Iterator[Any]:
    """Walk through objects and what they hold, each once; numbers, texts and the like are left out.

    Args:
        roots: where to begin.
        inner: what an object holds, as far as it is to be walked through: it must hold it still afterwards.
        seen: identities of objects to be left out; those met are added.
    """
    seen = set() if seen is None else seen
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if is_plain(value) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        waiting.extend(inner(value))


def is_plain(value: Any) -> bool:
    """Whether something is a number, a text or the like, or a tuple of those: it holds nothing that changes."""
    kind = type(value)
    return kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value)))


def held_by(value: Any) -> list[Any]:
    """What a collection, a function, a method or any other object holds; nothing for tensors, classes and modules.

    Of a long collection the entries are left out that are collections of this kind themselves, such as the names and
    classes of a million images.
    """
    if isinstance(value, _COLLECTIONS):
        entries = list(value.values() if isinstance(value, dict) else value)
        entries = entries if len(entries) <= _LONG else [entry for entry in entries if type(entry) not in _COLLECTIONS]
        return [*entries, *getattr(value, "__dict__", {}).values()]
    if isinstance(value, FunctionType):
        filled = [content for cell in value.__closure__ or () for content in contents_of(cell)]
        return [*filled, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, type | ModuleType | torch.Tensor):
        return []
    return [*getattr(value, "__dict__", {}).values(), *slots_of(value).values()]


def contents_of(cell: CellType) -> list[Any]:
    """The value of an outer function's variable; empty where it has none yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def slots_of(value: Any) -> dict[str, Any]:
    """Attributes of an object that its classes name in ``__slots__``."""
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _slot_names(kind) if hasattr(value, name)}


@cache
def is_installed(package: str) -> bool:
    """Whether a package is Python's or was installed, so that it is not its user's own code."""
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return package in sys.stdlib_module_names or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def package_of(value: Any) -> str:
    """Name of the package that a class or a function is from."""
    return str(getattr(value, "__module__", None)).partition(".")[0]


def state_of(value: Any) -> Any:
    """Where a random generator of torch, NumPy or Python is; None of anything else."""
    if isinstance(value, torch.Generator | np.random.RandomState):
        return value.get_state()
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return value.state if isinstance(value, np.random.BitGenerator) else None


def is_at(generator: Any, state: Any) -> bool:
    """Whether a random generator is where it was when :func:`state_of` was asked."""
    now = state_of(generator)
    return torch.equal(now, state) if isinstance(now, torch.Tensor) else pickle.dumps(now) == pickle.dumps(state)


def set_state(generator: Any, state: Any) -> None:
    """Bring a random generator to where it was when :func:`state_of` was asked."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = state
    else:
        generator.set_state(state)


@cache
def _slot_names(kind: Any) -> tuple[str, ...]:
    named = (vars(base).get("__slots__", ()) for base in kind.__mro__ if base.__module__ != "builtins")
    names = (name for found in named for name in ((found,) if isinstance(found, str) else found))
    return tuple(name for name in names if name not in {"__dict__", "__weakref__"} and not name.startswith("__"))


def _of_data(value: Any) -> list[Any]:
    """What data are read with: everything but a Trainer and the like, which Lightning brings along."""
    if isinstance(value, type):
        shared = [] if is_installed(package_of(value)) else list(vars(value).values())
        return [entry for entry in shared if isinstance(entry, FunctionType) or state_of(entry) is not None]
    if package_of(type(value)) in _LIGHTNING:
        return []
    if isinstance(value, FunctionType) and not is_installed(package_of(value)):
        used = (value.__globals__.get(name) for name in value.__code__.co_names)
        return held_by(value) + [
            entry for entry in used if isinstance(entry, FunctionType) or state_of(entry) is not None
        ]
    return [*held_by(value), *type(value).__mro__]
