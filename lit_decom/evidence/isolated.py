"""Looking at a copy of a network, where looking at the network itself would change it."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_decom.evidence.attributes import kept_by
from lit_decom.evidence.observing import silence

Isolation = Literal["in_place", "copy"]
COPY_INSTEAD = '`run=Execution(isolate="copy")` explains a copy of it'
_MARK = "_is_copy_of_lit_decom"


@contextmanager
def isolated(model: nn.Module, isolate: Isolation) -> Iterator[nn.Module]:
    """Give what is to be looked at while a block runs: a network itself, or a copy of it.

    Args:
        model: the network.
        isolate: ``"in_place"`` for the network itself, ``"copy"`` for a deep copy of it, which logs nothing, belongs to
            the same Trainer, and whose weights are those of the network in every forward pass, whatever the one before
            did to them.

    Raises:
        ValueError: if the network cannot be copied.
    """
    yield copied(model) if isolate == "copy" else model


def is_copy(model: nn.Module) -> bool:
    """Whether :func:`isolated` made it."""
    return _MARK in vars(model)


def copied(model: nn.Module) -> nn.Module:
    """Copy a network as :func:`isolated` does."""
    with torch.inference_mode(mode=False):
        # What is part of a graph torch does not copy.
        results = {id(value): value.detach().clone() for _, _, value in kept_by(model) if _is_result(value)}
        try:
            other = deepcopy(model, memo=results)
        except Exception as error:
            raise ValueError(
                f'Expected {type(model).__name__} to be one that can be copied, as `isolate="copy"` asks for, but: '
                f"{type(error).__name__}: {error}"
            ) from error
    for module, its_copy in zip(model.modules(), other.modules(), strict=True):
        # Lightning copies a module without its Trainer; a forward may ask for the epoch.
        vars(its_copy).update({name: value for name, value in vars(module).items() if name == "_trainer"})
    silence(other)
    vars(other)[_MARK] = True
    return other


def _is_result(value: Any) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None
