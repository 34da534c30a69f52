"""What ``lit-decom fit`` does as a trial: it writes values, how sure they are, and two checkpoints for the sweep."""

import json
import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.data import extract_batch_size
from torchmetrics import Metric
from typing_extensions import override

from lit_decom import keys
from lit_decom.callbacks import DecomCAMCallback
from lit_decom.fitting import LitDecomCLI, callbacks_of
from lit_decom.functional.shares import share_intervals
from lit_decom.sweep import METRICS_FILE, OBJECTIVES_FILE, RECORDS, TRIAL_DIRECTORY


class TrialCLI(LitDecomCLI):
    """Keeps to the directory of its trial, while the configuration that is kept stays the one that was given."""

    @override
    def instantiate_classes(self) -> None:
        given, directory = self.config, Path(os.environ[TRIAL_DIRECTORY])
        if self.subcommand == "fit":
            self.trainer_defaults = {"callbacks": TrialLog(directory)}
            self.config = _within(directory, given)
        self._given = given
        super().instantiate_classes()

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        self.config = self._given
        return super().instantiate_trainer(**kwargs)


class TrialLog(Checkpoint):
    """Write a line per validation to ``metrics.jsonl`` in the trial's directory, and two checkpoints.

    A kind of checkpoint, so that Lightning lets it act after every other callback has logged. ``best.ckpt`` is of the
    validation at which the first objective was best, ``last.ckpt`` of the end. For the objectives the interval of 95 %
    is written, and the values per image where they are known.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.goals: dict[str, str] = json.loads((directory / OBJECTIVES_FILE).read_text())
        self._best, self._images = -math.inf, 0

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0 and not trainer.sanity_checking:
            self._images += extract_batch_size(batch) * trainer.world_size

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.enable_validation:
            self._log(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.directory / "checkpoints" / "last.ckpt")

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        values = {key: value for key, value in logged.items() if math.isfinite(value)}
        first = next(iter(self.goals))
        score = values.get(first, math.nan) * (1 if self.goals[first] == "maximize" else -1)
        if score > self._best:
            self._best = score
            trainer.save_checkpoint(self.directory / "checkpoints" / "best.ckpt")
        if not trainer.is_global_zero:
            return
        known = {key: self._known_of(key, values[key], trainer, pl_module) for key in self.goals if key in values}
        self._images = 0
        line = {"epoch": trainer.current_epoch, "step": trainer.global_step, "values": values, "objectives": known}
        file = self.directory / METRICS_FILE
        if not file.exists():
            line["directions"] = {key: _direction(key, trainer, pl_module) for key in {*values, *_possible(trainer)}}
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")

    def _known_of(self, key: str, value: float, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The interval of an objective, from how many images, and their values where they are known."""
        callback = _callback(key, trainer)
        if callback is not None and callback.last_snapshot is not None:
            scores = {keys.logged(callback.prefix, score.key): score for score in callback.last_snapshot.metric_scores}
            values = callback.observer.values_by_image(scores[key]) if key in scores else {}
            if values:
                return {"interval": scores[key].interval, "n": len(values), "per_image": values}
        metric = _metric(key, pl_module)
        is_share = "Accuracy" in type(metric).__name__ and getattr(metric, "average", "micro") == "micro"
        if not (is_share and self._images and 0 <= value <= 1):
            return {}
        # Lightning logs shares in single precision, so that share times count is whole only after rounding.
        right = torch.arange(self._images) < round(value * self._images)
        low, high = share_intervals(right.double()[:, None])[0].tolist()
        return {"interval": None if math.isnan(low) else [low, high], "n": self._images}


def _within(directory: Path, given: Namespace) -> Namespace:
    """Let a run keep to a directory, and to offline W&B: a sweep of ours needs no account."""
    placed = given.clone()
    placed["fit.callback.dirpath"] = str(directory / RECORDS)
    placed["fit.trainer.default_root_dir"] = str(directory)
    placed["fit.trainer.enable_progress_bar"] = False
    for key, value in {"save_dir": str(directory), "offline": True}.items():
        if f"fit.trainer.logger.init_args.{key}" in placed:
            placed[f"fit.trainer.logger.init_args.{key}"] = value
    return placed


def _direction(key: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool | None:
    """Say whether more is better of a logged value; None where that is unknown.

    Known are the callback's metrics, metrics of the module whose attribute is named as the key with ``_`` for ``/``,
    and whatever is called a loss.
    """
    callback, metric = _callback(key, trainer), _metric(key, pl_module)
    if callback is not None:
        return keys.direction_of(key.removeprefix(keys.logged(callback.prefix, "")), callback.observer.directions)
    if metric is not None and metric.higher_is_better is not None:
        return bool(metric.higher_is_better)
    return False if key.endswith("loss") else None


def _possible(trainer: pl.Trainer) -> set[str]:
    """Name the scores that a longer run may have, though this snapshot does not: a stratum may be empty now."""
    boards = {callback.prefix: callback.observer.board for callback in callbacks_of(trainer)}
    return {keys.logged(prefix, key) for prefix, board in boards.items() if board for key in board.possible_keys}


def _callback(key: str, trainer: pl.Trainer) -> DecomCAMCallback | None:
    known = (callback for callback in callbacks_of(trainer) if keys.without_prefix(callback.prefix, key) is not None)
    return next(known, None)


def _metric(key: str, pl_module: pl.LightningModule) -> Metric | None:
    """The metric of the module that is named as the key."""
    wanted = key.replace("/", "_")
    named = (module for name, module in pl_module.named_modules() if name.replace(".", "_") == wanted)
    return next((module for module in named if isinstance(module, Metric)), None)
