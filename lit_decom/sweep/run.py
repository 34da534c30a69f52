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
from lit_decom.sweep.files import Lock, read_json, write_json
from lit_decom.sweep.planned import plan, work_through
from lit_decom.sweep.program import fit_words
from lit_decom.sweep.spec import Sweep, read_sweep
from lit_decom.sweep.trials import Outcome, Workshop, read_outcomes

BACKENDS = {"bayes": "optuna", "grid": "grid", "random": "random"}
_DEFAULT_TRIALS = 20
_FAILURES_TO_STOP = 3
_SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class Order:
    """What the user asked for.

    Attributes:
        file: of the sweep.
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


def run_sweep(order: Order, console: Console) -> Path:
    """Run a sweep, or go on with it.

    Args:
        order: what is asked for.
        console: is told what happens.

    Returns:
        The sweep's directory.

    Raises:
        SweepError: if the sweep cannot be run, or none of its trials can.
        KeyboardInterrupt: when the user interrupts; what was running is run again next time.
    """
    sweep = read_sweep(order.file)
    backend = order.backend or BACKENDS[sweep.method]
    _refuse_unfit(sweep, order, backend)
    # what is cheap to refuse comes before what takes a while
    points = None if backend == "optuna" else plan(sweep, backend, _count(order, sweep, backend), order.seed)
    path = order.directory or Path("runs") / "sweeps" / sweep.name
    _refuse_other(path, sweep, order, backend)
    composed = check_parameters(sweep)
    if fit_words(sweep.command) is None:
        console.print(
            "The program is not `lit-decom fit`: neither its parameters nor what it logs are checked beforehand."
        )
    elif order.check and not read_outcomes(path):
        console.print("A dry trial of one batch shows what is logged.")
        check_objectives(sweep, composed, *dry_trial(sweep, composed))
    _open(path, sweep, order, backend, composed)
    threads = max(1, (os.cpu_count() or 1) // order.jobs)
    workshop = Workshop(sweep, path, composed, threads)
    journal = _Journal(workshop, console)
    if points is None:
        study = open_study(sweep, path, order.storage)
        bayes = Bayes(workshop, study, order.seed, _count(order, sweep, backend) or 0, private=order.storage is None)
        _in_parallel(order.jobs, lambda: bayes.work(journal.tell, journal.keep_going), workshop)
    else:
        listed: list[Mapping[str, Any]] = list(points)
        _in_parallel(order.jobs, lambda: work_through(workshop, listed, journal.tell, journal.keep_going), workshop)
    journal.refuse_hopeless()
    return path


class _Journal:
    """Tells the console of each trial, and stops a sweep none of whose trials work."""

    def __init__(self, workshop: Workshop, console: Console) -> None:
        self.workshop, self.console = workshop, console
        self._lock = threading.Lock()
        self._last_failure: Outcome | None = None
        self._failures = 0
        self._worked = any(outcome.state != "failed" for outcome in read_outcomes(workshop.path))

    def tell(self, outcome: Outcome) -> None:
        with self._lock:
            self._worked |= outcome.state != "failed"
            if outcome.state == "failed":
                self._failures, self._last_failure = self._failures + 1, outcome
            values = ", ".join(f"{name} {reading.value:.4g}" for name, reading in outcome.readings.items())
            params = ", ".join(f"{name.rsplit('.', 1)[-1]}={_short(value)}" for name, value in outcome.params.items())
            told = values if outcome.state == "complete" else f"{values} {outcome.reason}".strip()
            self.console.print(
                f"trial {outcome.number} {outcome.state} in {outcome.seconds:.0f} s: {told} ({params})", highlight=False
            )

    def keep_going(self) -> bool:
        """Whether another trial is worth while."""
        hopeless = not self._worked and self._failures >= _FAILURES_TO_STOP
        return not hopeless and not self.workshop.stopping.is_set()

    def refuse_hopeless(self) -> None:
        """Say why nothing worked.

        Raises:
            SweepError: if every trial of this worker failed.
        """
        if self._last_failure is not None and not self._worked:
            log = tail(Path(self._last_failure.directory) / "log.txt")
            raise SweepError(f"Expected a trial to work, but all {self._failures} failed; the last one said:\n{log}")


def _refuse_unfit(sweep: Sweep, order: Order, backend: str) -> None:
    for name, value in (("jobs", order.jobs), ("n_trials", order.n_trials)):
        if value is not None and value < 1:
            raise SweepError(f"Expected `--{name}` to be at least 1, but got {value}.")
    if order.storage is not None and backend != "optuna":
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


def _count(order: Order, sweep: Sweep, backend: str) -> int | None:
    asked = order.n_trials or sweep.raw.get("run_cap")
    return asked if asked is not None or backend == "grid" else _DEFAULT_TRIALS


def _described(sweep: Sweep, order: Order, backend: str) -> dict[str, Any]:
    return {"sweep": dict(sweep.raw), "backend": backend, "seed": order.seed, "storage": order.storage}


def _refuse_other(path: Path, sweep: Sweep, order: Order, backend: str) -> None:
    """Refuse a directory that holds another sweep."""
    before = read_json(path / _SWEEP_FILE)
    now = _described(sweep, order, backend)
    changed = [] if before is None else [key for key, value in now.items() if before[key] != value]
    if changed:
        raise SweepError(
            f"Expected {path} to hold this sweep, but it holds one with another {' and '.join(changed)}. "
            "Choose another `--dir` or remove it."
        )


def _open(path: Path, sweep: Sweep, order: Order, backend: str, composed: Mapping[str, Any]) -> None:
    with Lock(path / "locks" / "open.lock").held():
        if not (path / _SWEEP_FILE).exists():
            write_json(path / "composed.json", composed)
            write_json(path / _SWEEP_FILE, _described(sweep, order, backend) | {"name": sweep.name})


def _in_parallel(jobs: int, work: Callable[[], None], workshop: Workshop) -> None:
    """Let workers work; on an interruption, let them put down what they have."""
    errors: list[BaseException] = []

    def worker() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- raised again by the main thread
            errors.append(error)
            workshop.stopping.set()

    threads = [threading.Thread(target=worker) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        workshop.stopping.set()
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
