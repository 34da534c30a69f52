"""Stability of explanations over training: similarity to earlier maps, switches of the prediction, settling."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_decom.functional.base import check_option
from lit_decom.functional.stability import Similarity
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.map_history import MapHistory, Reference


class MapStability(PerImageMetric):
    """Mean similarity of each map to the map of the same image at an earlier snapshot.

    Undefined at an image's first snapshot, and where :func:`lit_decom.functional.stability.map_similarity` is.

    Args:
        reference: ``"previous"`` is the snapshot before, ``"first_correct"`` the first one at which the image was
            classified correctly.
        similarity: as for :func:`lit_decom.functional.stability.map_similarity`.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> history = MapHistory()
        >>> before, now = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]])
        >>> history.observe(0, before, ["a"], logits=torch.tensor([[2.0, 1.0]]))
        >>> metric = MapStability()
        >>> metric.update(now, ["a"], history)
        >>> metric.compute()
        tensor(0.6000)
    """

    always_there = False

    def __init__(self, reference: Reference = "previous", similarity: Similarity = "cosine", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_option("reference", reference, Reference)
        check_option("similarity", similarity, Similarity)
        self.reference = reference
        self.similarity = similarity
        self.add_rows()

    @property
    def plot_lower_bound(self) -> float:  # type: ignore[override]
        """Where the axis of a plot begins: maps are not negative, correlations may be."""
        return 0.0 if self.similarity == "cosine" else -1.0

    def update(self, maps: Tensor, ids: Sequence[str], history: MapHistory) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)``.
            ids: the images' ids.
            history: what earlier snapshots left; it is not changed.
        """
        self.append(history.compare(maps, ids, self.reference, self.similarity))


class TargetSwitchRate(PerImageMetric):
    """Share of images whose prediction changed since the snapshot before.

    Undefined at an image's first snapshot.

    Args:
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> history = MapHistory()
        >>> history.observe(0, torch.rand(2, 4, 4), ["a", "b"], logits=torch.tensor([[2.0, 1.0], [2.0, 1.0]]))
        >>> metric = TargetSwitchRate()
        >>> metric.update(torch.tensor([[2.0, 3.0], [2.0, 1.0]]), ["a", "b"], history)
        >>> metric.compute()
        tensor(0.5000)
    """

    always_there = False
    is_share = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, logits: Tensor, ids: Sequence[str], history: MapHistory) -> None:
        """Count a batch.

        Args:
            logits: logits ``(B, N)``.
            ids: the images' ids.
            history: what earlier snapshots left; it is not changed.
        """
        self.append(history.switched(logits, ids))


class SettledAt(PerImageMetric):
    """Mean epoch since which an image's map has stayed similar from one snapshot to the next.

    Undefined for images whose map has not settled: :attr:`n_undefined` counts them.

    Args:
        threshold: the least similarity of successive maps.
        similarity: how they are compared; that of the history.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> history, metric = MapHistory(), SettledAt(threshold=0.9)
        >>> logits, stays = torch.zeros(1, 2), torch.tensor([[[1.0, 0.0]]])
        >>> history.observe(0, 1 - stays, ["a"], logits)
        >>> history.observe(1, stays, ["a"], logits)
        >>> history.observe(2, stays, ["a"], logits)
        >>> metric.update(stays, ["a"], history)
        >>> metric.compute()
        tensor(1.)
    """

    always_there = False
    plot_upper_bound = None

    def __init__(self, threshold: float = 0.9, similarity: Similarity = "cosine", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_option("similarity", similarity, Similarity)
        self.threshold = threshold
        self.similarity = similarity
        self.add_rows()

    def update(self, maps: Tensor, ids: Sequence[str], history: MapHistory) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)``.
            ids: the images' ids.
            history: what earlier snapshots left; it is not changed.

        Raises:
            ValueError: if the history compares successive maps in another way.
        """
        if history.similarity != self.similarity:
            raise ValueError(f"Expected `history` to have similarity {self.similarity!r}, but got {history!r}.")
        self.append(history.settled_since(maps, ids, self.threshold))
