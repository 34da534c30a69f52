"""Agreement of maps with masks and boxes, over the images of a set.

Formulas, and what makes an image undefined, are those of :mod:`lit_decom.functional`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_decom.functional.boxes import BoxConvention, Version, box_ious, max_box_accuracy
from lit_decom.functional.localization import (
    Threshold,
    Ties,
    energy_pointing_game,
    histogram_average_precision,
    mask_iou,
    pointing_game,
    relevance_rank,
    score_histograms,
)
from lit_decom.metrics.base import PerImageMetric


class PointingGame(PerImageMetric):
    """The share of images whose map is highest on, or near, the object.

    Args:
        tolerance: radius in pixels within which a miss still counts as a hit.
        scale_to_image: take the tolerance as that of a 224 pixel image.
        per_class: average the hit rates of the classes, as the published tables do, instead of the images; needs
            ``labels``.
        kwargs: torchmetrics' own.

    Example:
        >>> maps, masks = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]), torch.tensor([[[False, True]], [[False, True]]])
        >>> metric = PointingGame(tolerance=1)
        >>> metric.update(maps, masks)
        >>> metric.compute(), metric.values
        (tensor(0.5000), tensor([1., 0.]))
    """

    higher_is_better = True
    is_share = True

    def __init__(
        self, tolerance: float = 15.0, scale_to_image: bool = False, per_class: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tolerance = tolerance
        self.scale_to_image = scale_to_image
        self.per_class = per_class
        self.add_rows(width=2 if per_class else 1)

    @property
    def is_mean(self) -> bool:
        """Whether the value is the mean over images; over classes it is not."""
        return not self.per_class

    def update(self, maps: Tensor, masks: Tensor, labels: Tensor | None = None) -> None:
        """Add images: ``maps`` (B, H, W), ``masks`` (B, H, W) bool, ``labels`` (B,)."""
        hits = pointing_game(maps, masks, self.tolerance, scale_to_image=self.scale_to_image)
        if not self.per_class:
            self.append(hits)
        elif labels is None:
            raise ValueError("Expected `labels` when `per_class` is True, but got none.")
        else:
            self.append(torch.stack([hits, labels.to(hits)], dim=1))

    def reduce(self, rows: Tensor) -> Tensor:
        """Return the mean over images, or over the classes that have a defined image."""
        if not self.per_class:
            return super().reduce(rows)
        hits, labels = rows[~rows[:, 0].isnan()].unbind(dim=1)
        classes, index = torch.unique(labels, return_inverse=True)
        sums = hits.new_zeros(2, len(classes)).index_add(1, index, torch.stack([hits, torch.ones_like(hits)]))
        return (sums[0] / sums[1]).mean()


class EnergyPointingGame(PerImageMetric):
    """The mean share of a map's energy inside the mask.

    Example:
        >>> metric = EnergyPointingGame()
        >>> metric.update(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: ``maps`` (B, H, W), ``masks`` (B, H, W) bool."""
        self.append(energy_pointing_game(maps, masks))


class RelevanceRank(PerImageMetric):
    """The mean share of the highest pixels, as many as the mask has, that lie inside it.

    Args:
        ties: ``"stable"`` or ``"expected"``, how equal pixels are ranked.
        kwargs: torchmetrics' own.

    Example:
        >>> metric = RelevanceRank()
        >>> metric.update(torch.tensor([[[4.0, 3.0, 2.0]]]), torch.tensor([[[True, False, True]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, ties: Ties = "stable", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ties: Ties = ties
        self.add_rows()

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: ``maps`` (B, H, W), ``masks`` (B, H, W) bool."""
        self.append(relevance_rank(maps, masks, self.ties))


class MaskIoU(PerImageMetric):
    """The mean intersection over union of the mask and the thresholded map.

    Args:
        threshold: ``"otsu"``, ``"best"`` (of each image, an upper bound) or a number in [0, 1).
        kwargs: torchmetrics' own.

    Example:
        >>> metric = MaskIoU(threshold=0.5)
        >>> metric.update(torch.tensor([[[1.0, 0.8, 0.0]]]), torch.tensor([[[True, False, False]]]))
        >>> metric, metric.compute()
        (MaskIoU(threshold=0.5), tensor(0.5000))
    """

    higher_is_better = True

    def __init__(self, threshold: Threshold = "otsu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold: Threshold = threshold
        self.add_rows()

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: ``maps`` (B, H, W), ``masks`` (B, H, W) bool."""
        self.append(mask_iou(maps, masks, self.threshold))


class PixelAveragePrecision(PerImageMetric):
    """The area under the precision-recall curve of all pixels of the set (PxAP).

    The value of a set pools the pixels of its images, so it is not the mean of :attr:`values`, which are the average
    precisions of the images one by one. An image that is undefined is left out of the pool; the reference keeps it.

    Args:
        n_thresholds: number of thresholds.
        kwargs: torchmetrics' own.

    Example:
        >>> metric = PixelAveragePrecision()
        >>> metric.update(torch.tensor([[[1.0, 0.5, 0.0]]]), torch.tensor([[[True, False, True]]]))
        >>> metric.compute()
        tensor(0.8333)
    """

    higher_is_better = True

    def __init__(self, n_thresholds: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_thresholds = n_thresholds
        self.add_rows(width=2 * (n_thresholds + 1))

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add images: ``maps`` (B, H, W), ``masks`` (B, H, W) bool."""
        self.append(score_histograms(maps, masks, self.n_thresholds).flatten(1))

    def score(self, rows: Tensor) -> Tensor:
        """Return the average precision of each image."""
        return histogram_average_precision(rows.view(len(rows), 2, -1))

    def reduce(self, rows: Tensor) -> Tensor:
        """Return the average precision of the pixels of all images."""
        return histogram_average_precision(rows.nansum(dim=0).view(2, -1))


class MaxBoxAccuracy(PerImageMetric):
    """The share of images whose predicted box is right, at the threshold that suits the set best (MaxBoxAcc, V2).

    The threshold belongs to the set, so a stratum chooses its own. The value of an image, in :attr:`values`, is the
    share of required IoUs that it reaches at the threshold of the images seen so far.

    Args:
        version: 1 or 2, see :func:`lit_decom.functional.boxes.box_ious`.
        iou_thresholds: required IoUs; 0.5 in version 1 and 0.3, 0.5, 0.7 in version 2 when absent.
        n_thresholds: number of thresholds on the map.
        convention: ``"wsol"`` or ``"plain"``, what a box's corners mean.
        kwargs: torchmetrics' own.

    Example:
        >>> metric = MaxBoxAccuracy(version=1, convention="plain")
        >>> metric.update(torch.tensor([[[0.0, 1.0, 0.2, 0.0]]]), boxes=[torch.tensor([[1.0, 0.0, 2.0, 1.0]])])
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True

    def __init__(
        self,
        version: Version = 2,
        iou_thresholds: Sequence[float] | None = None,
        n_thresholds: int = 100,
        convention: BoxConvention = "wsol",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version: Version = version
        self.iou_thresholds = tuple(iou_thresholds or ((0.5,) if version == 1 else (0.3, 0.5, 0.7)))
        self.n_thresholds = n_thresholds
        self.convention: BoxConvention = convention
        self.add_rows(width=n_thresholds)

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Add images: ``maps`` (B, H, W), ``boxes`` for each image (m, 4) as x0, y0, x1, y1."""
        self.append(box_ious(maps, boxes, self.version, self.n_thresholds, self.convention))

    def score(self, rows: Tensor) -> Tensor:
        """Return each image's share in the accuracy of the images with these rows."""
        return max_box_accuracy(rows, self.iou_thresholds)[1]

    def reduce(self, rows: Tensor) -> Tensor:
        """Return the accuracy at the best threshold of the images with these rows."""
        return max_box_accuracy(rows, self.iou_thresholds)[0]
