"""What a trial writes for the sweep: the values of every validation, how sure they are, and two checkpoints."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lit_decom import keys
from lit_decom.callbacks import DecomCAMCallback
from lit_decom.functional.shares import share_intervals
from lit_decom.sweep.program import METRICS_FILE


class TrialLog(Checkpoint):
    """Write a line per validation to ``metrics.jsonl`` in the trial's directory, and two checkpoints.

    A kind of checkpoint, so that Lightning lets it act after every other callback has logged. ``best.ckpt`` is of the
    validation at which the first objective was best, ``last.ckpt`` of the end.

    Args:
        directory: of the trial.
        objectives: names and goals (``maximize`` or ``minimize``) of what the sweep looks at; for these the interval of
            95 % is written, and the values per image where they are known.
    """

    def __init__(self, directory: str, objectives: list[list[str]]) -> None:
        self.directory, self.objectives = Path(directory), objectives
        self._best, self._images = -math.inf, 0

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._images = 0

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
        self._images += _length(batch) * trainer.world_size if dataloader_idx == 0 else 0

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
        name, goal = self.objectives[0]
        score = values.get(name, -math.inf if goal == "maximize" else math.inf) * (1 if goal == "maximize" else -1)
        if score > self._best:
            self._best = score
            trainer.save_checkpoint(self.directory / "checkpoints" / "best.ckpt")
        if trainer.is_global_zero:
            known = {
                key: self._known_of(key, values[key], trainer, pl_module) for key, _ in self.objectives if key in values
            }
            line = {"epoch": trainer.current_epoch, "step": trainer.global_step, "values": values, "objectives": known}
            file = self.directory / METRICS_FILE
            if not file.exists():
                directions = {key: direction_of(key, trainer, pl_module) for key in {*values, *_possible(trainer)}}
                line |= {"directions": directions}
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")

    def _known_of(self, key: str, value: float, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The interval of an objective, from how many images, and their values where they are known."""
        callback = _callback_of(key, trainer)
        if callback is not None and callback.last_snapshot is not None:
            scores = {keys.logged(callback.prefix, score.key): score for score in callback.last_snapshot.metric_scores}
            values = callback.observer.values_by_image(scores[key]) if key in scores else {}
            if values:
                return {"interval": scores[key].interval, "n": len(values), "per_image": values}
        metric = _metric_of(key, pl_module)
        is_share = "Accuracy" in type(metric).__name__ and getattr(metric, "average", "micro") == "micro"
        if not (is_share and self._images and 0 <= value <= 1):
            return {}
        # Lightning logs shares in single precision, so that share times count is whole only after rounding.
        right = torch.arange(self._images) < round(value * self._images)
        low, high = share_intervals(right.double()[:, None])[0].tolist()
        return {"interval": None if math.isnan(low) else [low, high], "n": self._images}


def direction_of(key: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool | None:
    """Say whether more is better of a logged value; None where that is unknown.

    Known are the callback's metrics, metrics of the module whose attribute is named as the key with ``_`` for ``/``,
    and whatever is called a loss.
    """
    callback = _callback_of(key, trainer)
    if callback is not None:
        rest = keys.without_prefix(callback.prefix, key)
        return None if rest is None else keys.direction_of(rest, callback.observer.directions)
    metric = _metric_of(key, pl_module)
    if metric is not None and metric.higher_is_better is not None:
        return bool(metric.higher_is_better)
    return False if key.rsplit("/", 1)[-1].endswith("loss") else None


def _possible(trainer: pl.Trainer) -> set[str]:
    """Name the scores that a longer run may have, though this snapshot does not: a stratum may be empty now."""
    ours = [callback for callback in trainer.callbacks if isinstance(callback, DecomCAMCallback)]  # type: ignore[attr-defined]
    return {
        keys.logged(callback.prefix, key)
        for callback in ours
        if callback.observer.board is not None
        for key in callback.observer.board.possible_keys
    }


def _callback_of(key: str, trainer: pl.Trainer) -> DecomCAMCallback | None:
    ours = (callback for callback in trainer.callbacks if isinstance(callback, DecomCAMCallback))  # type: ignore[attr-defined]
    return next((callback for callback in ours if keys.without_prefix(callback.prefix, key) is not None), None)


def _metric_of(key: str, pl_module: pl.LightningModule) -> Metric | None:
    wanted = key.replace("/", "_")
    for name, module in pl_module.named_modules():
        if isinstance(module, Metric) and name.replace(".", "_") == wanted:
            return module
    return None


def _length(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else []
    return next((length for part in parts if (length := _length(part))), 0)
