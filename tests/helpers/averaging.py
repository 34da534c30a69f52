"""Callbacks that average weights, and put the average in place for a validation at different moments."""

from typing import Any

import lightning.pytorch as pl
import torch


class EpochAverage(pl.Callback):
    """A running average as in many a repository: in place from the start of a validation epoch to its end."""

    def __init__(self, decay: float = 0.7) -> None:
        self.decay = decay
        self.average: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        weights = [each.detach().clone() for each in pl_module.parameters()]
        before = self.average or weights
        self.average = [self.decay * old + (1 - self.decay) * new for old, new in zip(before, weights, strict=True)]

    def swap(self, pl_module: pl.LightningModule) -> None:
        for position, each in enumerate(pl_module.parameters() if self.average else ()):
            self.average[position], each.data = each.data, self.average[position]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.swap(pl_module)


class WholeAverage(EpochAverage):
    """The same, in place from before the validation to after it."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pass

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pass

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.swap(pl_module)
