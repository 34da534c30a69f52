"""Which trial to take: the best by the first objective among those near the best by the others."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lit_decom.sweep import SweepError
from lit_decom.sweep.spec import Objective
from lit_decom.sweep.trial import Interval, Outcome, Reading

_ROUNDING = 1e-9  # of scores in double precision

Within = Literal["yes", "unsure, yes", "unsure, no", "no"]
_ORDER: tuple[Within, ...] = ("yes", "unsure, yes", "unsure, no", "no")


@dataclass(frozen=True)
class Choice:
    """What a sweep comes down to: the trial to take, and what its intervals leave open, by trials' numbers."""

    chosen: Outcome
    tied: tuple[int, ...]  # within the margins, and not to be told from the chosen in the first objective
    unknown: tuple[int, ...]  # within the margins, at an uncertain distance that nobody knows
    within: Mapping[int, Within]  # the margins, by value; `unsure` where the interval reaches to the other side
    front: tuple[int, ...]  # no other trial is better in every objective


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
        SweepError: if `eps` is negative or no trial is complete.
    """
    if not eps >= 0:
        raise SweepError(f"Expected `eps` to be at least 0, but got {eps}.")
    complete = [outcome for outcome in outcomes if outcome.state == "complete"]
    if not complete:
        raise SweepError(
            f"Expected at least one complete trial, but got {states_of(outcomes) or 'none that has ended'}."
        )
    first, *further = objectives
    tops = [(objective, _best(complete, objective)) for objective in further]
    within = {outcome.number: _within(outcome, tops, eps) for outcome in complete}
    eligible = [outcome for outcome in complete if within[outcome.number] in _ORDER[:2]]
    # The margins of several objectives may have no trial in common.
    chosen = _best(eligible or complete, first)
    reached = {other.number: other.readings[first.name] for other in eligible if other is not chosen}
    leads = {number: difference_of(chosen.readings[first.name], reading) for number, reading in reached.items()}
    equal = {number for number, reading in reached.items() if reading.value == _value(chosen, first)}
    tied = tuple(n for n, lead in leads.items() if n in equal or (lead and lead[0] <= 0 <= lead[1]))
    unknown = tuple(n for n, lead in leads.items() if n not in equal and lead is None)
    return Choice(chosen, tied, unknown, within, pareto_front(complete, objectives))


def states_of(outcomes: Sequence[Outcome]) -> str:
    """Count trials by state."""
    counts = Counter(outcome.state for outcome in outcomes)
    return ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if counts[state])


def pareto_front(outcomes: Sequence[Outcome], objectives: Sequence[Objective]) -> tuple[int, ...]:
    """Name the trials that no other one is at least as good as in every objective and better in one."""
    points = {outcome.number: [o.sign * _value(outcome, o) for o in objectives] for outcome in outcomes}
    return tuple(
        number
        for number, point in points.items()
        if not any(p != point and all(a >= b for a, b in zip(p, point, strict=True)) for p in points.values())
    )


def difference_of(a: Reading, b: Reading) -> Interval | None:
    """Give the interval of 95 % of ``a - b``; None where either's uncertainty is not known.

    Image by image where both have values of the same images, whose mean the value is; else from the two intervals.
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
        return None if math.isnan(low) else (low, high)
    if a.interval is None or b.interval is None:
        return None
    return difference_interval(a.value, a.interval, b.value, b.interval)


def difference_interval(a: float, interval_a: Interval, b: float, interval_b: Interval) -> Interval:
    """Give the interval of a difference from those of its two parts, taken for independent (MOVER; Newcombe 1998).

    Where both are shares over the same images it is too wide, since these are hard or easy for both alike: it calls a
    tie sooner than it should.

    Example:
        >>> low, high = difference_interval(0.75, (0.5, 0.875), 0.5, (0.25, 0.75))
        >>> f"{low:.4f} {high:.4f}"
        '-0.1036 0.5295'
    """
    low = a - b - math.hypot(a - interval_a[0], interval_b[1] - b)
    return low, a - b + math.hypot(interval_a[1] - a, b - interval_b[0])


def _within(outcome: Outcome, tops: Sequence[tuple[Objective, Outcome]], eps: float) -> Within:
    """Whether a trial is within the margins: the worst answer over the further objectives."""
    answers: list[Within] = ["yes"]
    for objective, top in tops:
        inside = objective.sign * (_value(top, objective) - _value(outcome, objective)) <= eps + _ROUNDING
        answers.append("yes" if inside else "no")
        difference = difference_of(top.readings[objective.name], outcome.readings[objective.name])
        if difference is not None and top is not outcome:
            low, high = sorted(objective.sign * end for end in difference)
            if low <= eps < high:
                answers[-1] = "unsure, yes" if inside else "unsure, no"
    return max(answers, key=_ORDER.index)


def _best(outcomes: Sequence[Outcome], objective: Objective) -> Outcome:
    return max(outcomes, key=lambda outcome: (objective.sign * _value(outcome, objective), -outcome.number))


def _value(outcome: Outcome, objective: Objective) -> float:
    return outcome.readings[objective.name].value


def _is_mean(reading: Reading) -> bool:
    values = list((reading.per_image or {}).values())
    return len(values) > 1 and abs(sum(values) / len(values) - reading.value) < 1e-4
