"""How concentrated saliency maps and decompositions are.

Every function gives one value per image, and NaN for an image on which it is undefined: nothing but zeros, or a value
that is not finite.
"""

import numpy as np
import torch
from torch import Tensor


def gini(maps: Tensor) -> Tensor:
    """Give the Gini index of each map's absolute values: 0 when uniform, ``1 - 1/n`` when one of ``n`` pixels has all.

    With the values in rising order, ``sum_i (2 i - n - 1) a_i / (n sum_i a_i)``.
    Source: sparseness of Chalasani et al. (2020), as in Quantus but without its small constant in the denominator.

    Args:
        maps: saliency maps ``(B, ...)``.

    Returns:
        ``(B,)`` in [0, 1), NaN for an all-zero or non-finite map.

    Example:
        >>> gini(torch.tensor([[0.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]]))
        tensor([0.7500, 0.0000])
    """
    values = _sorted(maps.float().flatten(1).abs())
    n = values.shape[1]
    weights = torch.arange(1 - n, n, 2, device=values.device, dtype=values.dtype)
    return (weights * _shares(values)).sum(dim=1) / n


def entropy(maps: Tensor) -> Tensor:
    """Give the entropy of each map's absolute values as shares, divided by that of a uniform map.

    Source: complexity of Bhatt et al. (2020); dividing by ``log n`` is our choice, so that maps of any size share the
    range from 0 (one pixel has all) to 1 (uniform).

    Args:
        maps: saliency maps ``(B, ...)``.

    Returns:
        ``(B,)`` in [0, 1], NaN for an all-zero or non-finite map and for maps of a single pixel.

    Example:
        >>> entropy(torch.tensor([[0.0, 0.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0]]))
        tensor([0.5000, 1.0000])
    """
    values = maps.float().flatten(1).abs()
    return _nats(_shares(values)) / torch.tensor(float(values.shape[1]), device=values.device).log()


def effective_rank(singular_values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count the components that matter: the exponential of the entropy of their shares of the energy.

    ``K`` equal singular values give ``K``, a single dominant one gives 1. The shares are those of the squares, so that
    they are energies; Roy and Vetterli (2007) take the singular values themselves. Values cut off by a decomposition
    into fewer components are not counted.

    Args:
        singular_values: ``(B, K)``.
        valid: which components exist, ``(B, K)`` bool; all when absent.

    Returns:
        ``(B,)`` in [1, K], NaN when no component has energy or one is not finite.

    Raises:
        ValueError: when the shapes differ.

    Example:
        >>> effective_rank(torch.tensor([[2.0, 2.0, 0.0], [5.0, 0.0, 0.0]]))
        tensor([2., 1.])
    """
    return _nats(_shares(_scaled(_existing(singular_values, valid, "singular_values")).square())).exp()


def top_component_share(contributions: Tensor, valid: Tensor | None = None) -> Tensor:
    """Give the share of the largest contribution in the sum of all, both by absolute value.

    Args:
        contributions: ``(B, K)``.
        valid: which components exist, ``(B, K)`` bool; all when absent.

    Returns:
        ``(B,)`` in [1/K, 1], NaN when no component contributes or one is not finite.

    Raises:
        ValueError: when the shapes differ.

    Example:
        >>> top_component_share(torch.tensor([[3.0, -1.0, 0.0]]))
        tensor([0.7500])
    """
    return _shares(_existing(contributions, valid, "contributions").abs()).amax(dim=1)


def _sorted(values: Tensor) -> Tensor:
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    # Torch's sort also finds the order, which takes several times as long as the values alone.
    return torch.from_numpy(np.sort(values.numpy(force=True), axis=1))


def _existing(values: Tensor, valid: Tensor | None, name: str) -> Tensor:
    if values.ndim != 2:
        raise ValueError(f"Expected `{name}` to have shape (B, K), but got {tuple(values.shape)}.")
    if valid is None:
        return values.float()
    if valid.shape != values.shape:
        raise ValueError(f"Expected `valid` to have shape {tuple(values.shape)}, but got {tuple(valid.shape)}.")
    return values.float().where(valid, 0)


def _shares(values: Tensor) -> Tensor:
    scaled = _scaled(values)
    return scaled / scaled.sum(dim=1, keepdim=True)


def _scaled(values: Tensor) -> Tensor:
    """Divide by the largest value of each row, so that neither sums nor squares overflow or vanish."""
    # 0 / 0 and inf / inf are the NaN that marks an undefined image
    return values / values.amax(dim=1, keepdim=True)


def _nats(shares: Tensor) -> Tensor:
    surprise: Tensor = torch.special.entr(shares)
    return surprise.sum(dim=1)
