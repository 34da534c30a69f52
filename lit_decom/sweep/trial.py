"""One trial: a process of its own in a directory of its own, watched while it runs, and what it reached."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.program import METRICS_FILE, RECORDS, environment, filled, fit_words, overrides, without_overrides
from lit_decom.sweep.space import nested
from lit_decom.sweep.spec import Objective, Sweep

Interval = tuple[float, float]
Line = Mapping[str, Any]
Watch = Callable[[int, float], bool]
_BOUND = Path(__file__).with_name("bound.py")
_POLL_SECONDS, _SECONDS_TO_END = 0.1, 15.0
_MOST_LETTERS = 40_000  # of the values per image: MySQL keeps texts of 64 KiB


@dataclass(frozen=True)
class Reading:
    """What one trial reached in one objective; None where something is not known."""

    value: float  # what counts, as the sweep's `summary` says
    best: float
    best_epoch: int
    last: float
    last_epoch: int
    interval: Interval | None = None  # of 95 % of `value`
    n: int | None = None  # images that `value` was counted over
    per_image: Mapping[str, float] | None = None  # what `value` is made of, by image

    def __post_init__(self) -> None:
        if self.interval is not None:  # JSON has no tuples
            object.__setattr__(self, "interval", tuple(self.interval))


@dataclass(frozen=True)
class Outcome:
    """What became of one trial."""

    number: int  # in the sweep; a repeated trial keeps it
    state: Literal["complete", "pruned", "failed"]  # pruned: ended early for want of hope
    params: Mapping[str, Any]
    readings: Mapping[str, Reading] = field(default_factory=dict)  # by objective, without those that it never logged
    epoch: int | None = None  # at which the values were read
    seconds: float = 0.0
    checkpoint: str | None = None  # with the weights of that epoch, where the program keeps them
    config: Mapping[str, Any] | None = None  # that our program composed, without the sweep's own settings
    directory: str = ""
    reason: str = ""  # why it failed

    def stored(self) -> dict[str, Any]:
        """What JSON holds of it, without values per image that are too many for a database."""
        stored = asdict(self)
        for reading in stored["readings"].values():
            if len(json.dumps(reading["per_image"])) > _MOST_LETTERS:
                reading["per_image"] = None
        return stored

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Outcome":
        """Read what :meth:`stored` gave."""
        readings = {name: Reading(**reading) for name, reading in stored["readings"].items()}
        return cls(**{**stored, "readings": readings})


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of one sweep."""

    sweep: Sweep
    path: Path  # holds the trials' directories
    composed: Mapping[str, Any]  # the configuration without parameters, where the program is ours
    threads: int = 1  # that each trial may use
    stopping: threading.Event = field(default_factory=threading.Event)  # set when the user interrupts

    def run(self, number: int, params: Mapping[str, Any], watch: Watch | None = None) -> Outcome | None:
        """Run a trial to its end.

        Args:
            number: of the trial.
            params: by name.
            watch: called with the index, from 1, and the value of the first objective at each validation; returns
                whether the trial is to be ended early.

        Returns:
            The outcome; None when the user interrupted.
        """
        directory = self.path.resolve() / "trials" / str(number)
        if directory.exists():  # of a worker that died
            directory.rename(f"{directory}-lost-{time.time_ns()}")
        directory.mkdir(parents=True)
        config = nested(self.sweep.parameters, params)
        if fit_words(self.sweep.command) is not None:
            config |= overrides(self.sweep, directory, self.composed)
        began = time.monotonic()
        code, pruned = run_watched(
            self.sweep,
            config,
            directory,
            threads=self.threads,
            ended_by=self._watching(directory, watch),
            stopping=self.stopping,
        )
        if self.stopping.is_set():
            return None
        outcome = self._judge(number, params, directory, code=code, pruned=pruned)
        return replace(outcome, seconds=round(time.monotonic() - began, 3))

    def _watching(self, directory: Path, watch: Watch | None) -> Callable[[], bool]:
        """Say of each poll whether the trial is to be ended."""
        name, seen = self.sweep.objectives[0].name, 0

        def look() -> bool:
            nonlocal seen
            values = [line["values"][name] for line in read_lines(directory) if name in line["values"]]
            new, seen = range(seen, len(values)), len(values)
            return watch is not None and any(watch(index + 1, values[index]) for index in new)

        return look

    def _judge(self, number: int, params: Mapping[str, Any], directory: Path, *, code: int, pruned: bool) -> Outcome:
        readings, epoch = read_objectives(list(read_lines(directory)), self.sweep)
        silent = [objective.name for objective in self.sweep.objectives if objective.name not in readings]
        reason = f"exit status {code}" if code else f"logged nothing finite under {', '.join(silent)}" if silent else ""
        weights = directory / "checkpoints" / f"{self.sweep.summary}.ckpt"
        file = directory / RECORDS / "config.yaml"
        config = yaml.safe_load(file.read_text()) if file.exists() else None
        return Outcome(
            number=number,
            state="pruned" if pruned else "failed" if reason else "complete",
            params=dict(params),
            readings=readings,
            epoch=epoch,
            checkpoint=str(weights) if weights.exists() else None,
            config=config and without_overrides(self.sweep, config, self.composed),
            directory=str(directory),
            reason="" if pruned else reason,
        )


def run_watched(
    sweep: Sweep,
    config: Mapping[str, Any],
    directory: Path,
    *,
    threads: int,
    ended_by: Callable[[], bool],
    stopping: threading.Event,
) -> tuple[int, bool]:
    """Run a sweep's program, which dies with this process, its output in ``log.txt``.

    Args:
        sweep: whose program it is.
        config: its parameters and settings.
        directory: of the trial.
        threads: it may use.
        ended_by: asked again and again whether to end it.
        stopping: ends it when set.

    Returns:
        Exit status, and whether ``ended_by`` ended it.
    """
    config_file = directory / "config.json"
    config_file.write_text(json.dumps(dict(config), indent=2, default=str))
    words = [sys.executable, "-I", str(_BOUND), str(os.getpid()), *filled(sweep, config, config_file)]
    with (directory / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment(directory, threads)
        )
    pruned = False
    try:
        while process.poll() is None and not pruned and not stopping.wait(_POLL_SECONDS):
            pruned = ended_by()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return process.returncode, pruned


def read_lines(directory: Path) -> Iterator[Line]:
    """Read the lines of a trial's ``metrics.jsonl`` that are whole: ``{"epoch": 0, "values": {name: value}, ...}``.

    Raises:
        SweepError: if a line is not of that form.
    """
    path = directory / METRICS_FILE
    for index, text in enumerate(path.read_text().split("\n")[:-1] if path.exists() else ()):
        try:
            line = json.loads(text)
            values = {str(name): float(value) for name, value in line["values"].items()}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise SweepError(
                f"Expected line {index + 1} of {path} to be JSON with `values`, but got {text!r}."
            ) from error
        yield {"epoch": index, **line, "values": {k: v for k, v in values.items() if math.isfinite(v)}}


def read_objectives(lines: list[Line], sweep: Sweep) -> tuple[dict[str, Reading], int | None]:
    """Read what a trial reached.

    Args:
        lines: one per validation.
        sweep: says which validation counts.

    Returns:
        Readings by objective, and the epoch that counts, at which all values are read: that at which the first
        objective was best, or the last one at which it was logged.
    """
    having = {o.name: [line for line in lines if o.name in line["values"]] for o in sweep.objectives}
    best = {o.name: _best(having[o.name], o) for o in sweep.objectives if having[o.name]}
    first = sweep.objectives[0].name
    if first not in best:
        return {}, None
    chosen = best[first] if sweep.summary == "best" else having[first][-1]
    readings = {}
    for name in best:
        if name in chosen["values"]:
            readings[name] = Reading(
                value=chosen["values"][name],
                best=best[name]["values"][name],
                best_epoch=best[name]["epoch"],
                last=having[name][-1]["values"][name],
                last_epoch=having[name][-1]["epoch"],
                **chosen.get("objectives", {}).get(name, {}),
            )
    return readings, chosen["epoch"]


def _best(lines: list[Line], objective: Objective) -> Line:
    """The first line with the best value."""
    return max(lines, key=lambda line: objective.sign * line["values"][objective.name])


def plain_text(value: Any) -> str:
    """A parameter's value, in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
