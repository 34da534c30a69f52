"""DecomCAMCallback: explain the same images at every epoch of a training, and change nothing about it."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.callbacks.pictures import peaks_of
from lit_decom.callbacks.reporting import Reporter, class_gains
from lit_decom.callbacks.trainer_access import (
    Monitors,
    has_validation,
    logged_step,
    progress,
    read_probe,
    refuse_sharded,
    run_directory,
    this_process,
)
from lit_decom.components.shared import SharedComponents
from lit_decom.evaluation import TargetPolicy
from lit_decom.evidence import ReadLogits
from lit_decom.methods.decom_cam import DecomCAM
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.stratified import Strata
from lit_decom.observer import Observer
from lit_decom.probe import Probe, Unpack
from lit_decom.records import EpochRecord, RunDirectory, RunDirectoryError
from lit_decom.report import write_report
from lit_decom.scoring import Scoreboard

_DEFAULT_PROBE_SIZE = 64


class DecomCAMCallback(pl.Callback):
    """Explain a fixed probe at every validation, score what is found, log it, and keep it.

    Attach it to a Trainer; nothing in the module has to change, as long as its forward takes images and returns logits.
    Training goes on bit for bit as without it. It fires at the end of each validation epoch (of each training epoch
    where there is no validation loop), and in ``validate`` and ``test``.

    Args:
        method: how to explain.
        probe: what to explain. A number asks for that many images, balanced by class, from the validation data (the
            training data where there are none); None asks for 64.
        target_layer: a name as in ``pl_module.named_modules()`` or a dotted suffix that is unique; None takes the
            deepest layer that still has 7 x 7 positions, and says which.
        every_n_epochs: fires in every n-th epoch.
        target: the class explained: ``"label"``, ``"predicted"``, ``"contrast"`` (the two largest logits), one class
            for all, or a callable from logits ``(n, N)`` and labels ``(n,)`` to scores ``(n,)``.
        metrics: what is scored: metrics of :mod:`lit_decom.metrics`, a mapping that names them, ``"default"``
            (localization where the probe has masks, complexity, and average drop, increase and gain), or none.
        strata: the images that are scored apart, as for :class:`lit_decom.metrics.StratifiedWrapper`.
        baselines: registered methods that are scored on the same evidence.
        chance: whether maps that know nothing are scored, too.
        reference_epoch: the strata of the images at the first firing in or after this epoch are kept, and scored under
            ``fixed_<stratum>``: there, a curve shows the same images throughout.
        shared_components: how many components the whole probe is decomposed into together, so that each means the same
            in every image; 0 for none.
        freeze_shared: whether these stay what they were at the first firing.
        n_drawn: how many of the probe's images are drawn.
        batch_size: probe images explained at once; with the layer's size it sets the memory needed.
        chunk_size: altered images per forward pass; by default what suits the device.
        seed: of the choice of the probe.
        unpack: from a batch of one to image and label, where samples are neither tuples nor mappings with ``image`` and
            ``label``.
        read_logits: reads the logits from what the module returns, where it is neither a tensor nor holds ``logits``.
        dirpath: the run directory; by default the logger's own for this run.
        report: whether the run is written as one HTML page at the end of ``fit``.
        prefix: of all keys; give two callbacks on one Trainer different ones.
        strict: whether an error while explaining or reporting ends the training, instead of being warned about and
            counted under ``decomcam/errors``.

    Raises:
        ValueError: if a number is out of range or a policy is unknown.
    """

    def __init__(
        self,
        method: DecomCAM = DecomCAM(),  # noqa: B008 -- frozen
        probe: Probe | int | None = None,
        target_layer: str | None = None,
        every_n_epochs: int = 1,
        target: TargetPolicy = "label",
        *,
        metrics: Sequence[PerImageMetric] | Mapping[str, PerImageMetric] | Literal["default"] = "default",
        strata: Strata = "correctness",
        baselines: Sequence[str] = ("grad_cam",),
        chance: bool = True,
        reference_epoch: int = 0,
        shared_components: int = 6,
        freeze_shared: bool = False,
        n_drawn: int = 8,
        batch_size: int = 16,
        chunk_size: int | None = None,
        seed: int = 0,
        unpack: Unpack | None = None,
        read_logits: ReadLogits | None = None,
        dirpath: str | Path | None = None,
        report: bool = False,
        prefix: str = "decomcam",
        strict: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(probe, Probe | int | None):
            raise TypeError(f"Expected `probe` to be a Probe, a number or None, but got {type(probe).__name__}.")
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 1),
            ("batch_size", batch_size, 1),
            ("chunk_size", chunk_size, 1),
            ("n_drawn", n_drawn, 0),
            ("shared_components", shared_components, 0),
            ("probe", probe, 1),
        ):
            if isinstance(value, int) and value < least:
                raise ValueError(f"Expected `{name}` to be at least {least}, but got {value}.")
        self.probe = probe if isinstance(probe, Probe) else None
        self.target_layer, self.every_n_epochs, self.n_drawn = target_layer, every_n_epochs, n_drawn
        self.prefix, self.strict, self.dirpath = prefix, strict, None if dirpath is None else Path(dirpath)
        self.report = report
        self._sharing: dict[str, Any] = {"n_components": shared_components, "frozen": freeze_shared}
        self._reading: dict[str, Any] = {
            "n": probe if isinstance(probe, int) else _DEFAULT_PROBE_SIZE,
            "seed": seed,
            "unpack": unpack,
        }
        self._given_probe = self.probe is not None
        self._observing: dict[str, Any] = {
            "method": method,
            "target": target,
            "metrics": metrics,
            "strata": strata,
            "baselines": baselines,
            "chance": chance,
            "reference_epoch": reference_epoch,
            "batch_size": batch_size,
            "chunk_size": chunk_size,
            "read_logits": read_logits,
        }
        self._begin()

    def _begin(self) -> None:
        """Forget the run before: one callback may serve several, as in a sweep."""
        self.observer = self._new_observer()
        self.directory: RunDirectory | None = None
        self.report_path: Path | None = None
        self.last_record: EpochRecord | None = None
        self.last_scoreboard: Scoreboard | None = None
        self.errors = 0
        self._run_id = uuid.uuid4().hex
        self._resumed: dict[str, Any] = {}
        self._history: list[dict[str, float]] = []
        self._warned: set[tuple[str, type[Exception]]] = set()
        self._answers = ClassAccuracy()
        self._described: set[str] = set()
        self._peaks: Tensor | None = None

    @property
    def needs_class_accuracy(self) -> bool:
        """Whether the accuracy of every class over the whole validation set must be known."""
        return bool(self._observing["strata"] == "class_accuracy")

    def _new_observer(self) -> Observer:
        shared = SharedComponents(**self._sharing) if self._sharing["n_components"] else None
        return Observer(**self._observing, shared=shared)

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix)

    # ----- when

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        refuse_sharded(trainer)
        Monitors(trainer, self.prefix).refuse_fragile(every_firing=self.every_n_epochs == 1)
        if stage == "fit" and trainer.global_step == 0:
            self._begin()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._prepare(trainer, pl_module)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._fire_if_due(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fire_if_due(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not has_validation(trainer):
            self._fire_if_due(trainer, pl_module, after_training_epoch=True)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.report and self.directory is not None and self.last_record is not None:
            with self._forgiving("write the report"):
                self.report_path = write_report([self.directory.path])

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
        if self.needs_class_accuracy and not trainer.sanity_checking and self._due(trainer) and dataloader_idx == 0:
            with self._forgiving("count right and wrong answers"):
                self._answers.count(pl_module, batch, self._reading["unpack"], self._observing["read_logits"])

    def _fire_if_due(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, after_training_epoch: bool = False
    ) -> None:
        step = logged_step(trainer, after_training_epoch=after_training_epoch)
        if trainer.state.fn != "fit":
            # Other data, and weights from anywhere: what was followed during a training goes on as if nothing had been.
            followed = self.observer, self.probe
            try:
                self.observer = self._new_observer()
                self._prepare(trainer, pl_module)
                self._fire(trainer, pl_module, trainer.current_epoch, step)
            finally:
                self.observer, self.probe = followed
        elif self._due(trainer):
            self._fire(trainer, pl_module, trainer.current_epoch, step)
        else:
            Monitors(trainer, self.prefix).withdraw(set())

    def _due(self, trainer: pl.Trainer) -> bool:
        return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0

    # ----- before the first step

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the probe, find the layer and explain one image, so that what cannot work fails now."""
        if not self._given_probe:
            self.probe = read_probe(trainer, pl_module, **self._reading)
        probe = _known(self.probe)
        fitting = trainer.state.fn == "fit"
        if fitting:
            self._refuse_changed_probe(probe)
        try:
            grid = self.observer.prepare(pl_module, probe, self.target_layer)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        if self.target_layer is None:
            layer = self.observer.settings["target_layer"]
            rank_zero_info(f"DecomCAM explains `target_layer={layer!r}` ({grid[0]} x {grid[1]} positions).")
        if self._keeps_records(trainer):
            self._open_directory(trainer, probe)

    def _keeps_records(self, trainer: pl.Trainer) -> bool:
        return trainer.state.fn == "fit" and trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def _refuse_changed_probe(self, probe: Probe) -> None:
        before = self._resumed.get("probe_digest")
        if before is not None and before != probe.digest:
            same_ids = tuple(self._resumed["probe_ids"]) == probe.ids
            raise MisconfigurationException(
                f"Expected the probe to be the one this run began with (digest {before[:12]}), but it has digest "
                f"{probe.digest[:12]} and {'the same' if same_ids else 'other'} ids. Curves over different images do "
                "not belong together: restore the data, or start a new run."
            )

    def _open_directory(self, trainer: pl.Trainer, probe: Probe) -> None:
        before = self._resumed.get("directory") if self.directory is None else self.directory.path
        path = self.dirpath
        if path is None and before is not None and RunDirectory(Path(before)).owner() == self._run_id:
            path = Path(before)
        path = path or run_directory(trainer, self.prefix)
        directory = RunDirectory(path)
        settings = self.observer.settings | {"every_n_epochs": self.every_n_epochs}
        reached = logged_step(trainer, after_training_epoch=False) if self._resumed else None
        try:
            directory.open(self._run_id, probe, settings, reached)
        except RunDirectoryError as error:
            raise MisconfigurationException(str(error)) from error
        except OSError as error:
            with self._forgiving(f"keep records in {path}"):
                raise error
        else:
            self.directory = directory

    # ----- at each firing

    def _fire(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int, step: int) -> None:
        numbers: dict[str, float] = {}
        probe = _known(self.probe)
        with self._forgiving("explain the probe"):
            if self.needs_class_accuracy:
                self.observer.class_accuracy = self._answers.accuracy(this_process(trainer))
            with progress(trainer, len(probe), "DecomCAM") as advance:
                record = self.observer.observe(
                    pl_module, epoch=epoch, step=step, process=this_process(trainer), advance=advance
                )
            self.last_record, self.last_scoreboard = record, self.observer.scoreboard
            numbers = dict(record.numbers)
            if trainer.state.fn == "fit":
                names = _known(self.probe).class_names
                self._history.append({"step": step, "epoch": record.epoch, **numbers, **class_gains(record, names)})
            if trainer.is_global_zero:
                self._report(trainer, record)
        values = {f"{self.prefix}/{name}": value for name, value in numbers.items()}
        values[f"{self.prefix}/errors"] = float(self.errors)
        Monitors(trainer, self.prefix).withdraw(set(values))
        # All processes hold the same values, except that only the first one can fail to report.
        shared: dict[str, Any] = {"sync_dist": trainer.world_size > 1, "reduce_fx": "max"}
        pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=1, **shared)

    def _report(self, trainer: pl.Trainer, record: EpochRecord) -> None:
        """Keep the record and draw from it; what fails here is missing from the report and from nothing else."""
        directory = self.directory if self._keeps_records(trainer) else None
        reporter = Reporter(trainer.loggers, self.prefix, self.n_drawn)
        if directory is not None:
            with self._forgiving("keep the record"):
                record.save(directory.path)
        with self._forgiving("draw the OSSM grid"):
            peaks = peaks_of(record, self._peaks)
            self._peaks = peaks if trainer.state.fn == "fit" else self._peaks
            reporter.draw(record, _known(self.probe), directory, peaks)
        if trainer.state.fn == "fit":
            with self._forgiving("describe the values"):
                reporter.describe(_known(self.probe), record.numbers, self.observer.directions, self._described)
            with self._forgiving("draw the gain curves"):
                reporter.chart(self._history)

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """Count an error and warn once of its kind, unless ``strict``."""
        try:
            yield
        except Exception as error:
            if self.strict:
                raise
            self.errors += 1
            if (what, type(error)) not in self._warned:
                self._warned.add((what, type(error)))
                rank_zero_warn(
                    f"DecomCAMCallback could not {what}: {type(error).__name__}: {error} "
                    "Training goes on; `strict=True` makes this an error."
                )

    # ----- resuming

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.probe is None:
            return {}
        return {
            "run_id": self._run_id,
            "directory": None if self.directory is None else str(self.directory.path),
            "probe_digest": self.probe.digest,
            "probe_ids": list(self.probe.ids),
            "history": [dict(numbers) for numbers in self._history],
            "peaks": self._peaks,
            "observer": self.observer.state_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._resumed = state_dict
            self._run_id = state_dict["run_id"]
            self._history = [dict(numbers) for numbers in state_dict["history"]]
            self._peaks = state_dict.get("peaks")
            self.observer.load_state_dict(state_dict["observer"])


def _known(value: Any) -> Any:
    if value is None:
        raise RuntimeError("Probe and run directory are known from the start of training or validation on.")
    return value
