"""What an explanation method is, and the registry of those there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from lit_decom.evidence import Capture

METHODS: dict[str, type["CAM"]] = {}


class CAM(ABC):
    """A map over the feature grid that says where the evidence for a target lies.

    A method is a frozen dataclass: its fields are its hyperparameters and its repr is the caption.
    """

    @abstractmethod
    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch.

        Args:
            capture: what :func:`lit_decom.capture` returned.

        Returns:
            Non-negative maps ``(B, h, w)``; NaN throughout where an image's evidence is not finite.
        """


def finite_images(*evidence: Tensor) -> Tensor:
    """Tell which images have no NaN and no infinity in any of these ``(B, ...)``: ``(B,)`` bool."""
    return torch.stack([tensor.flatten(1).isfinite().all(dim=1) for tensor in evidence]).all(dim=0)


def where_finite(maps: Tensor, capture: Capture) -> Tensor:
    """Leave no map of an image whose evidence is not finite, which one bad position may otherwise hide.

    Args:
        maps: maps ``(B, h, w)``.
        capture: what they were made of.

    Returns:
        Maps ``(B, h, w)``, NaN throughout where the evidence or the map itself is not finite.
    """
    finite = finite_images(capture.activations, capture.gradients, maps)
    return maps.masked_fill(~finite[:, None, None], torch.nan)


def register(name: str) -> Callable[[type[CAM]], type[CAM]]:
    """Enter a method into :data:`METHODS` under a name.

    Args:
        name: lower case, as it appears in keys and tables.

    Raises:
        ValueError: if the name is taken.

    Returns:
        A class decorator.
    """

    def enter(method: type[CAM]) -> type[CAM]:
        if name in METHODS:
            raise ValueError(f"Expected `name` to be new, but {name!r} is {METHODS[name].__name__}.")
        METHODS[name] = method
        return method

    return enter
