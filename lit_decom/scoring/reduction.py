"""From the rows of images to scores with intervals: over all images, over every stratum, and between two strata."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

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
from lit_decom.metrics.base import PerImageMetric, SetMetric
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
    if not table.columns:
        return []
    images = _Images.of(table.columns, metrics)
    found = {}
    for stratum, index in strata.items():
        ends = _intervals(images, index) if intervals else None
        found[stratum] = _scores(images, stratum, index, images.values(index), ends)
    if keys.CORRECT in strata and keys.INCORRECT in strata:
        right, wrong = strata[keys.CORRECT], strata[keys.INCORRECT]
        ends = _gap_intervals(images, right, wrong) if intervals else None
        gap = images.values(right) - images.values(wrong)
        found[keys.GAP] = _scores(images, keys.GAP, torch.cat([right, wrong]), gap, ends)
    explanations = list(dict.fromkeys(explanation for _, explanation in table.columns))
    names = list(dict.fromkeys(name for name, _ in table.columns))
    order = sorted(table.columns, key=lambda column: (explanations.index(column[1]), names.index(column[0])))
    return [scores[column] for column in order for scores in found.values()]


@dataclass(frozen=True)
class _Images:
    """What the scores of all strata are reduced from: a row per image, so that a stratum is a choice of rows.

    Attributes:
        columns: the rows of each of the ``m`` columns.
        metrics: by name.
        undefined: ``(n, m)`` bool, where a metric says nothing of an image.
        scores: ``(n, m)``, what each image has.
        first: ``(n, m)``, what the method has where higher is better, and the baseline where lower is; NaN in the
            columns of the method itself and of metrics without a direction.
        second: ``(n, m)``, what the other one has, so that the method is better by ``first - second``.
        means: ``(m,)`` bool, whether the value is the mean of what the images have, and no share.
        shares: ``(m,)`` bool, whether it is a share of images.
    """

    columns: Mapping[Column, Tensor]
    metrics: Mapping[str, PerImageMetric]
    undefined: Tensor
    scores: Tensor
    first: Tensor
    second: Tensor
    means: Tensor
    shares: Tensor

    @classmethod
    def of(cls, columns: Mapping[Column, Tensor], metrics: Mapping[str, PerImageMetric]) -> "_Images":
        scores = {column: metrics[column[0]].score(rows) for column, rows in columns.items()}
        pairs = []
        for (name, explanation), other in scores.items():
            own, direction = scores.get((name, keys.OWN)), metrics[name].higher_is_better
            compared = explanation != keys.OWN and own is not None and direction is not None
            pair = (own, other) if compared else 2 * (torch.full_like(other, torch.nan),)
            pairs.append(pair if direction else pair[::-1])
        first, second = (torch.stack(side, dim=1) for side in zip(*pairs, strict=True))
        means = torch.tensor([metrics[name].is_mean for name, _ in columns])
        shares = means & torch.tensor([metrics[name].is_share for name, _ in columns])
        return cls(
            columns,
            metrics,
            undefined=torch.stack([rows[:, 0].isnan() for rows in columns.values()], dim=1),
            scores=torch.stack(list(scores.values()), dim=1),
            first=first,
            second=second,
            means=means & ~shares,
            shares=shares,
        )

    @cached_property
    def bootstrapped(self) -> Tensor:
        """The means and, beside them, what the method is better by ``(n, 2 m)``; NaN in the columns that have none."""
        return torch.cat([self.scores.masked_fill(~self.means, torch.nan), self.first - self.second], dim=1)

    @cached_property
    def statistics(self) -> list[tuple[int, PerImageMetric, Tensor]]:
        """Place, metric and rows of each column whose value is no mean."""
        known = [(at, self.metrics[name], rows) for at, ((name, _), rows) in enumerate(self.columns.items())]
        return [(at, metric, rows) for at, metric, rows in known if not metric.is_mean]

    @cached_property
    def compared_sets(self) -> list[tuple[int, SetMetric, tuple[Tensor, Tensor]]]:
        """Place and metric of each baseline compared as a set, and the rows of both sides, the better one first."""
        found = []
        for at, ((name, explanation), rows) in enumerate(self.columns.items()):
            metric, own = self.metrics[name], self.columns.get((name, keys.OWN))
            if isinstance(metric, SetMetric) and explanation != keys.OWN and own is not None:
                found.append((at, metric, (own, rows) if metric.higher_is_better else (rows, own)))
        return found

    def values(self, index: Tensor) -> Tensor:
        """Value of every column over some of the images, ``(m,)``."""
        values = self.scores[index].nanmean(dim=0)
        for at, metric, rows in self.statistics:
            values[at] = metric.reduce(rows[index])
        return values


@dataclass(frozen=True)
class _Ends:
    """Intervals ``(m, 2)`` of the values, and of what the method is better by; NaN where there is none."""

    values: Tensor
    differences: Tensor


def _scores(images: _Images, stratum: str, index: Tensor, values: Tensor, ends: _Ends | None) -> dict[Column, Score]:
    """Scores over some of the images; the gap has no better direction."""
    undefined = images.undefined[index].sum(dim=0)
    nothing: list[Interval | None] = [None] * len(values)
    intervals, paired = (nothing, nothing) if ends is None else (_known(ends.values), _known(ends.differences))
    found = {}
    for (name, explanation), value, missing, interval, difference in zip(
        images.columns, values.tolist(), undefined.tolist(), intervals, paired, strict=True
    ):
        found[name, explanation] = Score(
            metric=name,
            stratum=stratum,
            explanation=explanation,
            value=value,
            n=len(index),
            undefined=missing,
            interval=interval,
            paired_difference=difference,
            higher_is_better=None if stratum == keys.GAP else images.metrics[name].higher_is_better,
            always_there=images.metrics[name].always_there and stratum == keys.ALL,
        )
    return found


def _intervals(images: _Images, index: Tensor) -> _Ends:
    values, differences = mean_intervals(images.bootstrapped[index]).chunk(2)
    values[images.shares] = share_intervals(images.scores[index][:, images.shares])
    for at, metric, rows in images.statistics:
        values[at] = metric.interval(rows[index])
    for at, metric, (first, second) in images.compared_sets:
        differences[at] = metric.difference_interval(first[index], second[index])
    first, second = images.first[index], images.second[index]
    differences[_all_alike(first - second)] = 0.0
    differences[images.shares] = paired_share_intervals(first[:, images.shares], second[:, images.shares])
    return _Ends(values, differences)


def _gap_intervals(images: _Images, right: Tensor, wrong: Tensor) -> _Ends:
    """Intervals of the difference between two groups of images; of statistics that are no means there are none."""
    values, differences = difference_intervals(images.bootstrapped[right], images.bootstrapped[wrong]).chunk(2)
    shares = images.scores[:, images.shares]
    values[images.shares] = share_difference_intervals(shares[right], shares[wrong])
    return _Ends(values, differences)


def _all_alike(differences: Tensor) -> Tensor:
    """Whether two explanations score the same in every image ``(m,)``, so that there is no spread to reckon with."""
    unknown = differences.isnan()
    return ((~unknown).sum(dim=0) >= MIN_IMAGES) & (unknown | (differences.abs() <= _ROUNDING)).all(dim=0)


def _known(ends: Tensor) -> list[Interval | None]:
    return [None if math.isnan(low) or math.isnan(high) else (low, high) for low, high in ends.tolist()]
