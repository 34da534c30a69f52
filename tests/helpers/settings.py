"""A setting of a training, and what must hold of it with the callback attached: the rows of a table."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lit_decom import DecomCAMCallback
from tests.helpers.modules import Spots, callback, loader, seed_all, tiny, trainer
from tests.helpers.training import Diary, fingerprint

Loaders = tuple[Any, Any]


def augmented() -> Loaders:
    """Loaders of training and validation whose images are drawn anew from the global generators each time."""
    return loader(Spots(augment=True), shuffle=True), loader(Spots(8, seed=2, augment=True))


@dataclass(frozen=True)
class Setting:
    """One row: everything is built anew, from the same seed, for the training with the callback and the one without.

    Attributes:
        name: what is special.
        module: builds the module.
        loaders: builds the loaders of training and of validation.
        observer: arguments of the callback.
        trainer: arguments of the Trainer, or what builds them in a folder of the run's own.
        around: what surrounds both trainings, a fault that strikes from outside for instance; it is called with the
            folder of the run.
        before: builds other callbacks of both trainings, which stand before the callback.
        beside: builds those that stand after it.
        snapshots: how many the run must leave, in memory and as records.
        errors: how many failures must be let pass, counted by the callback.
        warns: patterns of warnings that must be raised with the callback; all others are errors.
        state: reads more of the module, the loaders or the Trainer that must be the same before each batch.
    """

    name: str
    module: Callable[[], pl.LightningModule] = lambda: tiny(freeze_first_norm=True)
    loaders: Callable[[], Loaders] = augmented
    observer: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] | Callable[[Path], Mapping[str, Any]] = field(default_factory=dict)
    around: Callable[[Path], AbstractContextManager[Any]] = lambda _root: nullcontext()
    before: Callable[[], Sequence[pl.Callback]] = tuple
    beside: Callable[[], Sequence[pl.Callback]] = tuple
    snapshots: int = 3
    errors: int = 0
    warns: Sequence[str] = ()
    state: Callable[[pl.Trainer, pl.LightningModule], Any] = lambda _trainer, _module: None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Trained:
    """What a training has left: a page per batch, and whoever took part."""

    pages: list[dict[str, Any]]
    trainer: pl.Trainer
    module: pl.LightningModule
    observer: DecomCAMCallback | None
    warned: list[str]


class _Diary(Diary):
    """Notes what the setting wants to be the same beside all that a fingerprint holds."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._setting = setting

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any) -> None:
        super().on_train_batch_start(trainer, pl_module, *batch)
        self.pages[-1]["state"] = repr(self._setting.state(trainer, pl_module))
        self.pages[-1]["logged"] = repr(_not_ours(trainer))


def run(setting: Setting, root: Path, *, watched: bool) -> Trained:
    """Train once, with the callback or without it.

    Args:
        setting: the row of the table.
        root: an empty folder.
        watched: whether the callback is attached.
    """
    root.mkdir(parents=True, exist_ok=True)
    seed_all(0)
    module, loaders, diary = setting.module(), setting.loaders(), _Diary(setting)
    observer = callback(**({"strict": False, "dirpath": root / "run"} | dict(setting.observer))) if watched else None
    others = [*setting.beside(), diary]
    given = dict(setting.trainer(root) if callable(setting.trainer) else setting.trainer)
    fitted = trainer(root, *setting.before(), *([observer] if observer else []), *others, **({"max_epochs": 3} | given))
    seed_all(7)
    with setting.around(root), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit(module, *loaders)
    pages = [*diary.pages, fingerprint(fitted, module) | {"logged": repr(_not_ours(fitted))}]
    return Trained(pages, fitted, module, observer, [str(warning.message) for warning in caught])


def _not_ours(trainer: pl.Trainer) -> dict[str, float]:
    return {key: float(value) for key, value in trainer.callback_metrics.items() if not key.startswith("decomcam")}
