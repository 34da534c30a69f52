"""Look at a sweep: the table, the front, the choice, and a configuration that trains the chosen network again."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lit_decom.sweep.bayes import open_study, shared_outcomes
from lit_decom.sweep.drawing import front_figure, outcome_rows, outcome_table, page_of
from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.files import read_json
from lit_decom.sweep.program import without_overrides
from lit_decom.sweep.selection import Choice, choose
from lit_decom.sweep.space import nested
from lit_decom.sweep.spec import Sweep, read_raw
from lit_decom.sweep.trials import Outcome, read_outcomes

_MOST_LISTED = 8


@dataclass(frozen=True)
class Kept:
    """What a sweep's directory holds.

    Attributes:
        path: the directory.
        sweep: as its file described it.
        outcomes: so far, by number.
    """

    path: Path
    sweep: Sweep
    outcomes: tuple[Outcome, ...]


def read_kept(path: Path, storage: str | None = None) -> Kept:
    """Read a sweep's directory.

    Args:
        path: the directory.
        storage: of the study, where trials ran on machines that do not share the directory.

    Returns:
        The sweep and its outcomes.

    Raises:
        SweepError: if there is no sweep, or no outcome.
    """
    described = read_json(path / "sweep.json")
    if described is None:
        raise SweepError(f"Expected {path} to be the directory of a sweep, but it has no sweep.json.")
    sweep = read_raw(described["sweep"], described["name"])
    found = {} if storage is None else {o.number: o for o in shared_outcomes(open_study(sweep, path, storage))}
    found |= {outcome.number: outcome for outcome in read_outcomes(path)}
    if not found:
        raise SweepError(f"Expected {path} to have at least one finished trial, but there is none yet.")
    return Kept(path, sweep, tuple(found[number] for number in sorted(found)))


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
    rows = outcome_rows(kept.outcomes, objectives, choice)
    figure = front_figure(kept.outcomes, objectives, choice)
    title = f"Sweep {kept.sweep.name}"
    figure.savefig(kept.path / "front.png", dpi=150)
    config = write_chosen(kept, choice)
    statements = [*statements_of(kept, choice, eps), f"It is trained again by: lit-decom fit --config {config}"]
    (kept.path / "sweep.html").write_text(page_of(title, statements, rows, figure))
    _write_csv(kept, choice)
    console.print(outcome_table(rows, title))
    for statement in statements:
        console.print(statement, highlight=False, soft_wrap=True)
    console.print(
        f"picture {kept.path / 'front.png'}, page {kept.path / 'sweep.html'}", highlight=False, soft_wrap=True
    )
    return choice


def statements_of(kept: Kept, choice: Choice, eps: float) -> list[str]:
    """Say in sentences what was chosen, how sure that is, and which values it rests on."""
    first, *further = kept.sweep.objectives
    chosen = choice.chosen
    rule = f"best {first.name}"
    if further:
        rule += f" with {' and '.join(o.name for o in further)} within {eps:g} of the best"
    which = (
        f"the validation at which {first.name} was best in each trial"
        if kept.sweep.summary == "best"
        else "the last validation of each trial"
    )
    statements = [
        f"{len(kept.outcomes)} trials: {_states(kept.outcomes)}. Values are those of {which}.",
        f"Chosen: trial {chosen.number} (epoch {chosen.epoch}), by the rule: {rule}.",
        f"Its checkpoint: {chosen.checkpoint or 'its program kept none'}",
    ]
    if choice.within[chosen.number].endswith("no"):
        statements.append("No trial is within the margins of all objectives, so they were set aside.")
    eligible = [number for number, within in choice.within.items() if not within.endswith("no")]
    if choice.tied:
        statements.append(
            f"Tied with it: {_numbers(choice.tied)}. By {first.name} the data cannot tell them apart (95 %); which of "
            "them is best is a draw."
        )
    elif not choice.unknown and len(eligible) > 1:
        statements.append("No other eligible trial is tied with it: each differs by more than the uncertainty (95 %).")
    if choice.unknown:
        statements.append(
            f"How sure its lead over {_numbers(choice.unknown)} is, is not known: {first.name} has no intervals."
        )
    unsure = [number for number, within in choice.within.items() if within.startswith("unsure")]
    if unsure:
        statements.append(
            f"Too close to say (95 %) whether within {eps:g} or not: {_numbers(unsure)}; there the values decided."
        )
    if further:
        statements.append(f"Pareto front: {_numbers(choice.front)}.")
    return statements


def write_chosen(kept: Kept, choice: Choice) -> Path:
    """Write the configuration of the chosen trial, without the settings that the sweep made."""
    chosen, path = choice.chosen, kept.path / "chosen.yaml"
    composed = read_json(kept.path / "composed.json")
    if chosen.config is not None and Path(chosen.config).exists():
        config = without_overrides(kept.sweep, yaml.safe_load(Path(chosen.config).read_text()), composed)
    else:
        # another program, or a trial on another machine: what was swept is all that is known
        config = nested(kept.sweep.parameters, chosen.params)
    readings = [f"{name} = {reading.value:.6g}" for name, reading in chosen.readings.items()]
    head = f"# Trial {chosen.number} of the sweep {kept.sweep.name}: {', '.join(readings)} at epoch {chosen.epoch}.\n"
    path.write_text(head + yaml.safe_dump(config, sort_keys=False))
    return path


def _write_csv(kept: Kept, choice: Choice) -> None:
    params = [parameter.name for parameter in kept.sweep.parameters]
    parts = ("value", "best", "best_epoch", "last", "last_epoch", "interval_low", "interval_high", "n")
    columns = [f"{objective.name}:{part}" for objective in kept.sweep.objectives for part in parts]
    with (kept.path / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["trial", "state", "chosen", "on_front", "within", "epoch", "seconds", "checkpoint", *params, *columns]
        )
        for outcome in kept.outcomes:
            number = outcome.number
            row: list[Any] = [
                number,
                outcome.state,
                number == choice.chosen.number,
                number in choice.front,
                choice.within.get(number),
            ]
            row += [outcome.epoch, outcome.seconds, outcome.checkpoint, *(outcome.params.get(name) for name in params)]
            for objective in kept.sweep.objectives:
                reading = outcome.readings.get(objective.name)
                low, high = (reading.interval if reading is not None else None) or (None, None)
                known = {"interval_low": low, "interval_high": high}
                row += [known.get(part, getattr(reading, part, None)) for part in parts]
            writer.writerow(row)


def _states(outcomes: Sequence[Outcome]) -> str:
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ("complete", "pruned", "failed")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def _numbers(numbers: Sequence[int]) -> str:
    listed = ", ".join(str(number) for number in numbers[:_MOST_LISTED])
    if len(numbers) == 1:
        return f"trial {listed}"
    return f"trials {listed}{' and others' if len(numbers) > _MOST_LISTED else ''}"
