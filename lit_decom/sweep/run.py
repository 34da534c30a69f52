"""Run a sweep: check it, open its directory, and let workers go through its trials."""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lit_decom.sweep.bayes import Bayes, open_study
from lit_decom.sweep.check import check_objectives, check_parameters, dry_trial
from lit_decom.sweep.errors import SweepError, tail
from lit_decom.sweep.files import locked, read_json, write_json
from lit_decom.sweep.planned import plan, work_through
from lit_decom.sweep.program import fit_words
from lit_decom.sweep.spec import Sweep, read_sweep
from lit_decom.sweep.trials import Outcome, TrialRunner, read_outcomes

BACKENDS = {"bayes": "optuna", "grid": "grid", "random": "random"}
_DEFAULT_TRIALS = 20
_FAILURES_TO_STOP = 3
_SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class SweepOptions:
    """How one sweep is to be run: what stands on the command line of ``lit-decom sweep run``.

    Attributes:
        file: YAML file that describes the sweep, in W&B's format.
        backend: ``optuna``, ``grid`` or ``random``; None for what the file's ``method`` says.
        n_trials: over all workers and resumptions; None for all of a grid, and 20 otherwise.
        jobs: trials at once.
        directory: of the sweep; None for ``runs/sweeps/<name of the file>``.
        storage: of Optuna's study; None for a journal file in the directory.
        seed: of draws and samplers.
        check: whether the dry trial is made.
    """

    file: Path
    backend: str | None = None
    n_trials: int | None = None
    jobs: int = 1
    directory: Path | None = None
    storage: str | None = None
    seed: int = 0
    check: bool = True


def run_sweep(options: SweepOptions, console: Console) -> Path:
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
    sweep = read_sweep(options.file)
    backend = options.backend or BACKENDS[sweep.method]
    _refuse_unfit(sweep, options, backend)
    # what is cheap to refuse comes before what takes a while
    points = None if backend == "optuna" else plan(sweep, backend, _count(options, sweep, backend), options.seed)
    path = options.directory or Path("runs") / "sweeps" / sweep.name
    _refuse_other(path, sweep, options, backend)
    composed = check_parameters(sweep)
    if fit_words(sweep.command) is None:
        console.print(
            "The program is not `lit-decom fit`: neither its parameters nor what it logs are checked beforehand."
        )
    elif options.check and not read_outcomes(path):
        console.print("A dry trial of one batch shows what is logged.")
        check_objectives(sweep, dry_trial(sweep, composed))
    _open(path, sweep, options, backend, composed)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    runner = TrialRunner(sweep, path, composed, threads)
    progress = _Progress(runner, console)
    if points is None:
        study = open_study(sweep, path, options.storage)
        n_trials = _count(options, sweep, backend) or 0
        bayes = Bayes(runner, study, options.seed, n_trials, private=options.storage is None)
        _in_parallel(options.jobs, lambda: bayes.work(progress.report, progress.keep_going), runner)
    else:
        listed: list[Mapping[str, Any]] = list(points)
        _in_parallel(options.jobs, lambda: work_through(runner, listed, progress.report, progress.keep_going), runner)
    progress.refuse_hopeless()
    return path


class _Progress:
    """Prints the result of each trial, and ends a sweep whose first trials all fail."""

    def __init__(self, runner: TrialRunner, console: Console) -> None:
        self.runner, self.console = runner, console
        self._lock = threading.Lock()
        self._last_failure: Outcome | None = None
        self._failures = 0
        self._worked = any(outcome.state != "failed" for outcome in read_outcomes(runner.path))

    def report(self, outcome: Outcome) -> None:
        with self._lock:
            self._worked |= outcome.state != "failed"
            if outcome.state == "failed":
                self._failures, self._last_failure = self._failures + 1, outcome
            values = ", ".join(f"{name} {reading.value:.4g}" for name, reading in outcome.readings.items())
            params = ", ".join(f"{name.rsplit('.', 1)[-1]}={_short(value)}" for name, value in outcome.params.items())
            result = values if outcome.state == "complete" else f"{values} {outcome.reason}".strip()
            head = f"trial {outcome.number} {outcome.state} in {outcome.seconds:.0f} s"
            self.console.print(f"{head}: {result} ({params})", highlight=False)

    def keep_going(self) -> bool:
        """Whether another trial is worth while."""
        hopeless = not self._worked and self._failures >= _FAILURES_TO_STOP
        return not hopeless and not self.runner.stopping.is_set()

    def refuse_hopeless(self) -> None:
        """Say why nothing worked.

        Raises:
            SweepError: if every trial of this worker failed.
        """
        if self._last_failure is not None and not self._worked:
            log = tail(Path(self._last_failure.directory) / "log.txt")
            raise SweepError(f"Expected a trial to work, but all {self._failures} failed; the last one said:\n{log}")


def _refuse_unfit(sweep: Sweep, options: SweepOptions, backend: str) -> None:
    for name, value in (("jobs", options.jobs), ("n_trials", options.n_trials)):
        if value is not None and value < 1:
            raise SweepError(f"Expected `--{name}` to be at least 1, but got {value}.")
    if options.storage is not None and backend != "optuna":
        raise SweepError(f"Expected `--storage` with the backend optuna only, but got the backend {backend}.")
    if sweep.early_terminate is not None and len(sweep.objectives) > 1:
        raise SweepError(
            "Expected `early_terminate` with one objective only, since a trial may be hopeless in one and best in "
            f"another, but there are {len(sweep.objectives)}."
        )
    if sweep.early_terminate is not None and backend != "optuna":
        raise SweepError(
            f"Expected `early_terminate` with the backend optuna (or wandb), but got the backend {backend}."
        )


def _count(options: SweepOptions, sweep: Sweep, backend: str) -> int | None:
    asked = options.n_trials or sweep.raw.get("run_cap")
    return asked if asked is not None or backend == "grid" else _DEFAULT_TRIALS


def _described(sweep: Sweep, options: SweepOptions, backend: str) -> dict[str, Any]:
    return {"sweep": dict(sweep.raw), "backend": backend, "seed": options.seed, "storage": options.storage}


def _refuse_other(path: Path, sweep: Sweep, options: SweepOptions, backend: str) -> None:
    """Refuse a directory that holds another sweep."""
    before = read_json(path / _SWEEP_FILE)
    now = _described(sweep, options, backend)
    changed = [] if before is None else [key for key, value in now.items() if before[key] != value]
    if changed:
        raise SweepError(
            f"Expected {path} to hold this sweep, but it holds one with another {' and '.join(changed)}. "
            "Choose another `--dir` or remove it."
        )


def _open(path: Path, sweep: Sweep, options: SweepOptions, backend: str, composed: Mapping[str, Any]) -> None:
    with locked(path / "locks" / "open.lock"):
        if not (path / _SWEEP_FILE).exists():
            write_json(path / "composed.json", composed)
            write_json(path / _SWEEP_FILE, _described(sweep, options, backend) | {"name": sweep.name})


def _in_parallel(jobs: int, work: Callable[[], None], runner: TrialRunner) -> None:
    """Run `work` in several threads; on an interruption, wait until each has ended its trial."""
    errors: list[BaseException] = []

    def worker() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- raised again by the main thread
            errors.append(error)
            runner.stopping.set()

    threads = [threading.Thread(target=worker) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        runner.stopping.set()
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
