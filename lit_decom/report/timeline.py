"""When the snapshots of a report were taken: the positions of its slider."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lit_decom.report.runs import Run

Moment = tuple[int, int]
"""An epoch, and which of its snapshots: 0 for the first."""


@dataclass(frozen=True)
class Timeline:
    """The moments at which at least one run has a snapshot.

    Attributes:
        moments: in their order.
        labels: one text each.
        positions: for each run, the index in ``moments`` of each of its records.
        frames: for each run and moment, the record to show: its own, else the one before; None before the first.
    """

    moments: tuple[Moment, ...]
    labels: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    frames: tuple[tuple[int | None, ...], ...]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Timeline":
        """Lay the records of all runs out on one line; those of one epoch belong together."""
        own = [_moments(run) for run in runs]
        moments = tuple(sorted(set().union(*own)))
        several = {epoch for epoch, nth in moments if nth > 0}
        labels = [f"epoch {epoch}" + (f", snapshot {nth + 1}" if epoch in several else "") for epoch, nth in moments]
        at = {moment: index for index, moment in enumerate(moments)}
        if len(runs) == 1:
            for moment, record in zip(own[0], runs[0].records, strict=True):
                labels[at[moment]] += f" · step {record.step}"
        return cls(
            moments,
            tuple(labels),
            tuple(tuple(at[moment] for moment in mine) for mine in own),
            tuple(tuple(_last_at(mine, moment) for moment in moments) for mine in own),
        )

    def __len__(self) -> int:
        return len(self.moments)

    def common(self, epoch: int | None = None) -> tuple[int, ...] | None:
        """The index of each run's record at the last moment (of ``epoch``, if given) at which all have one."""
        for position in reversed(range(len(self))):
            if epoch in (None, self.moments[position][0]) and all(position in mine for mine in self.positions):
                return tuple(mine.index(position) for mine in self.positions)
        return None


@dataclass(frozen=True)
class Events:
    """What happened to the components of a probe at one snapshot, over all images seen before."""

    born: int
    ended: int
    turned: int


def events_of(run: Run) -> list[Events]:
    """Count births, deaths and flips of every snapshot; an image that is seen for the first time has none.

    Args:
        run: a tracked one.
    """
    counts = []
    seen: Tensor | None = None
    for record in run.records:
        present = _tensor(record.identities) >= 0
        known = present.any(dim=1) & (seen if seen is not None else present.new_zeros(len(present)))
        births = 0 if record.births is None else int(record.births[known].sum())
        deaths = 0 if record.deaths is None else int((record.deaths[known] >= 0).sum())
        flips = 0 if record.flips is None else int(record.flips[known].sum())
        counts.append(Events(births, deaths, flips))
        seen = present.any(dim=1) if seen is None else seen | present.any(dim=1)
    return counts


def _tensor(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("Expected a tracked run, but its records have no `identities`.")
    return value


def _moments(run: Run) -> list[Moment]:
    so_far: Counter[int] = Counter()
    moments = []
    for record in run.records:
        moments.append((record.epoch, so_far[record.epoch]))
        so_far[record.epoch] += 1
    return moments


def _last_at(mine: Sequence[Moment], moment: Moment) -> int | None:
    before = [index for index, own in enumerate(mine) if own <= moment]
    return before[-1] if before else None
