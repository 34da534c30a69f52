"""How well saliency maps agree with masks of the object.

Every function gives one value per image in [0, 1], and NaN for an image on which it is undefined: an empty mask, a map
with NaN or infinity, or a blank map (constant, or without positive energy where energy is what counts).
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_decom.functional.base import extremes, has_order

Ties = Literal["stable", "expected"]
Threshold = float | Literal["otsu", "best"]


def pointing_game(maps: Tensor, masks: Tensor, tolerance: float = 15.0, *, scale_to_image: bool = False) -> Tensor:
    """Ask whether the highest point of each map lies on, or near, the object.

    A hit is a mask pixel whose squared distance from the point is strictly less than the squared tolerance, or the
    point's own pixel. Where several pixels share the maximum, the first in row-major order is the point.
    Source: the pointing game of Zhang et al. (2018) as evaluated in TorchRay.

    Args:
        maps: saliency maps ``(B, H, W)``.
        masks: object masks ``(B, H, W)``, bool.
        tolerance: radius around the point in pixels; the published 15 belongs to images of about 224 pixels.
        scale_to_image: multiply the tolerance by ``min(H, W) / 224`` (our choice).

    Returns:
        ``(B,)``: 1 for a hit, 0 for a miss, NaN for a constant or non-finite map or an empty mask.

    Raises:
        ValueError: when the shapes differ or the tolerance is negative.
        TypeError: when the masks are not bool.

    Example:
        >>> maps = torch.zeros(1, 8, 8)
        >>> maps[0, 1, 1] = 1.0
        >>> masks = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> masks[0, 1, 4] = True
        >>> pointing_game(maps, masks, tolerance=3), pointing_game(maps, masks, tolerance=3.1)
        (tensor([0.]), tensor([1.]))
    """
    if tolerance < 0:
        raise ValueError(f"Expected `tolerance` to be at least 0, but got {tolerance}.")
    values, inside = _flat(maps, masks)
    height, width = maps.shape[-2:]
    radius = tolerance * min(height, width) / 224 if scale_to_image else tolerance
    point = values.argmax(dim=1, keepdim=True)
    below = torch.arange(height, device=maps.device) - point // width
    beside = torch.arange(width, device=maps.device) - point % width
    near = below.square().float()[:, :, None] < (radius**2 - beside.square())[:, None, :]
    hits = (inside & near.flatten(1)).any(dim=1) | inside.gather(1, point).squeeze(1)
    return hits.float().where(has_order(values) & inside.any(dim=1), torch.nan)


def energy_pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Give the share of each map's energy that lies inside the mask (also called relevance mass accuracy).

    Negative values count as no energy. A uniform map scores the mask's share of the image.
    Source: the energy-based pointing game of Score-CAM (Wang et al. 2020).

    Args:
        maps: saliency maps ``(B, H, W)``.
        masks: object masks ``(B, H, W)``, bool.

    Returns:
        ``(B,)``, NaN for a map without positive energy, a non-finite map or an empty mask.

    Raises:
        ValueError: when the shapes differ.
        TypeError: when the masks are not bool.

    Example:
        >>> energy_pointing_game(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]]))
        tensor([0.7500])
    """
    values, inside = _flat(maps, masks)
    least, largest = extremes(values)
    # a sum of large values would overflow, and every share of it be 0
    energy = values.clamp(min=0) / largest[:, None]
    share = energy.where(inside, 0).sum(dim=1) / energy.sum(dim=1)
    defined = (largest > 0) & largest.isfinite() & least.isfinite() & inside.any(dim=1)
    return share.where(defined, torch.nan)


def relevance_rank(maps: Tensor, masks: Tensor, ties: Ties = "stable") -> Tensor:
    """Give the share of the ``K`` highest pixels that lie inside the mask, where the mask has ``K`` pixels.

    Source: relevance rank accuracy (Arras et al. 2022).

    Args:
        maps: saliency maps ``(B, H, W)``.
        masks: object masks ``(B, H, W)``, bool.
        ties: among equal pixels, ``"stable"`` takes the first in row-major order; ``"expected"`` gives the mean over
            all orders, which is fairer to rectified maps with many zeros.

    Returns:
        ``(B,)``, NaN for a constant or non-finite map or an empty mask.

    Raises:
        ValueError: when the shapes differ or ``ties`` is unknown.
        TypeError: when the masks are not bool.

    Example:
        >>> maps, masks = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]]), torch.tensor([[[True, False, True, False]]])
        >>> relevance_rank(maps, masks)
        tensor([0.5000])
    """
    if ties not in {"stable", "expected"}:
        raise ValueError(f"Expected `ties` to be 'stable' or 'expected', but got {ties!r}.")
    values, inside = _flat(maps, masks)
    count = inside.sum(dim=1, keepdim=True)
    last = _nth_highest(values, count.clamp(min=1))
    above, tied = values > last, values == last
    left = count - above.sum(dim=1, keepdim=True)
    if ties == "stable":
        all_tied = bool((tied.sum(dim=1, keepdim=True) == left).all())
        taken = above | (tied if all_tied else tied & (tied.cumsum(dim=1) <= left))
        found = (inside & taken).sum(dim=1, keepdim=True).float()
    else:
        places = left / tied.sum(dim=1, keepdim=True)
        found = (inside & above).sum(dim=1, keepdim=True) + places * (inside & tied).sum(dim=1, keepdim=True)
    share = (found / count).squeeze(1)
    return share.where(has_order(values) & inside.any(dim=1), torch.nan)


def mask_iou(maps: Tensor, masks: Tensor, threshold: Threshold = "otsu") -> Tensor:
    """Give the intersection over union of the mask and the map cut at a threshold.

    Each map is first stretched to [0, 1].

    Args:
        maps: saliency maps ``(B, H, W)``.
        masks: object masks ``(B, H, W)``, bool.
        threshold: ``"otsu"`` cuts at Otsu's threshold of the map's 256 grey levels; a number in [0, 1) cuts there
            (both keep what is strictly above); ``"best"`` takes each image's own best cut, which looks at the mask and
            so is an upper bound, not to be compared with the others.

    Returns:
        ``(B,)``, NaN for a constant or non-finite map or an empty mask.

    Raises:
        ValueError: when the shapes differ or the threshold is none of these.
        TypeError: when the masks are not bool.

    Example:
        >>> maps, masks = torch.tensor([[[1.0, 0.9, 0.2, 0.0]]]), torch.tensor([[[True, True, True, False]]])
        >>> mask_iou(maps, masks), mask_iou(maps, masks, threshold=0.95), mask_iou(maps, masks, threshold="best")
        (tensor([0.6667]), tensor([0.3333]), tensor([1.]))
    """
    if threshold not in {"otsu", "best"} and not (isinstance(threshold, int | float) and 0 <= threshold < 1):
        raise ValueError(f"Expected `threshold` to be 'otsu', 'best' or a number in [0, 1), but got {threshold!r}.")
    values, inside = _flat(maps, masks)
    if threshold == "best":
        iou = _best_iou(values, inside)
    else:
        chosen = _above_otsu(values) if threshold == "otsu" else _stretched(values) > threshold
        both = (chosen & inside).sum(dim=1)
        iou = both / (chosen.sum(dim=1) + inside.sum(dim=1) - both)
    return iou.where(has_order(values) & inside.any(dim=1), torch.nan)


def pixel_average_precision(maps: Tensor, masks: Tensor, n_thresholds: int = 100) -> Tensor:
    """Give the area under the pixel precision-recall curve of each map.

    Args:
        maps: saliency maps ``(B, H, W)``.
        masks: object masks ``(B, H, W)``, bool.
        n_thresholds: thresholds ``0, 1/n, ..., 1`` on the map stretched to [0, 1].

    Returns:
        ``(B,)``, NaN for a constant or non-finite map or an empty mask.

    Raises:
        ValueError: when the shapes differ or there is no threshold.
        TypeError: when the masks are not bool.

    Example:
        >>> maps, masks = torch.tensor([[[1.0, 0.5, 0.0]]]), torch.tensor([[[True, False, True]]])
        >>> pixel_average_precision(maps, masks)
        tensor([0.8333])
    """
    return histogram_average_precision(score_histograms(maps, masks, n_thresholds))


def score_histograms(maps: Tensor, masks: Tensor, n_thresholds: int = 100) -> Tensor:
    """Count the pixels inside and outside the mask by the height of the map, for :func:`histogram_average_precision`.

    Args:
        maps: saliency maps ``(B, H, W)``.
        masks: object masks ``(B, H, W)``, bool.
        n_thresholds: bins ``[i/n, (i+1)/n)`` of the map stretched to [0, 1], and one for exactly 1.

    Returns:
        Counts ``(B, 2, n_thresholds + 1)``, inside first; all NaN for a constant or non-finite map or an empty mask.

    Raises:
        ValueError: when the shapes differ or there is no threshold.
        TypeError: when the masks are not bool.
    """
    if n_thresholds < 1:
        raise ValueError(f"Expected `n_thresholds` to be at least 1, but got {n_thresholds}.")
    values, inside = _flat(maps, masks)
    edges = torch.arange(1, n_thresholds + 1, device=values.device) / n_thresholds
    bins = torch.bucketize(_stretched(values), edges, right=True)
    pairs = torch.stack([inside, ~inside], dim=1).float()
    counts = pairs.new_zeros(len(values), 2, n_thresholds + 1)
    counts.scatter_add_(2, bins.unsqueeze(1).expand_as(pairs), pairs)
    defined = has_order(values) & inside.any(dim=1)
    return counts.where(defined[:, None, None], torch.nan)


def histogram_average_precision(counts: Tensor) -> Tensor:
    """Give the area under the precision-recall curve of histograms: the sum of precision times the gain in recall.

    With the counts summed over a data set this is PxAP (Choe et al. 2020, without its regions to ignore).

    Args:
        counts: pixels inside and outside the mask by rising score, ``(..., 2, n)``.

    Returns:
        ``(...)``, NaN where there is no pixel inside.
    """
    return level_average_precision(counts[..., 0, :], counts.sum(dim=-2))


def level_average_precision(inside: Tensor, everywhere: Tensor) -> Tensor:
    """Give the same from the pixels inside the mask and those of the whole image, which many masks may share.

    Args:
        inside: pixels inside the mask by rising score, ``(..., n)``.
        everywhere: pixels by rising score, ``(..., n)``, to be broadcast with those inside.

    Returns:
        ``(...)``, NaN where there is no pixel inside.
    """
    gain = inside.flip(-1)
    found, chosen = gain.cumsum(dim=-1), everywhere.flip(-1).cumsum(dim=-1).clamp(min=1)
    return (found / chosen * gain).sum(dim=-1) / found[..., -1]


def _flat(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            "Expected `maps` and `masks` to have the same shape (B, H, W), "
            f"but got {tuple(maps.shape)} and {tuple(masks.shape)}."
        )
    if masks.dtype != torch.bool:
        raise TypeError(f"Expected `masks` to be of type torch.bool, but got {masks.dtype}.")
    return maps.float().flatten(1), masks.flatten(1)


def _nth_highest(values: Tensor, n: Tensor) -> Tensor:
    """Give the n-th highest value of each row ``(B, 1)``, where ``n`` is ``(B, 1)`` and at least 1."""
    place = values.shape[1] - n
    if values.device.type != "cpu":
        return values.sort(dim=1).values.gather(1, place)
    # NumPy selects without sorting, several times as fast as torch's `kthvalue`.
    pairs = zip(values.numpy(force=True), place.flatten().tolist(), strict=True)
    return values.new_tensor(np.array([np.partition(row, at)[at] for row, at in pairs])).unsqueeze(1)


def _stretched(values: Tensor) -> Tensor:
    low, high = (end[:, None] for end in extremes(values))
    return ((values - low) / (high - low)).nan_to_num()


def _above_otsu(values: Tensor) -> Tensor:
    levels = (_stretched(values) * 255).long().clamp(0, 255)
    counts = values.new_zeros(len(values), 256).scatter_add_(1, levels, torch.ones_like(values))
    below = counts.cumsum(dim=1)
    mass = (counts * torch.arange(256, device=values.device)).cumsum(dim=1)
    n_pixels = values.shape[1]
    # variance between the two classes, up to a factor; a cut that leaves one class empty separates nothing
    between = (mass[:, -1:] / n_pixels * below - mass).square() / (below * (n_pixels - below))
    return levels > between.nan_to_num(nan=0.0, posinf=0.0).argmax(dim=1, keepdim=True)


def _best_iou(values: Tensor, inside: Tensor) -> Tensor:
    ranked, order = values.sort(dim=1, descending=True)
    hits = inside.gather(1, order).cumsum(dim=1)
    chosen = torch.arange(1, values.shape[1] + 1, device=values.device)
    iou = hits / (inside.sum(dim=1, keepdim=True) + chosen - hits)
    # pixels of one value are above a threshold together or not at all
    last_of_its_value = torch.ones_like(inside)
    last_of_its_value[:, :-1] = ranked[:, :-1] > ranked[:, 1:]
    return iou.where(last_of_its_value, 0).amax(dim=1)
