"""Look at a sweep: the table, the front, the choice, and a configuration that trains the chosen network again."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lit_decom.report import render_page
from lit_decom.report.pictures import inline
from lit_decom.sweep.run import read_study
from lit_decom.sweep.selection import Choice, choose, states_of
from lit_decom.sweep.space import nested
from lit_decom.sweep.spec import Objective, Sweep
from lit_decom.sweep.trial import Outcome, Reading, plain_text

_MOST_LISTED = 8
_BOTH = ": best, last"
_CHOSEN, _FRONT, _OTHER, _OUT = "#c4480e", "#1f6fd1", "#000000", "#a0a5ab"
_ON_PAGE = {_CHOSEN: "--c1", _FRONT: "--c0", _OTHER: "--ink", _OUT: "--quiet"}  # its colours are light or dark


def show_sweep(path: Path, eps: float, console: Console) -> Choice:
    """Print the table and the choice; write ``front.png``, ``sweep.html``, ``trials.csv`` and ``chosen.yaml``.

    Args:
        path: the sweep's directory.
        eps: margin within which the further objectives must be of their best.
        console: prints.

    Returns:
        The choice.

    Raises:
        SweepError: if there is no sweep, no trial is complete or `eps` makes no sense.
    """
    study = read_study(path)
    sweep, outcomes = study.sweep, study.outcomes()
    choice = choose(outcomes, sweep.objectives, eps)
    rows, title = _rows(outcomes, sweep.objectives, choice), f"Sweep {sweep.name}"
    figure = _front(outcomes, sweep.objectives, choice)
    figure.savefig(path / "front.png", dpi=150)
    _write_chosen(path / "chosen.yaml", sweep, choice.chosen)
    _write_csv(path / "trials.csv", outcomes, choice)
    said = [
        *_statements(sweep, outcomes, choice, eps),
        f"Train it again: lit-decom fit --config {path / 'chosen.yaml'}",
    ]
    context = {"title": title, "statements": said, "rows": rows, "picture": inline(figure, _ON_PAGE)}
    (path / "sweep.html").write_text(render_page("sweep.html.j2", context))
    console.print(_table(rows, title))
    for line in (*said, f"picture {path / 'front.png'}, page {path / 'sweep.html'}"):
        console.print(line, highlight=False, soft_wrap=True)
    return choice


def _rows(outcomes: Sequence[Outcome], objectives: Sequence[Objective], choice: Choice) -> list[dict[str, str]]:
    """Lay outcomes out as texts by column, the best by the first objective first, trials without a value last."""
    first = objectives[0]
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.params))
    last_words = [name.rpartition(".")[2] for name in names]

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
            row[objective.name] = _text(reading)
            row[f"{objective.name}{_BOTH}"] = "-" if reading is None else f"{reading.best:.4g}, {reading.last:.4g}"
        if len(objectives) > 1:
            row["within eps"] = choice.within.get(number, "-")
        for name, word in zip(names, last_words, strict=True):
            row[word if last_words.count(word) == 1 else name] = plain_text(outcome.params.get(name))
        rows.append(row)
    return rows


def _text(reading: Reading | None) -> str:
    """A value with its interval and the number of images behind it."""
    if reading is None:
        return "-"
    interval = "" if reading.interval is None else f" [{reading.interval[0]:.3f}, {reading.interval[1]:.3f}]"
    return f"{reading.value:.4f}{interval}" + ("" if reading.n is None else f" n={reading.n}")


def _table(rows: Sequence[dict[str, str]], title: str) -> Table:
    """The terminal's table, without what a narrow one has no room for."""
    alike = {"state"} if all(row["state"] == "complete" for row in rows) else set()
    names = [name for name in rows[0] if name not in alike and not name.endswith(_BOTH)]
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name.replace("/", "/\n"), overflow="fold")
    for row in rows:
        style = "bold" if row[""] == "chosen" else "dim" if row["state"] != "complete" else None
        table.add_row(*(row[name] for name in names), style=style)
    return table


def _front(outcomes: Sequence[Outcome], objectives: Sequence[Objective], choice: Choice) -> Figure:
    """Draw every complete trial with its intervals: the first objective over the second one, or over the trials."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    first, second = objectives[0], objectives[1] if len(objectives) > 1 else None
    colours = {number: _OUT if within.endswith("no") else _OTHER for number, within in choice.within.items()}
    colours |= dict.fromkeys(choice.front, _FRONT) | {choice.chosen.number: _CHOSEN}
    points = {}
    for outcome in outcomes:
        if outcome.state == "complete":
            y, x = outcome.readings[first.name], outcome.readings[second.name] if second else None
            point = points[outcome.number] = (x.value if x else float(outcome.number), y.value)
            axes.errorbar(
                *point, xerr=_error(x), yerr=_error(y), fmt="o", capsize=2, elinewidth=0.8,
                color=colours[outcome.number], markersize=9 if outcome.number == choice.chosen.number else 6,
            )  # fmt: skip
            axes.annotate(str(outcome.number), point, xytext=(5, 5), textcoords="offset points", fontsize=8)
    if second is not None:
        front = sorted(points[number] for number in choice.front)
        axes.plot(*zip(*front, strict=True), color=_FRONT, linewidth=1, zorder=0)
    axes.set_xlabel(f"{second.name} ({second.goal})" if second else "trial")
    axes.set_ylabel(f"{first.name} ({first.goal})")
    axes.set_title(f"trial {choice.chosen.number} is chosen; bars are intervals of 95 %", fontsize=10)
    axes.grid(visible=True, linewidth=0.3, color=_OUT)
    return figure


def _error(reading: Reading | None) -> Any:
    if reading is None or reading.interval is None:
        return None
    low, high = reading.interval
    # a percentile interval of the bootstrap need not hold the value itself
    return [[max(0.0, reading.value - low)], [max(0.0, high - reading.value)]]


def _statements(sweep: Sweep, outcomes: Sequence[Outcome], choice: Choice, eps: float) -> list[str]:
    """Say in sentences what was chosen, how sure that is, and which values it rests on."""
    first, *further = sweep.objectives
    chosen, within = choice.chosen, choice.within
    others = f" with {' and '.join(o.name for o in further)} within {eps:g} of the best" if further else ""
    best = f"the validation at which {first.name} was best in each trial"
    which = best if sweep.ours.summary == "best" else "the last validation of each trial"
    eligible = [number for number in within if not within[number].endswith("no")]
    unsure = [number for number in within if within[number].startswith("unsure")]
    said = {
        f"{len(outcomes)} trials: {states_of(outcomes)}. Values are those of {which}.": True,
        f"Chosen: trial {chosen.number} (epoch {chosen.epoch}), by the rule: best {first.name}{others}.": True,
        f"Its checkpoint: {chosen.checkpoint or 'its program kept none'}": True,
        "No trial is within the margins of all objectives, so they were set aside.": not eligible,
        f"Tied with it: {_numbers(choice.tied)}. By {first.name} the data cannot tell them apart (95 %); which of "
        "them is best is a draw.": choice.tied,
        "No other eligible trial is tied with it: each differs by more than the uncertainty (95 %).": not choice.tied
        and not choice.unknown
        and len(eligible) > 1,
        f"How sure its lead over {_numbers(choice.unknown)} is, is not known: {first.name} has no "
        "intervals.": choice.unknown,
        f"Too close to say (95 %) whether within {eps:g} or not: {_numbers(unsure)}; there the values decided.": unsure,
        f"Pareto front: {_numbers(choice.front)}.": further,
    }
    return [sentence for sentence, holds in said.items() if holds]


def _write_chosen(file: Path, sweep: Sweep, chosen: Outcome) -> None:
    """Write the configuration of the chosen trial; of another program, what was swept is all that is known."""
    readings = ", ".join(f"{name} = {reading.value:.6g}" for name, reading in chosen.readings.items())
    head = f"# Trial {chosen.number} of the sweep {sweep.name}: {readings} at epoch {chosen.epoch}.\n"
    file.write_text(head + yaml.safe_dump(chosen.config or nested(sweep.space, chosen.params), sort_keys=False))


def _write_csv(file: Path, outcomes: Sequence[Outcome], choice: Choice) -> None:
    rows = []
    for outcome in outcomes:
        number = outcome.number
        row: dict[str, Any] = {"trial": number, "state": outcome.state, "chosen": number == choice.chosen.number}
        row |= {"on_front": number in choice.front, "within": choice.within.get(number), "epoch": outcome.epoch}
        row |= {"seconds": outcome.seconds, "checkpoint": outcome.checkpoint, **outcome.params}
        for name, reading in outcome.readings.items():
            low, high = reading.interval or (None, None)
            parts = asdict(reading) | {"interval_low": low, "interval_high": high}
            row |= {f"{name}:{part}": parts[part] for part in parts if part not in ("interval", "per_image")}
        rows.append(row)
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def _numbers(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:_MOST_LISTED]))
    return f"trial{'s' * (len(numbers) > 1)} {listed}{' and others' if len(numbers) > _MOST_LISTED else ''}"
