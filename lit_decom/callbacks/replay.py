"""Replay: the records that a live callback would have made, from the checkpoints of a run that had none."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from lit_decom.callbacks.decom_cam import DecomCAMCallback
from lit_decom.callbacks.trainer_access import layer_of_checkpoint, step_of_checkpoint
from lit_decom.observer import Observer
from lit_decom.progress import counted


class ReplayCallback(DecomCAMCallback):
    """A :class:`DecomCAMCallback` that takes weights, epoch and step from checkpoints instead of from a training."""

    _epoch = 0
    _step = 0

    def replay(
        self, trainer: pl.Trainer, model: pl.LightningModule, datamodule: pl.LightningDataModule | None, folder: Path
    ) -> Path:
        """Explain the probe as the network was at every checkpoint of a folder, in the order of their steps.

        Args:
            trainer: with this callback.
            model: of the run; its weights are replaced.
            datamodule: of the run.
            folder: with ``.ckpt`` files; of several with one step, the first by name counts.

        Returns:
            The directory of the records: ``dirpath``, or ``decomcam`` in the folder.

        Raises:
            MisconfigurationException: if there is no checkpoint, or one cannot be read or does not fit the model.
        """
        self.dirpath = self.dirpath or folder / "decomcam"
        if self.explainer.method.warm_start:
            rank_zero_warn(
                "With `warm_start` each snapshot begins where the one before ended: these records are those of the run "
                "itself only if every snapshot of it left a checkpoint here."
            )
        checkpoints = _by_step(folder, self.prefix)
        if self._layer is None:
            self._layer = next(filter(None, (found.layer for found in checkpoints)), None)
            self.observer.explainer = self._explainer_of_run()
        with counted(f"{len(checkpoints)} checkpoints", len(checkpoints)) as self._advance:
            for found in checkpoints:
                _load(model, found.path)
                self._epoch, self._step = found.epoch, found.step
                trainer.validate(model, datamodule=datamodule, verbose=False)
        if self.directory is not None:
            self.run_log.close(self.directory)
        return self.dirpath

    @override
    def _progress(self, trainer: pl.Trainer) -> AbstractContextManager[Callable[[int], None]]:
        """Move the bar of all checkpoints."""
        size = len(self._known_probe())
        return nullcontext(lambda images: self._advance(images / size))

    @override
    def _is_due(self, trainer: pl.Trainer) -> bool:
        return True

    @override
    def _moment(self, trainer: pl.Trainer, *, after_training_epoch: bool) -> tuple[int, int]:
        return self._epoch, self._step

    @override
    @contextmanager
    def _observer_for(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[Observer]:
        """Give the one observer that follows all checkpoints."""
        if self.observer.probe is None:
            self._prepare(trainer, pl_module)
        yield self.observer

    @override
    def _module_values(self, trainer: pl.Trainer) -> dict[str, float]:
        """Give nothing: what the module logs here may be of a single batch."""
        return {}

    @override
    def _keeps_records(self, trainer: pl.Trainer) -> bool:
        return trainer.is_global_zero


@dataclass(frozen=True)
class _Checkpoint:
    """Where a checkpoint lies, and what is told of it: its weights are read only when it has its turn."""

    path: Path
    epoch: int
    step: int
    layer: str | None


def _by_step(folder: Path, prefix: str) -> list[_Checkpoint]:
    """Find the checkpoints of a folder, in the order of their steps; of several with one step the first by name."""
    found: dict[int, _Checkpoint] = {}
    for path in sorted(folder.rglob("*.ckpt")):
        checkpoint = _read(path)
        step = step_of_checkpoint(checkpoint)
        layer = layer_of_checkpoint(checkpoint, prefix)
        found.setdefault(step, _Checkpoint(path, int(checkpoint["epoch"]), step, layer))
    if not found:
        raise MisconfigurationException(f"Expected {folder} to hold checkpoints (*.ckpt), but found none.")
    return [found[step] for step in sorted(found)]


def _load(model: pl.LightningModule, path: Path) -> None:
    try:
        model.load_state_dict(_read(path)["state_dict"])
    except RuntimeError as error:
        raise MisconfigurationException(f"Expected {path} to fit the model, but: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; its tensors stay in the file until they are used."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = {"state_dict", "epoch", "global_step", "loops"} - set(checkpoint)
    except (RuntimeError, EOFError, TypeError, pickle.UnpicklingError, OSError) as error:
        raise MisconfigurationException(f"Expected {path} to be a checkpoint, but: {error}") from error
    if missing:
        raise MisconfigurationException(f"Expected {path} to be a checkpoint of Lightning, but it lacks {missing}.")
    return checkpoint
