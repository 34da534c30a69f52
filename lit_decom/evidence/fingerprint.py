"""Telling whether a model is still what it was: the check that looking at it changed nothing."""

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_decom.evidence.attributes import Note, noted, same_numbers
from lit_decom.evidence.isolated import COPY_INSTEAD


class ModelChangedError(ValueError):
    """Looking at a model changed it, so that training would go on with another one."""


@dataclass(frozen=True, eq=False, repr=False)
class _Parameter:
    """One place that holds a parameter: which objects stand there, how often the numbers were written to, and these.

    Attributes:
        content: a copy of the numbers, on the CPU: on an accelerator there may be no room for it.
    """

    tensor: Tensor | None
    content: Tensor | None
    requires_grad: bool
    version: int
    grad: Tensor | None
    grad_version: int


@dataclass(frozen=True, eq=False, repr=False)
class _Module:
    """What one module holds, by identity; of its buffers the content as well."""

    module: nn.Module
    training: bool
    parameters: dict[str, _Parameter]
    buffers: dict[str, tuple[Tensor | None, Tensor | None]]
    submodules: dict[str, nn.Module | None]
    hooks: dict[str, dict[Any, Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Fingerprint:
    """What a model was when :func:`fingerprint` was called.

    Two models with equal numbers are not the same to an optimizer: it holds the objects that it was given. So
    parameters, gradients, buffers, submodules, hooks and attributes are compared by identity; parameters, buffers and
    what else the network keeps, by content as well.
    """

    _modules: dict[str, _Module]
    _notes: list[tuple[str, str, Note]]

    def differences(self, model: nn.Module) -> list[str]:
        """Say what has changed since, one sentence for each change.

        Args:
            model: the model that the fingerprint was taken of.

        Returns:
            Sentences that name the place and the change, in the order of ``model.named_modules()``; empty if the model
            is what it was.
        """
        now = _modules(model, content=False)
        found = [f"submodule {_shown(path)} is gone." for path in self._modules if path not in now]
        found += [f"submodule {_shown(path)} is new." for path in now if path not in self._modules]
        for path, before in self._modules.items():
            if path in now:
                found += _module_differences(path, before, now[path]) or self._attributes_changed(path)
        return found

    def _attributes_changed(self, path: str) -> list[str]:
        changed = dict.fromkeys(name for place, name, note in self._notes if place == path and note.changed())
        return [
            f"{_joined(path, name) if name else f'an attribute of {_shown(path)}'} has changed." for name in changed
        ]


def fingerprint(model: nn.Module) -> Fingerprint:
    """Note everything about a model that looking at it must leave as it is.

    Every place that holds a parameter (the object, its ``requires_grad``, its ``.grad``, and whether either was written
    to, and a copy of its content), every buffer (the object and a copy of its content), every submodule, its training
    mode and its hooks; and what else it keeps, as :func:`lit_decom.evidence.attributes.noted` finds it.

    Args:
        model: the model.

    Returns:
        The fingerprint; it keeps the model's parameters alive.
    """
    return Fingerprint(_modules(model, content=True), list(noted(model)))


@contextmanager
def refuse_changes(model: nn.Module) -> Iterator[None]:
    """Run a block that looks at a model, and raise if the model is another one afterwards.

    Args:
        model: the model.

    Raises:
        ModelChangedError: if anything that :func:`fingerprint` notes has changed; an exception of the block itself goes
            first.
    """
    before, random_states = fingerprint(model), _random_states()
    yield
    found = before.differences(model)
    found += ["a global random generator has been drawn from."] if _random_states() != random_states else []
    if found:
        more = f"\n  ... and {len(found) - 10} more" if len(found) > 10 else ""
        raise ModelChangedError(
            f"Expected {type(model).__name__} to be the same after it was looked at, but got another one:\n  "
            + "\n  ".join(found[:10])
            + f"{more}\nTraining would go on with the changed model. If its forward changes what is named above, let "
            f"it do so only `if self.training:`, or {COPY_INSTEAD}. If it does not, this is a fault of lit-decom, "
            "please report it."
        )


def _random_states() -> bytes:
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if in_use else ())]
    numpy_state = np.random.get_state()  # noqa: NPY002 -- the global one is meant
    return pickle.dumps((random.getstate(), numpy_state, [state.numpy().tobytes() for state in states]))


def _modules(model: nn.Module, *, content: bool) -> dict[str, _Module]:
    return {
        path: _Module(
            module=module,
            training=module.training,
            parameters={name: _parameter(tensor, content) for name, tensor in module._parameters.items()},  # noqa: SLF001
            buffers={
                name: (tensor, tensor.detach().clone() if content and tensor is not None else None)
                for name, tensor in module._buffers.items()  # noqa: SLF001
            },
            submodules=dict(module._modules),  # noqa: SLF001
            hooks=_hooks(module),
        )
        for path, module in model.named_modules()
    }


def _hooks(module: nn.Module) -> dict[str, dict[Any, Any]]:
    # All dictionaries of hooks, whatever they are called in this version of torch.
    return {name: dict(held) for name, held in vars(module).items() if "hooks" in name and isinstance(held, dict)}


def _parameter(tensor: Tensor | None, content: bool) -> _Parameter:
    if tensor is None:
        return _Parameter(None, None, requires_grad=False, version=0, grad=None, grad_version=0)
    copied = tensor.detach().cpu().clone() if content and _has_content(tensor) else None
    # Asking a tensor that is no leaf for its `.grad` warns, and it has none.
    grad = tensor.grad if tensor.is_leaf else None
    grad_version = 0 if grad is None else _version(grad)
    return _Parameter(tensor, copied, tensor.requires_grad, _version(tensor), grad, grad_version)


def _is(tensor: Tensor, content: Tensor) -> bool:
    return same_numbers(tensor.detach().cpu(), content)


def _has_content(tensor: Tensor) -> bool:
    return type(tensor) in {Tensor, nn.Parameter} and tensor.device.type != "meta" and not tensor.is_sparse


def _version(tensor: Tensor) -> int:
    # Of a tensor made in inference mode nobody counts the writes, and a lazy one has no numbers yet.
    return 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version  # noqa: SLF001


def _module_differences(path: str, before: _Module, now: _Module) -> list[str]:
    if now.module is not before.module:
        return [f"submodule {_shown(path)} is another object."]
    found = []
    if now.training != before.training:
        modes = {True: "training", False: "eval"}
        found.append(
            f"submodule {_shown(path)} is in {modes[now.training]} mode; it was in {modes[before.training]} mode."
        )
    for name in _names(before.parameters, now.parameters):
        found += _parameter_differences(_joined(path, name), before.parameters.get(name), now.parameters.get(name))
    for name in _names(before.buffers, now.buffers):
        found += _buffer_differences(_joined(path, name), before.buffers.get(name), now.buffers.get(name))
    for name in _names(before.submodules, now.submodules):
        if _other(before.submodules, now.submodules, name):
            found.append(f"{_joined(path, name)} is another submodule.")
    for name in _names(before.hooks, now.hooks):
        held, holds = before.hooks.get(name, {}), now.hooks.get(name, {})
        if any(_other(held, holds, key) for key in _names(held, holds)):
            found.append(f"submodule {_shown(path)} has other hooks in `{name}`: {len(holds)}; it had {len(held)}.")
    return found


def _parameter_differences(place: str, before: _Parameter | None, now: _Parameter | None) -> list[str]:
    if before is None or now is None:
        return [f"parameter {place} is {'new' if before is None else 'gone'}."]
    if now.tensor is not before.tensor:
        kind = "nothing" if now.tensor is None else f"a {type(now.tensor).__name__}"
        return [f"parameter {place} is another object: {kind} stands there."]
    found = []
    if now.requires_grad != before.requires_grad:
        found.append(
            f"parameter {place} has `requires_grad={now.requires_grad}`; it had `requires_grad={before.requires_grad}`."
        )
    if now.version != before.version:
        found.append(f"parameter {place} was written to.")
    elif now.tensor is not None and not (before.content is None or _is(now.tensor, before.content)):
        found.append(f"parameter {place} holds other numbers, though torch counted no write.")
    if now.grad is not before.grad:
        found.append(f"parameter {place} has another `.grad`.")
    elif now.grad_version != before.grad_version:
        found.append(f"the `.grad` of parameter {place} was written to.")
    return found


def _buffer_differences(
    place: str,
    before: tuple[Tensor | None, Tensor | None] | None,
    now: tuple[Tensor | None, Tensor | None] | None,
) -> list[str]:
    if before is None or now is None:
        return [f"buffer {place} is {'new' if before is None else 'gone'}."]
    if now[0] is not before[0]:
        return [f"buffer {place} is another object."]
    if now[0] is not None and before[1] is not None and not same_numbers(now[0], before[1]):
        return [f"buffer {place} holds other numbers."]
    return []


def _names(before: dict[Any, Any], now: dict[Any, Any]) -> list[Any]:
    return list(dict.fromkeys([*before, *now]))


def _other(before: dict[Any, Any], now: dict[Any, Any], key: Any) -> bool:
    return key not in before or key not in now or before[key] is not now[key]


def _joined(path: str, name: str) -> str:
    return f"`{path}.{name}`" if path else f"`{name}`"


def _shown(path: str) -> str:
    return f"`{path}`" if path else "`model` itself"
