"""Which annotated parts of the object (an eye, a nose) the components of a map fall on."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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
    _check(ossms, parts, valid, purity)
    exists = torch.ones(ossms.shape[:2], dtype=torch.bool, device=ossms.device) if valid is None else valid
    energy = ossms.float().clamp(min=0).flatten(2)
    owned = _owned_pixels(parts).flatten(2).float()
    with torch.autocast(energy.device.type, enabled=False), full_precision(energy.device):
        inside = energy @ owned.mT
    total = energy.sum(dim=2, keepdim=True)
    finite = (ossms.float().sum(dim=(2, 3)).isfinite() | ~exists).all(dim=1)
    area = owned.mean(dim=2).unsqueeze(1)
    present = area > 0
    exists = (exists & finite[:, None])[:, :, None] & (total > 0)
    share = inside / total
    if purity == "balanced":
        share = (share * (1 - area) / (share * (1 - area) + (1 - share) * area)).where(area < 1, 0.5)
    best, part = share.where(present & exists, -1).max(dim=2)
    return PartMatch(part.where(best >= 0, -1), best.where(best >= 0, torch.nan), present.squeeze(1))


def part_coverage(match: PartMatch, min_purity: float = 0.9) -> Tensor:
    """Give the share of the parts shown that some component claims.

    A component claims the part it falls on, and no other, when its purity reaches ``min_purity``.

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


def _check(ossms: Tensor, parts: Tensor, valid: Tensor | None, purity: str) -> None:
    if purity not in {"balanced", "energy"}:
        raise ValueError(f"Expected `purity` to be 'balanced' or 'energy', but got {purity!r}.")
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
