"""Whether a component is the same part in every image: rulers of a set of images, not of one.

They say something of components that keep an index over images, be it an identity or only a rank. Both take how often
each image counts, so that a bootstrap asks them once for all its draws.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def fixed_indices(tables: Tensor, weights: Tensor | None = None) -> Tensor:
    """Choose the component that each part keeps over all images: the one of best mean average precision.

    Args:
        tables: average precision ``(n, K, R)`` of every component for every part, NaN for a part that an image does
            not show.
        weights: how often each image counts ``(n,)``; once when absent.

    Returns:
        Indices ``(R,)`` of components, of equals the first; -1 for a part that no image shows.

    Example:
        >>> fixed_indices(torch.tensor([[[0.9, 0.2], [0.4, 0.6]], [[0.0, 0.1], [0.6, 0.7]]]))
        tensor([1, 1])
    """
    weights = torch.ones(len(tables), device=tables.device) if weights is None else weights
    means = _mean_tables(tables, weights[None])[0]
    return means.argmax(dim=0).where(~means[0].isnan(), -1)


def fixed_index_average_precision(tables: Tensor, weights: Tensor) -> Tensor:
    """Give the average precision of parts that keep one component over all images, its mean over the parts shown.

    Each part keeps the component of best mean average precision over the images that show the part, so it is chosen
    anew for every row of weights.

    Args:
        tables: as for :func:`fixed_indices`, ``(n, K, R)``.
        weights: how often each image counts in each draw ``(d, n)``, non-negative.

    Returns:
        ``(d,)`` in [0, 1]; NaN where no image shows a part.

    Example:
        >>> tables = torch.tensor([[[0.9, 0.2], [0.4, 0.6]], [[0.0, 0.1], [0.6, 0.7]]])
        >>> fixed_index_average_precision(tables, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        tensor([0.5750, 0.7500])
    """
    return _mean_tables(tables, weights).amax(dim=1).nanmean(dim=1)


def part_information(parts: Tensor, weights: Tensor) -> Tensor:
    """Give the mutual information of a component's index and the part that it falls on, in bits.

    The plug-in estimate over all pairs of an image and a component: 0 where the index tells nothing of the part, at
    most the logarithm of the smaller of their numbers. It is biased upwards, see :func:`information_floor`, and says
    nothing of how sharply a component outlines its part.

    Args:
        parts: the part that each component falls on ``(n, K)``, -1 for none.
        weights: how often each image counts in each draw ``(d, n)``, non-negative.

    Returns:
        ``(d,)``, at least 0; NaN where nothing counts.

    Example:
        >>> parts = torch.tensor([[0, 1], [0, 1], [1, 0]])
        >>> part_information(parts, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
        tensor([0.0817, 1.0000])
    """
    counts = torch.einsum("dn,nkr->dkr", weights, _one_hot(parts).to(weights))
    return _information(counts)


def pointwise_information(parts: Tensor) -> Tensor:
    """Give what each image adds to the information of all, in bits: their mean is :func:`part_information`.

    Args:
        parts: as for :func:`part_information`, ``(n, K)``.

    Returns:
        ``(n,)``, negative for an image whose components fall on what they seldom fall on elsewhere.

    Example:
        >>> pointwise_information(torch.tensor([[0, 1], [0, 1], [1, 0]]))
        tensor([ 0.4150,  0.4150, -0.5850])
    """
    each = _one_hot(parts).to(torch.get_default_dtype())
    counts = each.sum(dim=0)
    total = counts.sum()
    expected = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0, keepdim=True) / total
    bits = torch.log2(counts / expected).where(counts > 0, 0)
    return (each * bits).sum(dim=(1, 2)) * len(parts) / total


def information_floor(parts: Tensor, n_permutations: int = 50, seed: int = 0) -> Tensor:
    """Give the information that is there when the index means nothing: its mean over permutations within each image.

    Args:
        parts: as for :func:`part_information`, ``(n, K)``.
        n_permutations: how often the components of every image are permuted; those without a part keep their place.
        seed: of the permutations, which leave the global random state alone. The floor does not depend on the order of
            the images.

    Returns:
        ``()``, in bits.

    Example:
        >>> parts = torch.tensor([[0, 1], [0, 1], [1, 0]])  # alike in 1 of 4 permutations, and then 1 bit
        >>> round(information_floor(parts, n_permutations=10_000).item(), 2)
        0.31
    """
    rows, inverse = torch.unique(parts, dim=0, return_inverse=True)
    rows = rows[inverse.sort().values].cpu().long()
    return parts.new_tensor(
        _permuted_information(rows.numpy().tobytes(), rows.shape[1], n_permutations, seed),
        dtype=torch.get_default_dtype(),
    )


# The same images are asked of again and again: for a value, its interval, and what it is compared with.
@lru_cache(maxsize=256)
def _permuted_information(parts: bytes, width: int, n_permutations: int, seed: int) -> float:
    rows = torch.tensor(np.frombuffer(parts, dtype=np.int64).reshape(-1, width))
    missing = rows < 0
    keys = torch.rand(n_permutations, *rows.shape, generator=torch.Generator().manual_seed(seed))
    source = keys.masked_fill(missing, 2.0).argsort(dim=2)
    # the k-th component that is there takes the part of the k-th in the drawn order
    place = missing.long().argsort(dim=1, stable=True).expand_as(source)
    permuted = torch.empty_like(source).scatter_(2, place, rows.expand_as(source).gather(2, source))
    counts = _one_hot(permuted).sum(dim=1)
    return float(_information(counts.to(torch.get_default_dtype())).mean())


def _mean_tables(tables: Tensor, weights: Tensor) -> Tensor:
    """Weighted means over images, ``(d, K, R)``; NaN for a part that no image shows."""
    tables = tables.to(weights)
    shown = (~tables[:, 0].isnan()).to(weights)
    sums = (weights @ tables.nan_to_num(0.0).flatten(1)).view(len(weights), *tables.shape[1:])
    return sums / (weights @ shown)[:, None]


def _one_hot(parts: Tensor) -> Tensor:
    """Whether a component falls on a part, ``(..., K, R)`` bool; on none for -1."""
    n_parts = int(parts.max()) + 1 if parts.numel() else 0
    return parts[..., None] == torch.arange(n_parts, device=parts.device)


def _information(counts: Tensor) -> Tensor:
    """Mutual information in bits of each table of counts ``(..., K, R)``."""
    total = counts.sum(dim=(-2, -1))
    sums = [counts, counts.sum(dim=-1), counts.sum(dim=-2), total[..., None]]
    joint, index, part, everything = (torch.xlogy(each, each).flatten(total.ndim).sum(dim=-1) for each in sums)
    return ((joint - index - part + everything) / total / torch.log(total.new_tensor(2.0))).clamp(min=0)
