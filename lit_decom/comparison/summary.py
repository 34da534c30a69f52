"""From rows of images to where each method stands: values with intervals, ranks, and what it cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.comparison.measures import Measure
from lit_decom.comparison.store import Rows
from lit_decom.functional.intervals import MIN_IMAGES, Interval, mean_intervals
from lit_decom.functional.shares import paired_share_intervals, share_intervals
from lit_decom.functional.strata import NO_STRATUM, bins_of
from lit_decom.functional.stratified import stratified_mean_intervals
from lit_decom.metrics.strata import StrataRule
from lit_decom.scores import RowTable

MEAN_OF_BINS = "mean_of_bins"
"""In the place of a stratum: the mean of the values of all bins, each bin counting alike."""

BINNED = ("confidence", "class_accuracy")
"""Rules whose strata are bins of one number."""

_ROUNDING = 1e-6
_Better = dict[tuple[int, int], Interval]


@dataclass(frozen=True)
class Standing:
    """The value of one measure, by one method, over the images of one stratum, and how it stands among the methods.

    Attributes:
        measure: its name.
        stratum: such as ``all`` or ``correct``.
        method: its name.
        value: the mean over images; NaN where there is none.
        n: images in the stratum.
        undefined: those among them on which the measure is undefined.
        interval: of 95 % over images; None where there are too few to say.
        rank: one more than the number of methods that are better beyond doubt: whose interval of 95 % of the paired
            difference lies on their side. Methods that nothing tells apart share a rank. None where neither direction
            is better, and where images are too few.
        better_than_first: the interval of what this method is better by than the first one, image by image.
        higher_is_better: the measure's direction.
    """

    measure: str
    stratum: str
    method: str
    value: float
    n: int
    undefined: int = 0
    interval: Interval | None = None
    rank: int | None = None
    better_than_first: Interval | None = None
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Cost:
    """What a method costs per image, beyond the forward and the backward pass that all methods share.

    Attributes:
        method: its name.
        seconds: of wall time.
        forwards: altered images that the network is shown; altered activations count as much, whatever part of the
            network is left out for them.
        peak_bytes: memory that it needs at once; NaN where it was not measured.
    """

    method: str
    seconds: float
    forwards: float
    peak_bytes: float


def standings(
    rows: Rows,
    methods: Sequence[str],
    measures: Sequence[Measure],
    rule: StrataRule,
    *,
    correct_only: bool = False,
    class_accuracy: Tensor | None = None,
) -> list[Standing]:
    """Reduce the rows of images.

    Args:
        rows: of all images.
        methods: their names, as in the rows.
        measures: as in the rows.
        rule: which images are told apart.
        correct_only: whether images that the network gets wrong count nowhere.
        class_accuracy: of every class ``(N,)``, for strata by it; None takes that of these images.

    Returns:
        Ordered by measure, stratum and method; strata without images are absent.
    """
    codes = codes_of(rows, rule, class_accuracy)
    counted = (rows.right if correct_only else rows.labels >= 0).nonzero().flatten()
    strata = RowTable((), codes[counted], {}, rule.names).strata()
    found = []
    for number, measure in enumerate(measures):
        values = rows.values[counted, :, number].double()
        for name, index in strata.items():
            found += _of_stratum(values[index], name, methods, measure)
        if rule.strata in BINNED:
            bins = [values[index] for name, index in strata.items() if name != keys.ALL]
            found += _mean_of_bins(bins, methods, measure)
    return found


def codes_of(rows: Rows, rule: StrataRule, class_accuracy: Tensor | None = None) -> Tensor:
    """Tell the stratum of every image ``(n,)``, -1 for none; see :mod:`lit_decom.functional.strata`."""
    answered = (rows.answers >= 0) & (rows.labels >= 0)
    if rule.strata == "correctness":
        return (~rows.right).long().where(answered, NO_STRATUM)
    if rule.strata == "confidence":
        return bins_of(rows.confidences, rule.n_bins).where(answered, NO_STRATUM)
    if rule.strata == "class_accuracy":
        accuracy = class_accuracies(rows) if class_accuracy is None else class_accuracy
        own = accuracy[rows.labels.clamp(min=0)]
        return bins_of(own, rule.n_bins).where(rows.right & ~own.isnan(), NO_STRATUM)
    return rows.codes


def class_accuracies(rows: Rows) -> Tensor:
    """How often each class is answered right ``(N,)``; NaN for one without images."""
    labelled = rows.labels >= 0
    labels, right = rows.labels[labelled], rows.right[labelled]
    return torch.bincount(labels, right.double()) / torch.bincount(labels)


def costs(rows: Rows, methods: Sequence[str]) -> list[Cost]:
    """Divide what methods cost by the number of images."""
    n = max(int(rows.n_explained), 1)
    return [
        Cost(name, seconds / n, forwards / n, peak)
        for name, seconds, forwards, peak in zip(
            methods, rows.seconds.tolist(), rows.forwards.tolist(), rows.peaks.tolist(), strict=True
        )
    ]


def _of_stratum(values: Tensor, stratum: str, methods: Sequence[str], measure: Measure) -> list[Standing]:
    """Where methods stand by their values ``(n, M)``."""
    single = share_intervals(values) if measure.is_share else mean_intervals(values)
    return _stand([values], stratum, methods, measure, single, _better(values, measure))


def _mean_of_bins(bins: Sequence[Tensor], methods: Sequence[str], measure: Measure) -> list[Standing]:
    """Where methods stand by the mean over bins of their values ``(n_b, M)``."""
    if not bins:
        return []
    single, better = stratified_mean_intervals(bins), _better_over_bins(bins, measure)
    return _stand(bins, MEAN_OF_BINS, methods, measure, single, better)


def _stand(  # noqa: PLR0917
    parts: Sequence[Tensor], stratum: str, methods: Sequence[str], measure: Measure, single: Tensor, better: _Better
) -> list[Standing]:
    """Put together what is known of every method; of several parts each counts alike."""
    means = torch.stack([part.nanmean(dim=0) for part in parts]).nanmean(dim=0).tolist()
    undefined = sum(part.isnan().sum(dim=0) for part in parts).tolist()  # type: ignore[union-attr]
    n, ranked = sum(map(len, parts)), measure.higher_is_better is not None
    return [
        Standing(
            measure.name,
            stratum,
            method,
            means[at],
            n,
            undefined[at],
            _known(single[at].tolist()),
            _rank(at, better, len(methods)) if ranked else None,
            better.get((at, 0)),
            measure.higher_is_better,
        )
        for at, method in enumerate(methods)
    ]


def _better(values: Tensor, measure: Measure) -> _Better:
    """By pair of methods the interval of what the first one of it is better by; pairs without one are absent."""
    pairs, first, second = _pairs(values, measure)
    if not pairs:
        return {}
    if measure.is_share:
        return _both_ways(pairs, paired_share_intervals(first, second))
    differences = first - second
    ends = mean_intervals(differences)
    unknown = differences.isnan()
    alike = (unknown | (differences.abs() <= _ROUNDING)).all(dim=0)
    ends[alike & ((~unknown).sum(dim=0) >= MIN_IMAGES)] = 0.0
    return _both_ways(pairs, ends)


def _better_over_bins(bins: Sequence[Tensor], measure: Measure) -> _Better:
    """As :func:`_better`, of the mean over bins."""
    found = [_pairs(values, measure) for values in bins]
    pairs = found[0][0]
    return _both_ways(pairs, stratified_mean_intervals([one - other for _, one, other in found])) if pairs else {}


def _pairs(values: Tensor, measure: Measure) -> tuple[list[tuple[int, int]], Tensor, Tensor]:
    """Every pair of methods, and the values ``(n, pairs)`` of each of the two: the larger, the better for the first."""
    pairs = list(combinations(range(values.shape[1]), 2)) if measure.higher_is_better is not None else []
    first, second = (values[:, [pair[place] for pair in pairs]] for place in (0, 1))
    return (pairs, first, second) if measure.higher_is_better else (pairs, second, first)


def _both_ways(pairs: Sequence[tuple[int, int]], ends: Tensor) -> _Better:
    found: _Better = {}
    for (one, other), interval in zip(pairs, ends.tolist(), strict=True):
        known = _known(interval)
        if known is not None:
            found[one, other], found[other, one] = known, (-known[1], -known[0])
    return found


def _rank(at: int, better: Mapping[tuple[int, int], Interval], n_methods: int) -> int | None:
    others = [better[other, at] for other in range(n_methods) if (other, at) in better]
    return 1 + sum(low > 0 for low, _ in others) if others else None


def _known(ends: Sequence[float]) -> Interval | None:
    low, high = ends
    return None if math.isnan(low) or math.isnan(high) else (low, high)
