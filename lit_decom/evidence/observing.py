"""Looking at a network without changing it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from lit_decom.evidence.attributes import attributes_kept
from lit_decom.functional.precision import full_precision
from lit_decom.isolation import isolated_random_state

_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")  # as timm and transformers call it


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Look at a model without changing it, in whatever mode it is.

    Inside the block every submodule is in eval mode, gradients are on (also under ``inference_mode`` and ``no_grad``),
    autocast and TF32 are off, compiled submodules run eagerly (hooks never fire on a compiled graph), nothing is
    checkpointed where a flag of the model decides it or it is reentrant, `log` of a LightningModule does nothing, and
    parameters start with no ``.grad``. At the end, also after an exception, each submodule's own mode, parameters,
    ``requires_grad``, ``.grad``, attributes and buffers with their contents (so also what hooks and metrics have noted
    meanwhile), all global random states and those of generators that the model holds are as before. It may be entered
    again inside itself.

    Args:
        model: the network.
    """
    modules = list(model.modules())
    device = device_of(model)
    with ExitStack() as stack:
        stack.enter_context(isolated_random_state(device=device))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(full_precision(device))
        stack.enter_context(_eager())
        stack.enter_context(attributes_kept(model))
        silence(model)
        stack.enter_context(_gradients_kept(modules))
        stack.enter_context(_in_eval_mode(modules))
        stack.enter_context(_without_checkpointing(modules))
        stack.enter_context(_without_reentrant_checkpointing())
        yield


def device_of(model: nn.Module) -> torch.device:
    """Tell where a model's first parameter is; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def _gradients_kept(modules: list[nn.Module]) -> Iterator[None]:
    """Take the gradients away from all parameters for a while, and keep which of them ask for one."""
    # Not model.parameters(), which would walk through all modules once more.
    owned = dict.fromkeys(p for module in modules for p in module._parameters.values() if p is not None)  # noqa: SLF001
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in owned]
    try:
        for parameter, _, grad in before:
            if grad is not None:
                parameter.grad = None
        yield
    finally:
        for parameter, requires_grad, grad in before:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


@contextmanager
def _in_eval_mode(modules: list[nn.Module]) -> Iterator[None]:
    """Each module by itself, and only where the mode differs: a module looks through all it has when it is set."""
    modes = [module.training for module in modules]
    try:
        for module in modules:
            if module.training:
                module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode:
                module.training = mode


@contextmanager
def _without_checkpointing(modules: list[nn.Module]) -> Iterator[None]:
    """Run every part once only: a checkpointed one would run again in the backward pass, where no hook of ours is."""
    set_here = [(module, flag) for module in modules for flag in _CHECKPOINTING if _is_set(module, flag)]
    try:
        for module, flag in set_here:
            setattr(module, flag, False)
        yield
    finally:
        for module, flag in set_here:
            setattr(module, flag, True)


class _RunOnce:
    """Stands for the function of autograd that runs a checkpointed part twice."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def _without_reentrant_checkpointing() -> Iterator[None]:
    """Run parts once that a forward checkpoints with ``use_reentrant=True``: gradients of single tensors need it.

    That kind knows nothing but a backward pass to all leaves, and hides what is inside from it.
    """
    own = checkpoint.CheckpointFunction
    try:
        checkpoint.CheckpointFunction = _RunOnce  # type: ignore[misc, assignment]
        yield
    finally:
        checkpoint.CheckpointFunction = own  # type: ignore[misc]


def _is_set(module: nn.Module, flag: str) -> bool:
    # A module takes long to say that it has no such attribute.
    return (flag in vars(module) or hasattr(type(module), flag)) and getattr(module, flag) is True


def silence(model: nn.Module) -> None:
    """Let `log` and `log_dict` of every LightningModule in a network do nothing from now on."""
    for module in model.modules():
        if any(base.__name__ == "LightningModule" for base in type(module).__mro__):
            vars(module)["log"] = vars(module)["log_dict"] = _nothing


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    pass


def _eager() -> AbstractContextManager[Any]:
    # Nothing can have been compiled before dynamo was imported, which takes seconds.
    compiled = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
