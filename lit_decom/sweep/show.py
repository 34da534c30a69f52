"""Look at a sweep: the table, the front, the choice, and a configuration that trains the chosen network again."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lit_decom.sweep.drawing import front_figure, outcome_rows, outcome_table, page_of
from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.run import read_study
from lit_decom.sweep.selection import Choice, choose
from lit_decom.sweep.space import nested
from lit_decom.sweep.spec import Sweep
from lit_decom.sweep.trial import Outcome

_MOST_LISTED = 8


@dataclass(frozen=True)
class Kept:
    """What is known of a sweep: its directory, what its file said, and the outcomes so far, by number."""

    path: Path
    sweep: Sweep
    outcomes: tuple[Outcome, ...]


def read_kept(path: Path) -> Kept:
    """Read the study that a sweep's directory names.

    Raises:
        SweepError: if there is no sweep, or no outcome.
    """
    study = read_study(path)
    outcomes = study.outcomes()
    if not outcomes:
        raise SweepError(f"Expected {path} to have at least one finished trial, but there is none yet.")
    return Kept(path, study.sweep, tuple(outcomes))


def show_sweep(kept: Kept, eps: float, console: Console) -> Choice:
    """Print the table and the choice; write ``front.png``, ``sweep.html``, ``trials.csv`` and ``chosen.yaml``.

    Args:
        kept: the sweep and its outcomes.
        eps: margin within which the further objectives must be of their best.
        console: prints.

    Returns:
        The choice.

    Raises:
        SweepError: if no trial is complete or `eps` makes no sense.
    """
    objectives = kept.sweep.objectives
    try:
        choice = choose(kept.outcomes, objectives, eps)
    except ValueError as error:
        raise SweepError(f"{error} States: {_states(kept.outcomes)}.") from error
    rows, title = outcome_rows(kept.outcomes, objectives, choice), f"Sweep {kept.sweep.name}"
    figure = front_figure(kept.outcomes, objectives, choice)
    figure.savefig(kept.path / "front.png", dpi=150)
    config = _write_chosen(kept, choice.chosen)
    statements = [*statements_of(kept, choice, eps), f"It is trained again by: lit-decom fit --config {config}"]
    (kept.path / "sweep.html").write_text(page_of(title, statements, rows, figure))
    _write_csv(kept, choice)
    console.print(outcome_table(rows, title))
    for line in (*statements, f"picture {kept.path / 'front.png'}, page {kept.path / 'sweep.html'}"):
        console.print(line, highlight=False, soft_wrap=True)
    return choice


def statements_of(kept: Kept, choice: Choice, eps: float) -> list[str]:
    """Say in sentences what was chosen, how sure that is, and which values it rests on."""
    first, *further = kept.sweep.objectives
    chosen, within = choice.chosen, choice.within
    others = f" with {' and '.join(o.name for o in further)} within {eps:g} of the best" if further else ""
    best = f"the validation at which {first.name} was best in each trial"
    which = best if kept.sweep.summary == "best" else "the last validation of each trial"
    eligible = [number for number in within if not within[number].endswith("no")]
    unsure = [number for number in within if within[number].startswith("unsure")]
    said = {
        f"{len(kept.outcomes)} trials: {_states(kept.outcomes)}. Values are those of {which}.": True,
        f"Chosen: trial {chosen.number} (epoch {chosen.epoch}), by the rule: best {first.name}{others}.": True,
        f"Its checkpoint: {chosen.checkpoint or 'its program kept none'}": True,
        "No trial is within the margins of all objectives, so they were set aside.": not eligible
        or chosen.number not in eligible,
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


def _write_chosen(kept: Kept, chosen: Outcome) -> Path:
    """Write the configuration of the chosen trial; of another program, what was swept is all that is known."""
    path = kept.path / "chosen.yaml"
    config = chosen.config or nested(kept.sweep.parameters, chosen.params)
    readings = ", ".join(f"{name} = {reading.value:.6g}" for name, reading in chosen.readings.items())
    head = f"# Trial {chosen.number} of the sweep {kept.sweep.name}: {readings} at epoch {chosen.epoch}.\n"
    path.write_text(head + yaml.safe_dump(dict(config), sort_keys=False))
    return path


def _write_csv(kept: Kept, choice: Choice) -> None:
    rows = []
    for outcome in kept.outcomes:
        number = outcome.number
        row: dict[str, Any] = {"trial": number, "state": outcome.state, "chosen": number == choice.chosen.number}
        row |= {"on_front": number in choice.front, "within": choice.within.get(number), "epoch": outcome.epoch}
        row |= {"seconds": outcome.seconds, "checkpoint": outcome.checkpoint, **outcome.params}
        for name, reading in outcome.readings.items():
            low, high = reading.interval or (None, None)
            parts = asdict(reading) | {"interval_low": low, "interval_high": high}
            row |= {f"{name}:{part}": parts[part] for part in parts if part not in ("interval", "per_image")}
        rows.append(row)
    with (kept.path / "trials.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def _states(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.state for outcome in outcomes)
    return ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if counts[state])


def _numbers(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:_MOST_LISTED]))
    return f"trial{'s' * (len(numbers) > 1)} {listed}{' and others' if len(numbers) > _MOST_LISTED else ''}"
