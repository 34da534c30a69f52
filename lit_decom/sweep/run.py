"""Run a sweep: check it, open its study, and work its trials off until none is left."""

import json
import math
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from tqdm import tqdm

from lit_decom.sweep import SweepError
from lit_decom.sweep.check import check_objectives, check_parameters, dry_trial
from lit_decom.sweep.spec import read_sweep
from lit_decom.sweep.study import NUMBER, OUTCOME, SweepStudy, TrialPruned, TrialState, described_in
from lit_decom.sweep.trial import Outcome, end_of_log, fit_words, plain_text, run_trial

_SWEEP_FILE = "sweep.json"
_BACKENDS = {"bayes": "optuna", "grid": "grid", "random": "random"}
_DEFAULT_TRIALS = 20
_FAILURES_TO_STOP = 3
_IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """How a sweep is run: what stands on the command line of ``lit-decom sweep``."""

    file: Path | None = None  # in W&B's format; None for a sweep that is joined
    study: str | None = None  # that is joined, where the storage has several
    backend: str | None = None  # optuna, grid or random; None for what the file's `method` says
    n_trials: int | None = None  # over all workers and resumptions; None for all of a grid, and 20 otherwise
    jobs: int = 1  # trials at once; 0 leaves them to other workers
    dir: Path | None = None  # of the sweep; None for runs/sweeps/<name of the file>
    storage: str | None = None  # URL of the database that holds the study; None for an SQLite file in the directory
    seed: int = 0  # of draws and samplers
    check: bool = True  # whether the dry trial is made
    heartbeat: int = 10  # seconds between a trial's signs of life


def run_sweep(options: Options, console: Console) -> Path:
    """Run a sweep or go on with it, or join one that ``lit-decom sweep run`` has opened, on any machine.

    Args:
        options: which sweep, and how it is run.
        console: where each trial's result is printed.

    Returns:
        The directory of the sweep, or of what this worker ran of it.

    Raises:
        SweepError: if the sweep cannot be run or found, or none of its trials can be run.
        KeyboardInterrupt: when the user interrupts; what was running is run again next time.
    """
    described = _checked(options, console) if options.file else described_in(str(options.storage), options.study)
    path = _directory(described, options)
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / "open.lock"):
        study = SweepStudy(_url(path, options.storage), described, options.heartbeat)
        if options.file:
            default = None if study.is_grid else _DEFAULT_TRIALS
            study.put_in_line(options.n_trials or study.sweep.file.run_cap or default)
        (path / _SWEEP_FILE).write_text(json.dumps(described | {"storage": options.storage}, indent=2))
    Worker(study, path, options, console).work()
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
    """

    def __init__(self, study: SweepStudy, path: Path, options: Options, console: Console) -> None:
        self.study, self.trials, self.options, self.console = study, path.resolve() / "trials", options, console
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads, self._stopping = max(1, cores // max(1, options.jobs)), threading.Event()
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
                self._stopping.set()
        if self._failed and not self._worked:
            said = end_of_log(self.trials / str(self._failed[-1].number))
            raise SweepError(
                f"Expected a trial to work, but all {len(self._failed)} failed; the last one said:\n{said}"
            )
        if self.study.is_reached():
            self.console.print("The target is reached.")

    def _work(self) -> None:
        while not self._stopping.is_set() and (self._worked or len(self._failed) < _FAILURES_TO_STOP):
            self.study.take_up_the_dead()
            if self.study.is_reached():
                return
            if self.study.trials(TrialState.WAITING):
                self.study.optuna.optimize(self._run, n_trials=1, callbacks=[self._report])
            elif self.options.file and self.study.trials(TrialState.RUNNING):
                self._stopping.wait(_IDLE_SECONDS)
            else:
                return

    def _run(self, trial: Any) -> float | list[float]:
        """Run one trial for Optuna, to which a value that is not a number means that it failed."""
        number, sweep = trial.user_attrs.get(NUMBER), self.study.sweep
        if number is None:
            return math.nan  # another worker was faster, and Optuna made a trial beyond the last
        if OUTCOME in trial.user_attrs:
            outcome: Outcome | None = Outcome.of(trial.user_attrs[OUTCOME])  # its worker died before it could say so
        else:
            params = {parameter.name: parameter.suggest(trial) for parameter in self.study.parameters}
            place = self.trials / str(number)
            outcome = run_trial(sweep, params, place, trial, threads=self._threads, stopping=self._stopping)
        if outcome is None:
            self.study.put_back(trial.number)
            return math.nan
        trial.set_user_attr(OUTCOME, outcome.stored())
        if outcome.state == "pruned":
            raise TrialPruned
        if outcome.state == "failed":
            return math.nan
        return [outcome.readings[objective.name].value for objective in sweep.objectives]

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
        return f"{text}, about {tqdm.format_interval(rest)} left"


def _url(path: Path, storage: str | None) -> str:
    """The database of a sweep: SQLite in its directory, where no other is named."""
    return storage or f"sqlite:///{path.resolve() / 'study.db'}"


def _checked(options: Options, console: Console) -> dict[str, Any]:
    """Read a sweep's file, check what can be checked before the first trial, and describe the sweep for workers."""
    sweep = read_sweep(options.file or Path())
    backend = options.backend or _BACKENDS[sweep.file.method]
    described = {"name": sweep.name, "sweep": sweep.raw, "backend": backend, "seed": options.seed}
    path = _directory(described, options)
    check_parameters(sweep, is_grid=backend == "grid")
    if fit_words(sweep.command) is None:
        console.print("Neither parameters nor metrics are checked beforehand: the program is not `lit-decom fit`.")
    elif options.check and not (path / _SWEEP_FILE).exists():
        console.print("A dry trial of one batch shows what is logged.")
        check_objectives(sweep, dry_trial(sweep))
    return described


def _directory(described: dict[str, Any], options: Options) -> Path:
    """Give the sweep's directory, and refuse one that holds another sweep."""
    path, now = options.dir or Path("runs") / "sweeps" / described["name"], described | {"storage": options.storage}
    before = json.loads((path / _SWEEP_FILE).read_text()) if (path / _SWEEP_FILE).exists() else now
    changed = [key for key, value in now.items() if before[key] != value]
    if changed:
        raise SweepError(
            f"Expected {path} to hold this sweep, but it holds one with another {' and '.join(changed)}. "
            "Choose another `--dir` or remove it."
        )
    return path
