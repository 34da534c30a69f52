"""ROAD (Remove And Debias, arXiv 2202.00449): removing pixels without leaving a trace of which ones were removed."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from scipy.sparse import diags_array, eye_array, kron
from scipy.sparse.linalg import splu
from torch import Tensor

from lit_decom.functional.base import Rescore, check_maps_fit, has_order, saliency_ranks, scatter_rows


def check_percentages(percentages: Sequence[float]) -> None:
    """Raise unless some pixels are removed and some kept.

    Args:
        percentages: how many percent of the pixels to remove.

    Raises:
        ValueError: if there is none, or one is not strictly between 0 and 100.
    """
    if not percentages or not all(0 < percentage < 100 for percentage in percentages):
        raise ValueError(f"Expected `percentages` to be between 0 and 100, exclusive, but got {tuple(percentages)}.")


def relevance_ranks(maps: Tensor, seed: int = 0) -> Tensor:
    """Rank the pixels of each map, 0 for the most relevant; the order among equal pixels is random but fixed.

    Maps with a rectified part are full of ties, and reading order would remove the top of the picture first.

    Args:
        maps: maps ``(B, H, W)``.
        seed: seeds the order among equals, the same for every map.

    Returns:
        Ranks ``(B, H, W)``, int64.

    Example:
        >>> relevance_ranks(torch.tensor([[[0.2, 0.9], [0.5, 0.1]]]))
        tensor([[[2, 0],
                 [1, 3]]])
    """
    pixels = maps.shape[-2] * maps.shape[-1]
    return saliency_ranks(maps, torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)))


def linear_imputation(images: Tensor, removed: Tensor) -> Tensor:
    """Fill removed pixels so that each is the weighted mean of its eight neighbours, known or filled.

    Direct neighbours weigh 1/6 and diagonal ones 1/12; at the border the weights that exist are rescaled to sum to 1.
    One sparse system per image, factorised once for all its channels in float64 on the CPU.

    Args:
        images: images ``(B, C, H, W)``.
        removed: the pixels to fill ``(B, H, W)`` bool, never all of an image.

    Returns:
        Images ``(B, C, H, W)``, where kept pixels are untouched.

    Raises:
        ValueError: if an image keeps no pixel or the masks do not fit.

    Example:
        >>> row = torch.tensor([[[[0.0, 9.0, 9.0, 3.0]]]])
        >>> linear_imputation(row, torch.tensor([[[False, True, True, False]]]))
        tensor([[[[0., 1., 2., 3.]]]])
    """
    if removed.shape != (len(images), *images.shape[-2:]) or removed.dtype != torch.bool:
        raise ValueError(
            f"Expected `removed` to be (B, H, W) bool for images {tuple(images.shape)}, but got "
            f"{tuple(removed.shape)} {removed.dtype}."
        )
    if removed.flatten(1).all(dim=1).any():
        raise ValueError("Expected `removed` to leave at least one pixel of each image, but got one without any.")
    values = images.detach().double().cpu().flatten(2)
    filled = [
        _fill(image, gone, images.shape[-2:]) for image, gone in zip(values, removed.cpu().flatten(1), strict=True)
    ]
    stacked = torch.stack(filled) if filled else values
    return torch.where(removed[:, None], stacked.view(images.shape).to(images), images)


def imputation_noise(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Draw the noise that is added to filled pixels.

    One field for all images and percentages, so that a score does not depend on how the images are batched or spread
    over processes, and epochs are compared under the same noise.

    Args:
        shape: ``(C, H, W)``.
        seed: seeds the generator of its own.

    Returns:
        Standard normal numbers ``(C, H, W)``, float32, on the CPU.
    """
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def road_logits(
    images: Tensor, maps: Tensor, rescore: Rescore, noise: Tensor, *, percentages: Sequence[float], seed: int = 0
) -> Tensor:
    """Run the network on images whose most, and whose least, relevant pixels were replaced by noisy linear imputation.

    Args:
        images: images ``(B, C, H, W)``, as the model sees them.
        maps: saliency maps ``(B, H, W)``.
        rescore: runs the model on altered images, ``Capture.rescore`` for example.
        noise: what is added to filled pixels ``(C, H, W)``, in the values of ``images``.
        percentages: how many percent of the pixels to remove, rounded down to whole pixels.
        seed: seeds the order among equally relevant pixels.

    Returns:
        Logits ``(B, 2, Q, N)``: most relevant first, then least relevant first, for each of Q percentages; NaN where a
        map is not finite or constant, since it has no order.

    Raises:
        ValueError: if the maps do not fit the images or a percentage is not strictly between 0 and 100.
    """
    check_maps_fit(images, maps)
    check_percentages(percentages)
    ordered = has_order(maps)
    ranks = relevance_ranks(maps, seed)
    pixels = maps.shape[-2] * maps.shape[-1]
    # The ranks gone in each version of an image: from the front in the first half of them, from the back in the second.
    counts = torch.tensor([int(pixels * percentage // 100) for percentage in percentages])
    first = torch.cat([torch.zeros_like(counts), pixels - counts]).to(ranks.device)
    last = torch.cat([counts, torch.full_like(counts, pixels)]).to(ranks.device)
    rows = ordered.nonzero().flatten().repeat_interleave(len(first))
    versions = torch.arange(len(first), device=ranks.device).repeat(int(ordered.sum()))
    noise = noise.to(images)

    def alter(part: slice) -> Tensor:
        chosen, version = ranks[rows[part]], versions[part]
        removed = (chosen >= first[version, None, None]) & (chosen < last[version, None, None])
        return linear_imputation(images[rows[part]], removed) + noise * removed[:, None]

    logits = rescore(rows, alter)
    return scatter_rows(logits.view(int(ordered.sum()), 2, len(percentages), logits.shape[1]), ordered)


def _fill(image: Tensor, removed: Tensor, size: Sequence[int]) -> Tensor:
    """Solve the system of one image ``(C, H * W)``."""
    if not removed.any():
        return image
    weights, laplacian = _grid_operators(size[0], size[1])
    unknown = removed.nonzero().flatten().numpy()
    known = (image * ~removed).T.numpy()
    # Symmetric and positive definite, which spares the pivoting.
    factors = splu(
        laplacian[unknown][:, unknown].tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    filled = image.clone()
    filled[:, removed] = torch.from_numpy(factors.solve(weights[unknown] @ known)).T
    return filled


@lru_cache(maxsize=8)
def _grid_operators(height: int, width: int) -> tuple[Any, Any]:
    """Return the neighbour weights of a pixel grid and their graph Laplacian, sparse ``(H * W, H * W)``."""
    rows, columns = _path(height), _path(width)
    direct = kron(rows, eye_array(width)) + kron(eye_array(height), columns)
    weights = (direct / 6 + kron(rows, columns) / 12).tocsr()
    return weights, (diags_array(weights.sum(axis=1)) - weights).tocsr()


def _path(n: int) -> Any:
    ones = torch.ones(n - 1, dtype=torch.float64).numpy()
    return diags_array([ones, ones], offsets=[-1, 1], shape=(n, n))
