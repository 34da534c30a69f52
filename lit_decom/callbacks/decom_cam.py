"""DecomCAMCallback: explain the same images at every epoch of a training, and change nothing about it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lit_decom.callbacks.host import (
    has_validation,
    logged_step,
    progress,
    read_probe,
    refuse_sharded,
    run_directory,
)
from lit_decom.callbacks.ranks import gathered
from lit_decom.callbacks.pictures import curves_of, grid_of
from lit_decom.evaluation import Findings, TargetPolicy, explain, summary, targets_of
from lit_decom.evidence import ReadLogits, capture
from lit_decom.methods.decom_cam import DecomCAM
from lit_decom.models.layers import TargetLayer
from lit_decom.probe import Probe, Unpack
from lit_decom.records import EpochRecord, RunDirectory
from lit_decom.sinks import log_curves, log_images
from lit_decom.target_layer import find_target_layer

_DEFAULT_PROBE_SIZE = 64
T = TypeVar("T")


class DecomCAMCallback(pl.Callback):
    """Explain a fixed probe at every validation, log what is found, and keep it.

    Attach it to a Trainer; nothing in the module has to change, as long as its forward takes images and returns logits.
    Training goes on bit for bit as without it. It fires at the end of each validation epoch (at the end of each training
    epoch where there is no validation loop), and in ``validate`` and ``test``.

    Args:
        method: how to explain.
        probe: what to explain. A number asks for that many images, balanced by class, from the validation data (the
            training data where there are none); None asks for 64.
        target_layer: a name as in ``pl_module.named_modules()`` or a dotted suffix that is unique; None takes the
            deepest layer that still has 7 x 7 positions, and says which.
        every_n_epochs: fires in every n-th epoch.
        target: the class explained: ``"label"``, ``"predicted"``, ``"contrast"`` (the two largest logits), one class
            for all, or a callable from logits ``(n, N)`` and labels ``(n,)`` to scores ``(n,)``.
        n_drawn: how many of the probe's images are drawn.
        batch_size: probe images explained at once; with the layer's size it sets the memory needed.
        chunk_size: altered images per forward pass; by default what suits the device.
        seed: of the choice of the probe.
        unpack: from a batch of one to image and label, where samples are neither tuples nor mappings with ``image`` and
            ``label``.
        logits: reads the logits from what the module returns, where they are neither a tensor, nor under ``logits``.
        dirpath: the run directory; by default the logger's own for this run.
        prefix: of all keys; give two callbacks on one Trainer different ones.
        strict: whether an error while explaining or reporting ends the training, instead of being warned about and
            counted under ``decomcam/errors``.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        method: DecomCAM = DecomCAM(),  # noqa: B008 -- frozen
        probe: Probe | int | None = None,
        target_layer: str | None = None,
        every_n_epochs: int = 1,
        target: TargetPolicy = "label",
        n_drawn: int = 8,
        batch_size: int = 16,
        chunk_size: int | None = None,
        seed: int = 0,
        unpack: Unpack | None = None,
        logits: ReadLogits | None = None,
        dirpath: str | Path | None = None,
        prefix: str = "decomcam",
        strict: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"every_n_epochs": every_n_epochs, "batch_size": batch_size, "n_drawn": n_drawn + 1}.items():
            if value < 1:
                raise ValueError(f"Expected `{name}` to be at least {int(name != 'n_drawn')}, but got {value}.")
        targets_of(target, torch.zeros(1, dtype=torch.long))
        self.method, self.target_layer, self.target = method, target_layer, target
        self.every_n_epochs, self.n_drawn, self.strict, self.prefix = every_n_epochs, n_drawn, strict, prefix
        self.batch_size, self.chunk_size, self.seed = batch_size, chunk_size, seed
        self.unpack, self.logits, self.dirpath = unpack, logits, None if dirpath is None else Path(dirpath)
        self.n_probe = probe if isinstance(probe, int) else _DEFAULT_PROBE_SIZE
        self.probe = probe if isinstance(probe, Probe) else None
        self.layer: TargetLayer | None = None
        self.directory: RunDirectory | None = None
        self.errors = 0
        self._given_probe = self.probe is not None
        self._run_id = uuid.uuid4().hex
        self._resumed: dict[str, Any] = {}
        self._history: list[dict[str, float]] = []
        self._warned: set[str] = set()

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix)

    # ----- when

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        refuse_sharded(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._prepare(trainer, pl_module)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or self._due(trainer)):
            self._fire(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fire(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not has_validation(trainer) and self._due(trainer):
            self._fire(trainer, pl_module, after_training_epoch=True)

    def _due(self, trainer: pl.Trainer) -> bool:
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0

    # ----- before the first step

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the probe, find the layer and explain one image, so that what cannot work fails now."""
        fitting = trainer.state.fn == "fit"
        if not self._given_probe:
            self.probe = read_probe(trainer, pl_module, self.n_probe, self.seed, self.unpack)
        probe = _known(self.probe)
        if fitting:
            self._refuse_changed_probe(probe)
        first = next(probe.batches(1)).to(pl_module.device)
        try:
            self.layer = find_target_layer(pl_module, self.target_layer, first.images, logits=self.logits)
            labels = targets_of(self.target, first.labels)
            known = {"mean": first.mean, "std": first.std, "logits": self.logits}
            evidence = capture(pl_module, self.layer, first.images, labels, **known)
            self.method.decompose(evidence)
        except RuntimeError as error:
            raise MisconfigurationException(
                f"Expected the probe's images {tuple(probe.images.shape)} to go through {type(pl_module).__name__}, "
                f"but: {error}"
            ) from error
        n_classes = evidence.logits.shape[1]
        if probe.labels.min() < 0 or probe.labels.max() >= n_classes:
            raise MisconfigurationException(
                f"Expected the probe's `labels` to be between 0 and {n_classes - 1}, but got "
                f"{int(probe.labels.min())} to {int(probe.labels.max())}."
            )
        if self.target_layer is None:
            grid = " x ".join(map(str, evidence.activations.shape[-2:]))
            rank_zero_info(f"DecomCAM explains `target_layer={self.layer.name!r}` ({grid} positions).")
        if fitting and trainer.is_global_zero and not trainer.fast_dev_run:
            self._open_directory(trainer, probe)

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
        before = self._resumed.get("directory")
        resumes = before is not None and RunDirectory(Path(before)).owner() == self._run_id
        path = Path(before) if resumes and self.dirpath is None else self.dirpath or run_directory(trainer)
        self.directory = RunDirectory(path)
        self.directory.open(self._run_id, probe, self._settings(), trainer.global_step if self._resumed else None)

    def _settings(self) -> dict[str, Any]:
        return {
            "method": repr(self.method),
            "target_layer": self.layer.name if self.layer else None,
            "target": self.target if isinstance(self.target, str | int) else repr(self.target),
            "every_n_epochs": self.every_n_epochs,
            "batch_size": self.batch_size,
            "chunk_size": self.chunk_size,
            "probe_digest": _known(self.probe).digest,
            "lit_decom": version("lit-decom"),
            "torch": torch.__version__,
        }

    # ----- at each firing

    def _fire(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, after_training_epoch: bool = False) -> None:
        if trainer.state.fn != "fit":
            self._prepare(trainer, pl_module)
        step = logged_step(trainer, after_training_epoch=after_training_epoch)
        numbers: dict[str, float] = {}
        with self._forgiving("explain the probe"):
            findings, seconds = self._explain(trainer, pl_module)
            numbers = summary(findings.decomposition) | {"seconds": seconds}
            self._history.append({"step": step, **numbers})
            if trainer.is_global_zero:
                self._report(trainer, findings, numbers, step)
        numbers["errors"] = float(self.errors)
        pl_module.log_dict(
            {f"{self.prefix}/{name}": value for name, value in numbers.items()},
            on_step=False,
            on_epoch=True,
            batch_size=1,
            sync_dist=trainer.world_size > 1,
        )

    def _explain(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[Findings, float]:
        """Explain this process's share of the probe and collect the others': the same findings in every process."""
        started = monotonic()
        mine: Findings | None = None
        problem: Exception | None = None
        try:
            mine = self._explain_share(trainer, pl_module)
        except Exception as error:  # noqa: BLE001 -- the other processes wait for this one
            problem = error
        everyone = gathered(trainer, (mine, monotonic() - started, repr(problem) if problem else None))
        if problem is not None:
            raise problem
        failed = next((text for _, _, text in everyone if text is not None), None)
        if failed is not None:
            raise RuntimeError(f"Another process could not explain its share of the probe: {failed}")
        shards = [findings for findings, _, _ in everyone if findings is not None]
        return Findings.interleaved(shards), max(seconds for _, seconds, _ in everyone)

    def _explain_share(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Findings | None:
        share = _known(self.probe).shard(trainer.global_rank, trainer.world_size)
        if share is None:
            return None
        parts = []
        with progress(trainer, len(share), "DecomCAM") as advance:
            for piece in explain(
                pl_module,
                _known(self.layer),
                self.method,
                share,
                target=self.target,
                batch_size=self.batch_size,
                chunk_size=self.chunk_size,
                logits=self.logits,
            ):
                parts.append(Findings.of(piece))
                advance(len(piece.probe))
        return Findings.joined(parts)

    def _report(self, trainer: pl.Trainer, findings: Findings, numbers: dict[str, float], step: int) -> None:
        """Keep the record and draw from it; what fails here is missing from the report and from nothing else."""
        probe = _known(self.probe)
        record = EpochRecord.of(
            findings.decomposition,
            epoch=trainer.current_epoch,
            step=step,
            ids=probe.ids,
            labels=probe.labels,
            targets=findings.targets,
            logits=findings.logits,
            numbers=numbers,
            settings=self._settings(),
        )
        if self.directory is not None and trainer.state.fn == "fit":
            with self._forgiving("keep the record"):
                record.save(self.directory.path)
        if self.n_drawn:
            with self._forgiving("draw the OSSM grid"):
                picture, caption = grid_of(record, probe, self.n_drawn)
                if self.directory is not None and trainer.state.fn == "fit":
                    self.directory.save_picture(picture, record)
                for logger in trainer.loggers:
                    log_images(logger, f"{self.prefix}/ossms", [picture], [caption], step)
        with self._forgiving("draw the gain curves"):
            steps, series = curves_of(self._history)
            for logger in trainer.loggers:
                log_curves(logger, f"{self.prefix}/gain_curves", steps, series, "Score gain by rank")

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """Count an error and warn of it once, unless ``strict``."""
        try:
            yield
        except Exception as error:
            if self.strict:
                raise
            self.errors += 1
            message = f"DecomCAMCallback could not {what}: {type(error).__name__}: {error}"
            if message not in self._warned:
                self._warned.add(message)
                rank_zero_warn(f"{message} Training goes on; `strict=True` makes this an error.")

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
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            self._resumed = state_dict
            self._run_id = state_dict["run_id"]
            self._history = [dict(numbers) for numbers in state_dict["history"]]


def _known(value: T | None) -> T:
    if value is None:
        raise RuntimeError("Probe and layer are known from the start of training or validation on.")
    return value
