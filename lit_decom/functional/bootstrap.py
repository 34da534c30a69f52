"""How far a score would move with another draw of images."""

from collections.abc import Callable

import torch
from torch import Tensor


def bootstrap_interval(
    rows: Tensor,
    statistic: Callable[[Tensor], Tensor],
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Give the percentile bootstrap interval of a statistic over images.

    The images are sorted before they are drawn, so the interval does not depend on their order; the draws come from a
    generator of its own.

    Args:
        rows: one row per image ``(n, width)``; rows whose first number is NaN are left out.
        statistic: from the rows of drawn images ``(n, width)`` to a scalar.
        level: coverage, between 0 and 1.
        n_resamples: number of draws of ``n`` images with replacement.
        seed: seed of the draws.

    Returns:
        ``(2,)``: low and high; NaN for fewer than two images, whose spread is unknown.

    Raises:
        ValueError: when the level or the number of resamples makes no sense.

    Example:
        >>> bootstrap_interval(torch.tensor([[0.0], [1.0], [1.0], [1.0]]), lambda rows: rows.mean())
        tensor([0.2500, 1.0000])
    """
    if not 0 < level < 1:
        raise ValueError(f"Expected `level` to be between 0 and 1, but got {level}.")
    if n_resamples < 1:
        raise ValueError(f"Expected `n_resamples` to be at least 1, but got {n_resamples}.")
    rows = _sorted(rows[~rows[:, 0].isnan()])
    if len(rows) < 2:
        return rows.new_full((2,), torch.nan)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(rows), (n_resamples, len(rows)), generator=generator).to(rows.device)
    statistics = torch.stack([statistic(rows[index]) for index in drawn])
    tail = (1 - level) / 2
    return statistics.nanquantile(torch.tensor([tail, 1 - tail], device=rows.device, dtype=rows.dtype))


def _sorted(rows: Tensor) -> Tensor:
    for column in reversed(range(rows.shape[1])):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows
