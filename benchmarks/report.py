"""From timings to two tables: time per image, and each ratio beside its goal."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_decom.evidence import ScoreDtype

from . import goals, peers
from .contestants import (
    CHEAP_METHODS,
    DECOMPOSITION,
    FLOOR,
    OURS,
    PUBLISHED,
    TRAINING,
    Task,
    cheap_methods,
    make_published,
    precisions,
    rank_correlations,
)
from .goals import Goal
from .timing import Timings

_EPOCH, _PROBE = 50_000, 64
_LEGEND = """\
bf16: the masked forwards alone; left out on a processor without units for it
floor: one forward, the backward to the layer, one forward per masked and per blurred image
published style: one image per call, as the released class does it"""


@dataclass(frozen=True)
class Row:
    """One measured number beside its goal.

    Attributes:
        what: what is measured.
        value: in the unit of ``unit``; None where it could not be.
        unit: printed after the value.
        detail: the spread, or what the number rests on.
        goal: None where none is set.
    """

    what: str
    value: float | None
    unit: str
    detail: str = ""
    goal: Goal | None = None

    @property
    def verdict(self) -> str:
        """``"met"``, ``"not met"`` or, without a goal or a value, a dash."""
        if self.goal is None or self.value is None:
            return "-"
        return "met" if self.goal.met(self.value) else "not met"


def speed_rows(task: Task, timings: Timings) -> Iterator[Row]:
    """Ratios of times taken in the same rounds."""
    dtypes = precisions(task.subject.images.device)
    for dtype in dtypes:
        yield _ratio(timings, OURS[dtype], FLOOR[dtype], goals.FLOOR[dtype])
    for dtype in dtypes:
        yield _ratio(timings, PUBLISHED, OURS[dtype], goals.speed_up(task.subject, dtype))
        yield _ratio(timings, PUBLISHED, FLOOR[dtype], None, "the most there is to gain here")
    positions = task.capture().activations.shape[-2:].numel()
    share = 100 * timings.ratio(DECOMPOSITION, OURS["float32"])
    goal = goals.DECOMPOSITION if positions <= 14 * 14 else None
    yield Row("decomposition, share of ours, fp32", share, " %", f"{positions} positions", goal)
    fastest = dtypes[-1]
    overhead = 100 * _PROBE / _EPOCH * timings.ratio(OURS[fastest], TRAINING)
    detail = f"{_PROBE} images per {_EPOCH} trained; no scores, no pictures, no logging"
    goal = _of_bf16(goals.OVERHEAD, task, fastest)
    yield Row(f"{OURS[fastest]}, share of an epoch", overhead, " %", detail, goal)
    yield from _peer_rows(task, timings, fastest)


def _of_bf16(goal: Goal, task: Task, dtype: ScoreDtype) -> Goal | None:
    return goals.at_224(goal, task.subject) if dtype == "bfloat16" else None


def _peer_rows(task: Task, timings: Timings, fastest: ScoreDtype) -> Iterator[Row]:
    if peers.GRAD_CAM in timings:
        yield _ratio(timings, OURS[fastest], peers.GRAD_CAM, _of_bf16(goals.GRAD_CAM, task, fastest))
        detail = f"{len(cheap_methods())} methods, one capture"
        yield _ratio(timings, CHEAP_METHODS, peers.GRAD_CAM, goals.CHEAP_METHODS, detail)
    if peers.TORCHCAM in timings:
        yield _ratio(timings, OURS[fastest], peers.TORCHCAM, None)
    for slow in (peers.SCORE_CAM, peers.ABLATION_CAM):
        if slow in timings:
            goal = _of_bf16(goals.PER_CHANNEL, task, fastest)
            yield _ratio(timings, slow, OURS[fastest], goal, "one image, one round")


def _ratio(timings: Timings, over: str, under: str, goal: Goal | None, detail: str | None = None) -> Row:
    low, high = timings.spread(over, under)
    return Row(f"{over} / {under}", timings.ratio(over, under), " x", detail or f"{low:.3g} to {high:.3g}", goal)


def result_rows(task: Task) -> Iterator[Row]:
    """Whether the fast ways say the same as the exact one."""
    if "bfloat16" in precisions(task.subject.images.device):
        paper = replace(task, integration="paper")  # its weights keep the order of all scores
        rounded, exact = paper.explain("bfloat16").contributions, paper.explain().contributions
        yield _ranks("ranks of contributions (paper), bf16 with fp32", rounded, exact, goals.RANKS)
    _, published = make_published(task)(task.subject.images, task.subject.targets)
    ours = replace(task, integration="v25").explain().contributions
    yield _ranks("ranks of contributions (v25), published style with ours", published, ours, None)


def _ranks(what: str, one: Tensor, other: Tensor, goal: Goal | None) -> Row:
    each = rank_correlations(one, other)
    told = each[~each.isnan()]
    if len(told) == 0:
        return Row(what, None, "", "no image's components can be told apart", goal)
    detail = f"Spearman, {len(told)} of {len(each)} images, lowest {float(told.min()):.3f}"
    return Row(what, float(told.mean()), "", detail, goal)


def memory_row(growth: float | None, snapshots: int) -> Row:
    """Growth of the resident memory, given in bytes per snapshot."""
    value = None if growth is None else growth / 1024
    return Row(f"memory growth per snapshot over {snapshots}", value, " KiB", "small network", goals.MEMORY)


def show(console: Console, title: str, timings: Timings, rows: list[Row]) -> None:
    """Print both tables."""
    console.print(title)
    times = Table("", "ms / image", caption=_LEGEND, caption_justify="left")
    for name, seconds in timings.seconds.items():
        if seconds:
            times.add_row(name, f"{1000 * timings.typical(name):.2f}")
    console.print(times)
    ratios = Table("", "measured", "", "goal", "", title="Medians over the rounds", title_justify="left")
    colours = {"met": "green", "not met": "red", "-": "dim"}
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.3g}{row.unit}"
        verdict = f"[{colours[row.verdict]}]{row.verdict}[/]"
        ratios.add_row(row.what, value, row.detail, "" if row.goal is None else str(row.goal), verdict)
    console.print(ratios)


def write(path: Path, settings: Mapping[str, object], timings: Timings, rows: list[Row]) -> None:
    """Keep everything that was printed, and every single time, as JSON."""
    measured = [{**asdict(row), "goal": str(row.goal or ""), "verdict": row.verdict} for row in rows]
    content = {"settings": settings, "torch": torch.__version__, "seconds_per_image": timings.seconds, "rows": measured}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
