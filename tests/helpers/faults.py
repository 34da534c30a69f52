"""Places where a snapshot can break, in one of several processes, and a callback that breaks them epoch by epoch."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest import mock

import lightning.pytorch as pl

from lit_decom import observer
from lit_decom.callbacks import reporting, run_log
from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.callbacks.run_log import RunLog
from lit_decom.components import FollowedFactors, FollowedImages
from lit_decom.explainer import Explainer
from lit_decom.metrics.map_history import MapHistory
from lit_decom.process import Stopwatch
from lit_decom.records import Snapshot
from lit_decom.scoring import Scoreboard


@dataclass(frozen=True)
class Place:
    """A function that may raise.

    Attributes:
        owner: a class or module.
        name: of the function in it.
        ranks: of the processes that call it.
        loses: what a fault there costs: the snapshot in all processes, or its record, picture or logged values alone.
    """

    owner: Any
    name: str
    ranks: tuple[int, ...] = (0, 1)
    loses: str = "snapshot"


PLACES = (
    Place(Explainer, "pieces"),
    Place(Scoreboard, "scores"),
    Place(FollowedImages, "update"),
    Place(FollowedFactors, "_responses"),
    Place(FollowedFactors, "_track"),
    Place(observer, "summary"),
    Place(MapHistory, "merge"),
    Place(MapHistory, "observe"),
    Place(Stopwatch, "slowest"),
    Place(Snapshot, "of"),
    Place(ClassAccuracy, "accuracy"),
    Place(RunLog, "note", (0,)),
    Place(run_log, "Monitors", loses="values"),
    Place(reporting, "grids_of", (0,), loses="picture"),
    Place(Snapshot, "save", (0,), loses="record"),
)


@dataclass(frozen=True)
class Fault:
    """A place, in one process, that raises after some calls that go well."""

    place: Place
    rank: int
    error: Exception
    after: int = 0


class Faults(pl.Callback):
    """Breaks what is planned for each epoch while that is validated.

    Args:
        planned: faults by epoch.

    Attributes:
        lost: by epoch, what the faults cost that struck in this process.
    """

    def __init__(self, planned: Mapping[int, Fault]) -> None:
        self.planned, self.lost = planned, dict[int, str]()
        self._patch: Any = None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fault = self.planned.get(trainer.current_epoch)
        if fault is not None and fault.rank == trainer.global_rank and not trainer.sanity_checking:
            epoch = trainer.current_epoch
            self._patch = _breaking(fault, lambda: self.lost.update({epoch: fault.place.loses}))
            self._patch.start()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._patch is not None:
            self._patch.stop()
            self._patch = None


def _breaking(fault: Fault, note: Callable[[], None]) -> Any:
    owner, name = fault.place.owner, fault.place.name
    original, calls = getattr(owner, name), count()

    def broken(*arguments: Any, **named: Any) -> Any:
        if next(calls) >= fault.after:
            note()
            raise fault.error
        return original(*arguments, **named)

    is_bound = inspect.isclass(owner) and inspect.ismethod(original)
    return mock.patch.object(owner, name, staticmethod(broken) if is_bound else broken)
