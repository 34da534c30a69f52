"""Which trial to take: the Pareto front, and the best by one objective among those near the best by the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lit_decom.sweep.intervals import Interval, difference_interval
from lit_decom.sweep.spec import Objective
from lit_decom.sweep.trials import Outcome, Reading

_ROUNDING = 1e-9  # of scores in double precision

Within = Literal["yes", "unsure, yes", "unsure, no", "no"]


@dataclass(frozen=True)
class Choice:
    """What a sweep comes down to.

    Attributes:
        chosen: the trial to take.
        tied: numbers of the trials within the margins that the data cannot tell from it in the first objective.
        unknown: numbers of those within the margins whose difference from it has no known uncertainty.
        within: of every complete trial, whether it is within the margins of all further objectives: by value, and
            ``unsure`` where the interval reaches to the other side.
        front: numbers of the trials that no other is better than in every objective.
        best: number of the best trial by each objective.
    """

    chosen: Outcome
    tied: tuple[int, ...]
    unknown: tuple[int, ...]
    within: Mapping[int, Within]
    front: tuple[int, ...]
    best: Mapping[str, int]


def choose(outcomes: Sequence[Outcome], objectives: Sequence[Objective], eps: float) -> Choice:
    """Choose the best trial by the first objective among those within `eps` of the best by each further one.

    Intervals do not decide, values do; but what the intervals leave open is said.

    Args:
        outcomes: of a sweep; those that are not complete are left out.
        objectives: the first is chosen by.
        eps: margin, in the units of the further objectives.

    Returns:
        The choice; among equals the trial with the lower number.

    Raises:
        ValueError: if `eps` is negative or no trial is complete.
    """
    if not eps >= 0:
        raise ValueError(f"Expected `eps` to be at least 0, but got {eps}.")
    complete = [outcome for outcome in outcomes if outcome.state == "complete"]
    if not complete:
        raise ValueError("Expected at least one complete trial, but there is none.")
    best = {objective.name: _best(complete, objective) for objective in objectives}
    within = {outcome.number: _within(outcome, best, objectives[1:], eps) for outcome in complete}
    eligible = [outcome for outcome in complete if within[outcome.number] in ("yes", "unsure, yes")]
    # The margins of several objectives may have no trial in common.
    chosen = _best(eligible or complete, objectives[0])
    tied, unknown = [], []
    for other in eligible:
        if other.number != chosen.number:
            difference = difference_of(chosen.readings[objectives[0].name], other.readings[objectives[0].name])
            equal = _value(chosen, objectives[0]) == _value(other, objectives[0])
            if equal or (difference is not None and difference[0] <= 0 <= difference[1]):
                tied.append(other.number)
            elif difference is None:
                unknown.append(other.number)
    return Choice(
        chosen=chosen,
        tied=tuple(tied),
        unknown=tuple(unknown),
        within=within,
        front=pareto_front(complete, objectives),
        best={name: outcome.number for name, outcome in best.items()},
    )


def pareto_front(outcomes: Sequence[Outcome], objectives: Sequence[Objective]) -> tuple[int, ...]:
    """Name the trials that no other one is at least as good as in every objective and better in one.

    Args:
        outcomes: complete ones.
        objectives: all of them.

    Returns:
        Their numbers, in the order given.
    """
    points = {outcome.number: [o.sign * _value(outcome, o) for o in objectives] for outcome in outcomes}

    def dominated(point: list[float]) -> bool:
        return any(
            other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points.values()
        )

    return tuple(number for number, point in points.items() if not dominated(point))


def difference_of(a: Reading, b: Reading) -> Interval | None:
    """Give the interval of 95 % of ``a - b``.

    Image by image where both have values of the same images, whose mean the value is; else from the two intervals.

    Args:
        a: reading of one trial.
        b: reading of another one in the same objective.

    Returns:
        Low and high; None where either's uncertainty is not known.
    """
    if a.per_image and b.per_image and set(a.per_image) == set(b.per_image) and _is_mean(a) and _is_mean(b):
        import torch

        from lit_decom.functional.intervals import mean_intervals

        pairs = [[a.per_image[image] - b.per_image[image]] for image in sorted(a.per_image)]
        differences = torch.tensor(pairs, dtype=torch.float64)
        if float(differences.max() - differences.min()) <= _ROUNDING:
            # No spread to reckon with: the two differ by the same in every image.
            return float(differences.mean()), float(differences.mean())
        low, high = mean_intervals(differences)[0].tolist()
        return None if low != low else (low, high)  # noqa: PLR0124 -- NaN
    if a.interval is None or b.interval is None:
        return None
    return difference_interval(a.value, a.interval, b.value, b.interval)


def _within(outcome: Outcome, best: Mapping[str, Outcome], further: Sequence[Objective], eps: float) -> Within:
    """Whether a trial is within the margins: the worst answer over the further objectives."""
    order: tuple[Within, ...] = ("yes", "unsure, yes", "unsure, no", "no")
    worst: Within = "yes"
    for objective in further:
        top = best[objective.name]
        # 0.9 is not within 0.01 of 0.91 in floating point
        inside = objective.sign * (_value(top, objective) - _value(outcome, objective)) <= eps + 1e-9
        answer: Within = "yes" if inside else "no"
        difference = difference_of(top.readings[objective.name], outcome.readings[objective.name])
        if difference is not None and top is not outcome:
            low, high = sorted(objective.sign * end for end in difference)
            if low <= eps < high:
                answer = "unsure, yes" if inside else "unsure, no"
        worst = max(worst, answer, key=order.index)
    return worst


def _best(outcomes: Sequence[Outcome], objective: Objective) -> Outcome:
    return max(outcomes, key=lambda outcome: (objective.sign * _value(outcome, objective), -outcome.number))


def _value(outcome: Outcome, objective: Objective) -> float:
    return outcome.readings[objective.name].value


def _is_mean(reading: Reading) -> bool:
    values = list((reading.per_image or {}).values())
    return len(values) > 1 and abs(sum(values) / len(values) - reading.value) < 1e-4
