"""Turning an orthonormal basis inside its own subspace until few channels carry each direction: varimax."""

from typing import NamedTuple

import torch
from torch import Tensor

_TIE = 1e-9  # values this close, relatively, are equal: rounding must not decide
_BETTER = 1e-4  # by how much, relatively, a later start must be better to be preferred
_SAME = 0.99  # cosine above which two axes are the same one
_N_STARTS = 15


class Rotation(NamedTuple):
    """A rotation inside a subspace, and whether there is another one that is as good.

    Attributes:
        matrix: ``(K, K)`` float64 orthogonal; the rotated basis is ``directions @ matrix``.
        margin: share of the criterion that the best rotation to other axes lacks, in [0, 1]: about 0 where the axes are
            a matter of taste, 1 where every start led to the same axes.
    """

    matrix: Tensor
    margin: float


def varimax_criterion(directions: Tensor) -> Tensor:
    """Sum over columns of the variance of the squared entries: large where few channels carry each column.

    The raw criterion of Kaiser (1958), that is without normalised rows.

    Args:
        directions: ``(..., C, K)``.

    Returns:
        ``(...)``, at least 0.

    Example:
        >>> varimax_criterion(torch.eye(2)), varimax_criterion(torch.full((2, 2), 0.5).sqrt())
        (tensor(0.5000), tensor(0.))
    """
    return directions.square().var(dim=-2, correction=0).sum(dim=-1)


def varimax(directions: Tensor) -> Rotation:
    """Find the rotation after which the varimax criterion of an orthonormal basis is largest.

    The criterion has several maxima. The search goes uphill from :func:`pivoted_start`, which finds the largest in
    most cases, and from random rotations of it with a fixed seed; another start is preferred only where it is clearly
    better. All starts depend on the subspace alone, and so does the result, up to the order and sign of the axes (our
    choice). Computed in float64.

    Args:
        directions: ``(C, K)`` orthonormal columns.

    Raises:
        ValueError: If the columns are not orthonormal.

    Example:
        Two directions that each live on one channel, mixed:

        >>> mixed = torch.tensor([[0.6, -0.8], [0.8, 0.6], [0.0, 0.0]], dtype=torch.float64)
        >>> (mixed @ varimax(mixed).matrix).abs().round(decimals=6)
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]], dtype=torch.float64)
    """
    directions = directions.double()
    first = pivoted_start(directions)
    k = len(first)
    if k < 2:
        return Rotation(first, 1.0)
    # On the CPU: one seed is one set of starts on every device.
    noise = torch.randn(_N_STARTS, k, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    starts = first @ torch.cat((torch.eye(k, dtype=torch.float64)[None], torch.linalg.qr(noise).Q)).to(first)
    found = _uphill(directions, starts, tolerance=1e-3, most=100)
    heights = varimax_criterion(directions @ found)
    chosen = int((heights >= (1 - _BETTER) * heights.max()).int().argmax())
    matrix = _uphill(directions, found[chosen], tolerance=1e-9, most=1000)
    others = (matrix.mT @ found).abs().amax(dim=-1).amin(dim=-1) < _SAME
    if not others.any():
        return Rotation(matrix, 1.0)
    best = varimax_criterion(directions @ matrix)
    margin = (best - heights[others].max()) / best.clamp(min=torch.finfo(best.dtype).tiny)
    return Rotation(matrix, float(margin.clamp(0, 1)))


def pivoted_start(directions: Tensor) -> Tensor:
    """Rotate a basis so that its first direction holds all of the strongest channel, and so on: a pivoted QR.

    The rotated basis depends on the subspace alone, not on the basis that spans it, so that equal singular values
    cannot make the result arbitrary (our choice). Among channels that are equally strong the lowest is taken.

    Args:
        directions: ``(C, K)`` orthonormal columns.

    Returns:
        Orthogonal ``(K, K)``, float64.

    Raises:
        ValueError: If the columns are not orthonormal.
    """
    directions = directions.double()
    eye = torch.eye(directions.shape[-1], dtype=torch.float64, device=directions.device)
    if directions.ndim != 2 or not torch.allclose(directions.mT @ directions, eye, atol=1e-6):
        raise ValueError(f"Expected `directions` to be (C, K) orthonormal columns, but got {tuple(directions.shape)}.")
    start, rest = eye[:, :0], directions.clone()
    for _ in range(len(eye)):
        pivot = first_largest(rest.square().sum(dim=1))
        axis = directions[pivot] - start @ (start.T @ directions[pivot])
        axis -= start @ (start.T @ axis)  # once more: rounding left a trace of the axes before
        axis /= torch.linalg.vector_norm(axis)
        start = torch.cat((start, axis[:, None]), dim=1)
        rest -= (rest @ axis)[:, None] * axis
    return start


def first_largest(values: Tensor) -> int:
    """Index of the largest of some non-negative values ``(n,)``, the first among those that only rounding tells apart.

    Example:
        >>> first_largest(torch.tensor([0.5, 2.0, 2.0 + 1e-12], dtype=torch.float64))
        1
    """
    return int((values >= (1 - _TIE) * values.max()).int().argmax())


def _uphill(directions: Tensor, rotations: Tensor, *, tolerance: float, most: int) -> Tensor:
    """Climb from each rotation ``(..., K, K)`` until no entry moves by more than the tolerance.

    With orthonormal columns the criterion is, up to a constant, the sum of fourth powers. That is convex, so going to
    the rotation nearest to its gradient never goes down.
    """
    for _ in range(most):
        rotated = directions @ rotations
        left, _, right = torch.linalg.svd(directions.mT @ (rotated * rotated * rotated))
        step = left @ right - rotations
        rotations = rotations + step
        if step.abs().max() <= tolerance:
            break
    return rotations
