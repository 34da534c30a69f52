"""What an explanation method is, and the registry of those there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import all_finite
from lit_decom.methods.decomposition import Decomposition

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


class ComponentMethod(CAM):
    """An explanation made of components, each scored by what it does for the target.

    Attributes:
        warm_start: whether ``decompose`` is given what the snapshot before found.
    """

    warm_start: bool = False

    @abstractmethod
    def decompose(self, capture: Capture, start: Sequence[Tensor] | None = None) -> Decomposition:
        """Decompose a batch of evidence and score its components.

        Args:
            capture: what :func:`lit_decom.capture` returned.
            start: for each image the components ``(M, h, w)`` to begin from; None where nothing came before.

        Returns:
            The components of ``B`` images.
        """

    @abstractmethod
    def score(self, capture: Capture, components: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Show every image to the network through maps of its own.

        Args:
            capture: of ``B`` images.
            components: ``(B, K, h, w)``; their positive part is what is shown.
            valid: ``(B, K)`` bool, which of them to show.

        Returns:
            Target scores ``(B, K)``, NaN where not valid, and ``(B,)`` of the images with everything hidden.
        """

    @abstractmethod
    def weighted_maps(self, capture: Capture) -> Tensor:
        """Weigh every channel of the layer by what it does for the target: ``(B, C, h, w)``."""

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: the integrated map ``(B, h, w)``."""
        return self.decompose(capture).cam


def finite_images(*evidence: Tensor) -> Tensor:
    """Tell which images have no NaN and no infinity in any of these ``(B, ...)``: ``(B,)`` bool."""
    return torch.stack([all_finite(tensor.flatten(1)) for tensor in evidence]).all(dim=0)


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
