"""What the callback must ask of a Trainer: data, steps, directories, a progress bar. All of Lightning's privates are here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, default_collate

from lit_decom.isolation import isolated_random_state
from lit_decom.probe import Probe, Unpack


def refuse_sharded(trainer: pl.Trainer) -> None:
    """Refuse strategies that cut the network into pieces that no single process can run.

    Raises:
        MisconfigurationException: naming the strategy.
    """
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise MisconfigurationException(
            f"Expected a strategy that keeps the whole network in each process, but got "
            f"{type(trainer.strategy).__name__}: explanations of sharded networks are not supported."
        )


def has_validation(trainer: pl.Trainer) -> bool:
    """Whether a validation loop runs during ``fit``."""
    return bool(trainer.enable_validation)


def read_probe(
    trainer: pl.Trainer, pl_module: pl.LightningModule, n: int, seed: int, unpack: Unpack | None
) -> Probe:
    """Choose a probe from the data that the Trainer runs on: validation or test data, else training data.

    Raises:
        MisconfigurationException: if the data cannot be read by index.
    """
    loader = _loader(trainer)
    dataset = getattr(loader, "dataset", loader)
    source = trainer.datamodule if getattr(trainer, "datamodule", None) is not None else pl_module
    known = {
        name: value
        for name in ("class_names", "part_names", "mean", "std")
        if (value := getattr(source, name, None)) is not None
    }

    def transfer(batch: Any) -> Any:
        return trainer.strategy.batch_to_device(batch, pl_module.device, dataloader_idx=0)

    try:
        return Probe.from_dataset(
            dataset,
            n,
            seed,
            unpack=unpack,
            collate_fn=getattr(loader, "collate_fn", None) or default_collate,
            transfer=transfer,
            **known,
        )
    except (TypeError, ValueError) as error:
        raise MisconfigurationException(
            f"No probe could be read from {type(dataset).__name__}: {error} Or pass `probe=Probe.from_tensors(...)`."
        ) from error


def _loader(trainer: pl.Trainer) -> Any:
    if trainer.testing:
        found = trainer.test_dataloaders
    elif trainer.validating or trainer.sanity_checking or has_validation(trainer):
        found = trainer.val_dataloaders
        if found is None:
            # No validation in the first epoch: Lightning has not asked for the loader yet.
            with isolated_random_state():
                found = trainer.fit_loop.epoch_loop.val_loop._data_source.dataloader()  # noqa: SLF001
    else:
        found = trainer.train_dataloader
    while isinstance(found, list | tuple | dict) and not isinstance(found, DataLoader):
        found = next(iter(found.values())) if isinstance(found, dict) else found[0]
    return found


def logged_step(trainer: pl.Trainer, *, after_training_epoch: bool) -> int:
    """The step under which Lightning logs scalars of the running epoch-end hook, so that pictures stand beside them."""
    stepped = trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001 -- what the logger connector itself uses
    return max(int(stepped) - (1 if after_training_epoch else 0), 0)


def run_directory(trainer: pl.Trainer) -> Path:
    """The run's own directory: ``<save_dir>/<name>/<version or run id>/decomcam``, or one named by the time."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            # The run has no id before its experiment is made.
            version = logger.experiment.id
        else:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        if logger.save_dir is not None:
            return Path(logger.save_dir) / str(logger.name) / str(version) / "decomcam"
    return Path(trainer.default_root_dir) / "decomcam" / datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")


@contextmanager
def progress(trainer: pl.Trainer, total: int, description: str) -> Iterator[Callable[[int], None]]:
    """Show a bar beside the Trainer's own, where it shows one; yields what moves it by a number of images."""
    bar = trainer.progress_bar_callback
    if not trainer.is_global_zero or bar is None or not bar.is_enabled:
        yield lambda _images: None
    elif isinstance(bar, RichProgressBar) and bar.progress is not None:
        task = bar.progress.add_task(description, total=total)
        try:
            yield lambda images: (bar.progress.update(task, advance=images), bar.refresh())[1]
        finally:
            bar.progress.remove_task(task)
    elif isinstance(bar, TQDMProgressBar):
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=description, leave=False, position=2, unit="image") as line:
            yield lambda images: line.update(images) and None
    else:
        yield lambda _images: None
