"""Intervals of shares of images: of one, of the difference of two over other images, and over the same ones."""

import torch
from scipy.special import ndtri
from torch import Tensor

from lit_decom.functional.intervals import MIN_IMAGES, check_columns, check_level, check_same_scores, defined, like


def share_intervals(values: Tensor, level: float = 0.95) -> Tensor:
    """Give the Wilson interval of the share of ones in each column.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927). The formula of
    ``scipy.stats.binomtest(...).proportion_ci(method="wilson")`` over all columns at once: that one takes a column at a
    time, 0.8 ms each, and tests a hypothesis on the way.

    Args:
        values: 0 or 1 ``(n, m)``; NaN where the score of an image is undefined.
        level: coverage, between 0 and 1.

    Returns:
        Low and high ends ``(m, 2)``; NaN for fewer than :data:`MIN_IMAGES` images.

    Raises:
        ValueError: when a shape does not fit, the level is no coverage, or a value is neither 0, 1 nor NaN.

    Example:
        >>> share_intervals(torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 0.0]]))
        tensor([[0.5958, 0.9821],
                [0.0000, 0.2775]])
    """
    low, high = _wilson("values", values, level)[:2]
    return like(torch.stack([low, high], dim=1), values)


def share_difference_intervals(first: Tensor, second: Tensor, level: float = 0.95) -> Tensor:
    """Give the interval of the difference of two shares over different images, from the Wilson interval of each.

    Source: method 10 of Newcombe, Interval estimation for the difference between independent proportions (1998).

    Args:
        first: 0 or 1 ``(n1, m)``; NaN where undefined.
        second: the same scores of other images ``(n2, m)``; NaN where undefined.
        level: coverage, between 0 and 1.

    Returns:
        Ends of the interval of ``mean(first) - mean(second)``, ``(m, 2)`` in [-1, 1]; NaN where either sample has fewer
        than :data:`MIN_IMAGES` images.

    Raises:
        ValueError: when a shape does not fit, the level is no coverage, or a value is neither 0, 1 nor NaN.

    Example:
        >>> share_difference_intervals(torch.tensor([[1.0]] * 9 + [[0.0]]), torch.tensor([[0.0]] * 10))
        tensor([[0.4883, 0.9821]])
    """
    low, high, share = _wilson("first", first, level)
    other_low, other_high, other = _wilson("second", second, level)
    check_same_scores(first, second)
    below = torch.hypot(share - low, other_high - other)
    above = torch.hypot(high - share, other - other_low)
    return like(torch.stack([share - other - below, share - other + above], dim=1), first)


def paired_share_intervals(first: Tensor, second: Tensor, level: float = 0.95) -> Tensor:
    """Give the interval of the difference of two shares over the same images.

    The Wilson interval of each, put together with the correlation of the two over the images; a correlation that is
    undefined, since one of them is the same in all images, counts as 0. Source: method 10 of Newcombe, Improved
    confidence intervals for the difference between binomial proportions based on paired data (1998).

    Args:
        first: 0 or 1 ``(n, m)``; an image where either is NaN is left out.
        second: other scores of the same images ``(n, m)``.
        level: coverage, between 0 and 1.

    Returns:
        Ends of the interval of ``mean(first) - mean(second)``, ``(m, 2)`` in [-1, 1]; NaN for fewer than
        :data:`MIN_IMAGES` images.

    Raises:
        ValueError: when a shape does not fit, the level is no coverage, or a value is neither 0, 1 nor NaN.

    Example:
        >>> paired_share_intervals(torch.tensor([[1.0]] * 9 + [[0.0]]), torch.tensor([[0.0]] * 10))
        tensor([[0.4883, 0.9821]])
    """
    check_columns("second", second)
    if first.shape != second.shape:
        raise ValueError(
            f"Expected `second` to have shape {tuple(first.shape)} like `first`, but got {tuple(second.shape)}."
        )
    undefined = first.isnan() | second.isnan()
    first, second = first.masked_fill(undefined, torch.nan), second.masked_fill(undefined, torch.nan)
    low, high, share = _wilson("first", first, level)
    other_low, other_high, other = _wilson("second", second, level)
    both = (first * second).detach().cpu().double().nanmean(dim=0)
    covariance = both - share * other
    # a positive one is taken half an image smaller, without which the interval is too narrow for few images
    smaller = (covariance - 0.5 / defined(first.detach().cpu())).clamp(min=0)
    covariance = torch.where(covariance > 0, smaller, covariance)
    correlation = covariance / (share * (1 - share) * other * (1 - other)).sqrt()
    correlation = correlation.where(correlation.isfinite(), 0)
    below = _correlated(share - low, other_high - other, correlation)
    above = _correlated(high - share, other - other_low, correlation)
    return like(torch.stack([share - other - below, share - other + above], dim=1), first)


def _wilson(name: str, values: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor]:
    """Low and high end of the shares of ones, and the shares, ``(m,)`` each."""
    check_columns(name, values)
    check_level(level)
    sample = values.detach().cpu().double()
    other = sample[~sample.isnan() & (sample != 0) & (sample != 1)]
    if len(other):
        raise ValueError(f"Expected `{name}` to be of values 0, 1 or NaN, but got {float(other[0]):g}.")
    n = defined(sample).double()
    share = sample.nansum(0) / n
    z = float(ndtri((1 + level) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)).sqrt()
    # at a share of 0 or 1 the interval ends there, which the sum would miss by rounding
    low = torch.where(share == 0, 0.0, (centre - half).clamp(min=0))
    high = torch.where(share == 1, 1.0, (centre + half).clamp(max=1))
    few = n < MIN_IMAGES
    return low.masked_fill(few, torch.nan), high.masked_fill(few, torch.nan), share


def _correlated(one: Tensor, other: Tensor, correlation: Tensor) -> Tensor:
    """Length of the difference of two correlated deviations; rounding may leave it below 0."""
    return (one.square() - 2 * correlation * one * other + other.square()).clamp(min=0).sqrt()
