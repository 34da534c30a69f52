"""The stratified scores of a run, against chance and against other methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from lit_decom.metrics import complexity, faithfulness, insertion_deletion, localization, road, stability
from lit_decom.metrics.base import PerImageMetric
from lit_decom.report.cards import style_of
from lit_decom.report.charts import SMALL, Line, finite
from lit_decom.report.overview import Panel, panel, words
from lit_decom.report.runs import Run
from lit_decom.report.timeline import Timeline

CHANCE = {
    "random_map": "random maps",
    "center_map": "a centred blob",
    "random_basis": "randomly turned components",
}
_FIXED = "fixed_"
_NOT_METRICS = frozenset({"count", "undefined", "score_gain", "explained_energy"})
_OWN = ""


@dataclass(frozen=True)
class Cell:
    """A value of the table, as text."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """The scores of a run's last firing.

    Attributes:
        caption: what they are.
        columns: heads: strata with their number of images, chance, other methods, the gap.
        rows: the name of a metric, which direction is better, and its cells.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Scores:
    """Everything there is to show of the scores.

    Attributes:
        panels: one per metric, a line per stratum.
        fixed_panels: the same over the images that were in the strata at the reference epoch.
        legend: name, style and key of every stratum and baseline.
        tables: one per run; None where it has no scores.
        verdicts: for each run, how it stands against chance.
    """

    panels: tuple[Panel, ...]
    fixed_panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str, str], ...]
    tables: tuple[Table | None, ...]
    verdicts: tuple[tuple[str, ...], ...]


def scores_of(runs: Sequence[Run], timeline: Timeline) -> Scores | None:
    """Read the stratified scores from what was logged; None if there are none."""
    boards = [_Board(run) for run in runs]
    metrics = _merged([board.metrics for board in boards])
    if not metrics:
        return None
    strata = _merged([board.strata for board in boards])
    baselines = _merged([board.baselines for board in boards])
    moving = ["all", *(name for name in strata if name != "all" and not name.startswith(_FIXED))]
    fixed = [name for name in strata if name.startswith(_FIXED)]
    styles = _stratum_styles([*moving, *fixed])
    dashes = {name: f"base{min(index, 5)}" for index, name in enumerate(baselines)}
    return Scores(
        _panels(boards, metrics, {name: styles[name] for name in moving}, dashes, timeline),
        _panels(boards, metrics, {name: styles[name] for name in fixed}, {}, timeline),
        (
            *((words(name), styles[name], name) for name in moving),
            *((_baseline_name(name), dashes[name], name) for name in baselines),
        ),
        tuple(board.table(metrics, [*moving, *fixed], baselines) if board.metrics else None for board in boards),
        tuple(tuple(board.verdicts()) for board in boards),
    )


class _Board:
    """The logged scores of one run, found by their keys: ``<metric>/<stratum>``, ``<metric>/<stratum>/<baseline>``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        keys = _merged([list(record.numbers) for record in run.records])
        parts = [key.split("/") for key in keys]
        self.metrics = _merged([[each[0]] for each in parts if each[1:] == ["all"] and each[0] not in _NOT_METRICS])
        mine = [each for each in parts if each[0] in self.metrics]
        named = {each[1] for each in mine if len(each) == 2}
        self.strata = _merged([[each[1]] for each in mine if len(each) == 2 and not _is_derived(each[1], named)])
        self.baselines = _merged([[each[2]] for each in mine if len(each) == 3])
        self.baselines.sort(key=lambda name: list(CHANCE).index(name) if name in CHANCE else len(CHANCE))

    def values(self, metric: str, stratum: str, explanation: str = _OWN) -> tuple[float | None, ...]:
        """One value per firing."""
        key = "/".join(part for part in (metric, stratum, explanation) if part)
        return tuple(finite(record.numbers.get(key)) for record in self.run.records)

    def table(self, metrics: Sequence[str], strata: Sequence[str], baselines: Sequence[str]) -> Table:
        """The values of the last firing."""
        last = self.run.last
        present = [name for name in strata if f"count/{name}" in last.numbers or self._any(metrics, name)]
        rivals = [name for name in baselines if self._any(metrics, "all", name)]
        gaps = [self.values(metric, "gap")[-1] for metric in metrics]
        rows = []
        for metric, gap in zip(metrics, gaps, strict=True):
            cells = [self._cell(metric, name) for name in present]
            cells += [Cell(_text(self.values(metric, "all", name)[-1])) for name in rivals]
            cells += [Cell(_text(gap, signed=True))] if any(value is not None for value in gaps) else []
            rows.append((words(metric), _arrow(better_is_higher(self.run, metric)), tuple(cells)))
        heads = [self._head(name) for name in present] + [_baseline_name(name) for name in rivals]
        heads += ["correct less incorrect"] if any(value is not None for value in gaps) else []
        return Table(f"Scores at epoch {last.epoch}, step {last.step}", tuple(heads), tuple(rows))

    def verdicts(self) -> list[str]:
        """Compare the last firing with what knows nothing of the image, over all images."""
        lost, won, compared = [], [], set()
        for metric in self.metrics:
            higher, own = better_is_higher(self.run, metric), self.values(metric, "all")[-1]
            for rival, name in CHANCE.items():
                other = self.values(metric, "all", rival)[-1]
                if own is None or other is None or higher is None:
                    continue
                compared.add(metric)
                text = f"{words(metric)}: {own:.3f} against {other:.3f} of {name}"
                if not (own > other if higher else own < other):
                    lost.append(f"{text}.")
                elif self._within_interval(metric, other):
                    lost.append(f"{text}, which is within the interval.")
                else:
                    won.append(text)
        subject, total = f"At epoch {self.run.last.epoch} the explanation", len(lost) + len(won)
        if lost:
            return [f"{subject} does not beat chance in {len(lost)} of {total} comparisons:", *lost]
        return [f"{subject} beats chance in all {total} comparisons ({len(compared)} scores)."] if won else []

    def _any(self, metrics: Sequence[str], stratum: str, explanation: str = _OWN) -> bool:
        return any(self.values(metric, stratum, explanation)[-1] is not None for metric in metrics)

    def _head(self, stratum: str) -> str:
        count = finite(self.run.last.numbers.get(f"count/{stratum}"))
        return words(stratum) + ("" if count is None else f" (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{count:.0f})")

    def _cell(self, metric: str, stratum: str) -> Cell:
        ends = [self.values(metric, f"{stratum}_{end}")[-1] for end in ("low", "high")]
        interval = f"{_text(ends[0])} to {_text(ends[1])}" if None not in ends else ""
        return Cell(_text(self.values(metric, stratum)[-1]), interval)

    def _within_interval(self, metric: str, other: float) -> bool:
        low, high = (self.values(metric, f"all_{end}")[-1] for end in ("low", "high"))
        return low is not None and high is not None and low <= other <= high


def better_is_higher(run: Run, metric: str) -> bool | None:
    """Whether larger values of a metric are better; None if it has no direction, or nobody knows.

    A run may say so of its own metrics in the setting ``higher_is_better``; otherwise the class of that name does.
    """
    said = run.settings.get("higher_is_better")
    if isinstance(said, dict) and metric in said:
        return said[metric] if isinstance(said[metric], bool) else None
    return _directions().get(metric.rstrip("0123456789").replace("_", ""))


@cache
def _directions() -> dict[str, bool | None]:
    modules = (complexity, faithfulness, insertion_deletion, localization, road, stability)
    classes = [found for module in modules for found in vars(module).values() if isinstance(found, type)]
    directions = {}
    for found in classes:
        if issubclass(found, PerImageMetric):
            known = found.higher_is_better
            directions[found.__name__.lower()] = known if isinstance(known, bool) else None
    return directions


def _panels(
    boards: Sequence[_Board],
    metrics: Sequence[str],
    strata: dict[str, str],
    baselines: dict[str, str],
    timeline: Timeline,
) -> tuple[Panel, ...]:
    """One panel per metric; strata and baselines come with their styles."""
    panels = []
    for metric in metrics:
        lines = []
        for board in boards:
            own = [_stratum_line(board, metric, name, style) for name, style in strata.items()]
            values = {name: board.values(metric, "all", name) for name in baselines}
            rivals = [Line(_baseline_name(name), values[name], style, name) for name, style in baselines.items()]
            lines.append([*own, *rivals])
        arrow = _arrow(better_is_higher(boards[0].run, metric))
        panels.append(panel(f"{words(metric)} {arrow}".strip(), words(metric), lines, timeline, size=SMALL))
    return tuple(each for each in panels if each is not None)


def _stratum_line(board: _Board, metric: str, stratum: str, style: str) -> Line:
    low, high = (board.values(metric, f"{stratum}_{end}") for end in ("low", "high"))
    return Line(words(stratum), board.values(metric, stratum), style, stratum.removeprefix(_FIXED), low, high)


def _stratum_styles(strata: Sequence[str]) -> dict[str, str]:
    """Neutral for all images; a stratum and its fixed twin look the same."""
    plain = list(dict.fromkeys(name.removeprefix(_FIXED) for name in strata))
    coloured = [name for name in plain if name != "all"]
    styles = {"all": "ink"} | {name: style_of(index) for index, name in enumerate(coloured)}
    return {name: styles[name.removeprefix(_FIXED)] for name in strata}


def _is_derived(stratum: str, named: set[str]) -> bool:
    """Whether it is the end of another stratum's interval, or a difference."""
    whole = stratum.removesuffix("_low").removesuffix("_high")
    return stratum == "gap" or (whole != stratum and whole in named)


def _baseline_name(name: str) -> str:
    return CHANCE.get(name, words(name))


def _arrow(higher: bool | None) -> str:
    return "" if higher is None else ("↑" if higher else "↓")


def _text(value: float | None, *, signed: bool = False) -> str:
    return "\N{EN DASH}" if value is None else f"{value:{'+' if signed else ''}.3f}"


def _merged(lists: Sequence[Sequence[str]]) -> list[str]:
    """All names in the order in which they first come."""
    return list(dict.fromkeys(name for names in lists for name in names))
