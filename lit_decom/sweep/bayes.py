"""Optuna's search: the study lives in a journal file or at a storage address, and survives its workers."""

import socket
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import BaseFileLock

from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.files import locked
from lit_decom.sweep.spec import Sweep
from lit_decom.sweep.trials import Outcome, TrialRunner

_MISSING = "Expected `optuna` to be installed: pip install 'lit-decom[sweep]'"
_RETRY_OF, _WORKER, _OUTCOME = "retry_of", "worker", "outcome"


@dataclass(frozen=True)
class Bayes:
    """One worker's view of a study.

    Attributes:
        runner: runs one trial after another.
        study: ``optuna.Study``.
        seed: of the sampler.
        n_trials: how many trials the study is to have, over all workers and resumptions, without the lost ones.
        private: whether every worker of the study shares the runner's directory, as with the default journal file.
    """

    runner: TrialRunner
    study: Any
    seed: int
    n_trials: int
    private: bool

    def work(self, report: Callable[[Outcome], None], keep_going: Callable[[], bool]) -> None:
        """Run trials until the study has enough."""
        while keep_going() and (asked := self._ask()) is not None:
            trial, params, lock = asked
            try:
                watch = self._watch(trial) if self.runner.sweep.early_terminate is not None else None
                outcome = self.runner.run(trial.number, params, watch)
                if outcome is None:
                    return
                # what is known per image stays in the directory: databases limit the length of what they keep
                readings = {name: replace(reading, per_image=None) for name, reading in outcome.readings.items()}
                trial.set_user_attr(_OUTCOME, asdict(replace(outcome, readings=readings)))
                self._tell(trial.number, outcome)
                report(outcome)
            finally:
                lock.release()

    def _ask(self) -> tuple[Any, dict[str, Any], BaseFileLock] | None:
        """Begin a trial and hold its lock, or find that there are enough."""
        optuna = load_optuna()
        with locked(self.runner.path / "locks" / "ask.lock"):
            self._take_up_the_dead()
            begun = self._begun()
            waiting = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
            if begun >= self.n_trials and not waiting:
                return None
            # Seeded anew by what there is, so that a resumed study goes on as it would have.
            self.study.sampler = optuna.samplers.TPESampler(seed=zlib.crc32(f"{self.seed}/{begun}".encode()))
            trial = self.study.ask()
            lock = self.runner.lock(trial.number)
            lock.acquire()
            trial.set_user_attr(_WORKER, self._me)
            params = {parameter.name: parameter.suggest(trial) for parameter in self.runner.sweep.parameters}
            return trial, params, lock

    def _begun(self) -> int:
        """How many trials run or have run, without the lost ones and those that take their place."""
        optuna = load_optuna()
        states = optuna.trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(_RETRY_OF) for trial in trials}
        return sum(
            trial.state != states.WAITING and trial.number not in retried and not _is_blank(trial, states)
            for trial in trials
        )

    def _take_up_the_dead(self) -> None:
        """Mark the trials whose worker died here as failed, and put their parameters in line once more."""
        states = load_optuna().trial.TrialState
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(_RETRY_OF) for trial in trials}
        for trial in trials:
            worker = trial.user_attrs.get(_WORKER)
            ours = worker == self._me or (worker is None and self.private)
            if trial.state != states.RUNNING or not ours or (lock := self.runner.claim(trial.number)) is None:
                continue
            try:
                outcome = self.runner.outcome(trial.number)
                if outcome is not None:
                    # it died between writing its outcome and telling the study
                    self._tell(trial.number, outcome)
                    continue
                whole = set(trial.params) == {parameter.name for parameter in self.runner.sweep.parameters}
                if whole and trial.number not in retried:
                    self.study.enqueue_trial(trial.params, user_attrs={_RETRY_OF: trial.number})
                self.study.tell(trial.number, state=states.FAIL)
                self.runner.set_aside(trial.number)
            finally:
                lock.release()

    def _tell(self, number: int, outcome: Outcome) -> None:
        states = load_optuna().trial.TrialState
        values = [outcome.readings[o.name].value for o in self.runner.sweep.objectives if o.name in outcome.readings]
        if outcome.state == "complete":
            self.study.tell(number, values)
        else:
            self.study.tell(number, state=states.PRUNED if outcome.state == "pruned" else states.FAIL)

    def _watch(self, trial: Any) -> Callable[[int, float], bool]:
        def watch(step: int, value: float) -> bool:
            trial.report(value, step)
            return bool(trial.should_prune())

        return watch

    @property
    def _me(self) -> str:
        return f"{socket.gethostname()}:{self.runner.path.resolve()}"


def load_optuna() -> ModuleType:
    """Import Optuna.

    Raises:
        SweepError: without the extra ``sweep``, naming it.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise SweepError(_MISSING) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(sweep: Sweep, path: Path, storage: str | None) -> Any:
    """Open a sweep's study, or make it.

    Args:
        sweep: what is swept; its file's content is part of the study's name, so that a changed file is another study.
        path: the sweep's directory.
        storage: address of a database as Optuna takes it, or a journal file; by default ``journal.log`` in `path`.

    Returns:
        An ``optuna.Study``.
    """
    optuna = load_optuna()
    file = str(path / "journal.log") if storage is None else storage
    kept: Any = file
    if "://" not in file:
        kept = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    return optuna.create_study(
        storage=kept,
        study_name=f"lit-decom/{sweep.name}-{sweep.digest[:8]}",
        directions=[objective.goal for objective in sweep.objectives],
        pruner=pruner_of(sweep.early_terminate),
        load_if_exists=True,
    )


def pruner_of(rule: Mapping[str, Any] | None) -> Any:
    """Translate ``early_terminate`` into Optuna's pruner; iterations are validations."""
    optuna = load_optuna()
    if rule is None:
        return optuna.pruners.NopPruner()
    first = rule.get("min_iter", 1)
    if rule["type"] == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=rule.get("min_trials", 5), n_warmup_steps=first - 1)
    eta = rule.get("eta", 3)
    if "max_iter" in rule and "min_iter" not in rule:
        # W&B counts its brackets back from the last iteration
        first = max(1, rule["max_iter"] // eta ** rule.get("s", 1))
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)


def shared_outcomes(study: Any) -> list[Outcome]:
    """Read the outcomes that workers anywhere kept in the study, by number."""
    kept = [trial.user_attrs[_OUTCOME] for trial in study.get_trials(deepcopy=False) if _OUTCOME in trial.user_attrs]
    return sorted(map(Outcome.of, kept), key=lambda outcome: outcome.number)


def _is_blank(trial: Any, states: Any) -> bool:
    """Whether a trial died before it had parameters."""
    return trial.state == states.FAIL and not trial.params
