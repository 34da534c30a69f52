"""Conceptors: soft projections onto where a cloud of vectors lies, with NOT, AND and OR (Jaeger 2014).

Notation: ``R`` is a correlation matrix ``X X^T / n``, symmetric without negative eigenvalues, and
``C = R (R + a^-2 I)^-1`` its conceptor with aperture ``a``. The eigenvalues of a conceptor are in [0, 1]: near 1 along
directions in which the vectors have much energy, 0 along those in which they have none. All of it is from H. Jaeger,
"Controlling recurrent neural networks by conceptors" (2014, arXiv 1403.3369).

Every function takes and returns ``(..., n, n)`` in float64; the matrices of a batch do not touch one another.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_ZERO = 1e-9  # eigenvalues below it are rounding: the conceptor has no extent in that direction
_TINY = torch.finfo(torch.float64).tiny
_SHARED = 1e-6  # by how much the cosine of a direction that two ranges share may miss 1


def conceptor(correlation: Tensor, aperture: float) -> Tensor:
    """Make a conceptor: ``R (R + a^-2 I)^-1``.

    Args:
        correlation: ``R``, symmetric, no negative eigenvalue.
        aperture: ``a > 0``. A direction of energy ``a^-2`` has eigenvalue 1/2. Towards 0 all becomes 0, towards
            infinity the projection onto the range of ``R``.

    Returns:
        ``C``, symmetric.

    Raises:
        ValueError: if the aperture is not positive.

    Example:
        >>> conceptor(torch.diag(torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)), aperture=1.0).diagonal()
        tensor([0.7500, 0.5000, 0.0000], dtype=torch.float64)
    """
    _check_aperture(aperture)
    return _mapped(correlation, lambda energy: energy / (energy + aperture**-2))


def negation(one: Tensor) -> Tensor:
    """Tell what a conceptor leaves out: ``NOT C = I - C``."""
    return _identity(one) - one


def conjunction(one: Tensor, other: Tensor) -> Tensor:
    """Tell what lies in both: ``C AND B = (C^-1 + B^-1 - I)^-1``.

    Where a conceptor has no inverse, on the intersection of the two ranges: with the columns of ``W`` an orthonormal
    basis of it, ``W (W^T (C^+ + B^+ - I) W)^-1 W^T``, 0 elsewhere.

    Args:
        one: ``C``.
        other: ``B``.

    Returns:
        ``C AND B``. Of a conceptor with itself this is no longer the same one but that of ``R / 2``; of projections it
        is that onto the intersection.

    Example:
        >>> one = torch.diag(torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64))
        >>> other = torch.diag(torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64))
        >>> conjunction(one, other).diagonal()
        tensor([0.0000, 1.0000, 0.3333], dtype=torch.float64)
    """
    ranges = _mapped(one, _is_extent) + _mapped(other, _is_extent)
    values, basis = torch.linalg.eigh(ranges)
    shared = (values > 2 - _SHARED).to(one)
    inverses = _mapped(one, _inverse) + _mapped(other, _inverse) - _identity(one)
    within = shared[..., :, None] * (basis.mT @ inverses @ basis) * shared[..., None, :]
    # One on the diagonal where nothing is shared keeps the matrix invertible and apart from the rest.
    within = torch.linalg.inv(within + torch.diag_embed(1 - shared)) * shared[..., None, :]
    return _symmetric(basis @ within @ basis.mT)


def disjunction(one: Tensor, other: Tensor) -> Tensor:
    """Tell what lies in either: ``C OR B = NOT (NOT C AND NOT B)``; with one aperture, that of ``R_C + R_B``."""
    return negation(conjunction(negation(one), negation(other)))


def adapt_aperture(one: Tensor, factor: float) -> Tensor:
    """Change the aperture of a conceptor from ``a`` to ``factor a``: ``C (C + factor^-2 (I - C))^-1``.

    Args:
        one: ``C``.
        factor: positive.

    Returns:
        The conceptor of the same correlation.

    Raises:
        ValueError: if the factor is not positive.
    """
    _check_aperture(factor)
    return _mapped(one, lambda value: value / (value + (1 - value).clamp(min=0) * factor**-2).clamp(min=_TINY))


def _check_aperture(aperture: float) -> None:
    if not aperture > 0:
        raise ValueError(f"Expected `aperture` to be positive, but got {aperture}.")


def _mapped(matrix: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the eigenvalues of symmetric matrices, none of which is negative but by rounding."""
    values, vectors = torch.linalg.eigh(_symmetric(matrix))
    changed: Tensor = (vectors * change(values.clamp(min=0))[..., None, :]) @ vectors.mT
    return changed


def _is_extent(values: Tensor) -> Tensor:
    return (values > _ZERO).to(values)


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > _ZERO, 1 / values, 0)


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
