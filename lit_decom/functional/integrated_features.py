"""Integrated feature analysis (IFA, arXiv 2407.01142): what channels and maps are worth over a whole data set.

A map as IFA draws it keeps what speaks against its class, ``sum_c w_c A_c`` without rectifying, so that its sum over
positions is the sum of what all channels contribute: their importances.
"""

from dataclasses import dataclass
from math import atanh
from typing import Literal

import torch
from torch import Tensor

from lit_decom.functional.base import check_option
from lit_decom.functional.cam import channel_weights

FeatureWeight = Literal["elementwise", "mean", "grad_cam_pp"]


def weighted_features(activations: Tensor, gradients: Tensor, kind: FeatureWeight = "elementwise") -> Tensor:
    """Weigh activations by what they do for the target.

    Args:
        activations: ``(B, C, h, w)``.
        gradients: ``(B, C, h, w)`` of each image's target score.
        kind: ``"elementwise"``, gradient times activation at each position (FullCAM); or one weight per channel as in
            :func:`lit_decom.functional.cam.channel_weights`.

    Returns:
        ``(B, C, h, w)``. The sum over channels is the map ``(B, h, w)``, that over positions the importance of each
        channel ``(B, C)``.

    Raises:
        ValueError: if the kind is unknown.
    """
    check_option("kind", kind, FeatureWeight)
    if kind == "elementwise":
        return gradients * activations
    return activations * channel_weights(activations, gradients, kind)[:, :, None, None]


@dataclass(frozen=True)
class FeatureDistribution:
    """How important the channels of a layer are, over the images of a data set that the network gets right.

    Attributes:
        overall: ``(C,)``, the mean importance over all these images.
        by_class: ``(N, C)``, the mean over those of each class; NaN for a class without any.
        counts: ``(N,)`` int64, how many there are of each class.
    """

    overall: Tensor
    by_class: Tensor
    counts: Tensor

    @property
    def differences(self) -> Tensor:
        """By how much a channel is more important for a class than overall, ``(N, C)``; NaN for an absent class."""
        return self.by_class - self.overall

    def distinctive(self, ratio: float) -> Tensor:
        """Choose the channels whose importance for a class differs most from that overall, of either sign.

        Args:
            ratio: which share of the channels, in (0, 1]; IFA keeps 0.05 to 0.25. At least one is chosen.

        Returns:
            ``(N, C)`` bool; none for a class without images.

        Raises:
            ValueError: if the ratio is out of range.
        """
        return self._largest(self.differences.abs(), ratio)

    def random(self, ratio: float, generator: torch.Generator) -> Tensor:
        """Choose as many channels for each class at random, the control of :meth:`distinctive`: ``(N, C)`` bool."""
        drawn = torch.rand(self.by_class.shape, generator=generator, device=generator.device)
        return self._largest(drawn.to(self.by_class), ratio)

    def _largest(self, values: Tensor, ratio: float) -> Tensor:
        if not 0 < ratio <= 1:
            raise ValueError(f"Expected `ratio` to be in (0, 1], but got {ratio}.")
        n_kept = max(1, round(ratio * values.shape[1]))
        order = values.nan_to_num().argsort(dim=1, descending=True, stable=True)[:, :n_kept]
        kept = torch.zeros(values.shape, dtype=torch.bool, device=values.device).scatter_(1, order, value=True)
        return kept & (self.counts > 0)[:, None]


@dataclass(frozen=True)
class IntensityScale:
    """One scale for the maps of all images and epochs, where each map's own maximum would make them all look alike.

    Attributes:
        low: the median over images of a map's smallest value.
        high: the 90th percentile over images of a map's largest value.

    Raises:
        ValueError: if ``high`` is not above ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.high > self.low:
            raise ValueError(f"Expected `high` to be above `low`, but got {self.high} and {self.low}.")

    @classmethod
    def of(cls, largest: Tensor, smallest: Tensor) -> "IntensityScale":
        """Find the scale of a data set.

        Args:
            largest: of each image's map, ``(n,)``; what is not finite is left out.
            smallest: of each image's map, ``(n,)``.

        Raises:
            ValueError: if no map is finite, or none has an extent.
        """
        largest, smallest = (ends[ends.isfinite()].double() for ends in (largest, smallest))
        if not len(largest) or not len(smallest):
            raise ValueError("Expected at least one map that is finite, but got none.")
        return cls(low=smallest.quantile(0.5).item(), high=largest.quantile(0.9).item())

    def linear(self, maps: Tensor) -> Tensor:
        """Send ``low`` to 0 and ``high`` to 1, and what is beyond beyond (``norm`` in IFA)."""
        return (maps - self.low) / (self.high - self.low)

    def tanh(self, maps: Tensor) -> Tensor:
        """Send ``low`` to 0.05 and ``high`` to 0.95, and everything beyond to below 1 (``tanh`` in IFA)."""
        slope = (atanh(0.95) - atanh(0.05)) / (self.high - self.low)
        return (slope * (maps - self.low) + atanh(0.05)).tanh()

    def limits(self, n: int) -> Tensor:
        """Give what counts as full heat in ``n`` rectified maps, for :func:`lit_decom.render.overlay`: ``(n,)``."""
        return torch.full((n,), max(self.high, 0.0))


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Give Pearson's correlation of two numbers per image.

    Args:
        first: ``(n,)``.
        second: ``(n,)``.

    Returns:
        A scalar; NaN for fewer than three images or where a number is the same in all.

    Example:
        >>> round(correlation(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 5.0, 9.0])).item(), 6)
        1.0
    """
    if len(first) < 3:
        return first.new_tensor(torch.nan, dtype=torch.float64)
    one, other = (values.double() - values.double().mean() for values in (first, second))
    spread = one.norm() * other.norm()
    return (one @ other / spread).clamp(-1, 1) if spread > 0 else torch.full_like(spread, torch.nan)
