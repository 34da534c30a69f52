"""From the rows of images to scores with intervals: over all images, over every stratum, and between two strata."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.functional.intervals import (
    MIN_IMAGES,
    Interval,
    difference_intervals,
    mean_intervals,
)
from lit_decom.functional.shares import paired_share_intervals, share_difference_intervals, share_intervals
from lit_decom.metrics.base import PerImageMetric
from lit_decom.scores import Column, RowTable, Score

_ROUNDING = 1e-6  # of scores between 0 and 1 in float32


def reduced(
    table: RowTable, metrics: Mapping[str, PerImageMetric], strata: Mapping[str, Tensor], *, intervals: bool = True
) -> list[Score]:
    """Reduce rows to one score per metric, explanation and stratum, and the gap between right and wrong.

    Args:
        table: rows by :data:`Column`.
        metrics: by name.
        strata: indices of the rows of each stratum, by its name.
        intervals: whether each value comes with its interval, and each baseline with that of the paired difference.

    Returns:
        The scores, ordered by explanation, metric and stratum.
    """
    columns = dict(table.columns)
    found: dict[tuple[Column, str], Score] = {}
    for stratum, index in strata.items():
        for score in _over_stratum(stratum, {c: rows[index] for c, rows in columns.items()}, metrics, intervals):
            found[(score.metric, score.explanation), stratum] = score
    places = list(strata)
    if keys.CORRECT in strata and keys.INCORRECT in strata:
        right, wrong = strata[keys.CORRECT], strata[keys.INCORRECT]
        for score in _gaps(columns, right, wrong, metrics, intervals):
            found[(score.metric, score.explanation), keys.GAP] = score
        places.append(keys.GAP)
    order = sorted(columns, key=lambda column: _rank_of(column, columns))
    return [found[column, place] for column in order for place in places if (column, place) in found]


def _rank_of(column: Column, columns: Mapping[Column, Tensor]) -> tuple[int, int]:
    """Explanations in the order in which they appear, and within each the metrics in theirs."""
    explanations = list(dict.fromkeys(explanation for _, explanation in columns))
    names = list(dict.fromkeys(name for name, _ in columns))
    return explanations.index(column[1]), names.index(column[0])


def _over_stratum(
    stratum: str, columns: Mapping[Column, Tensor], metrics: Mapping[str, PerImageMetric], intervals: bool
) -> list[Score]:
    ends = _intervals(columns, metrics) if intervals else {}
    paired = _paired(columns, metrics) if intervals else {}
    values = _values(columns, metrics)
    undefined = torch.stack([rows[:, 0].isnan().sum() for rows in columns.values()]).tolist() if columns else []
    return [
        Score(
            metric=name,
            stratum=stratum,
            explanation=explanation,
            value=values[name, explanation],
            n=len(rows),
            undefined=missing,
            interval=ends.get((name, explanation)),
            paired_difference=paired.get((name, explanation)),
            higher_is_better=metrics[name].higher_is_better,
            always_there=metrics[name].always_there and stratum == keys.ALL,
        )
        for ((name, explanation), rows), missing in zip(columns.items(), undefined, strict=True)
    ]


def _values(columns: Mapping[Column, Tensor], metrics: Mapping[str, PerImageMetric]) -> dict[Column, float]:
    """Value of every column, those of all means at once."""
    means = _means(columns, metrics)
    found = {column: float(metrics[column[0]].reduce(columns[column])) for column in columns if column not in means}
    if means:
        found.update(zip(means, torch.stack(list(means.values()), dim=1).nanmean(dim=0).tolist(), strict=True))
    return found


def _gaps(
    columns: Mapping[Column, Tensor],
    right: Tensor,
    wrong: Tensor,
    metrics: Mapping[str, PerImageMetric],
    intervals: bool,
) -> list[Score]:
    """The values over the right images less those over the wrong ones; they have no better direction."""
    ends, paired = {}, {}
    if intervals:
        ends = _gap_intervals(_means(columns, metrics), right, wrong, metrics)
        paired = _gap_intervals(_better_by(columns, metrics), right, wrong)
    scores = []
    for (name, explanation), rows in columns.items():
        high, low = (metrics[name].reduce(rows[index]) for index in (right, wrong))
        scores.append(
            Score(
                metric=name,
                stratum=keys.GAP,
                explanation=explanation,
                value=float(high - low),
                n=len(right) + len(wrong),
                undefined=int(torch.cat([rows[right], rows[wrong]])[:, 0].isnan().sum()),
                interval=ends.get((name, explanation)),
                paired_difference=paired.get((name, explanation)),
            )
        )
    return scores


def _intervals(
    columns: Mapping[Column, Tensor], metrics: Mapping[str, PerImageMetric]
) -> dict[Column, Interval | None]:
    """Intervals of all values, those of means and of shares at once."""
    values = _means(columns, metrics)
    found = _each_kind(values, metrics, share_intervals, mean_intervals)
    rest = [column for column in columns if column not in values]
    return found | {column: _ends(metrics[column[0]].interval(columns[column])) for column in rest}


def _gap_intervals(
    values: Mapping[Column, Tensor], right: Tensor, wrong: Tensor, metrics: Mapping[str, PerImageMetric] | None = None
) -> dict[Column, Interval | None]:
    """Intervals of the difference between two groups of images; without metrics, nothing is a share."""

    def of_shares(matrix: Tensor) -> Tensor:
        return share_difference_intervals(matrix[right], matrix[wrong])

    def of_means(matrix: Tensor) -> Tensor:
        return difference_intervals(matrix[right], matrix[wrong])

    return _each_kind(values, metrics or {}, of_shares, of_means)


def _each_kind(
    values: Mapping[Column, Tensor],
    metrics: Mapping[str, PerImageMetric],
    of_shares: Callable[[Tensor], Tensor],
    of_means: Callable[[Tensor], Tensor],
) -> dict[Column, Interval | None]:
    """Compute the intervals of all shares at once, and those of all other means."""
    found: dict[Column, Interval | None] = {}
    shares = {column for column in values if column[0] in metrics and metrics[column[0]].is_share}
    for compute, chosen in ((of_shares, shares), (of_means, set(values) - shares)):
        alike = {column: each for column, each in values.items() if column in chosen}
        if alike:
            ends = compute(torch.stack(list(alike.values()), dim=1))
            found |= {column: _ends(interval) for column, interval in zip(alike, ends, strict=True)}
    return found


def _means(columns: Mapping[Column, Tensor], metrics: Mapping[str, PerImageMetric]) -> dict[Column, Tensor]:
    """What each image has ``(n,)`` in every metric whose value is the mean of that."""
    return {column: metrics[column[0]].score(rows) for column, rows in columns.items() if metrics[column[0]].is_mean}


def _paired(columns: Mapping[Column, Tensor], metrics: Mapping[str, PerImageMetric]) -> dict[Column, Interval | None]:
    """By baseline, the interval of what the method is better by."""
    differences = _better_by(columns, metrics)
    found = _each_kind(differences, {}, share_intervals, mean_intervals)
    ties = [column for column, each in differences.items() if _all_alike(each)]
    found |= dict.fromkeys(ties, (0.0, 0.0))
    shares = [column for column in differences if metrics[column[0]].is_share and metrics[column[0]].is_mean]
    if shares:
        pairs = []
        for name, explanation in shares:
            own, other = (metrics[name].score(columns[name, by]) for by in (keys.OWN, explanation))
            pairs.append((own, other) if metrics[name].higher_is_better else (other, own))
        first, second = (torch.stack(side, dim=1) for side in zip(*pairs, strict=True))
        ends = paired_share_intervals(first, second)
        found |= {column: _ends(interval) for column, interval in zip(shares, ends, strict=True)}
    return found


def _better_by(columns: Mapping[Column, Tensor], metrics: Mapping[str, PerImageMetric]) -> dict[Column, Tensor]:
    """By baseline, what the method is better by, image by image ``(n,)``; only of metrics with a direction."""
    found = {}
    for (name, explanation), rows in columns.items():
        metric, own = metrics[name], columns.get((name, keys.OWN))
        if explanation != keys.OWN and own is not None and metric.higher_is_better is not None:
            difference = metric.score(own) - metric.score(rows)
            found[name, explanation] = difference if metric.higher_is_better else -difference
    return found


def _all_alike(differences: Tensor) -> bool:
    """Whether two explanations score the same in every image, so that there is no spread to reckon with."""
    known = differences[~differences.isnan()]
    return len(known) >= MIN_IMAGES and bool((known.abs() <= _ROUNDING).all())


def _ends(interval: Tensor | Sequence[float]) -> Interval | None:
    low, high = (float(end) for end in interval)
    return (low, high) if low == low and high == high else None  # noqa: PLR0124 -- NaN: too few images
