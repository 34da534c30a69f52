"""Components of every image of the probe, followed over snapshots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_decom import keys
from lit_decom.components.tracked import Tracked, summarize
from lit_decom.components.tracking import ComponentTracker
from lit_decom.methods import Decomposition

_KEPT = ("identities", "births", "deaths", "flips", "similarity", "confidence", "drift")


@dataclass(frozen=True)
class ImageFindings:
    """What one snapshot found of the components of every image.

    Attributes:
        decomposition: of ``n`` images.
        tracked: their components' identities.
    """

    decomposition: Decomposition
    tracked: Tracked

    def numbers(self) -> dict[str, float]:
        """Give the values worth a curve; those that are not defined are left out.

        For all images "births", "deaths", "flips", "swaps", "drift", "similarity" and "confidence", as
        :func:`lit_decom.components.summarize` gives them. And for each identity, which is the rank that a component
        began with in its image, wherever it ranks now: mean score gain and explained energy, and how many there are.
        """
        numbers = {name: value for name, value in summarize(self.tracked).items() if value == value}  # noqa: PLR0124 -- not NaN
        gains, energy = self.decomposition.score_gains, self.decomposition.explained_energy
        for identity in range(self.tracked.identities.shape[1]):
            alive = (self.tracked.identities == identity) & self.decomposition.finite[:, None]
            if alive.any():
                numbers[keys.component_key("score_gain", identity)] = gains[alive].mean().item()
                numbers[keys.component_key("count", identity)] = float(alive.sum())
                numbers[keys.component_key("explained_energy", identity)] = energy[alive].mean().item()
        return numbers

    def fields(self) -> dict[str, Tensor]:
        """Give what a record keeps, by the names that it has there."""
        kept = {name: getattr(self.tracked, name) for name in _KEPT}
        return {name: value.float() if value.is_floating_point() else value for name, value in kept.items()}


class FollowedImages:
    """Gives the components of each image an identity over snapshots.

    Args:
        by_target: whether an image that is explained for another class is another image: its components are others.
    """

    def __init__(self, *, by_target: bool) -> None:
        self.by_target = by_target
        self.tracker = ComponentTracker()

    def update(self, decomposition: Decomposition, ids: Sequence[str], targets: Tensor, *, step: int) -> ImageFindings:
        """Name the components of one snapshot.

        Args:
            decomposition: of ``n`` images.
            ids: of the images.
            targets: ``(n,)``, the class that each is explained for.
            step: number of the snapshot, rising.
        """
        tracked = self.tracker.update(
            decomposition.components,
            decomposition.strengths,
            ids=self._names(ids, targets),
            step=step,
            loadings=decomposition.loadings,
            channels=decomposition.channels,
            valid=decomposition.valid,
        )
        return ImageFindings(decomposition, tracked)

    def last_seen(self, ids: Sequence[str], targets: Tensor) -> list[Tensor]:
        """Give the components ``(M, h, w)`` of each image as last seen; ``M`` is 0 for an image that is new."""
        return self.tracker.last_seen(self._names(ids, targets))

    def _names(self, ids: Sequence[str], targets: Tensor) -> list[str]:
        if not self.by_target:
            return list(ids)
        return [f"{image}@{target}" for image, target in zip(ids, targets.tolist(), strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs, as tensors and primitives."""
        return self.tracker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self.tracker.load_state_dict(dict(state))
