"""Scores for people and for programs: a table that fits any terminal, and a file."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lit_decom import keys
from lit_decom.scores import Score

SUFFIXES = (".json", ".csv")
_METHOD = "DecomCAM"
_ARROWS = {True: " ↑", False: " ↓", None: ""}
_LEGEND = (
    "↑ higher is better, ↓ lower is. gap: correct less incorrect.",
    "± reaches the farther end of the interval of 95 % over images; without it there are too few images to say more.",
    f"✗ {_METHOD} is not better beyond doubt: the interval of the difference, image by image, is not above 0.",
)
# Of one metric: by stratum, and in it by explanation.
_Cells = dict[str, dict[str, Score]]


@dataclass(frozen=True)
class ScoreTable:
    """Scores in the terminal: by metric a row per stratum, with the method, the baselines and chance, each with ±.

    Where the terminal is too narrow for that, every explanation has a row. Metrics that are defined for no image are
    named at the end, and explanations that know nothing of the image share a column if no metric has both.

    Attributes:
        scores: of one probe.
        caption: says how they came to be.
    """

    scores: Sequence[Score]
    caption: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the layout that fits."""
        known = _by_metric(self.scores)
        defined = {name: cells for name, cells in known.items() if _any_defined(cells)}
        columns = _columns(defined)
        blocks, widths = _aligned([_heading(columns), *(_block(cells, columns) for cells in defined.values())])
        if sum(widths) + len(widths) - 1 > options.max_width:
            blocks, _ = _aligned([[], *map(_list, defined.values())])
        heading, *blocks = blocks
        yield from (Text(line, style="bold") for line in heading)
        for (name, cells), lines in zip(defined.items(), blocks, strict=True):
            yield Text(name + _ARROWS[_direction(cells)], style="bold")
            yield from map(Text, lines)
        yield Text()
        yield from (Text(line, style="dim") for line in self._notes([name for name in known if name not in defined]))

    def _notes(self, undefined: Sequence[str]) -> Iterator[str]:
        if undefined:
            yield f"Defined for no image: {', '.join(undefined)}."
        yield from _LEGEND
        if self.caption:
            yield self.caption


def write_scores(scores: Sequence[Score], path: Path, settings: Mapping[str, Any]) -> None:
    """Write scores where a program reads them.

    Args:
        scores: all of one probe.
        path: ends in ``.json``, for an object with ``settings`` and ``scores``, or in ``.csv``, for the scores alone, a
            row each; what is undefined is null or empty.
        settings: what the scores came to be with.

    Raises:
        ValueError: if the path ends otherwise.
    """
    rows = [_row(score) for score in scores]
    if path.suffix == ".json":
        path.write_text(
            json.dumps({"settings": settings, "scores": rows}, indent=2, allow_nan=False, default=str) + "\n"
        )
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(_row(Score("", "", "", 0.0, 0))))
            writer.writeheader()
            writer.writerows(rows)
    else:
        raise ValueError(f"Expected `path` to end in {' or '.join(SUFFIXES)}, but got {path}.")


def _row(score: Score) -> dict[str, Any]:
    """A score without NaN and with a column for each end of an interval."""
    low, high = score.interval or (None, None)
    better_low, better_high = score.paired_difference or (None, None)
    return {
        "metric": score.metric,
        "stratum": score.stratum,
        "explanation": score.explanation or _METHOD,
        "value": score.value if isfinite(score.value) else None,
        "low": low,
        "high": high,
        "images": score.n,
        "undefined": score.undefined,
        "method_better_by_low": better_low,
        "method_better_by_high": better_high,
        "higher_is_better": score.higher_is_better,
    }


def _by_metric(scores: Sequence[Score]) -> dict[str, _Cells]:
    found: dict[str, _Cells] = {}
    for score in scores:
        if not score.stratum.startswith(keys.FIXED):
            found.setdefault(score.metric, {}).setdefault(score.stratum, {})[score.explanation] = score
    return found


def _any_defined(cells: _Cells) -> bool:
    return any(score.is_defined for row in cells.values() for score in row.values())


def _direction(cells: _Cells) -> bool | None:
    directions = {score.higher_is_better for row in cells.values() for score in row.values()} - {None}
    return next(iter(directions), None)


def _columns(by_metric: Mapping[str, _Cells]) -> list[tuple[str, ...]]:
    """Which explanations stand in each column: the method, the baselines, then chance."""
    metrics: dict[str, set[str]] = {keys.OWN: set()}
    for name, cells in by_metric.items():
        for explanation in (explanation for row in cells.values() for explanation in row):
            metrics.setdefault(explanation, set()).add(name)
    columns: list[tuple[str, ...]] = []
    for explanation, own in metrics.items():
        for place, column in enumerate(columns):
            shares = any(metrics[other] & own for other in column)
            if explanation in keys.CHANCE and column[0] in keys.CHANCE and not shares:
                columns[place] = (*column, explanation)
                break
        else:
            columns.append((explanation,))
    return columns


def _heading(columns: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """Names of the columns, those that share one below each other."""
    names = [[name or _METHOD for name in column] for column in columns]
    height = max(map(len, names))
    stacked = [[""] * (height - len(column)) + column for column in [[""], ["images"], *names]]
    return [list(line) for line in zip(*stacked, strict=True)]


def _block(cells: _Cells, columns: Sequence[tuple[str, ...]]) -> list[list[str]]:
    return [
        [
            f"  {stratum}",
            _count(row),
            *(_value(next((row[by] for by in column if by in row), None)) for column in columns),
        ]
        for stratum, row in cells.items()
    ]


def _list(cells: _Cells) -> list[list[str]]:
    lines = []
    for stratum, row in cells.items():
        lines.append([f" {stratum} ({_count(row)})", ""])
        lines += [[f"  {name or _METHOD}", _value(score)] for name, score in row.items()]
    return lines


def _aligned(blocks: Sequence[Sequence[Sequence[str]]]) -> tuple[list[list[str]], list[int]]:
    """Lines whose columns are as wide in every block, the first to the left; and these widths."""
    widths = [max(map(len, column)) for column in zip(*(row for block in blocks for row in block), strict=True)]
    lines = [
        [
            " ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
            for pairs in ([*zip(row, widths, strict=True)] for row in block)
        ]
        for block in blocks
    ]
    return lines, widths


def _count(row: Mapping[str, Score]) -> str:
    score = next(iter(row.values()))
    return f"{score.n - score.undefined}/{score.n}" if score.undefined else str(score.n)


def _value(score: Score | None) -> str:
    """A value as ``0.712±0.034``, and a mark; where there is no mark, its place is kept."""
    if score is None or not score.is_defined:
        return "-  "
    reach = "" if score.interval is None else f"±{max(abs(end - score.value) for end in score.interval):.3f}"
    mark = " ✗" if score.is_beaten is False else "  "
    return f"{score.value:.3f}{reach}{mark}"
