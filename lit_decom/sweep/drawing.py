"""Outcomes as a table in the terminal, as a picture of the front, and as one HTML page."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from lit_decom.report import render_page
from lit_decom.sweep.selection import Choice
from lit_decom.sweep.spec import Objective
from lit_decom.sweep.trial import Outcome, Reading, plain_text

_BOTH = ": best, last"
_CHOSEN, _FRONT, _OTHER, _OUT = "#c0392b", "#1f618d", "#7f8c8d", "#d5d8dc"


def outcome_rows(outcomes: Sequence[Outcome], objectives: Sequence[Objective], choice: Choice) -> list[dict[str, str]]:
    """Lay outcomes out as texts by column, the best by the first objective first, trials without a value last."""
    first = objectives[0]
    short = short_names(list(dict.fromkeys(name for outcome in outcomes for name in outcome.params)))

    def rank(outcome: Outcome) -> tuple[bool, float]:
        reading = outcome.readings.get(first.name)
        return outcome.state != "complete", 0.0 if reading is None else -first.sign * reading.value

    rows = []
    for outcome in sorted(outcomes, key=rank):
        number = outcome.number
        roles = dict.fromkeys(choice.front, "on the front") | dict.fromkeys(choice.tied, "tied with it")
        roles[choice.chosen.number] = "chosen"
        row = {"trial": str(number), "state": outcome.state, "": roles.get(number, "")}
        for objective in objectives:
            reading = outcome.readings.get(objective.name)
            row[objective.name] = value_text(reading)
            row[f"{objective.name}{_BOTH}"] = "-" if reading is None else f"{reading.best:.4g}, {reading.last:.4g}"
        if len(objectives) > 1:
            row["within eps"] = choice.within.get(number, "-")
        rows.append(row | {text: plain_text(outcome.params.get(name)) for name, text in short.items()})
    return rows


def outcome_table(rows: Sequence[Mapping[str, str]], title: str) -> Table:
    """Make the terminal's table of :func:`outcome_rows`, without what a narrow one has no room for."""
    alike = {"state"} if all(row["state"] == "complete" for row in rows) else set()
    names = [name for name in rows[0] if name not in alike and not name.endswith(_BOTH)]
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name.replace("/", "/\n"), overflow="fold")
    for row in rows:
        style = "bold" if row[""] == "chosen" else "dim" if row["state"] != "complete" else None
        table.add_row(*(row[name] for name in names), style=style)
    return table


def front_figure(outcomes: Sequence[Outcome], objectives: Sequence[Objective], choice: Choice) -> Figure:
    """Draw every complete trial with its intervals: the first objective over the second one, or over the trials.

    Args:
        outcomes: of a sweep.
        objectives: a third one and further ones are not drawn.
        choice: marks the front and the chosen trial.

    Returns:
        The figure, which no window shows.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    first, second = objectives[0], objectives[1] if len(objectives) > 1 else None
    points = {}
    for outcome in outcomes:
        if outcome.state == "complete":
            y, x = outcome.readings[first.name], outcome.readings[second.name] if second else None
            point = points[outcome.number] = (x.value if x else float(outcome.number), y.value)
            axes.errorbar(
                *point, xerr=_error(x), yerr=_error(y), fmt="o", capsize=2, elinewidth=0.8,
                color=_colour(outcome, choice), markersize=9 if outcome.number == choice.chosen.number else 6,
            )  # fmt: skip
            axes.annotate(str(outcome.number), point, xytext=(5, 5), textcoords="offset points", fontsize=8)
    if second is not None:
        front = sorted(points[number] for number in choice.front)
        axes.plot(*zip(*front, strict=True), color=_FRONT, linewidth=1, zorder=0)
    axes.set_xlabel(f"{second.name} ({second.goal})" if second else "trial")
    axes.set_ylabel(f"{first.name} ({first.goal})")
    axes.set_title(f"trial {choice.chosen.number} is chosen; bars are intervals of 95 %", fontsize=10)
    axes.grid(visible=True, linewidth=0.3)
    return figure


def page_of(title: str, statements: Sequence[str], rows: Sequence[Mapping[str, str]], figure: Figure) -> str:
    """Compose a page that needs no other file and no network."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    drawn = base64.b64encode(picture.getvalue()).decode()
    return render_page("sweep.html.j2", {"title": title, "statements": statements, "rows": rows, "picture": drawn})


def value_text(reading: Reading | None) -> str:
    """A value with its interval and the number of images behind it."""
    if reading is None:
        return "-"
    interval = "" if reading.interval is None else f" [{reading.interval[0]:.3f}, {reading.interval[1]:.3f}]"
    return f"{reading.value:.4f}{interval}" + ("" if reading.n is None else f" n={reading.n}")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Shorten dotted names to their last words, as many as tell them apart."""
    short = {}
    for name in names:
        words = name.split(".")
        tails = [".".join(words[-count:]) for count in range(1, len(words) + 1)]
        taken = [f".{other}" for other in names if other != name]
        short[name] = next((t for t in tails if not any(other.endswith(f".{t}") for other in taken)), name)
    return short


def _error(reading: Reading | None) -> Any:
    if reading is None or reading.interval is None:
        return None
    low, high = reading.interval
    # a percentile interval of the bootstrap need not hold the value itself
    return [[max(0.0, reading.value - low)], [max(0.0, high - reading.value)]]


def _colour(outcome: Outcome, choice: Choice) -> str:
    if outcome.number == choice.chosen.number:
        return _CHOSEN
    if outcome.number in choice.front:
        return _FRONT
    return _OUT if choice.within[outcome.number].endswith("no") else _OTHER
