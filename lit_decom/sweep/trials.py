"""One trial: a process of its own in a directory of its own, watched while it runs."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, Timeout

from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.files import lock_at, read_json, write_json
from lit_decom.sweep.intervals import Interval
from lit_decom.sweep.program import METRICS_FILE, RECORDS, environment, filled, fit_words, overrides
from lit_decom.sweep.space import nested
from lit_decom.sweep.spec import Objective, Sweep

State = Literal["complete", "pruned", "failed"]
Watch = Callable[[int, float], bool]
_RESULT = "result.json"
_BOUND = Path(__file__).with_name("bound.py")
_POLL_SECONDS = 0.1
_SECONDS_TO_END = 15.0


@dataclass(frozen=True)
class Reading:
    """What one trial reached in one objective.

    Attributes:
        value: what counts, as the sweep's ``summary`` says.
        best: best value over the run.
        best_epoch: of the best value.
        last: last value.
        last_epoch: of the last value.
        interval: of 95 % of ``value``; None where it is not known.
        n: images that ``value`` was counted over; None where it is not known.
        per_image: values by image that ``value`` is made of; None where they are not known.
    """

    value: float
    best: float
    best_epoch: int
    last: float
    last_epoch: int
    interval: Interval | None = None
    n: int | None = None
    per_image: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one trial.

    Attributes:
        number: of the trial.
        state: ``complete``; ``pruned``, ended early for want of hope; or ``failed``.
        params: by name.
        readings: by objective; without those that it never logged.
        epoch: at which the values were read.
        seconds: that it took.
        checkpoint: file with the weights of that epoch, where the program keeps them.
        config: file with the configuration that the trial composed.
        directory: of the trial.
        reason: why it failed.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    epoch: int | None = None
    seconds: float = 0.0
    checkpoint: str | None = None
    config: str | None = None
    directory: str = ""
    reason: str = ""

    def save(self, path: Path) -> None:
        """Write the outcome; a reader sees all of it or nothing."""
        write_json(path, asdict(self))

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Outcome":
        """Read what :meth:`save` wrote."""
        readings = {}
        for name, reading in stored["readings"].items():
            interval = reading.get("interval")
            readings[name] = Reading(**reading | {"interval": None if interval is None else (interval[0], interval[1])})
        return cls(**{**stored, "readings": readings})


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of one sweep, each as a process of its own in a directory of its own.

    Attributes:
        sweep: what is swept.
        path: the sweep's directory.
        composed: the configuration without parameters, where the program is ours.
        threads: that each trial may use.
        stopping: set when the user interrupts; a trial that ends then leaves no outcome.
    """

    sweep: Sweep
    path: Path
    composed: Mapping[str, Any]
    threads: int = 1
    stopping: threading.Event = field(default_factory=threading.Event)

    def directory(self, number: int) -> Path:
        """The directory of a trial."""
        return self.path / "trials" / str(number)

    def lock(self, number: int) -> BaseFileLock:
        """Return the lock of a trial, not yet held; who holds it is the one worker that may run the trial."""
        return lock_at(self.path / "locks" / f"{number}.lock")

    def claim(self, number: int) -> BaseFileLock | None:
        """Take the lock of a trial if it is free.

        The operating system frees the lock when its holder dies, so that a killed worker's trial can be claimed again.

        Args:
            number: of the trial.

        Returns:
            The held lock, to be released when the trial has ended; None while another worker holds it.
        """
        lock = self.lock(number)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def outcome(self, number: int) -> Outcome | None:
        """What became of a trial; None while it is not known."""
        stored = read_json(self.directory(number) / _RESULT)
        return None if stored is None else Outcome.of(stored)

    def set_aside(self, number: int) -> None:
        """Move what a dead worker left of a trial out of the way."""
        left = self.directory(number)
        if left.exists():
            lost = self.path / "lost"
            lost.mkdir(exist_ok=True)
            left.rename(next(place for k in range(10**6) if not (place := lost / f"{number}-{k}").exists()))

    def run(self, number: int, params: Mapping[str, Any], watch: Watch | None = None) -> Outcome | None:
        """Run a trial to its end and keep its outcome.

        Args:
            number: of the trial, which the caller has claimed.
            params: by name.
            watch: called with the index, from 1, and the value of the first objective at each validation; returns
                whether the trial is to be ended early.

        Returns:
            The outcome; None when the user interrupted.
        """
        self.set_aside(number)
        directory = self.directory(number)
        directory.mkdir(parents=True)
        config_file = directory / "config.json"
        config = nested(self.sweep.parameters, params)
        if fit_words(self.sweep.command) is not None:
            config |= overrides(self.sweep, directory.resolve(), self.composed)
        write_json(config_file, config)
        began = time.monotonic()
        words = filled(self.sweep, config, config_file.resolve())
        code, pruned = run_watched(words, directory, self.threads, self._watching(directory, watch), self.stopping)
        if self.stopping.is_set():
            return None
        outcome = self._judge(number, params, code, pruned=pruned, seconds=time.monotonic() - began)
        outcome.save(directory / _RESULT)
        return outcome

    def _watching(self, directory: Path, watch: Watch | None) -> Callable[[], bool]:
        """Say of each poll whether the trial is to be ended."""
        if watch is None:
            return lambda: False
        name, seen = self.sweep.objectives[0].name, 0

        def look() -> bool:
            nonlocal seen
            values = [line["values"][name] for line in read_lines(directory / METRICS_FILE) if name in line["values"]]
            new, seen = range(seen, len(values)), len(values)
            return any(watch(index + 1, values[index]) for index in new)

        return look

    def _judge(self, number: int, params: Mapping[str, Any], code: int, *, pruned: bool, seconds: float) -> Outcome:
        directory = self.directory(number)
        lines = list(read_lines(directory / METRICS_FILE))
        readings, epoch = read_objectives(lines, self.sweep)
        silent = [objective.name for objective in self.sweep.objectives if objective.name not in readings]
        reason = ""
        if not pruned and code:
            reason = f"exit status {code}"
        elif not pruned and silent:
            reason = f"logged nothing finite under {', '.join(silent)}"
        weights = directory / "checkpoints" / f"{self.sweep.summary}.ckpt"
        composed = directory / RECORDS / "config.yaml"
        return Outcome(
            number=number,
            state="pruned" if pruned else "failed" if reason else "complete",
            params=dict(params),
            readings=readings,
            epoch=epoch,
            seconds=round(seconds, 3),
            checkpoint=str(weights.resolve()) if weights.exists() else None,
            config=str(composed.resolve()) if composed.exists() else None,
            directory=str(directory.resolve()),
            reason=reason,
        )


def run_watched(
    words: list[str], directory: Path, threads: int, ended_by: Callable[[], bool], stopping: threading.Event
) -> tuple[int, bool]:
    """Run a program that dies with this process, its output in ``log.txt``.

    Args:
        words: of the program.
        directory: of the trial.
        threads: it may use.
        ended_by: asked again and again whether to end it.
        stopping: ends it when set.

    Returns:
        Exit status, and whether ``ended_by`` ended it.
    """
    bound = [sys.executable, "-I", str(_BOUND), str(os.getpid()), *words]
    with (directory / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            bound, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=environment(directory.resolve(), threads),
        )  # fmt: skip
        pruned = False
        try:
            while process.poll() is None and not stopping.wait(_POLL_SECONDS):
                if ended_by():
                    pruned = True
                    break
        finally:
            _end(process)
    return process.returncode, pruned


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl`` that are whole: ``{"epoch": 0, "values": {name: value}, ...}``.

    Raises:
        SweepError: if a line is not of that form.
    """
    if not path.exists():
        return
    for index, text in enumerate(path.read_text().split("\n")[:-1]):
        try:
            line = json.loads(text)
            values = {str(name): float(value) for name, value in line["values"].items()}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise SweepError(
                f"Expected line {index + 1} of {path} to be JSON with `values`, but got {text!r}."
            ) from error
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        yield {"epoch": index, **line, "values": finite}


def read_objectives(lines: list[dict[str, Any]], sweep: Sweep) -> tuple[dict[str, Reading], int | None]:
    """Read what a trial reached.

    Args:
        lines: one per validation.
        sweep: says which validation counts.

    Returns:
        Readings by objective, and the epoch that counts, at which all values are read: that at which the first
        objective was best, or the last one at which it was logged.
    """
    first = sweep.objectives[0]
    with_first = [line for line in lines if first.name in line["values"]]
    if not with_first:
        return {}, None
    chosen = _best(with_first, first) if sweep.summary == "best" else with_first[-1]
    readings = {}
    for objective in sweep.objectives:
        name = objective.name
        having = [line for line in lines if name in line["values"]]
        if name not in chosen["values"]:
            continue
        best, last = _best(having, objective), having[-1]
        known = chosen.get("objectives", {}).get(name, {})
        interval = known.get("interval")
        readings[name] = Reading(
            value=chosen["values"][name],
            best=best["values"][name],
            best_epoch=best["epoch"],
            last=last["values"][name],
            last_epoch=last["epoch"],
            interval=None if interval is None else (interval[0], interval[1]),
            n=known.get("n"),
            per_image=known.get("per_image"),
        )
    return readings, chosen["epoch"]


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the outcomes in a sweep's directory, by number."""
    files = (path / "trials").glob(f"*/{_RESULT}")
    return sorted((Outcome.of(read_json(file)) for file in files), key=lambda outcome: outcome.number)


def _best(lines: list[dict[str, Any]], objective: Objective) -> dict[str, Any]:
    """The first line with the best value."""
    return max(lines, key=lambda line: objective.sign * line["values"][objective.name])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a program to end, and end it if it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
