"""Curves over the whole probe: by rank, by class, of the shared components, and of everything else that was logged."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.functional.curves import mean_absolute_change
from lit_decom.functional.intervals import mean_intervals
from lit_decom.records import Snapshot
from lit_decom.render import figures
from lit_decom.report.cards import GAIN, RunFindings, style_of
from lit_decom.report.charts import LARGE, SMALL, Chart, Line, drawn, finite, limits_of
from lit_decom.report.columns import count, keep_columns
from lit_decom.report.runs import Run
from lit_decom.report.timeline import Timeline

_SPELLED = {
    "adcc": "ADCC",
    "auc": "AUC",
    "cam": "CAM",
    "iou": "IoU",
    "road": "ROAD",
    "pp": "++",
    "nonfinite": "not finite",
}


@dataclass(frozen=True)
class Panel:
    """The same chart of every run, on one scale.

    Attributes:
        title: of the panel.
        charts: one per run; None where the run has nothing to draw.
    """

    title: str
    charts: tuple[Chart | None, ...]

    @property
    def legend(self) -> tuple[tuple[str, str, str], ...]:
        """Name, style and key of every line, each once."""
        return tuple(dict.fromkeys(entry for chart in self.charts if chart for entry in chart.legend))


@dataclass(frozen=True)
class SharedSection:
    """What a run's shared components are.

    Attributes:
        n_columns: of them.
        styles: the colour of each.
        data: what the page's script draws from.
        rows: of the images in which any of them is strongest.
    """

    n_columns: int
    styles: tuple[str, ...]
    data: list[list[list[Any] | None]]
    rows: tuple[int, ...]


def panel(
    title: str,
    value: str,
    lines: Sequence[Sequence[Line]],
    timeline: Timeline,
    *,
    include: Sequence[float] = (),
    size: tuple[int, int] = LARGE,
) -> Panel | None:
    """Draw one quantity of every run; None if there is nothing to draw.

    Args:
        title: of the panel.
        value: what the vertical axis is.
        lines: of each run.
        timeline: of the report.
        include: values that the axis must reach.
        size: of each chart.
    """
    kept = [drawn(each) for each in lines]
    if not any(kept):
        return None
    limits = limits_of([line for each in kept for line in each], include=include)
    return Panel(
        title,
        tuple(
            Chart(value, each, positions, timeline.labels, limits, size) if each else None
            for each, positions in zip(kept, timeline.positions, strict=True)
        ),
    )


def gain_by_rank(found: Sequence[RunFindings], timeline: Timeline) -> Panel | None:
    """The mean score gain over all images, one line per rank."""
    everyone = [torch.ones(each.gains.shape[1], dtype=torch.bool) for each in found]
    lines = [_rank_lines(each.gains, images) for each, images in zip(found, everyone, strict=True)]
    return panel(f"By rank, all {len(everyone[0])} images", GAIN, lines, timeline, include=[0.0])


def gain_by_identity(found: Sequence[RunFindings], timeline: Timeline) -> Panel | None:
    """The mean score gain of the components that were first in their images, wherever they rank now; if tracked."""
    lines = [_first_lines(each) if each.run.is_tracked else [] for each in found]
    return panel("Components of the first snapshot, wherever they rank later", GAIN, lines, timeline, include=[0.0])


def gain_by_class(found: Sequence[RunFindings], timeline: Timeline) -> list[Panel]:
    """The mean score gain over the images of each class, one line per rank."""
    labels = found[0].run.last.labels
    panels = []
    for label in sorted(set(labels.tolist())):
        images = labels == label
        title = f"{found[0].run.class_name(label)} ({int(images.sum())})"
        panels.append(
            panel(title, GAIN, [_rank_lines(each.gains, images) for each in found], timeline, include=[0.0], size=SMALL)
        )
    return [each for each in panels if each is not None]


def change_sentence(found: RunFindings) -> str:
    """Say how much the gain of a component moves between snapshots, by identity and by rank."""
    change = mean_absolute_change(found.names, found.gains)
    if not found.run.is_tracked or not change.pairs:
        return ""
    return (
        f"From one snapshot to the next, the gain of a component changes by {figures(change.by_identity)} on average; "
        f"by rank it would be {figures(change.by_rank)} ({change.pairs} pairs)."
    )


def shared_energy(runs: Sequence[Run], timeline: Timeline) -> Panel | None:
    """The share of the probe's energy that each shared component explains."""
    return panel(
        "Energy of the shared components",
        "share of the probe's energy",
        [_shared_lines(run, letter) for run, letter in zip(runs, "ab", strict=False)],
        timeline,
        include=[0.0],
    )


def shared_components(run: Run, letter: str = "a") -> SharedSection | None:
    """Arrange where the shared components are strongest, snapshot by snapshot; None if no record has any.

    Args:
        run: whose components; those of two runs are not matched.
        letter: tells the run's components from another one's.
    """
    if all(record.shared_images is None or record.shared_boxes is None for record in run.records):
        return None
    columns = keep_columns(_shared_names(run))
    n_columns = count(columns)
    frames: list[list[list[Any] | None]] = []
    rows: set[int] = set()
    for record, names in zip(run.records, _shared_names(run).tolist(), strict=True):
        frame: list[list[Any] | None] = [None] * n_columns
        for rank, name in enumerate(names):
            if name < 0 or record.shared_images is None or record.shared_boxes is None:
                continue
            share = None if record.shared_energy is None else finite(record.shared_energy[rank].item())
            crops = [
                [image, *box]
                for image, box in zip(
                    record.shared_images[rank].tolist(), record.shared_boxes[rank].tolist(), strict=True
                )
                if 0 <= image < len(record.ids)
            ]
            rows |= {image for image, *_ in crops}
            frame[columns[name]] = [
                f"{letter}{name}",
                _shared_name(run, name),
                "" if share is None else f"{share:.1%}",
                crops,
            ]
        frames.append(frame)
    return SharedSection(n_columns, tuple(style_of(column) for column in range(n_columns)), frames, tuple(sorted(rows)))


def logged_numbers(
    runs: Sequence[Run], timeline: Timeline, drawn_elsewhere: Collection[str] = ()
) -> tuple[list[Panel], list[str]]:
    """Draw every logged number that belongs to no component and no score, and name those that are always 0.

    Args:
        runs: of the report.
        timeline: of the report.
        drawn_elsewhere: the numbers to leave out.
    """
    logged = {name for run in runs for record in run.records for name in record.numbers if keys.is_single(name)}
    names = sorted(logged - set(drawn_elsewhere))
    panels, idle = [panel("seconds", "seconds per snapshot", list(map(_cost_lines, runs)), timeline, size=SMALL)], []
    for name in names:
        values = [[_number(record, name) for record in run.records] for run in runs]
        if all(value in (None, 0.0) for each in values for value in each):
            idle.append(words(name))
            continue
        lines = [[Line(words(name), tuple(each), "ink")] for each in values]
        panels.append(panel(words(name), words(name), lines, timeline, size=SMALL))
    return [each for each in panels if each is not None], idle


def cost_sentence(run: Run) -> str:
    """Say how long the snapshots took, and what for."""
    costs = [keys.seconds_of(record.numbers) for record in run.records]
    known = [cost for cost in costs if cost]
    if not known:
        return "unknown cost"
    means = {part: sum(cost.get(part, 0.0) for cost in known) / len(known) for part in known[-1]}
    parts = ", ".join(f"{part} {mean:.2f}" for part, mean in means.items())
    total = sum(sum(cost.values()) for cost in known)
    return f"{sum(means.values()):.2f} s per snapshot ({parts}), {total:.1f} s in total"


def words(name: str) -> str:
    """Write the name of a number as one reads it."""
    return " ".join(_SPELLED.get(word, word) for word in name.split("_"))


def _cost_lines(run: Run) -> list[Line]:
    costs = [keys.seconds_of(record.numbers) for record in run.records]
    parts = dict.fromkeys(part for cost in costs for part in cost)
    return [
        Line(f"seconds to {part}", tuple(finite(cost.get(part)) for cost in costs), style_of(index), part)
        for index, part in enumerate(parts)
    ]


def _rank_lines(gains: Tensor, images: Tensor) -> list[Line]:
    """Means over some images, one line per rank; ``gains`` is ``(T, n, K)``."""
    return _mean_lines(gains[:, images], "rank")


def _first_lines(found: RunFindings) -> list[Line]:
    # Identities count from 0 in each image, in the order of the ranks in which it was first seen.
    by_name = []
    for name in range(found.names.shape[2]):
        here = found.names == name
        gains = torch.where(here, found.gains, 0).sum(dim=2)  # an image has a component once
        by_name.append(gains.where(here.any(dim=2), torch.nan))
    return _mean_lines(torch.stack(by_name, dim=2), "component")


def _mean_lines(gains: Tensor, kind: str) -> list[Line]:
    """Means over images with their intervals, one line per column of ``(T, n, K)``; NaN leaves an image out."""
    snapshots, n, k = gains.shape
    finite_gains = gains.where(gains.isfinite(), torch.nan)
    means = finite_gains.nanmean(dim=1)
    ends = mean_intervals(finite_gains.transpose(0, 1).reshape(n, snapshots * k)).reshape(snapshots, k, 2)
    return [
        Line(
            f"{kind} {keys.number(index)}",
            tuple(map(finite, means[:, index].tolist())),
            f"{style_of(index)} faint",
            f"rank{index}",
            tuple(map(finite, ends[:, index, 0].tolist())),
            tuple(map(finite, ends[:, index, 1].tolist())),
        )
        for index in range(k)
    ]


def _shared_lines(run: Run, letter: str) -> list[Line]:
    names = _shared_names(run)
    columns = keep_columns(names)
    lines = []
    for name, column in columns.items():
        values: list[float | None] = []
        for record, here in zip(run.records, names == name, strict=True):
            found = None if record.shared_energy is None or not here.any() else record.shared_energy
            values.append(None if found is None else finite(found[here[: len(found)]].sum().item()))
        lines.append(Line(_shared_name(run, name), tuple(values), style_of(column), f"{letter}{name}"))
    return lines


def _shared_names(run: Run) -> Tensor:
    """``(T, S)``: identities of the shared components or, without any, their ranks; -1 for none."""
    sizes = [0 if record.shared_energy is None else len(record.shared_energy) for record in run.records]
    names = torch.full((len(sizes), max(sizes)), -1)
    for row, (record, size) in enumerate(zip(run.records, sizes, strict=True)):
        known = record.shared_identities if _shared_tracked(run) else None
        names[row, :size] = torch.arange(size) if known is None else known
    return names


def _shared_tracked(run: Run) -> bool:
    return all(record.shared_energy is None or record.shared_identities is not None for record in run.records)


def _shared_name(run: Run, name: int) -> str:
    return f"shared {'' if _shared_tracked(run) else 'rank '}{keys.number(name)}"


def _number(record: Snapshot, name: str) -> float | None:
    value: Mapping[str, Any] = record.numbers
    return finite(value[name]) if isinstance(value.get(name), int | float) else None
