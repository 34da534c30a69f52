"""How similar two maps of one image are: over epochs, or before and after the image is masked by the first one."""

from typing import Literal

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.base import check_option, has_order, scatter_rows, widened

Similarity = Literal["cosine", "pearson", "spearman", "ssim"]


def map_similarity(maps: Tensor, others: Tensor, similarity: Similarity = "cosine") -> Tensor:
    """Compare each map with another one of the same image.

    Args:
        maps: maps ``(B, H, W)``.
        others: maps ``(B, H, W)``.
        similarity: ``"cosine"`` of the flattened maps, ``"pearson"`` correlation, ``"spearman"`` rank correlation with
            mean ranks for ties, or ``"ssim"``, the structural similarity of the maps stretched to [0, 1] in Gaussian
            windows of 11 pixels with sigma 1.5 that lie inside the map.

    Returns:
        Similarities ``(B,)``, at most 1 and symmetric; in [0, 1] for the cosine of non-negative maps, else in [-1, 1].
        NaN where a map is not finite, is zero throughout, or, unless for the cosine, constant.

    Raises:
        ValueError: if the shapes differ, the similarity is unknown, or maps are smaller than an SSIM window.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
        >>> map_similarity(maps, torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
        tensor([0.7071])
    """
    if maps.shape != others.shape or maps.ndim != 3:
        raise ValueError(
            f"Expected `maps` and `others` to have one shape (B, H, W), but got {tuple(maps.shape)} and "
            f"{tuple(others.shape)}."
        )
    check_option("similarity", similarity, Similarity)
    first, second = maps.double(), others.to(maps.device).double()
    values = _compare(first, second, similarity)
    return values.to(widened(maps).dtype)


def coherency(maps: Tensor, masked_maps: Tensor) -> Tensor:
    """Tell whether a map stays the same when the network sees only what it highlights (ADCC).

    The Pearson correlation of the two maps, from [-1, 1] to [0, 1].

    Args:
        maps: maps ``(B, H, W)`` of the images.
        masked_maps: maps ``(B, H, W)`` of the images masked by ``maps``.

    Returns:
        Coherencies ``(B,)``, higher is better. 0 where the second map is finite but constant, since nothing of the
        first is left; NaN where the first one is constant or either is not finite.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
        >>> coherency(maps.repeat(3, 1, 1), torch.cat([maps, 1 - maps, torch.zeros(1, 2, 2)]))
        tensor([1., 0., 0.])
    """
    correlation = map_similarity(maps, masked_maps, "pearson")
    vanished = has_order(maps) & masked_maps.isfinite().all(dim=(1, 2)) & ~has_order(masked_maps)
    return torch.where(vanished, 0.0, (correlation + 1) / 2)


def _compare(first: Tensor, second: Tensor, similarity: Similarity) -> Tensor:
    if similarity == "cosine":
        return _cosine(first.flatten(1), second.flatten(1))
    if similarity == "pearson":
        return _pearson(first.flatten(1), second.flatten(1))
    if similarity == "spearman":
        return _spearman(first.flatten(1), second.flatten(1))
    return _ssim(first, second)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    cosine = (_unit(first) * _unit(second)).sum(dim=1)
    return cosine.clamp(-1, 1)


def _unit(flat: Tensor) -> Tensor:
    return flat / flat.square().sum(dim=1, keepdim=True).sqrt()


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    return _cosine(_centred(first), _centred(second))


def _centred(flat: Tensor) -> Tensor:
    centred = flat - flat.mean(dim=1, keepdim=True)
    # The mean of a constant map may be rounded, which would leave a direction made of rounding errors.
    constant = flat.amax(dim=1, keepdim=True) == flat.amin(dim=1, keepdim=True)
    return centred.masked_fill(constant, 0.0)


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    # SciPy would warn of constant maps, and takes the rows of a table for variables, not for pairs.
    defined = has_order(first) & has_order(second)
    pairs = zip(first[defined].detach().cpu().numpy(), second[defined].detach().cpu().numpy(), strict=True)
    found = torch.tensor([float(spearmanr(*pair).statistic) for pair in pairs], dtype=first.dtype)
    return scatter_rows(found.to(first.device), defined)


def _ssim(first: Tensor, second: Tensor, size: int = 11, sigma: float = 1.5) -> Tensor:
    if min(first.shape[-2:]) < size:
        raise ValueError(
            f"Expected `maps` of at least {size} x {size} pixels for `similarity='ssim'`, but got {tuple(first.shape)}."
        )
    defined = has_order(first) & has_order(second)
    first, second = _stretched(first)[:, None], _stretched(second)[:, None]
    offsets = torch.arange(size, device=first.device, dtype=first.dtype) - size // 2
    window = (-offsets.square() / (2 * sigma**2)).exp()
    window = window / window.sum()

    def local_mean(planes: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(planes, window[None, None, :, None]), window[None, None, None, :])

    mean_1, mean_2 = local_mean(first), local_mean(second)
    variance_1 = local_mean(first.square()) - mean_1.square()
    variance_2 = local_mean(second.square()) - mean_2.square()
    covariance = local_mean(first * second) - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2  # the constants of Wang et al. (2004) for values in [0, 1]
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1.square() + mean_2.square() + c1)
    structure = (2 * covariance + c2) / (variance_1 + variance_2 + c2)
    return torch.where(defined, (luminance * structure).mean(dim=(1, 2, 3)), torch.nan)


def _stretched(maps: Tensor) -> Tensor:
    low = maps.amin(dim=(1, 2), keepdim=True)
    return (maps - low) / (maps.amax(dim=(1, 2), keepdim=True) - low)
