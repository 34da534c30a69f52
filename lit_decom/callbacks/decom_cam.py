"""DecomCAMCallback: explain the same images at every epoch of a training, and change nothing about it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_decom.callbacks.budget import Schedule
from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.callbacks.eight_bit import EightBit
from lit_decom.callbacks.kept_probe import keep_probe, probe_of_run
from lit_decom.callbacks.options import Execution, Log
from lit_decom.callbacks.resuming import (
    awaited_moment,
    explained,
    made_up,
    opened_directory,
    own_directory,
    refuse_changed_explanation,
    refuse_changed_layer,
    refuse_changed_probe,
)
from lit_decom.callbacks.run_log import RunLog
from lit_decom.callbacks.settings import KeyFilter, run_settings, usable_prefix
from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.callbacks.trainer_access import (
    Monitors,
    has_validation,
    layer_of_checkpoint,
    logged_step,
    module_values,
    progress,
    refuse_sharded,
    run_directory,
    this_process,
)
from lit_decom.callbacks.trainer_data import Found, of_first_process, read_probe
from lit_decom.callbacks.validated_weights import ValidatedWeights
from lit_decom.components import Components
from lit_decom.evidence import Forward, isolated
from lit_decom.explainer import Explainer, TargetPolicy
from lit_decom.methods.base import ComponentMethod
from lit_decom.methods.decom_cam import DecomCAM
from lit_decom.observer import Observer
from lit_decom.probe import NoImagesError, Probe
from lit_decom.records import RunDirectory, Snapshot
from lit_decom.report import write_report
from lit_decom.scoring import Scoring

_DEFAULT_PROBE_SIZE = 64


class DecomCAMCallback(pl.Callback):
    """Explain a fixed probe at every validation, score what is found, log it, and keep it.

    Attach it to a Trainer; nothing in the module has to change: where its own forward does not take images and return
    logits, ``forward`` says how it is asked. Training goes on bit for bit as without it. It takes a snapshot at the end
    of each validation epoch (where there is no validation loop, of each training epoch), and in ``validate`` and
    ``test``.

    Args:
        method: how to explain; it must give components, as DecomCAM does.
        probe: what to explain. A number asks for that many images, balanced by class, of what the validation loader
            reads (the training loader where there is none); None asks for 64.
        target_layer: a name as in ``pl_module.named_modules()`` or a dotted suffix that is unique; None takes the
            deepest layer that still has 7 x 7 positions, and says which. Checkpoints keep the name, so that a run
            explains one layer throughout: a resumed training, ``validate`` and ``test`` take it from there.
        target: the class explained: ``"label"``, ``"predicted"``, ``"contrast"`` (the two largest logits), one class
            for all, or a callable from logits ``(n, N)`` and labels ``(n,)`` to scores ``(n,)``.
        every_n_epochs: takes a snapshot in every n-th epoch; ``run`` has more: within epochs, and within a budget.
        forward: how the module is asked, where its own forward does not take images and return logits: a callable
            ``(pl_module, images) -> output``, or the name of a submodule to be called on the images, such as
            ``"model"``. The logits are the output itself, or its attribute or key ``logits``.
        scores: what is scored, on which images apart, beside which baselines.
        components: which components are followed beside those of every image.
        log: what goes to the trackers.
        run: how the work is done, what it may cost, and how data are read.
        report: whether the run is written as one HTML page at the end of ``fit``.
        dirpath: the run directory; by default the logger's own for this run.
        prefix: of all keys, and the name of the run directory in the logger's; give two callbacks on one Trainer
            different ones.
        strict: whether an error while explaining, scoring or reporting ends the training, instead of being warned about
            and counted.

    Raises:
        TypeError: if the method gives no components, or the probe is neither a Probe nor a number.
        ValueError: if a number is out of range, a target is unknown or the prefix is no name of a folder.
    """

    def __init__(
        self,
        method: ComponentMethod = DecomCAM(),  # noqa: B008 -- frozen, as all that follow
        probe: Probe | int | None = None,
        target_layer: str | None = None,
        target: TargetPolicy = "label",
        every_n_epochs: int = 1,
        *,
        forward: Forward | None = None,
        scores: Scoring = Scoring(),  # noqa: B008
        components: Components = Components(),  # noqa: B008
        log: Log = Log(),  # noqa: B008
        run: Execution = Execution(),  # noqa: B008
        report: bool = False,
        dirpath: str | Path | None = None,
        prefix: str = "decomcam",
        strict: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(probe, Probe | int | None):
            raise TypeError(f"Expected `probe` to be a Probe, a number or None, but got {type(probe).__name__}.")
        for name, value in (("every_n_epochs", every_n_epochs), ("probe", probe)):
            if isinstance(value, int) and value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        self.explainer = Explainer(method, target_layer, target, run.batch_size, run.chunk_size, forward)
        self.probe = probe if isinstance(probe, Probe) else None
        self._probe_size = probe if isinstance(probe, int) else _DEFAULT_PROBE_SIZE
        self._given_probe = self.probe is not None
        self.every_n_epochs, self.scoring, self.components, self.log_options, self.run = (
            every_n_epochs,
            scores,
            components,
            log,
            run,
        )
        self.report, self.dirpath = report, None if dirpath is None else Path(dirpath)
        self.prefix, self.strict = usable_prefix(prefix), strict
        self._validated = ValidatedWeights()
        self._begin()

    def _begin(self) -> None:
        """Forget the run before: one callback may serve several, as in a sweep."""
        self._layer: str | None = None
        self.observer = self._new_observer()
        self.directory: RunDirectory | None = None
        self.report_path: Path | None = None
        self.last_snapshot: Snapshot | None = None
        self._run_id = uuid.uuid4().hex
        self._resumed: dict[str, Any] = {}
        self.schedule = Schedule(self.every_n_epochs, self.run)
        self._class_accuracy = ClassAccuracy()
        self._eight_bit = EightBit(self.explainer.forward, self.run.isolate)
        self._tolerance = Tolerance(strict=self.strict)
        shown = KeyFilter(self.log_options.patterns(self.scoring.chosen), self.prefix, self.log_options.most)
        self.run_log = RunLog(self.prefix, self.log_options, shown, self._tolerance)

    @property
    def errors(self) -> int:
        """How much failed in this run and was let pass."""
        return self._tolerance.errors

    def _new_observer(self) -> Observer:
        isolate = self.run.isolate
        return Observer(self._explainer_of_run(), self.scoring, self.components, strict=self.strict, isolate=isolate)

    def _explainer_of_run(self) -> Explainer:
        """The explainer as given, at the layer that was found when the run began."""
        given = self.explainer
        return given if self._layer is None or given.target_layer else replace(given, target_layer=self._layer)

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix)

    # ----- when

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        refuse_sharded(trainer)
        Monitors(trainer, self.prefix).refuse_fragile(self.scoring.always_there, every_epoch=self.schedule.is_regular)
        self._probe_loader: int | None = None  # each stage has loaders of its own
        if stage == "fit" and trainer.global_step == 0:
            self._begin()
        if stage == "fit":
            self._validated.stand_first(trainer, self._take_snapshot, self._tolerance)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._prepare(trainer, pl_module)
        with self._tolerance.forgiving("describe the run"):
            self.run_log.introduce(trainer, self._known_probe(), self._settings())
        self.schedule.begin(trainer)
        if (awaited := self._resumed.pop("awaited", None)) is not None:
            with self._validated.in_place(trainer, pl_module):
                self._take_snapshot(trainer, pl_module, awaited=tuple(awaited))

    def _settings(self) -> dict[str, Any]:
        return self.schedule.settings | run_settings(
            self.observer.explainer,
            self.scoring,
            self.components,
            self._known_probe(),
            every_n_epochs=self.every_n_epochs,
        )

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Strata by class accuracy are those of the last validation.
        able = not self.scoring.needs_class_accuracy or self.observer.class_accuracy is not None
        if self.schedule.is_due_after_batch(trainer, able=able):
            self._take_snapshot(trainer, pl_module, after="batch")

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.schedule.decide(trainer)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_taken = trainer.state.fn == "fit" and self._validated.averaged
        if not (trainer.sanity_checking or is_taken):
            self._take_snapshot(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_snapshot(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not has_validation(trainer):
            self.schedule.decide(trainer)
            self._take_snapshot(trainer, pl_module, after="epoch")

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.schedule.end()
        with self._tolerance.forgiving("finish the run"):
            if self.last_snapshot is None:
                self.run_log.warn_of_none(trainer, self.every_n_epochs)
            self._finish(trainer)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # What ended the training is what shall be raised.
        with suppress(Exception), self._tolerance.only_warning():
            self._finish(trainer)

    def _finish(self, trainer: pl.Trainer) -> None:
        """Write the report, and send what is sent once."""
        if trainer.state.fn != "fit":
            return
        if self.directory is not None:
            self.run_log.close(self.directory)
            if self.report and self.directory.files():
                with self._tolerance.forgiving("write the report"):
                    self.report_path = write_report([self.directory.path])
        if trainer.is_global_zero and self.last_snapshot is not None:
            self.run_log.finish(trainer, self._known_probe())
            self.run_log.store(trainer, self.last_snapshot, self.directory)

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
        of_probe = self._probe_loader in {None, dataloader_idx}
        counting = self.scoring.needs_class_accuracy and of_probe and not trainer.sanity_checking
        if counting and self._is_due(trainer):
            forgiving = self._tolerance.forgiving("count right and wrong answers")
            with self.schedule.spending(trainer, pl_module.device), forgiving, suppress(NoImagesError):
                unpack = self._eight_bit.unpacking(pl_module, self.run.unpack)
                with isolated(pl_module, self.run.isolate) as seen:
                    self._class_accuracy.count(seen, batch, unpack, self.explainer.forward)
                # Where the probe was not read from a loader yet, it is of the first one with images.
                self._probe_loader = dataloader_idx

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return trainer.state.fn != "fit" or self.schedule.is_due(trainer)

    def _moment(self, trainer: pl.Trainer, *, after_training_epoch: bool) -> tuple[int, int]:
        """Epoch and step of a snapshot that is taken now."""
        return trainer.current_epoch, logged_step(trainer, after_training_epoch=after_training_epoch)

    # ----- before the first step

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the probe, find the layer and explain one image, so that what cannot work fails now, everywhere."""
        process = this_process(trainer)
        with self._tolerance.only_warning(), process.together():
            found = of_first_process(process, lambda: self._found_probe(trainer, pl_module), given=self._given_probe)
            self.probe, self._probe_loader = found
            self._prepare_for(self.probe, trainer, pl_module)

    def _found_probe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Found:
        if self._given_probe:
            return self._known_probe(), self._probe_loader
        options = self.run
        probe, place = read_probe(
            trainer, pl_module, self._probe_size, options.seed, unpack=options.unpack, eight_bit=self._eight_bit
        )
        return probe_of_run(self._resumed if trainer.state.fn == "fit" else {}, probe, self.dirpath), place

    def _prepare_for(self, probe: Probe, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            refuse_changed_probe(self._resumed, probe)
            refuse_changed_layer(self._resumed, self.explainer.target_layer, pl_module)
            refuse_changed_explanation(self._resumed, self.explainer, self.components)
        try:
            grid = self.observer.prepare(pl_module, probe)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        layer = self.observer.explainer.target_layer
        if trainer.state.fn == "fit":
            self._layer = layer
        if self.explainer.target_layer is None:
            rank_zero_info(f"DecomCAM explains `target_layer={layer!r}` ({grid[0]} x {grid[1]} positions).")
        if probe.multilabel:
            rank_zero_info(
                f"DecomCAM explains {len(probe)} pairs of an image and one of its labels. Labels that do not exclude "
                "one another have no decision factors."
            )
        if self._keeps_records(trainer):
            self._open_directory(trainer, probe)

    def _keeps_records(self, trainer: pl.Trainer) -> bool:
        return trainer.state.fn == "fit" and trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def _open_directory(self, trainer: pl.Trainer, probe: Probe) -> None:
        before = self._resumed.get("directory") if self.directory is None else self.directory.path
        path = self.dirpath or own_directory(before, self._run_id, self._tolerance)
        path = path or run_directory(trainer, self.prefix, self._tolerance)
        settings = self.observer.settings | self.schedule.settings
        # What came after the last snapshot that the checkpoint knows of is no part of this run any more.
        reached = None if not self._resumed else -1 if self.run_log.last_step is None else self.run_log.last_step
        self.directory = self.run_log.directory = opened_directory(
            path, self._run_id, probe, settings, reached, self._tolerance
        )
        if not self._given_probe:
            keep_probe(self.directory, probe, self._tolerance)

    def _known_probe(self) -> Probe:
        if self.probe is None:
            raise RuntimeError("The probe is known from the start of training or validation on.")
        return self.probe

    # ----- at each snapshot

    def _take_snapshot(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        after: str = "validation",
        awaited: tuple[int, int] | None = None,
    ) -> None:
        """Explain the probe if it is time to, keep what was found, and log it."""
        epoch, step = awaited or self._moment(trainer, after_training_epoch=after == "epoch")
        if awaited is None and after != "batch" and not self._is_due(trainer):
            known = self.last_snapshot
            if known is None or (known.epoch, known.step) != (epoch, step):
                with self._tolerance.forgiving("withdraw its values"):
                    Monitors(trainer, self.prefix).withdraw(set())
            return
        if trainer.state.fn == "fit" and self.log_options.artifacts == "all":
            self.run_log.store(trainer, self.last_snapshot, self.directory)
        process, numbers, explained_at = this_process(trainer), dict[str, float](), monotonic()
        forgiving, together, spending = self._tolerance.forgiving, process.together, self.schedule.spending
        with (
            spending(trainer, pl_module.device),
            self._observer_for(trainer, pl_module) as observer,
            forgiving("explain the probe"),
            together(),
        ):
            if self.scoring.needs_class_accuracy:
                counted = self._class_accuracy.accuracy(process, observer.class_accuracy)
                # What no validation has counted is unknown.
                observer.class_accuracy = torch.tensor(torch.nan) if awaited else counted
            with self._tolerance.showing(self._progress(trainer)) as advance:
                found = observer.observe(pl_module, epoch=epoch, step=step, process=process, advance=advance)
            weights = {"weights": self._validated.kind(trainer)} if trainer.state.fn == "fit" else {}
            found = replace(found, module_values=self._module_values(trainer), settings={**found.settings, **weights})
            self.last_snapshot = made_up(found, self.directory) if awaited else found
            explained_at = monotonic()
            noted = self.run_log.note(trainer, self.last_snapshot, self._known_probe()) if process.rank == 0 else {}
            numbers = process.gather(noted)[0]  # checkpoints are chosen by them: the very same everywhere
            directory = self.directory if self._keeps_records(trainer) else None
            self.run_log.keep(trainer, self.last_snapshot, self._known_probe(), directory)
        self.run_log.added_memory = self.schedule.added_memory
        with spending(trainer, pl_module.device), forgiving("log its values"), together():
            self.run_log.send(trainer, pl_module, numbers, (epoch, step), self.observer.directions, process)
        self.run_log.report_seconds = monotonic() - explained_at

    def _module_values(self, trainer: pl.Trainer) -> dict[str, float]:
        """What the module itself has logged by now."""
        with self._tolerance.forgiving("read what the module logs"):
            return module_values(trainer, self.prefix)
        return {}

    def _progress(self, trainer: pl.Trainer) -> AbstractContextManager[Callable[[int], None]]:
        """Give what is told of every piece of the probe that was explained, by its number of images."""
        return progress(trainer, len(self._known_probe()), "DecomCAM")

    @contextmanager
    def _observer_for(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[Observer]:
        """Give the run's observer or, outside of ``fit``, one for this snapshot alone.

        There are other data there, and weights from anywhere: what was followed during a training goes on afterwards as
        if nothing had been.
        """
        if trainer.state.fn == "fit":
            yield self.observer
            return
        followed = self.observer, self.probe, self._layer
        try:
            self._layer = layer_of_checkpoint(trainer.ckpt_path, self.prefix) or self._layer
            self.observer = self._new_observer()
            self._prepare(trainer, pl_module)
            yield self.observer
        finally:
            self.observer, self.probe, self._layer = followed

    # ----- resuming

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.probe is None:
            return {}
        return {
            "run_id": self._run_id,
            "directory": None if self.directory is None else str(self.directory.path),
            "target_layer": self.observer.explainer.target_layer,
            "explained": explained(self.explainer, self.components),
            "probe_digest": self.probe.digest,
            "probe_ids": list(self.probe.ids),
            "observer": self.observer.state_dict(),
            "schedule": self.schedule.state_dict(),
            **self.run_log.state_dict(),
        }

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state and trainer.state.fn == "fit" and self._is_due(trainer):
            with self._tolerance.forgiving("tell whether a snapshot follows"):
                state["awaited"] = awaited_moment(trainer)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._resumed = dict(state_dict)
            self._run_id = state_dict["run_id"]
            self._layer = state_dict.get("target_layer")
            self.observer.explainer = self._explainer_of_run()
            self.run_log.load_state_dict(state_dict)
            self.schedule.load_state_dict(state_dict.get("schedule", {"spent": 0.0, "elapsed": 0.0, "expected": 0.0}))
            self.observer.load_state_dict(state_dict["observer"])
