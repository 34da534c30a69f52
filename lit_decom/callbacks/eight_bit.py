"""Images of 8 bits as the floats that a module makes of them."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lit_decom.evidence import Forward, Isolation, isolated, observing
from lit_decom.evidence.network import Asked, logits_of
from lit_decom.probe import Unpack, images_and_target

_WHITE = 255.0


class EightBit:
    """Turns uint8 images into floats, which is what can be blurred, masked and differentiated.

    A module whose forward takes uint8 is asked once: it gets the values as they are if it answers to them as to the
    8-bit images, else their 255th part if it answers to that so. One that refuses uint8 is taken to get their 255th
    part from its own steps, as torchvision's transforms would give it, which a warning says.

    Args:
        forward: how the module is asked for logits; None asks its own forward.
        isolate: whether the module itself is asked, or a copy of it.

    Attributes:
        divisor: of the values, once it is known; None as long as no image had 8 bits.
    """

    def __init__(self, forward: Forward | None = None, isolate: Isolation = "in_place") -> None:
        self._forward, self._isolate = forward, isolate
        self.divisor: float | None = None

    def unpacking(self, model: nn.Module, unpack: Unpack | None) -> Unpack:
        """Give what finds images and target in a batch, the images as floats.

        Args:
            model: that the images are for.
            unpack: the user's own way; None looks for them.
        """

        def find(batch: Any) -> tuple[Tensor, Any]:
            images, target = images_and_target(batch) if unpack is None else unpack(batch)
            is_eight_bit = isinstance(images, Tensor) and images.dtype == torch.uint8
            return (self._floats(model, images) if is_eight_bit else images), target

        return find

    def normalisation(self, channels: int) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation ``(C,)`` of the floats, as of images in 0..1; None if no image had 8 bits."""
        if self.divisor is None:
            return None
        return torch.zeros(channels), torch.full((channels,), self.divisor / _WHITE)

    def _floats(self, model: nn.Module, images: Tensor) -> Tensor:
        if self.divisor is None:
            with isolated(model, self._isolate) as seen:
                self.divisor = _divisor(seen, self._forward, images if images.ndim == 4 else images[None])
        return images.float() / self.divisor


def _divisor(model: nn.Module, forward: Forward | None, images: Tensor) -> float:
    """What a module divides 8-bit images by, so to speak.

    Raises:
        ValueError: if it does something else with them.
    """
    asked = Asked.of(model, forward)
    with observing(model), torch.no_grad():
        expected = _answers(asked.run, images)
        if expected is None:
            warnings.warn(
                f"The images have 8 bits, which {asked.name} does not take itself: it is given their 255th "
                "part. If its steps make something else of them, pass `unpack=` to do the same.",
                stacklevel=2,
            )
            return _WHITE
        for divisor in (1.0, _WHITE):
            answers = _answers(asked.run, images.float() / divisor)
            if answers is not None and _alike(expected, answers):
                return divisor
    raise ValueError(
        f"Expected {asked.name} to see in floats what it sees in images of 8 bits, but it answers otherwise "
        "to their values and to their 255th part. Pass `unpack=` to give the floats that it computes with."
    )


def _answers(ask: Callable[[Tensor], Any], images: Tensor) -> Tensor | None:
    """Logits of images; None from what does not take them, or returns something else."""
    try:
        logits = logits_of(ask(images.clone()))  # which it may change in place
    except (RuntimeError, TypeError, ValueError):
        return None
    return logits if isinstance(logits, Tensor) else None


def _alike(first: Tensor, second: Tensor) -> bool:
    # To about half of the digits: dividing earlier or later rounds otherwise.
    return first.shape == second.shape and torch.allclose(first.float(), second.float(), rtol=1e-3, atol=1e-3)
