"""How far a score would move with another draw of images: intervals that cover the truth as often as they say.

A percentile bootstrap is too narrow where images are few: its 95 % interval of a mean covers the truth in .85 to .92 of
all cases with 10 images (``pytest -m slow tests/functional/test_intervals.py`` shows it). So a mean gets a studentised
interval, a share a Wilson interval (:mod:`lit_decom.functional.shares`), and any other statistic a bias-corrected and
accelerated one (:mod:`lit_decom.functional.bca`). Below
:data:`MIN_IMAGES` images every function answers NaN: too few to tell. All of them count on the CPU in float64, so that
a number does not depend on the device, and none depends on the order of the images.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

Interval = tuple[float, float]
"""Low and high end; NaN for both where there are too few images or they do not tell."""

MIN_IMAGES = 8
"""The fewest images that get an interval. By simulation (our choice): from 8 on, a studentised 95 % interval of a mean
covers in .93 to .98 of all cases, be the scores spread like a normal, uniform, U-shaped, exponential or log-normal
variable; with fewer it gets wide (with 5, it is 1.7 times as wide as with 8) and less sure."""

MOST_DRAWN = 1000
"""The most images that are drawn from for a mean; with more it gets Student's interval, which takes no memory for draws
(our choice). Of skewed scores an end moves there by less than a tenth of the interval's width."""

_NO_SPREAD = 1e-12  # variance relative to the squared largest deviation; below it, it is rounding


def mean_intervals(values: Tensor, level: float = 0.95, *, n_resamples: int = 1000, seed: int = 0) -> Tensor:
    """Give the studentised bootstrap (bootstrap-t) interval of the mean of each score.

    A draw with replacement is compared with the sample in units of its own standard error,
    ``t* = (mean* - mean) / se*``; with the quantiles ``q`` of these, the interval runs from ``mean - q_high se`` to
    ``mean - q_low se``. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 12.5.

    With more than :data:`MOST_DRAWN` images ``q`` are those of Student's distribution, and nothing is drawn.

    An end is unknown where more draws than its tail has are without any spread: so it is for a score that is the same
    in almost all images, such as 0 in 30 of 33. Then both ends are NaN.

    Args:
        values: one column per score ``(n, m)``; NaN where the score of an image is undefined, which leaves the image
            out of that column.
        level: coverage, between 0 and 1.
        n_resamples: number of draws of as many images as there are, the same draws for all columns.
        seed: seed of the draws, which leave the global random state alone.

    Returns:
        Low and high ends ``(m, 2)``; NaN for fewer than :data:`MIN_IMAGES` images, for values that are not finite, and
        for identical values, which give no estimate of the spread (a share of 0 or 1 has :func:`share_intervals`).

    Raises:
        ValueError: when a shape does not fit, the level is no coverage, or the draws are too few for its tails.

    Example:
        >>> scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
        >>> mean_intervals(torch.stack([scores, torch.ones(8)], dim=1))
        tensor([[0.2469, 0.6551],
                [   nan,    nan]])
    """
    check_columns("values", values)
    tail_rank = tail_rank_of(level, n_resamples)
    sample = _sorted_columns(values)
    counts = defined(sample)
    ends = torch.full((sample.shape[1], 2), torch.nan, dtype=torch.float64)
    for n in torch.unique(counts[counts >= MIN_IMAGES]).tolist():
        columns = counts == n
        centre, scale, centred = _standardised(sample[:n, columns])
        errors = _squared_errors(centred.mean(0), centred.square().mean(0), n)
        if n > MOST_DRAWN:
            tails = _student_tails(n, level)
        else:
            tails = _tails(*_drawn_means(centred, n_resamples, seed), tail_rank)
        found = centre[:, None] - tails * (scale * errors.sqrt())[:, None]
        ends[columns] = found.where((errors > 0)[:, None], torch.nan)
    return like(ends, values)


def difference_intervals(
    first: Tensor, second: Tensor, level: float = 0.95, *, n_resamples: int = 1000, seed: int = 0
) -> Tensor:
    """Give the studentised bootstrap interval of the difference of two means over different images.

    As :func:`mean_intervals`, with both samples drawn and the standard error ``sqrt(s1^2 / n1 + s2^2 / n2)`` of Welch.
    For two scores of the same images take :func:`mean_intervals` of their differences.

    Args:
        first: one column per score ``(n1, m)``; NaN where undefined.
        second: the same scores of other images ``(n2, m)``; NaN where undefined.
        level: coverage, between 0 and 1.
        n_resamples: number of draws.
        seed: seed of the draws.

    Returns:
        Ends of the interval of ``mean(first) - mean(second)``, ``(m, 2)``; NaN where either sample has fewer than
        :data:`MIN_IMAGES` images, a value that is not finite, or identical values alone.

    Raises:
        ValueError: when a shape does not fit, the level is no coverage, or the draws are too few for its tails.

    Example:
        >>> scores = torch.arange(10.0)[:, None]
        >>> difference_intervals(scores + 5, scores)
        tensor([[2.1303, 7.9465]])
    """
    check_columns("first", first)
    check_columns("second", second)
    check_same_scores(first, second)
    tail_rank = tail_rank_of(level, n_resamples)
    samples = _sorted_columns(first), _sorted_columns(second)
    counts = torch.stack([defined(sample) for sample in samples], dim=1)
    ends = torch.full((len(counts), 2), torch.nan, dtype=torch.float64)
    for sizes in torch.unique(counts[(counts >= MIN_IMAGES).all(1)], dim=0).tolist():
        columns = (counts == torch.tensor(sizes)).all(1)
        parts = [_standardised(sample[:n, columns]) for sample, n in zip(samples, sizes, strict=True)]
        ends[columns] = _difference_ends(parts, tail_rank, n_resamples, seed)
    return like(ends, first)


def _difference_ends(parts: list[tuple[Tensor, Tensor, Tensor]], tail_rank: int, n_resamples: int, seed: int) -> Tensor:
    """Ends ``(m, 2)`` of the difference of two samples, each a centre, a scale and its standardised values."""
    # the unit of both samples is the larger scale, so that squares neither vanish nor overflow
    unit = torch.maximum(parts[0][1], parts[1][1])
    known = torch.ones_like(unit, dtype=torch.bool)
    error = torch.zeros_like(unit)
    drawn, drawn_error = torch.zeros(2, n_resamples, len(unit), dtype=torch.float64)
    for part, (_, scale, centred) in enumerate(parts):
        weight = scale / unit
        errors = _squared_errors(centred.mean(0), centred.square().mean(0), len(centred))
        means, mean_errors = _drawn_means(centred, n_resamples, 2 * seed + part)
        known &= errors > 0
        error = error + errors * weight.square()
        drawn = drawn + (-1) ** part * means * weight
        drawn_error = drawn_error + mean_errors * weight.square()
    tails = _tails(drawn, drawn_error, tail_rank)
    ends = (parts[0][0] - parts[1][0])[:, None] - tails * (unit * error.sqrt())[:, None]
    return ends.where(known[:, None], torch.nan)


def _standardised(sample: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(m,)``, largest deviation from it ``(m,)`` and values ``(n, m)`` in these terms; 0 for equal values."""
    # from the smallest value, since the mean of equal values may be rounded
    offset = sample[0]
    raised = sample - offset
    mean = raised.mean(0)
    centred = (raised - mean).masked_fill(raised[-1] == 0, 0.0)
    scale = centred.abs().amax(0)
    return offset + mean, scale, centred / torch.where(scale > 0, scale, 1.0)


def _student_tails(n: int, level: float) -> Tensor:
    """Tails ``(1, 2)`` of a studentised mean of n values by Student's distribution, the upper one first."""
    upper = float(stdtrit(n - 1, (1 + level) / 2))
    return torch.tensor([[upper, -upper]], dtype=torch.float64)


def _drawn_means(centred: Tensor, n_resamples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Means and their squared standard errors ``(n_resamples, m)`` of draws from the values ``(n, m)``."""
    n, m = centred.shape
    moments = draws(n, n_resamples, seed) @ torch.cat([centred, centred.square()], dim=1)
    return moments[:, :m], _squared_errors(moments[:, :m], moments[:, m:], n)


def _squared_errors(means: Tensor, squares: Tensor, n: int) -> Tensor:
    """Squared standard errors of means of n values, from their first and second moments; 0 for rounding."""
    variances = squares - means.square()
    return torch.where(variances > _NO_SPREAD, variances, 0.0) / (n - 1)


def _tails(means: Tensor, squared_errors: Tensor, rank: int) -> Tensor:
    """Order statistics ``(m, 2)`` of the studentised means, the upper one first; NaN where one is infinite."""
    # means that differ from the sample's with no error of their own are infinitely far from it
    t = torch.where(means.abs() > _NO_SPREAD, means, 0.0) / squared_errors.sqrt()
    t = t.T.contiguous().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    # NumPy sorts several times as fast as torch; torch's quantile interpolates infinities to NaN
    tails = torch.from_numpy(np.sort(t.numpy(), axis=1)[:, [len(means) - rank, rank - 1]])
    return tails.where(tails.isfinite().all(1, keepdim=True), torch.nan)


@lru_cache(maxsize=64)
def draws(n: int, n_resamples: int, seed: int) -> Tensor:
    """How often each of n images is drawn, over n: ``(n_resamples, n)`` float64.

    Over all draws every image comes equally often: a balanced bootstrap (Davison, Hinkley and Schechtman 1986), whose
    ends depend less on the seed.
    """
    with torch.inference_mode(mode=False):
        images = torch.arange(n).repeat(n_resamples)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        ones = torch.ones(n_resamples, n, dtype=torch.float64)
        return torch.zeros_like(ones).scatter_add_(1, images[order].view(n_resamples, n), ones) / n


def tail_rank_of(level: float, n_resamples: int) -> int:
    """Which of the sorted draws is the end of a tail."""
    check_level(level)
    rank = math.floor((n_resamples + 1) * (1 - level) / 2 + 1e-9)
    if rank < 1:
        fewest = math.ceil(2 / (1 - level) - 1e-9) - 1
        raise ValueError(
            f"Expected `n_resamples` to be at least {fewest} for a level of {level}, but got {n_resamples}."
        )
    return rank


def check_level(level: float) -> None:
    """Raise ValueError unless a level is a coverage between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"Expected `level` to be between 0 and 1, but got {level}.")


def check_columns(name: str, values: Tensor) -> None:
    """Raise ValueError unless values come in columns, ``(n, m)``."""
    if values.ndim != 2:
        raise ValueError(f"Expected `{name}` to have shape (n, m), but got {tuple(values.shape)}.")


def check_same_scores(first: Tensor, second: Tensor) -> None:
    """Raise ValueError unless two samples have the same number of columns."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            "Expected `first` and `second` to have the same number of columns, "
            f"but got {first.shape[1]} and {second.shape[1]}."
        )


def _sorted_columns(values: Tensor) -> Tensor:
    """Each column by size with NaN at its end, so that no interval depends on the order of the images."""
    return values.detach().cpu().double().sort(dim=0).values


def sorted_rows(rows: Tensor) -> Tensor:
    """Sort the rows that are defined, so that what is drawn of them does not depend on the order of the images."""
    rows = rows[~rows[:, 0].isnan()]
    return rows[torch.from_numpy(np.lexsort(rows.flip(1).T.numpy()))] if rows.shape[1] else rows


def defined(sample: Tensor) -> Tensor:
    """Count the values of each column that are not NaN, ``(m,)``."""
    return (~sample.isnan()).sum(0)


def like(ends: Tensor, values: Tensor) -> Tensor:
    """Bring ends of intervals to the device and the floating-point type of the values."""
    return ends.to(values.device, values.dtype if values.is_floating_point() else torch.get_default_dtype())
