"""Putting other tensors into a network's slots for the length of a block, and the network's own ones back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Slot(NamedTuple):
    """A place where a module keeps a parameter or a buffer; a shared tensor or module has several.

    Attributes:
        module: the module that owns it, not one around it.
        kind: the dictionary of the module, ``"_parameters"`` or ``"_buffers"``.
        name: the key in that dictionary.
    """

    module: nn.Module
    kind: str
    name: str

    @property
    def held(self) -> dict[str, Tensor | None]:
        """The dictionary; `setattr` would refuse a tensor in the place of a parameter, or run a module's own code."""
        return getattr(self.module, self.kind)  # type: ignore[no-any-return]

    @property
    def tensor(self) -> Tensor | None:
        """What is there now; None for an empty place."""
        return self.held.get(self.name)


def slots(model: nn.Module, kind: str) -> list[tuple[Slot, Tensor]]:
    """List every place where a network keeps a parameter or a buffer.

    Each module counts once however many names it has, and a tensor counts at each place that holds it:
    ``model.named_parameters()`` is no such list, since it names one place of a shared tensor and hides the others.

    Args:
        model: the network.
        kind: ``"_parameters"`` or ``"_buffers"``.

    Returns:
        The places that are not empty and what they hold, in the order of ``model.modules()``; without
        those inside parts that are TorchScript, which lets nobody exchange a tensor.
    """
    return [
        (Slot(module, kind, name), tensor)
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, tensor in getattr(module, kind).items()
        if tensor is not None
    ]


@contextmanager
def substituted(tensors: Sequence[tuple[Slot, Tensor]]) -> Iterator[None]:
    """Put other tensors into places of a network while a block runs.

    At the end, also after an exception, each place holds the very object that it held before, in the same order.
    Inside the block the same may be done again.

    Args:
        tensors: places, each once, and what goes there.
    """
    before = [(slot, slot.tensor) for slot, _ in tensors]
    try:
        for slot, tensor in tensors:
            slot.held[slot.name] = tensor
        yield
    finally:
        for slot, own in before:
            slot.held[slot.name] = own
