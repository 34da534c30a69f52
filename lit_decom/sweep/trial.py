"""One trial: its process, in a directory of its own, and what it reached."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_decom.sweep import METRICS_FILE, OBJECTIVES_FILE, RECORDS, TRIAL_DIRECTORY, SweepError
from lit_decom.sweep.space import nested
from lit_decom.sweep.spec import Sweep

Interval = tuple[float, float]
Line = Mapping[str, Any]
_BOUND = Path(__file__).with_name("bound.py")
_POLL_SECONDS, _SECONDS_TO_END = 0.1, 15.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
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


def fit_words(command: Sequence[str]) -> list[str] | None:
    """Return the words after ``lit-decom fit`` where the command is ours, else None."""
    for index, word in enumerate(command[:-1]):
        ours = Path(word).name == "lit-decom" or (word == "lit_decom" and command[index - 1] == "-m")
        if ours and command[index + 1] == "fit":
            return list(command[index + 2 :])
    return None


def filled(sweep: Sweep, config: Mapping[str, Any], config_file: Path, words: Sequence[str]) -> list[str]:
    """Fill in the macros in words of a sweep's command, by W&B's own code.

    Raises:
        SweepError: if a macro is unknown.
    """
    # It takes a second to import.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in config.items()}})
    macros |= {"interpreter": ["python"], "program": [sweep.file.program], "args_json_file": [str(config_file)]}
    macros |= {"env": ["/usr/bin/env"] if os.name == "posix" else []}
    known = {f"${{{name}}}": values for name, values in macros.items() if isinstance(values, list)}
    expanded = create_sweep_command(list(words))
    for word in expanded:
        if word.startswith("${") and word not in known:
            raise SweepError(f"Expected the macros of `command` to be among {', '.join(known)}, but got {word}.")
    return [value for word in expanded for value in known.get(word, [word])]


def run_trial(
    sweep: Sweep, params: Mapping[str, Any], directory: Path, trial: Any, *, threads: int, stopping: threading.Event
) -> Outcome | None:
    """Run a trial to its end.

    Args:
        sweep: whose trial it is.
        params: by name.
        directory: of its own, whose name is its number.
        trial: Optuna's, which says after every validation whether it is to be ended early.
        threads: that it may use.
        stopping: set when the user interrupts.

    Returns:
        The outcome; None when the user interrupted.
    """
    if directory.exists():  # of a worker that died
        directory.rename(f"{directory}-lost-{time.time_ns()}")
    directory.mkdir(parents=True)
    name, seen = sweep.objectives[0].name, 0

    def is_hopeless() -> bool:
        nonlocal seen
        values = [line["values"][name] for line in read_lines(directory) if name in line["values"]]
        new, seen = list(enumerate(values, 1))[seen:], len(values)
        for step, value in new:
            trial.report(value, step)
            if trial.should_prune():
                return True
        return False

    watch = is_hopeless if sweep.pruner else lambda: False
    began = time.monotonic()
    config = nested(sweep.space, params)
    code, pruned = run_program(sweep, config, directory, watch, threads=threads, stopping=stopping)
    if stopping.is_set():
        return None
    readings, epoch = read_objectives(list(read_lines(directory)), sweep)
    silent = [objective.name for objective in sweep.objectives if objective.name not in readings]
    reason = f"exit status {code}" if code else f"logged nothing finite under {', '.join(silent)}" if silent else ""
    weights, settings = directory / "checkpoints" / f"{sweep.ours.summary}.ckpt", directory / RECORDS / "config.yaml"
    return Outcome(
        number=int(directory.name),
        state="pruned" if pruned else "failed" if reason else "complete",
        params=params,
        readings=readings,
        epoch=epoch,
        seconds=round(time.monotonic() - began, 3),
        checkpoint=str(weights) if weights.exists() else None,
        config=yaml.safe_load(settings.read_text()) if settings.exists() else None,
        reason="" if pruned else reason,
    )


def run_program(
    sweep: Sweep,
    config: Mapping[str, Any],
    directory: Path,
    is_hopeless: Callable[[], bool] = lambda: False,
    *,
    threads: int,
    stopping: threading.Event,
) -> tuple[int, bool]:
    """Run a sweep's program, which dies with this process, its output in ``log.txt``.

    Returns:
        Exit status, and whether ``is_hopeless``, which is asked again and again, ended it.
    """
    config_file = directory / "config.json"
    config_file.write_text(json.dumps(config, indent=2, default=str))
    (directory / OBJECTIVES_FILE).write_text(json.dumps({o.name: o.goal for o in sweep.objectives}))
    command = filled(sweep, config, config_file, sweep.command)
    words = [sys.executable, "-I", str(_BOUND), str(os.getpid()), *command]
    with (directory / "log.txt").open("wb") as log:
        environment = _environment(directory, threads)
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    pruned = False
    try:
        while process.poll() is None and not pruned and not stopping.wait(_POLL_SECONDS):
            pruned = is_hopeless()
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode, pruned


def _environment(directory: Path, threads: int) -> dict[str, str]:
    """This interpreter first, no W&B account, and its share of the cores."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    own = {TRIAL_DIRECTORY: str(directory), "PATH": path, "WANDB_MODE": "offline"}
    # Of two that differ, torch takes the larger one.
    wanted = [int(os.environ[name]) for name in _THREADS if os.environ.get(name, "").isdigit()]
    return dict(os.environ) | own | dict.fromkeys(_THREADS, str(min([threads, *wanted])))


def end_of_log(directory: Path, lines: int = 12) -> str:
    """Return the last lines that a trial's program said, indented."""
    said = (directory / "log.txt").read_text(errors="replace").rstrip().splitlines()
    return "\n".join(f"    {line}" for line in said[-lines:])


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
            raise SweepError(f"Expected line {index + 1} of {path} to have `values`, but got {text!r}.") from error
        yield {"epoch": index, **line, "values": {k: v for k, v in values.items() if math.isfinite(v)}}


def read_objectives(lines: list[Line], sweep: Sweep) -> tuple[dict[str, Reading], int | None]:
    """Read what a trial reached from a line per validation.

    Returns:
        Readings by objective, and the epoch that counts, at which all values are read: that at which the first
        objective was best, or the last one at which it was logged.
    """
    readings: dict[str, Reading] = {}
    counts: Line | None = None
    for objective in sweep.objectives:
        name, sign = objective.name, objective.sign
        having = [line for line in lines if name in line["values"]]
        if counts is None and not having:
            break
        if counts is not None and name not in counts["values"]:
            continue
        best, last = max(having, key=lambda line: sign * line["values"][name]), having[-1]
        counts = counts or (best if sweep.ours.summary == "best" else last)
        readings[name] = Reading(
            value=counts["values"][name],
            best=best["values"][name],
            best_epoch=best["epoch"],
            last=last["values"][name],
            last_epoch=last["epoch"],
            **counts.get("objectives", {}).get(name, {}),
        )
    return readings, counts["epoch"] if counts else None


def plain_text(value: Any) -> str:
    """A parameter's value, in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
