"""A comparison as a table for programs and as one for people."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from lit_decom.comparison.result import Comparison
from lit_decom.comparison.summary import Cost, Standing
from lit_decom.render import figures
from lit_decom.report.charts import value_text

_ARROWS = {True: " ↑", False: " ↓", None: ""}
_MIB = 2**20
_LEGEND = (
    "↑ higher is better, ↓ lower is. ± reaches the farther end of the interval of 95 % over images.",
    "Where it is missing, images are too few or all alike.",
    "#: the rank, one more than the number of methods that are better beyond doubt (paired differences, 95 %).",
    "Methods that nothing tells apart share a rank. Nothing is corrected for the number of comparisons.",
)
COLUMNS = (
    "measure",
    "stratum",
    "method",
    "value",
    "low",
    "high",
    "rank",
    "better_than_first_low",
    "better_than_first_high",
    "images",
    "undefined",
    "higher_is_better",
    "seconds_per_image",
    "forwards_per_image",
    "peak_mib_per_image",
)


def table_rows(comparison: Comparison) -> Iterator[list[str | float | int | bool | None]]:
    """Give every standing as a row of :data:`COLUMNS`; what is undefined is None."""
    costs = {cost.method: cost for cost in comparison.costs}
    for each in comparison.standings:
        cost = costs[each.method]
        yield [
            *(each.measure, each.stratum, each.method, _finite(each.value)),
            *(each.interval or (None, None)),
            each.rank,
            *(each.better_than_first or (None, None)),
            *(each.n, each.undefined, each.higher_is_better),
            *(cost.seconds, cost.forwards, _finite(cost.peak_bytes / _MIB)),
        ]


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write one row per measure, stratum and method; what is undefined is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(table_rows(comparison))


def markdown(comparison: Comparison) -> str:
    """Write a table per stratum, a row per method and a column per measure; then what it cost, and how to read it."""
    parts = [f"# {comparison.title}", *comparison.cautions, *comparison.omissions]
    for stratum in comparison.strata:
        parts += [f"## {stratum} ({_count(comparison, stratum)} images)", _lines(_of_stratum(comparison, stratum))]
    parts += ["## Cost per image", _lines(_costs(comparison)), *legend(comparison)]
    return "\n\n".join(parts) + "\n"


def legend(comparison: Comparison) -> list[str]:
    """How the tables are read, in sentences."""
    layer, target = comparison.settings["layer"], comparison.settings["target"]
    shared = figures(comparison.evidence_seconds * 1000)
    said = [*_LEGEND, f"Seconds and forwards come on top of the passes that all methods share ({shared} ms per image)."]
    said.append(f"Layer {layer}, target {target}.")
    said += [f"{name}: {convention}" for name, convention in comparison.settings["metrics"].items()]
    return [*said, *(f"{name}: {method}" for name, method in comparison.settings["methods"].items())]


def cell(standing: Standing | None) -> str:
    """A value with its interval, as ``0.712 ± 0.034``, in as many digits as the interval lets one tell apart."""
    if standing is None or math.isnan(standing.value):
        return "\N{EN DASH}"
    if standing.interval is None:
        return value_text(standing.value)
    reach = max(abs(end - standing.value) for end in standing.interval)
    return f"{value_text(standing.value, standing.interval)} ± {value_text(reach, standing.interval)}"


def cost_cells(cost: Cost) -> tuple[str, str, str]:
    """Milliseconds, forwards and MiB per image as texts."""
    peak = "\N{EN DASH}" if math.isnan(cost.peak_bytes) else figures(cost.peak_bytes / _MIB)
    return figures(cost.seconds * 1000), f"{cost.forwards:.4g}", peak


def arrow(direction: bool | None) -> str:
    """Which way is better."""
    return _ARROWS[direction]


def _of_stratum(comparison: Comparison, stratum: str) -> list[list[str]]:
    shown = [measure for measure in comparison.measures if comparison.of(measure.name, stratum)]
    rows = [["method", *(f"{measure.name}{arrow(measure.higher_is_better)}" for measure in shown)]]
    for method in comparison.methods:
        cells = [comparison.of(measure.name, stratum).get(method) for measure in shown]
        rows.append([method, *(cell(each) + _rank(each) for each in cells)])
    return rows


def _costs(comparison: Comparison) -> list[list[str]]:
    return [
        ["method", "ms", "forwards", "MiB at once"],
        *([cost.method, *cost_cells(cost)] for cost in comparison.costs),
    ]


def _lines(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruler = [f"{'-' * (width - 1)}:" if place else "-" * width for place, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(map(_padded, row, widths))} |" for row in (rows[0], ruler, *rows[1:]))


def _padded(text: str, width: int) -> str:
    return text.ljust(width)


def _rank(standing: Standing | None) -> str:
    return "" if standing is None or standing.rank is None else f" #{standing.rank}"


def _count(comparison: Comparison, stratum: str) -> int:
    return next(each.n for each in comparison.standings if each.stratum == stratum)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
