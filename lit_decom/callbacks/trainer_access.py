"""What the callback must ask of a Trainer beside its data: steps, directories, monitors, a progress bar."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lit_decom import keys
from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.lightning_roots import is_a
from lit_decom.process import Process


def refuse_sharded(trainer: pl.Trainer) -> None:
    """Refuse strategies that cut the network into pieces that no single process can run.

    Raises:
        MisconfigurationException: naming the strategy.
    """
    if any(is_a(trainer.strategy, kind) for kind in (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
        raise MisconfigurationException(
            f"Expected a strategy that keeps the whole network in each process, but got "
            f"{type(trainer.strategy).__name__}: explanations of sharded networks are not supported."
        )


def has_validation(trainer: pl.Trainer) -> bool:
    """Whether a validation loop runs during ``fit``."""
    return bool(trainer.enable_validation)


def ends_after_batch(trainer: pl.Trainer) -> bool:
    """Whether the training batch that ends now is followed by a validation or, where there is none, ends its epoch."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher  # noqa: SLF001
    if has_validation(trainer):
        return fetcher is not None and loop._should_check_val_fx(fetcher)  # noqa: SLF001 -- what Lightning asks next
    return loop._num_ready_batches_reached()  # noqa: SLF001


def logged_step(trainer: pl.Trainer, *, after_training_epoch: bool) -> int:
    """The step under which Lightning logs scalars of the running epoch-end hook, so that pictures stand beside them."""
    stepped = trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001 -- what the logger connector itself uses
    return max(int(stepped) - (1 if after_training_epoch else 0), 0)


def step_of_checkpoint(checkpoint: Mapping[str, Any]) -> int:
    """The step under which Lightning logged the validation that this checkpoint was saved after."""
    stepped = checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    # Counted on between a validation in the middle of an epoch and one at its end.
    return max(min(int(stepped), int(checkpoint["global_step"]) - 1), 0)


def run_directory(trainer: pl.Trainer, prefix: str, tolerance: Tolerance) -> Path:
    """The run's own directory: ``<save_dir>/<name>/<version or run id>/<prefix>``, or one named by the time."""
    for logger in trainer.loggers:
        with tolerance.forgiving(f"learn from {type(logger).__name__} where the run is kept"):
            if (folder := _folder_of(logger)) is not None:
                return folder / prefix
    # To the microsecond, since the trials of a sweep may start in the same second.
    return Path(trainer.default_root_dir) / prefix / datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S.%f")


def _folder_of(logger: Logger) -> Path | None:
    if is_a(logger, WandbLogger):
        # The run has no id before its experiment is made.
        version = logger.experiment.id
    else:
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return None if logger.save_dir is None else Path(logger.save_dir) / str(logger.name) / str(version)


def this_process(trainer: pl.Trainer) -> Process:
    """This process among those of the Trainer."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return Process()

    def exchange(mine: Any) -> list[Any]:
        everyone: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(everyone, mine)
        return everyone

    return Process(trainer.global_rank, trainer.world_size, exchange)


class Monitors:
    """The callbacks and schedulers that read logged values by key.

    A value that is not logged stays in ``trainer.callback_metrics`` from an earlier epoch, and a checkpoint would be
    ranked by it.

    Args:
        trainer: with its callbacks.
        prefix: of the keys that are ours.
    """

    def __init__(self, trainer: pl.Trainer, prefix: str) -> None:
        self.trainer, self.prefix = trainer, prefix

    def refuse_fragile(self, always_there: Mapping[str, bool], *, every_epoch: bool) -> None:
        """Refuse an ``EarlyStopping`` that ends the training as soon as there is no value to monitor.

        Args:
            always_there: by the name of each metric, whether its value over all images is always there.
            every_epoch: whether there is a snapshot in every epoch.

        Raises:
            MisconfigurationException: with the remedy.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if not (is_a(callback, EarlyStopping) and callback.check_finite and callback.monitor):
                continue
            key = keys.without_prefix(self.prefix, callback.monitor)
            if key is not None and not (every_epoch and keys.is_always_there(key, always_there)):
                raise MisconfigurationException(
                    f"Expected `EarlyStopping(monitor={callback.monitor!r})` to have `check_finite=False`: not every "
                    "epoch has a value there (a stratum may be empty, a component may end, the first snapshot has "
                    "nothing to compare with, an epoch may have no snapshot), and training would stop at its absence."
                )

    def withdraw(self, fresh: set[str]) -> None:
        """Take back what an earlier snapshot logged and this one does not: NaN where it is monitored, absent elsewhere.

        Args:
            fresh: the keys that are logged now.
        """
        metrics = self.trainer.callback_metrics
        for key in [key for key in metrics if self._is_ours(key) and key not in fresh]:
            del metrics[key]
        for key in {keys.logged(self.prefix, key) for key in self.monitored} - fresh:
            # Not logged: only those who rank by it need to know that there is no value.
            metrics[key] = torch.tensor(float("nan"))

    @property
    def monitored(self) -> set[str]:
        """The keys of ours, without prefix, that something is chosen by."""
        monitored = {getattr(callback, "monitor", None) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        monitored |= {config.monitor for config in self.trainer.lr_scheduler_configs}
        ours = {keys.without_prefix(self.prefix, name) for name in monitored if isinstance(name, str)}
        return {key for key in ours if key is not None}

    def _is_ours(self, key: str) -> bool:
        return keys.without_prefix(self.prefix, key) is not None


def module_values(trainer: pl.Trainer, prefix: str) -> dict[str, float]:
    """Give what has been logged in this validation (without one, in this training epoch) but by a callback of `prefix`.

    ``trainer.callback_metrics`` will not do: beside these, it has values of the epoch before. Within an epoch there is
    nothing, since what is logged there may be of a single batch.
    """
    if trainer._logger_connector._first_loop_iter is not None:  # noqa: SLF001
        return {}
    values = trainer._logger_connector.metrics["callback"]  # noqa: SLF001
    return {name: float(value) for name, value in values.items() if keys.without_prefix(prefix, name) is None}


def log_values(  # noqa: PLR0917
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    values: Mapping[str, float],
    shown: set[str],
    moment: tuple[int, int],
    tell: Callable[[Iterable[Logger], Callable[[Logger], None]], None],
) -> None:
    """Leave values that are the same in every process where checkpoints and schedulers find them, and log some.

    During ``fit`` all at once: ``log_dict`` makes a metric of each, which takes longer than a whole picture.

    Args:
        trainer: which logs.
        pl_module: of the Trainer.
        values: by key.
        shown: keys of those that loggers get and, in ``validate`` and ``test``, that are printed and returned.
        moment: epoch, and step under which Lightning logs scalars of the same moment.
        tell: calls the loggers, see :class:`lit_decom.callbacks.trackers.Trackers`.
    """
    dtype, device = torch.get_default_dtype(), pl_module.device
    tensors = torch.tensor(list(values.values()), dtype=dtype, device=device).unbind()
    trainer.callback_metrics.update(zip(values, tensors, strict=True))
    sent = {key: value for key, value in values.items() if key in shown}
    if trainer.state.fn != "fit":
        # Lightning sends loggers everything that it prints and returns, and asks nobody.
        pl_module.log_dict(sent, on_step=False, on_epoch=True, batch_size=1, sync_dist=trainer.world_size > 1)
        return
    epoch, step = moment
    sent |= {"epoch": epoch}
    connector: Any = trainer._logger_connector  # noqa: SLF001 -- the way of what the module logs
    connector._logged_metrics.update(sent)  # noqa: SLF001

    def log(logger: Logger) -> None:
        logger.log_metrics(metrics=dict(sent), step=step)
        logger.save()

    tell(trainer.loggers, log)


def checkpoints_of(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Tell which checkpoints of a run are on disk, and what they are of.

    Returns:
        Of each its ``path``; its ``epoch`` and ``step``, the latter as the snapshot's that explains it, where the file
        can be read; and the ``monitor`` and ``score`` that it was kept for, where there is one.
    """
    found: dict[str, dict[str, Any]] = {}
    for callback in trainer.checkpoint_callbacks:
        if is_a(callback, ModelCheckpoint):
            scores = {path: float(score) for path, score in callback.best_k_models.items()}
            for path in filter(None, {callback.best_model_path, callback.last_model_path, *scores}):
                kept = {"monitor": callback.monitor, "score": scores[path]} if path in scores else {}
                found.setdefault(path, {"path": path, **_moment_of(Path(path))}).update(kept)
    return sorted(found.values(), key=lambda entry: (entry.get("step", -1), entry["path"]))


def layer_of_checkpoint(checkpoint: str | Path | Mapping[str, Any] | None, prefix: str) -> str | None:
    """Tell which layer the run explained that left a checkpoint.

    Before Lightning 2.6 callbacks get their state back in ``fit`` alone.

    Args:
        checkpoint: what was read from it, or where it is.
        prefix: of the callback.

    Returns:
        The full name; None where nothing was explained, or the file holds other things than tensors and primitives.
    """
    if checkpoint is None:
        return None
    try:
        read: Any = _as_it_lies(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
        states: Mapping[str, Any] = read.get("callbacks", {})
        ours = (state for key, state in states.items() if key.endswith(repr({"prefix": prefix})))
        return next((state["target_layer"] for state in ours if state.get("target_layer")), None)
    except Exception:  # noqa: BLE001 -- a checkpoint may be anything that its Trainer can read
        return None


def _moment_of(path: Path) -> dict[str, int]:
    """Epoch and step of a checkpoint; nothing where it cannot be read, or holds other things than tensors."""
    try:
        checkpoint = _as_it_lies(path)
        return {"epoch": int(checkpoint["epoch"]), "step": step_of_checkpoint(checkpoint)}
    except Exception:  # noqa: BLE001 -- as above
        return {}


def _as_it_lies(path: str | Path) -> Any:
    """Read a checkpoint without loading its tensors."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


@contextmanager
def progress(trainer: pl.Trainer, total: int, description: str) -> Iterator[Callable[[int], None]]:
    """Show a bar beside the Trainer's own, where it shows one; yields what moves it by a number of images."""
    bar = trainer.progress_bar_callback
    if is_a(bar, RichProgressBar) and bar.progress is not None and bar.is_enabled:
        lines = bar.progress
        task = next((task.id for task in lines.tasks if task.description == description), None)
        task = lines.add_task(description, visible=False) if task is None else task
        lines.reset(task, total=total, visible=True)
        try:
            yield lambda images: lines.update(task, advance=images, refresh=True)
        finally:
            # Hidden and not removed: Lightning 2.5 finds its own tasks by their place in the list.
            lines.update(task, visible=False)
    elif is_a(bar, TQDMProgressBar) and bar.is_enabled:
        with Tqdm(total=total, desc=description, leave=False, position=2, unit="image") as line:

            def advance(images: int) -> None:
                line.update(images)

            yield advance
    else:
        yield lambda _images: None
