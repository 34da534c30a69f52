"""Intervals of 95 %: of a share, and of the difference between two values."""

import math

Interval = tuple[float, float]


def wilson_interval(share: float, count: int) -> Interval:
    """Give Wilson's interval of 95 % of a share (Wilson 1927).

    Args:
        share: of successes, in [0, 1].
        count: how many cases it is a share of.

    Returns:
        Low and high, in [0, 1].

    Raises:
        ValueError: when either is out of range.

    Example:
        >>> low, high = wilson_interval(0.5, 100)
        >>> f"{low:.4f} {high:.4f}"
        '0.4038 0.5962'
    """
    if not 0 <= share <= 1:
        raise ValueError(f"Expected `share` to be between 0 and 1, but got {share}.")
    if count < 1:
        raise ValueError(f"Expected `count` to be at least 1, but got {count}.")
    # It takes a second to import, and only trials of our own program need it.
    from scipy.stats import binomtest

    # Lightning logs shares in single precision, so that share times count is whole only after rounding.
    found = binomtest(round(share * count), count).proportion_ci(confidence_level=0.95, method="wilson")
    return float(found.low), float(found.high)


def difference_interval(a: float, interval_a: Interval, b: float, interval_b: Interval) -> Interval:
    """Give the interval of a difference from those of its two parts, taken for independent (MOVER; Newcombe 1998).

    Where both are shares over the same images it is too wide, since these are hard or easy for both alike: it calls a
    tie sooner than it should.

    Args:
        a: value.
        interval_a: its interval.
        b: value.
        interval_b: its interval.

    Returns:
        Low and high of ``a - b``.

    Example:
        >>> low, high = difference_interval(0.75, (0.5, 0.875), 0.5, (0.25, 0.75))
        >>> f"{low:.4f} {high:.4f}"
        '-0.1036 0.5295'
    """
    low = a - b - math.hypot(a - interval_a[0], interval_b[1] - b)
    high = a - b + math.hypot(interval_a[1] - a, b - interval_b[0])
    return low, high
