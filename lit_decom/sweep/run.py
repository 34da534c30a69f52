"""Run a sweep: check it, open its study, and work its trials off until none is left."""

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from lit_decom.sweep.check import check_objectives, check_parameters, dry_trial
from lit_decom.sweep.errors import SweepError, tail
from lit_decom.sweep.program import fit_words
from lit_decom.sweep.spec import Sweep, read_sweep
from lit_decom.sweep.study import NUMBER, OUTCOME, SweepStudy, TrialPruned, TrialState, described_in
from lit_decom.sweep.trial import Outcome, TrialRunner, Watch, plain_text

_SWEEP_FILE = "sweep.json"
_BACKENDS = {"bayes": "optuna", "grid": "grid", "random": "random"}
_DEFAULT_TRIALS = 20
_FAILURES_TO_STOP = 3
_IDLE_SECONDS = 1.0
_UNITS = ((3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Options:
    """How a sweep is run: what stands on the command line of ``lit-decom sweep``."""

    file: Path | None = None  # in W&B's format; None for a sweep that is joined
    backend: str | None = None  # optuna, grid or random; None for what the file's `method` says
    n_trials: int | None = None  # over all workers and resumptions; None for all of a grid, and 20 otherwise
    jobs: int = 1  # trials at once; 0 leaves them to other workers
    directory: Path | None = None  # of the sweep; None for runs/sweeps/<name of the file>
    storage: str | None = None  # URL of the database that holds the study; None for an SQLite file in the directory
    seed: int = 0  # of draws and samplers
    check: bool = True  # whether the dry trial is made
    heartbeat: int = 10  # seconds between a trial's signs of life


def run_sweep(options: Options, console: Console) -> Path:
    """Run a sweep, or go on with it.

    Args:
        options: which sweep, and how it is run.
        console: where each trial's result is printed.

    Returns:
        The sweep's directory.

    Raises:
        SweepError: if the sweep cannot be run, or none of its trials can.
        KeyboardInterrupt: when the user interrupts; what was running is run again next time.
    """
    sweep = read_sweep(options.file or Path())
    backend = options.backend or _BACKENDS[sweep.method]
    described = {"name": sweep.name, "sweep": dict(sweep.raw), "backend": backend, "seed": options.seed}
    _refuse_unfit(sweep, options, backend)
    path = _directory(described, options)
    composed = _checked(sweep, path, options, console)
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / "open.lock"):
        study = SweepStudy(_url(path, options.storage), described, composed, options.heartbeat)
        default = None if backend == "grid" else _DEFAULT_TRIALS
        study.put_in_line(options.n_trials or sweep.raw.get("run_cap", default))
        (path / _SWEEP_FILE).write_text(json.dumps(described | {"storage": options.storage}, indent=2))
    Worker(study, path, options, console).work()
    return path


def join_sweep(options: Options, study: str | None, console: Console) -> Path:
    """Work off what waits in a sweep that ``lit-decom sweep run`` has opened, on any machine.

    Args:
        options: where the sweep is, and how its trials are run.
        study: its name; may be left out where the storage has one alone.
        console: where each trial's result is printed.

    Returns:
        The directory of this worker's trials.

    Raises:
        SweepError: if the study is not to be found, or none of its trials can be run.
        KeyboardInterrupt: when the user interrupts; what was running waits for another worker.
    """
    url = str(options.storage)
    described = described_in(url, study)
    path = _directory(described, options)
    path.mkdir(parents=True, exist_ok=True)
    (path / _SWEEP_FILE).write_text(json.dumps(described | {"storage": url}, indent=2))
    Worker(SweepStudy(url, described, heartbeat=options.heartbeat), path, options, console).work()
    return path


def read_study(path: Path) -> SweepStudy:
    """Open the study that a sweep's directory names.

    Raises:
        SweepError: if it is no sweep's directory.
    """
    if not (path / _SWEEP_FILE).exists():
        raise SweepError(f"Expected {path} to be the directory of a sweep, but it has no {_SWEEP_FILE}.")
    described = json.loads((path / _SWEEP_FILE).read_text())
    return SweepStudy(_url(path, described.pop("storage")), described)


class Worker:
    """Works a study's trials off, several at once, and tells how far the sweep is.

    A worker that opened the sweep stays while others work, to take up what they may leave behind; one that joined
    gives its machine back.

    Args:
        study: whose trials they are.
        path: holds their directories.
        options: how they are run.
        console: where each result is printed.
    """

    def __init__(self, study: SweepStudy, path: Path, options: Options, console: Console) -> None:
        self.study, self.options, self.console = study, options, console
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.runner = TrialRunner(study.sweep, path, study.composed, max(1, cores // max(1, options.jobs)))
        self._failed: list[Outcome] = []
        self._worked = False

    def work(self) -> None:
        """Run trials until none is left, the target is reached, or the first ones have all failed.

        Raises:
            SweepError: if every trial failed.
            KeyboardInterrupt: when the user interrupts, after what was running is back in line.
        """
        jobs = self.options.jobs
        with self.console.status(self._progress()) as self._status, ThreadPoolExecutor(max(1, jobs)) as pool:
            try:
                for future in wait([pool.submit(self._work) for _ in range(jobs)], return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                self.runner.stopping.set()
        if self._failed and not self._worked:
            log = tail(Path(self._failed[-1].directory) / "log.txt")
            raise SweepError(f"Expected a trial to work, but all {len(self._failed)} failed; the last one said:\n{log}")
        if self.study.is_reached():
            self.console.print("The target is reached.")

    def _work(self) -> None:
        while not self.runner.stopping.is_set() and (self._worked or len(self._failed) < _FAILURES_TO_STOP):
            self.study.take_up_the_dead()
            if self.study.is_reached():
                return
            if self.study.trials(TrialState.WAITING):
                self.study.optuna.optimize(self._run, n_trials=1, callbacks=[self._report])
            elif self.options.file and self.study.trials(TrialState.RUNNING):
                self.runner.stopping.wait(_IDLE_SECONDS)
            else:
                return

    def _run(self, trial: Any) -> float | list[float]:
        """Run one trial for Optuna, to which a value that is not a number means that it failed."""
        if NUMBER not in trial.user_attrs:
            return math.nan  # another worker was faster, and Optuna made a trial beyond the last
        if OUTCOME in trial.user_attrs:
            outcome: Outcome | None = Outcome.of(trial.user_attrs[OUTCOME])  # its worker died before it could say so
        else:
            params = {parameter.name: parameter.suggest(trial) for parameter in self.study.parameters}
            outcome = self.runner.run(trial.user_attrs[NUMBER], params, self._watch(trial))
        if outcome is None:
            self.study.put_back(trial.number)
            return math.nan
        trial.set_user_attr(OUTCOME, outcome.stored())
        if outcome.state == "pruned":
            raise TrialPruned
        if outcome.state == "failed":
            return math.nan
        return [outcome.readings[objective.name].value for objective in self.study.sweep.objectives]

    def _watch(self, trial: Any) -> Watch | None:
        def watch(step: int, value: float) -> bool:
            trial.report(value, step)
            return bool(trial.should_prune())

        return None if self.study.sweep.early_terminate is None else watch

    def _report(self, _: Any, trial: Any) -> None:
        if OUTCOME not in trial.user_attrs:
            return
        outcome = Outcome.of(trial.user_attrs[OUTCOME])
        self._worked |= outcome.state != "failed"
        self._failed += [outcome] if outcome.state == "failed" else []
        values = ", ".join(f"{name} {reading.value:.4g}" for name, reading in outcome.readings.items())
        params = ", ".join(f"{name.rsplit('.', 1)[-1]}={plain_text(value)}" for name, value in outcome.params.items())
        head = f"trial {outcome.number} {outcome.state} in {outcome.seconds:.0f} s"
        progress = self._progress()
        text = f"{head}: {' '.join(filter(None, (values, outcome.reason)))} ({params}); {progress}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._status.update(progress)

    def _progress(self) -> str:
        """Say how many trials of all workers have ended, and how long the rest may take."""
        seconds = [outcome.seconds for outcome in self.study.outcomes()]
        running = len(self.study.trials(TrialState.RUNNING))
        left = running + len(self.study.trials(TrialState.WAITING))
        text = f"{len(seconds)} of {len(seconds) + left} trials"
        if not left or not seconds:
            return text
        rest = sum(seconds) / len(seconds) * left / max(self.options.jobs, running, 1)
        unit, name = next((unit, name) for unit, name in _UNITS if rest >= 1.5 * unit or unit == 1)
        return f"{text}, about {rest / unit:.0f} {name} left"


def _url(path: Path, storage: str | None) -> str:
    """The database of a sweep: SQLite in its directory, where no other is named."""
    return storage or f"sqlite:///{path.resolve() / 'study.db'}"


def _checked(sweep: Sweep, path: Path, options: Options, console: Console) -> Mapping[str, Any]:
    """Check what can be checked before the first trial, and give the configuration without parameters."""
    composed = check_parameters(sweep)
    if fit_words(sweep.command) is None:
        console.print("Neither parameters nor metrics are checked beforehand: the program is not `lit-decom fit`.")
    elif options.check and not (path / _SWEEP_FILE).exists():
        console.print("A dry trial of one batch shows what is logged.")
        check_objectives(sweep, dry_trial(sweep, composed))
    return composed


def _refuse_unfit(sweep: Sweep, options: Options, backend: str) -> None:
    for name, value, least in (("jobs", options.jobs, 0), ("n_trials", options.n_trials, 1)):
        if value is not None and value < least:
            raise SweepError(f"Expected `--{name}` to be at least {least}, but got {value}.")
    if sweep.early_terminate is not None and len(sweep.objectives) > 1:
        raise SweepError(
            "Expected `early_terminate` with one objective only, since a trial may be hopeless in one and best in "
            f"another, but there are {len(sweep.objectives)}."
        )
    for parameter in sweep.parameters if backend == "grid" else ():
        parameter.counted()


def _directory(described: Mapping[str, Any], options: Options) -> Path:
    """Give the sweep's directory, and refuse one that holds another sweep."""
    path = options.directory or Path("runs") / "sweeps" / described["name"]
    now = {**described, "storage": options.storage}
    before = json.loads((path / _SWEEP_FILE).read_text()) if (path / _SWEEP_FILE).exists() else now
    changed = [key for key, value in now.items() if before[key] != value]
    if changed:
        raise SweepError(
            f"Expected {path} to hold this sweep, but it holds one with another {' and '.join(changed)}. "
            "Choose another `--dir` or remove it."
        )
    return path
