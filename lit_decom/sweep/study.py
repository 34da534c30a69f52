"""A sweep as an Optuna study: all its trials wait in a database, and whoever reaches it works them off."""

import hashlib
import json
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import optuna
from sqlalchemy import event

from lit_decom.sweep import SweepError
from lit_decom.sweep.space import grid_points
from lit_decom.sweep.spec import read_raw
from lit_decom.sweep.trial import Outcome

TrialState, TrialPruned = optuna.trial.TrialState, optuna.TrialPruned
NUMBER, OUTCOME = "number", "outcome"  # attributes of trials
_DESCRIBED = "lit_decom"  # attribute of studies
_GRACE = 6  # heartbeats that a trial may miss before it is taken for dead
_MOST_RETRIES = 3  # of a trial whose workers die: it may be what kills them
_POPULATION = 10  # of NSGA-II, whose 50 are more than most sweeps have trials: our choice
optuna.logging.set_verbosity(optuna.logging.ERROR)
# Heartbeats are, and warn at each use.
_experimental = partial(warnings.catch_warnings, action="ignore", category=optuna.exceptions.ExperimentalWarning)


class SweepStudy:
    """The study of one sweep, opened or made.

    Args:
        url: of the database.
        described: what a worker must know: ``name``, the file's content ``sweep``, ``backend`` and ``seed``.
            Another description is another study.
        heartbeat: seconds between a trial's signs of life.

    Raises:
        SweepError: if the database cannot be opened.
    """

    def __init__(self, url: str, described: Mapping[str, Any], heartbeat: int = 10) -> None:
        self.sweep, self._heartbeat = read_raw(described["sweep"], described["name"]), heartbeat
        self.is_grid = described["backend"] == "grid"
        self.parameters = tuple(p.counted() if self.is_grid else p for p in self.sweep.space)
        make: Callable[..., Any] = optuna.samplers.RandomSampler  # the points of a grid are put in line beforehand
        if described["backend"] == "optuna":
            several = partial(optuna.samplers.NSGAIISampler, population_size=_POPULATION)
            make = optuna.samplers.TPESampler if len(self.sweep.objectives) == 1 else several
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self.optuna = optuna.create_study(
            storage=_open_storage(url, heartbeat),
            study_name=f"{described['name']}-{digest[:8]}",
            directions=[objective.goal for objective in self.sweep.objectives],
            sampler=_Renewed(make, described["seed"]),
            pruner=self.sweep.pruner or optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self.optuna.set_user_attr(_DESCRIBED, dict(described))

    def put_in_line(self, n_trials: int | None) -> None:
        """Let trials wait until there are as many as asked for, counting those that ran; None is all of a grid.

        A grid's points are given to their trials, since Optuna's GridSampler repeats some where workers share it.
        """
        begun = len({trial.user_attrs.get(NUMBER) for trial in self.trials()} - {None})
        points = grid_points(self.parameters)[:n_trials] if self.is_grid else [{}] * (n_trials or 0)
        for number, point in list(enumerate(points))[begun:]:
            self.optuna.enqueue_trial(point, user_attrs={NUMBER: number})

    def trials(self, *states: Any) -> list[Any]:
        """Optuna's trials in these states, or all."""
        return list(self.optuna.get_trials(deepcopy=False, states=states or None))

    def outcomes(self) -> list[Outcome]:
        """What became of each trial, by number, wherever it ran."""
        ended = self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        found = {t.user_attrs[NUMBER]: Outcome.of(t.user_attrs[OUTCOME]) for t in ended if OUTCOME in t.user_attrs}
        return [found[number] for number in sorted(found)]

    def is_reached(self) -> bool:
        """Whether a trial has reached the targets of all objectives that have one."""
        wanted = [(index, o) for index, o in enumerate(self.sweep.objectives) if o.target is not None]
        return bool(wanted) and any(
            all(o.sign * (trial.values[index] - o.target) >= 0 for index, o in wanted)
            for trial in self.trials(TrialState.COMPLETE)
        )

    def put_back(self, number: int) -> None:
        """Put a trial, by Optuna's number, in line once more, with its parameters."""
        with _experimental():
            optuna.storages.RetryHeartbeatStaleTrialCallback()(self.optuna, self.optuna.trials[number])

    def take_up_the_dead(self) -> None:
        """Put the trials of dead workers in line once more."""
        with _experimental():
            optuna.storages.fail_stale_trials(self.optuna)
        # One that died before its first heartbeat, when it had no parameters, Optuna does not find.
        before = datetime.now() - timedelta(seconds=_GRACE * self._heartbeat)
        for trial in self.trials(TrialState.RUNNING):
            if len(trial.params) < len(self.parameters) and trial.datetime_start < before:
                self.put_back(trial.number)
                self.optuna.tell(trial.number, state=TrialState.FAIL)


def described_in(url: str, name: str | None) -> dict[str, Any]:
    """Read the description of a study, which need not be named where the database has one alone.

    Raises:
        SweepError: if the database cannot be opened, or the study is not clear.
    """
    summaries = optuna.get_all_study_summaries(_open_storage(url, 1))
    found = {s.study_name: s.user_attrs[_DESCRIBED] for s in summaries if _DESCRIBED in s.user_attrs}
    if name is None and len(found) == 1:
        (name,) = found
    if name not in found:
        listed = ", ".join(found) or "those of `lit-decom sweep run`, of which there is none"
        raise SweepError(f"Expected `--study` to be one of {listed}, but got {name}.")
    return dict(found[name])


class _Renewed(optuna.samplers.BaseSampler):
    """Makes a sampler anew for every trial, seeded by the trial's number in the sweep.

    A sampler of one seed would draw the same in every worker, and from the start again after a kill.
    """

    def __init__(self, make: Callable[..., Any], seed: int) -> None:
        self._make, self._seed, self._of_thread = make, seed, threading.local()

    def before_trial(self, study: Any, trial: Any) -> None:
        number = trial.user_attrs.get(NUMBER)
        self._of_thread.sampler = self._make(seed=zlib.crc32(f"{self._seed}/{number}".encode()))
        self._of_thread.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, *asked: Any) -> Any:
        return self._of_thread.sampler.infer_relative_search_space(*asked)

    def sample_relative(self, *asked: Any) -> Any:
        return self._of_thread.sampler.sample_relative(*asked)

    def sample_independent(self, *asked: Any) -> Any:
        return self._of_thread.sampler.sample_independent(*asked)


def _open_storage(url: str, heartbeat: int) -> Any:
    # Workers wait for one another; SQLite alone gives up after five seconds.
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    life: dict[str, Any] = {"heartbeat_interval": heartbeat, "grace_period": _GRACE * heartbeat}
    try:
        with _experimental():
            retry = optuna.storages.RetryHeartbeatStaleTrialCallback(_MOST_RETRIES)
            storage = optuna.storages.RDBStorage(url, waiting, **life, heartbeat_stale_trial_callback=retry)
    except Exception as error:  # SQLAlchemy's, its drivers' and the network's
        raise SweepError(f"Expected `--storage` to be a database's URL, but got {url}: {error}") from error
    if url.startswith("sqlite"):
        # SQLite has no SELECT ... FOR UPDATE, without which two workers can take the same trial.
        storage.engine.dispose()
        event.listen(storage.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage
