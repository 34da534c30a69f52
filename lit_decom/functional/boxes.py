"""How well boxes around the high regions of saliency maps agree with boxes of the object."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou

from lit_decom.functional.base import has_order

Version = Literal[1, 2]
BoxConvention = Literal["wsol", "plain"]

# neighbours within a plane of (threshold, row, column), diagonals included, none between planes
_WITHIN_A_PLANE = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


def box_ious(
    maps: Tensor,
    boxes: Sequence[Tensor],
    version: Version = 2,
    n_thresholds: int = 100,
    convention: BoxConvention = "wsol",
) -> Tensor:
    """Give, at every threshold, the best intersection over union between a predicted and a given box.

    A map is stretched to [0, 1] and cut at ``0, 1/n, ..., (n-1)/n``; what is strictly above falls into regions
    (neighbours by edge or corner), each of which predicts the box around it.
    Source: Choe et al. (2020), as evaluated in wsolevaluation. The reference draws regions with OpenCV's contours: it
    compares their enclosed area where we count pixels, and also takes boxes around holes.

    Args:
        maps: saliency maps ``(B, H, W)`` at the size of the image.
        boxes: for each image its boxes ``(m, 4)`` as x0, y0, x1, y1 in pixels.
        version: 1 predicts from the region with the most pixels (the first of equals), 2 from all of them.
        n_thresholds: number of thresholds.
        convention: ``"wsol"`` rounds maps and thresholds to 256 grey levels, extends a predicted box by one pixel to
            the right and bottom unless the image ends there, and counts corners as pixels of the box (sides are
            ``x1 - x0 + 1``); ``"plain"`` rounds nothing and takes corners as edges (sides are ``x1 - x0``).

    Returns:
        ``(B, n_thresholds)`` in [0, 1], NaN for a constant or non-finite map and for an image without boxes.

    Raises:
        ValueError: when the shapes differ or a setting is unknown.

    Example:
        >>> maps = torch.tensor([[[0.0, 1.0, 0.2, 0.0]]])
        >>> box_ious(maps, [torch.tensor([[1.0, 0.0, 2.0, 1.0]])], n_thresholds=2, convention="plain")
        tensor([[0.5000, 1.0000]])
    """
    _check(maps, boxes, version, n_thresholds, convention)
    values = maps.detach().float()
    low, high = values.amin(dim=(1, 2), keepdim=True), values.amax(dim=(1, 2), keepdim=True)
    defined = has_order(values).tolist()
    stretched = ((values - low) / (high - low)).cpu()
    ious = torch.full((len(values), n_thresholds), torch.nan)
    for i, given in enumerate(boxes):
        if defined[i] and len(given):
            predicted, plane = _predict_boxes(_cut(stretched[i], n_thresholds, convention), version, convention)
            # where corners are pixels of the box, its edges lie one pixel further to the right and bottom
            edges = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64) * (convention == "wsol")
            pairs = box_iou(predicted + edges, given.detach().cpu().double() + edges)
            ious[i] = torch.zeros(n_thresholds).scatter_reduce(0, plane, pairs.amax(dim=1).float(), "amax")
    return ious.to(maps.device)


def max_box_accuracy(ious: Tensor, iou_thresholds: Sequence[float] = (0.3, 0.5, 0.7)) -> tuple[Tensor, Tensor]:
    """Give the accuracy of predicted boxes at the threshold that suits the whole set best.

    For every required IoU, an image is right at a threshold when its IoU reaches it; the threshold with most right
    images is taken (the lowest of equals), and the accuracies are averaged over the required IoUs.

    Args:
        ious: from :func:`box_ious`, ``(B, n_thresholds)``; rows with NaN are left out.
        iou_thresholds: required IoUs; the published ones are 0.5 alone in version 1 and 0.3, 0.5, 0.7 in version 2.

    Returns:
        The accuracy, a scalar that is NaN without a defined image, and each image's share in it, ``(B,)``: the mean
        over the required IoUs of being right at the set's threshold, NaN where undefined.

    Example:
        >>> accuracy, right = max_box_accuracy(torch.tensor([[0.6, 0.2], [0.9, 0.9], [0.1, 0.8]]), [0.5])
        >>> accuracy, right
        (tensor(0.6667), tensor([1., 1., 0.]))
    """
    defined = ~ious.isnan().any(dim=1)
    required = torch.tensor(list(iou_thresholds), device=ious.device, dtype=ious.dtype)
    right = (ious.unsqueeze(2) >= required) & defined[:, None, None]
    best = right.sum(dim=0).argmax(dim=0)
    shares = right[:, best, torch.arange(len(required), device=ious.device)].float().mean(dim=1)
    shares = shares.where(defined, torch.nan)
    return shares.nanmean(), shares


def _check(maps: Tensor, boxes: Sequence[Tensor], version: int, n_thresholds: int, convention: str) -> None:
    if maps.ndim != 3 or len(boxes) != len(maps):
        raise ValueError(
            "Expected `maps` (B, H, W) and `boxes` to have one entry per image, "
            f"but got shape {tuple(maps.shape)} and {len(boxes)} entries."
        )
    if any(given.ndim != 2 or given.shape[1] != 4 for given in boxes):
        shapes = [tuple(given.shape) for given in boxes]
        raise ValueError(f"Expected every entry of `boxes` to have shape (m, 4), but got {shapes}.")
    if version not in {1, 2}:
        raise ValueError(f"Expected `version` to be 1 or 2, but got {version!r}.")
    if n_thresholds < 1:
        raise ValueError(f"Expected `n_thresholds` to be at least 1, but got {n_thresholds}.")
    if convention not in {"wsol", "plain"}:
        raise ValueError(f"Expected `convention` to be 'wsol' or 'plain', but got {convention!r}.")


def _cut(stretched: Tensor, n_thresholds: int, convention: BoxConvention) -> Tensor:
    thresholds = [i * (1 / n_thresholds) for i in range(n_thresholds)]
    if convention == "plain":
        return stretched > torch.tensor(thresholds)[:, None, None]
    levels = (stretched * 255).to(torch.uint8)
    return levels > torch.tensor([int(t * 255) for t in thresholds], dtype=torch.uint8)[:, None, None]


def _predict_boxes(cuts: Tensor, version: Version, convention: BoxConvention) -> tuple[Tensor, Tensor]:
    """Return boxes (n, 4) and the threshold's index (n,) of each; a cut without a region predicts none."""
    labels, _ = ndimage.label(cuts.numpy(), structure=_WITHIN_A_PLANE)
    extent = [(s[0].start, s[2].start, s[1].start, s[2].stop, s[1].stop) for s in ndimage.find_objects(labels)]
    plane, *corners = torch.tensor(extent, dtype=torch.long).reshape(-1, 5).T
    boxes = torch.stack(corners, dim=1).double()
    if version == 1:
        sizes = torch.from_numpy(np.bincount(labels.ravel(), minlength=1)[1:])
        largest: dict[int, int] = {}
        for region in sizes.argsort(descending=True, stable=True).tolist():
            largest.setdefault(int(plane[region]), region)
        kept = list(largest.values())
        plane, boxes = plane[kept], boxes[kept]
    if convention == "wsol":
        height, width = cuts.shape[1:]
        boxes[:, 2:] = boxes[:, 2:].minimum(torch.tensor([width - 1, height - 1], dtype=boxes.dtype))
    return boxes, plane
