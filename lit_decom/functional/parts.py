"""Which annotated parts of the object (an eye, a nose) the components of a map fall on."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_decom.functional.localization import level_average_precision
from lit_decom.functional.precision import full_precision

Purity = Literal["balanced", "energy"]


@dataclass(frozen=True)
class PartMatch:
    """The part that each component falls on."""

    part: Tensor
    """Index of the part of highest purity, ``(B, K)``; -1 for a component without energy or an image without parts."""

    purity: Tensor
    """Purity of the component with respect to that part, ``(B, K)`` in [0, 1]; NaN where there is none."""

    present: Tensor
    """Which parts the image shows, ``(B, R)`` bool."""


@dataclass(frozen=True)
class PartAgreement:
    """How well every component outlines every part.

    Both tables are 0 for a component that does not exist or has no energy, and NaN for a part that the image does not
    show; throughout for an image without parts, without a component that has energy, or with a component that is not
    finite.
    """

    average_precision: Tensor
    """Area under the precision-recall curve of the component's values against the part's pixels, ``(B, K, R)``."""

    iou: Tensor
    """Intersection over union of the part and the component where it has half its maximum or more, ``(B, K, R)``."""


def part_agreement(ossms: Tensor, parts: Tensor, valid: Tensor | None = None, *, n_levels: int = 256) -> PartAgreement:
    """Compare every component with every part.

    Values are read on ``n_levels`` steps from 0 to the component's maximum, and pixels of one step are ties: what
    resizing leaves of a zero, another on every processor, ranks nothing. On the steps, average precision is
    scikit-learn's ``average_precision_score``: the sum of precision times the gain in recall, pixels of equal value
    together. It needs no threshold, so neither a sparse map nor a thresholded one gains by being so. A random map
    has about the part's share of the image. A pixel of several parts counts for each of them.

    Args:
        ossms: components ``(B, K, H, W)`` at the size of the image; negative values count as 0.
        parts: masks of the parts ``(B, R, H, W)``, bool; an empty mask is a part that the image does not show.
        valid: which components exist, ``(B, K)`` bool; all when absent.
        n_levels: number of steps, even, so that one begins at half the maximum. Our choice: with 256, averages over
            images differ by less than 0.005 from those of unrounded maps.

    Returns:
        The agreement, in float32.

    Raises:
        ValueError: when the shapes differ or ``n_levels`` is not even and positive.
        TypeError: when the masks are not bool.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> found = part_agreement(torch.tensor([[[[0.8, 0.8, 0.0, 0.0]], [[0.0, 0.3, 2.0, 0.0]]]]), parts)
        >>> found.average_precision
        tensor([[[0.5000, 0.5000],
                 [0.2500, 1.0000]]])
        >>> found.iou
        tensor([[[0.5000, 0.3333],
                 [0.0000, 0.5000]]])
    """
    _check(ossms, parts, valid)
    if n_levels < 2 or n_levels % 2:
        raise ValueError(f"Expected `n_levels` to be even and at least 2, but got {n_levels}.")
    values = ossms.float().flatten(2)
    top = values.amax(dim=2, keepdim=True)
    exists = _existing(values, valid) & (top.squeeze(2) > 0)
    if not exists.all():
        values, top = values.where(exists[:, :, None], 0), top.where(exists[:, :, None], 1)
    levels = (values / top).mul_(n_levels).clamp_(0, n_levels - 1).int()
    inside, chosen = _level_counts(levels, parts, n_levels)
    precision = level_average_precision(inside, chosen)
    half, size = inside[..., n_levels // 2 :].sum(dim=-1), inside.sum(dim=-1)
    iou = half / (chosen[..., n_levels // 2 :].sum(dim=-1) + size - half)
    defined = exists.any(dim=1)[:, None, None] & (size > 0)
    precision, iou = (table.where(exists[:, :, None], 0).where(defined, torch.nan) for table in (precision, iou))
    return PartAgreement(precision, iou)


def part_average_precision(agreement: PartAgreement) -> Tensor:
    """Give the average precision of the best component of each part, its mean over the parts shown.

    The best of many components is better than the best of few: compare explanations with equally many.

    Args:
        agreement: from :func:`part_agreement`.

    Returns:
        ``(B,)`` in [0, 1], NaN where the agreement is.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> part_average_precision(part_agreement(torch.tensor([[[[0.8, 0.8, 0.0, 0.0]]]]), parts))
        tensor([0.5000])
    """
    return agreement.average_precision.amax(dim=1).nanmean(dim=1)


def part_iou(agreement: PartAgreement) -> Tensor:
    """Give the intersection over union of each part with its best component, its mean over the parts shown.

    What lies below half the component's maximum plays no part, so a map thresholded there has the same IoU, and a mask
    of the whole object has its largest part's share in it: as much as blobs of the object have. Average precision tells
    these apart.

    Args:
        agreement: from :func:`part_agreement`.

    Returns:
        ``(B,)`` in [0, 1], NaN where the agreement is.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> part_iou(part_agreement(torch.tensor([[[[0.8, 0.4, 0.0, 0.0]]]]), parts))
        tensor([0.4167])
    """
    return agreement.iou.amax(dim=1).nanmean(dim=1)


def match_parts(ossms: Tensor, parts: Tensor, valid: Tensor | None = None, purity: Purity = "balanced") -> PartMatch:
    """Find the part that each component falls on, and how purely.

    Where parts overlap, a pixel belongs to the smallest of them (an eye is not also face). Negative values count as no
    energy. The definitions are ours.

    Args:
        ossms: components ``(B, K, H, W)`` at the size of the image.
        parts: masks of the parts ``(B, R, H, W)``, bool; an empty mask is a part that the image does not show.
        valid: which components exist, ``(B, K)`` bool; all when absent.
        purity: ``"energy"`` is the share ``p`` of the component's energy inside the part, which favours large parts;
            ``"balanced"`` weighs it by the part's share ``a`` of the image as if part and rest were of equal size,
            ``p (1 - a) / (p (1 - a) + (1 - p) a)``: 1/2 at chance for a part of any size, 0.9 for an energy density
            nine times that of the rest.

    Returns:
        The match. A component with NaN or infinity makes its whole image undefined.

    Raises:
        ValueError: when the shapes differ or ``purity`` is unknown.
        TypeError: when the masks are not bool.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> match = match_parts(torch.tensor([[[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 2.0, 0.0]]]]), parts)
        >>> match.part, match.purity
        (tensor([[0, 1]]), tensor([[0.7500, 1.0000]]))
    """
    if purity not in {"balanced", "energy"}:
        raise ValueError(f"Expected `purity` to be 'balanced' or 'energy', but got {purity!r}.")
    _check(ossms, parts, valid)
    values = ossms.float().flatten(2)
    energy = values.clamp(min=0)
    owned = _owned_pixels(parts).flatten(2).float()
    with torch.autocast(energy.device.type, enabled=False), full_precision(energy.device):
        inside = energy @ owned.mT
    total = energy.sum(dim=2, keepdim=True)
    area = owned.mean(dim=2).unsqueeze(1)
    present = area > 0
    exists = _existing(values, valid)[:, :, None] & (total > 0)
    share = inside / total
    if purity == "balanced":
        share = (share * (1 - area) / (share * (1 - area) + (1 - share) * area)).where(area < 1, 0.5)
    best, part = share.where(present & exists, -1).max(dim=2)
    return PartMatch(part.where(best >= 0, -1), best.where(best >= 0, torch.nan), present.squeeze(1))


def part_coverage(match: PartMatch, min_purity: float = 0.9) -> Tensor:
    """Give the share of the parts shown that some component claims.

    A component claims the part it falls on, and no other, when its purity reaches ``min_purity``.

    It rewards sparsity, and so is no default: on critters, eight random cells of a 14 x 14 grid cover .32 of the parts,
    eight compact blobs of the object's mask .82, and maps gain by being thresholded. Read it beside ``blob_components``
    and with no other sparsity than the rival's, or read :func:`part_average_precision` instead.

    Args:
        match: from :func:`match_parts`.
        min_purity: purity needed, in [0, 1].

    Returns:
        ``(B,)`` in [0, 1], NaN for an image without parts or without a component that has energy.

    Raises:
        ValueError: when ``min_purity`` is not in [0, 1].

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> match = match_parts(torch.tensor([[[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 2.0, 0.0]]]]), parts)
        >>> part_coverage(match), part_coverage(match, min_purity=0.7)
        (tensor([0.5000]), tensor([1.]))
    """
    if not 0 <= min_purity <= 1:
        raise ValueError(f"Expected `min_purity` to be between 0 and 1, but got {min_purity}.")
    n_parts = match.present.shape[1]
    claims = match.part.where(match.purity >= min_purity, -1)
    claimed = (claims.unsqueeze(2) == torch.arange(n_parts, device=claims.device)).any(dim=1)
    share = (claimed & match.present).sum(dim=1) / match.present.sum(dim=1)
    return share.where((match.part >= 0).any(dim=1), torch.nan)


def part_purity(match: PartMatch) -> Tensor:
    """Give the mean purity of an image's components, each with respect to the part it falls on.

    It rewards any mask of the object, and so is no default: on critters, one mask of the whole animal has a purity of
    .89 without telling one part from another. Read :func:`part_average_precision` instead.

    Args:
        match: from :func:`match_parts`.

    Returns:
        ``(B,)`` in [0, 1], NaN for an image without parts or without a component that has energy.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> part_purity(match_parts(torch.tensor([[[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 2.0, 0.0]]]]), parts))
        tensor([0.8750])
    """
    return match.purity.nanmean(dim=1)


def _owned_pixels(parts: Tensor) -> Tensor:
    images = torch.arange(len(parts), device=parts.device)
    owned, taken = torch.zeros_like(parts), torch.zeros_like(parts[:, 0])
    for part in parts.sum(dim=(2, 3)).argsort(dim=1, stable=True).unbind(dim=1):
        masks = parts[images, part]
        owned[images, part] = masks & ~taken
        taken |= masks
    return owned


def _existing(values: Tensor, valid: Tensor | None) -> Tensor:
    """Which components ``(B, K, pixels)`` exist ``(B, K)``: none of an image where one of them is not finite."""
    exists = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if valid is None else valid
    finite = (values.sum(dim=2).isfinite() | ~exists).all(dim=1)
    return exists & finite[:, None]


def _level_counts(levels: Tensor, parts: Tensor, n_levels: int) -> tuple[Tensor, Tensor]:
    """Pixels inside each part ``(B, K, R, n_levels)``, and in the image ``(B, K, 1, n_levels)``, by their level."""
    batch, k, _ = levels.shape
    n_parts = parts.shape[1]
    components = torch.arange(batch * k, device=levels.device, dtype=levels.dtype).view(batch, k, 1)
    counts = torch.bincount((components * n_levels + levels).flatten(), minlength=batch * k * n_levels)
    image, part, pixel = parts.flatten(2).nonzero(as_tuple=True)
    component = torch.arange(k, device=image.device, dtype=levels.dtype) * (n_parts * n_levels)
    table = ((image * (k * n_parts) + part) * n_levels).to(levels.dtype)
    column = table[:, None] + component + levels[image, :, pixel]
    inside = torch.bincount(column.flatten(), minlength=batch * k * n_parts * n_levels)
    return inside.view(batch, k, n_parts, n_levels).float(), counts.view(batch, k, 1, n_levels).float()


def _check(ossms: Tensor, parts: Tensor, valid: Tensor | None) -> None:
    same_images = len(ossms) == len(parts) and ossms.shape[2:] == parts.shape[2:]
    if ossms.ndim != 4 or parts.ndim != 4 or not same_images or parts.shape[1] == 0:
        raise ValueError(
            "Expected `ossms` (B, K, H, W) and `parts` (B, R, H, W) to agree in all but the second dimension, with at "
            f"least one part, but got {tuple(ossms.shape)} and {tuple(parts.shape)}."
        )
    if parts.dtype != torch.bool:
        raise TypeError(f"Expected `parts` to be of type torch.bool, but got {parts.dtype}.")
    if valid is not None and valid.shape != ossms.shape[:2]:
        raise ValueError(f"Expected `valid` to have shape {tuple(ossms.shape[:2])}, but got {tuple(valid.shape)}.")
