"""Components that only add up: non-negative matrix factorisation of each image's maps, from its purest positions.

Notation: ``S`` is the matrix of one image's class-weighted channel maps, ``P`` channels by ``M = h w`` positions. It is
approximated by ``W^T H``, where ``W (K, P)`` are channel profiles and ``H (K, M)`` patterns, neither anywhere negative.
"""

from itertools import pairwise

import torch
from torch import Tensor

from lit_decom.functional.decomposition import Factors, as_matrices, rounding_noise

_SWEEPS = 20
_LEAST_GAIN = 1e-5
_FIRST_PASSES = 10  # over one side alone, whose problem is convex, before both move
_TIE = 1e-5  # a symmetric image has positions that are equally pure but for rounding


def decompose_non_negative(maps: Tensor, n_components: int, *, start: Tensor | None = None) -> Factors:
    """Decompose every image's channel maps into components that are nowhere negative.

    Minimises ``|S - W^T H|^2`` over ``W, H >= 0``. That has many local optima, so the start decides: the profiles of
    the purest positions (:func:`purest_profiles`), which are the solution itself where every component has a position
    of its own. Then hierarchical alternating least squares (HALS; Cichocki and Phan 2009, "Fast local algorithms for
    large scale nonnegative matrix and tensor factorizations"): see :func:`hals`, over profiles and patterns in
    turn. An image is finished once a sweep explains less than 1e-5 of its energy in addition, or after 20 sweeps (our
    choice, as is the order by descending norm). Nothing is drawn, no image influences another, and all is in float64,
    so that rounding does not decide which position is the purest.

    Where maps are negative nothing explains them: that part of them stays in ``energy`` and out of all components.

    Args:
        maps: finite channel maps ``(B, P, h, w)``, as a rule not negative.
        n_components: how many to return, at most ``min(P, h w)``.
        start: patterns ``(B, K, h, w)`` of any scale to begin from, such as the components of an earlier snapshot. What
            is 0 there, or not finite, begins at the purest position of what the others leave over. An image that has
            any keeps their order, so that a component keeps its rank.

    Returns:
        The factors, in the dtype of ``maps``: no entry is negative, components are not orthogonal. One is not valid
        past the rank, or where it has faded.

    Raises:
        ValueError: if ``n_components`` is not between 1 and ``min(P, h w)``, or ``start`` has another shape than the
            components.
    """
    matrix = as_matrices(maps, n_components)
    shape = (len(maps), n_components, *maps.shape[2:])
    if start is not None and start.shape != shape:
        raise ValueError(f"Expected `start` to have shape {shape}, but got {tuple(start.shape)}.")
    patterns = matrix.new_zeros(shape) if start is None else start.to(matrix).clamp(min=0)
    patterns = torch.where(patterns.isfinite().all(dim=(2, 3), keepdim=True), patterns, 0).flatten(2)
    goes_on = patterns.flatten(1).any(dim=1)
    profiles = matrix.new_zeros(*shape[:2], matrix.shape[1])
    if start is not None:
        profiles = hals(profiles, patterns, matrix.mT, _FIRST_PASSES)
    profiles = purest_profiles(matrix.clamp(min=0), profiles, patterns)
    patterns = hals(patterns, profiles, matrix, _FIRST_PASSES)
    profiles, patterns = _refined(matrix, profiles, patterns)
    return _factors(maps, matrix, profiles, patterns, goes_on)


def purest_profiles(matrix: Tensor, profiles: Tensor, patterns: Tensor) -> Tensor:
    """Fill in missing channel profiles with those of the purest positions.

    Successive projection (Araujo et al. 2001, "The successive projections algorithm for variable selection in
    spectroscopic multicomponent analysis"; Gillis and Vavasis 2014, "Fast and robust recursive algorithms for separable
    nonnegative matrix factorization", algorithm 1): take the position whose residual is largest, of equal ones the
    first, and project its residual out of all positions. A mixture of profiles is never longer than the longest of
    them, so the position taken is one that shows a single component, where there is any.

    Args:
        matrix: ``(B, P, M)``, nowhere negative.
        profiles: ``(B, K, P)``; those that are 0 are missing.
        patterns: ``(B, K, M)`` of the known profiles; the residual to begin with is what these leave over.

    Returns:
        ``(B, K, P)``, not negative; 0 where no position was left that stands above rounding.
    """
    residual, profiles = matrix - profiles.mT @ patterns, profiles.clone()
    noise = rounding_noise(matrix)
    for k in range(profiles.shape[1]):
        norms = torch.linalg.vector_norm(residual, dim=1)
        largest = norms.amax(dim=1, keepdim=True)
        purest = (norms >= (1 - _TIE) * largest).int().argmax(dim=1)[:, None, None].expand(-1, matrix.shape[1], 1)
        taken = ~profiles[:, k].any(dim=1) & (largest[:, 0] > noise)
        profiles[:, k] += matrix.gather(2, purest)[:, :, 0] * taken[:, None]
        direction = residual.gather(2, purest) / torch.where(largest > 0, largest, 1)[:, :, None]
        residual = residual - direction @ (direction.mT @ residual) * taken[:, None, None]
    return profiles


def hals(factor: Tensor, other: Tensor, matrix: Tensor, n_passes: int = 1) -> Tensor:
    """Set each row of one factor in turn to its optimum, given all other rows and the other factor.

    With ``R_k`` what the other rows leave of the matrix, the optimum of row ``k`` is ``relu(y_k^T R_k) / |y_k|^2``
    (Cichocki and Phan 2009, equations 14 and 15): ``|matrix - other^T factor|^2`` never grows.

    Args:
        factor: ``(B, K, N)``.
        other: ``(B, K, L)``; where a row ``y_k`` is 0, that of the factor stays as it is.
        matrix: ``(B, L, N)``.
        n_passes: how often each row has its turn.

    Returns:
        The new factor, ``(B, K, N)``, not negative.
    """
    factor, products, gram = factor.clone(), other @ matrix, other @ other.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    rates = torch.where(squares > 0, 1 / squares, 0)[:, :, None, None]
    for k in n_passes * [*range(factor.shape[1])]:
        slope = torch.baddbmm(products[:, k : k + 1], gram[:, k : k + 1], factor, alpha=-1)
        factor[:, k : k + 1].add_(slope * rates[:, k]).clamp_(min=0)
    return factor


def _refined(matrix: Tensor, profiles: Tensor, patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Sweep over both factors until it no longer pays, each image by itself."""
    least = _LEAST_GAIN * matrix.square().sum(dim=(1, 2))
    error, going = _error(matrix, profiles, patterns), torch.arange(len(matrix), device=matrix.device)
    for _ in range(_SWEEPS):
        part = matrix[going]
        profiles[going] = hals(profiles[going], patterns[going], part.mT)
        patterns[going] = hals(patterns[going], profiles[going], part)
        before, after = error[going], _error(part, profiles[going], patterns[going])
        error[going] = after
        going = going[before - after > least[going]]
        if not len(going):
            break
    return profiles, patterns


def _error(matrix: Tensor, profiles: Tensor, patterns: Tensor) -> Tensor:
    return torch.baddbmm(matrix, profiles.mT, patterns, alpha=-1).square().sum(dim=(1, 2))


def _factors(maps: Tensor, matrix: Tensor, profiles: Tensor, patterns: Tensor, goes_on: Tensor) -> Factors:
    """Scale the profiles to unit norm, find the order, and see what each component takes off the rest."""
    norms = torch.linalg.vector_norm(profiles, dim=2)
    strengths = norms * torch.linalg.vector_norm(patterns, dim=2)
    by_strength = strengths.argsort(dim=1, descending=True, stable=True)
    order = torch.where(goes_on[:, None], torch.arange(strengths.shape[1], device=goes_on.device), by_strength)
    rows = torch.arange(len(maps), device=goes_on.device)[:, None]
    valid = (strengths > rounding_noise(matrix)[:, None])[rows, order]
    kept = valid[:, :, None].to(matrix)
    loadings = (profiles / torch.where(norms > 0, norms, 1)[:, :, None])[rows, order] * kept
    components = (patterns * norms[:, :, None])[rows, order] * kept
    left = [_error(matrix, loadings[:, :k], components[:, :k]) for k in range(valid.shape[1] + 1)]
    return Factors(
        components=components.reshape(*valid.shape, *maps.shape[2:]).to(maps),
        strengths=(strengths[rows, order] * valid).to(maps),
        loadings=loadings.mT.to(maps),
        valid=valid.to(maps.device),
        energy=left[0].to(maps),
        removed=(torch.stack([before - after for before, after in pairwise(left)], dim=1) * valid).to(maps),
    )
