"""One firing after another, without a Trainer: explain the probe, score it, follow its components, make the record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from time import monotonic
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from lit_decom.components.shared import SharedComponents, SharedFindings
from lit_decom.components.tracking import ComponentTracker, Tracked, summarize
from lit_decom.evaluation import Findings, TargetPolicy, explain, summary, targets_of
from lit_decom.evidence import ReadLogits, capture
from lit_decom.evidence.layers import TargetLayer, resolve_layer
from lit_decom.evidence.target_layer import find_target_layer
from lit_decom.methods.decom_cam import DecomCAM
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.stratified import Strata
from lit_decom.probe import Probe
from lit_decom.records import EpochRecord
from lit_decom.scoring import Scoreboard, default_metrics, numbers_of

Gather = Callable[[Any], list[Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One of the processes that share the work on a probe.

    Attributes:
        rank: its number.
        world: how many there are.
        gather: collects one object from every process, in the order of their ranks.
    """

    rank: int = 0
    world: int = 1
    gather: Gather = field(default=lambda mine: [mine])

    def share(self, work: Callable[[], T]) -> list[T]:
        """Do this process's part and collect everyone's, by rank; where one of them fails, all of them raise.

        Raises:
            RuntimeError: if another process failed; what failed here is raised as it is.
        """
        mine, problem = None, None
        try:
            mine = work()
        except Exception as error:  # noqa: BLE001 -- the other processes wait for this one
            problem = error
        everyone = self.gather((mine, None if problem is None else repr(problem)))
        if problem is not None:
            raise problem
        failed = next((text for _, text in everyone if text is not None), None)
        if failed is not None:
            raise RuntimeError(f"Another process could not explain its share of the probe: {failed}")
        return [result for result, _ in everyone]


class Observer:
    """Explains one probe at every firing of one run, and remembers what curves over firings need.

    The callback drives it during a training, and replay over a folder of checkpoints: both get the same records.

    Args:
        method: how to explain.
        target: as for :func:`lit_decom.evaluation.explain`.
        batch_size: probe images explained at once.
        chunk_size: altered images per forward pass.
        read_logits: as for :func:`lit_decom.capture`.
        metrics: metrics, a mapping that names them, ``"default"``, or none.
        strata: as for :class:`lit_decom.metrics.StratifiedWrapper`.
        baselines: registered methods scored beside DecomCAM.
        chance: whether maps that know nothing are scored, too.
        reference_epoch: the first firing in or after this epoch fixes the strata of the images.
        tracker: gives components their identity.
        shared: components that the whole probe has in common; None for none.
    """

    def __init__(
        self,
        method: DecomCAM,
        *,
        target: TargetPolicy = "label",
        batch_size: int = 16,
        chunk_size: int | None = None,
        read_logits: ReadLogits | None = None,
        metrics: Sequence[PerImageMetric] | Mapping[str, PerImageMetric] | Literal["default"] = "default",
        strata: Strata = "correctness",
        baselines: Sequence[str] = ("grad_cam",),
        chance: bool = True,
        reference_epoch: int = 0,
        tracker: ComponentTracker | None = None,
        shared: SharedComponents | None = None,
    ) -> None:
        targets_of(target, torch.zeros(1, dtype=torch.long))
        self.method, self.target, self.read_logits = method, target, read_logits
        self.batch_size, self.chunk_size = batch_size, chunk_size
        self.metrics, self.strata, self.baselines, self.chance = metrics, strata, tuple(baselines), chance
        self.reference_epoch = reference_epoch
        self.tracker = tracker or ComponentTracker()
        self.shared = shared
        self.class_accuracy: Tensor | None = None
        self.firings = 0
        self.probe: Probe | None = None
        self.layer: TargetLayer | None = None
        self.scoreboard: Scoreboard | None = None
        self._restored: dict[str, Any] = {}

    # ----- before the first firing

    def prepare(self, model: nn.Module, probe: Probe, target_layer: str | None = None) -> tuple[int, int]:
        """Find the layer and explain one image, so that what cannot work fails now.

        Args:
            model: the network, on its device.
            probe: what is explained at every firing.
            target_layer: a name, or None to find one.

        Returns:
            The feature grid ``(h, w)`` of the layer.

        Raises:
            ValueError: if the network does not take the probe's images, the labels are no classes of it, or the method
                or a metric cannot work on them.
        """
        first = next(probe.batches(1)).to(next((p.device for p in model.parameters()), torch.device("cpu")))
        try:
            layer = find_target_layer(model, target_layer, first.images, read_logits=self.read_logits)
            known: dict[str, Any] = {"mean": first.mean, "std": first.std, "read_logits": self.read_logits}
            evidence = capture(model, layer, first.images, "predicted", **known)
            if not callable(self.target):
                _refuse_labels_outside(probe.labels, evidence.logits.shape[1])
            targets = targets_of(self.target, first.labels)
            self.method.decompose(capture(model, layer, first.images, targets, **known))
        except RuntimeError as error:
            raise ValueError(
                f"Expected the probe's images {tuple(probe.images.shape)} to go through {type(model).__name__}, "
                f"but: {error}"
            ) from error
        self.probe, self.layer = probe, layer
        self.scoreboard = self._new_scoreboard(probe)
        return evidence.activations.shape[-2], evidence.activations.shape[-1]

    def _new_scoreboard(self, probe: Probe) -> Scoreboard | None:
        metrics = default_metrics(probe) if self.metrics == "default" else self.metrics
        if not metrics:
            return None
        target = self.target if isinstance(self.target, str) else repr(self.target)
        board = Scoreboard(
            metrics,
            strata=self.strata,
            baselines=self.baselines,
            chance=self.chance,
            target=target,
        )
        board.require(probe)
        if "scoreboard" in self._restored:
            board.load_state_dict(self._restored["scoreboard"])
        return board

    @property
    def settings(self) -> dict[str, Any]:
        """What a record must say about how it came to be."""
        return {
            "method": repr(self.method),
            "target_layer": None if self.layer is None else self.layer.name,
            "target": self.target if isinstance(self.target, str | int) else repr(self.target),
            "batch_size": self.batch_size,
            "chunk_size": self.chunk_size,
            "strata": self.strata if isinstance(self.strata, str) else repr(self.strata),
            "metrics": [] if self.scoreboard is None else self.scoreboard.captions,
            "probe_digest": None if self.probe is None else self.probe.digest,
            "lit_decom": version("lit-decom"),
            "torch": torch.__version__,
        }

    @property
    def directions(self) -> dict[str, bool | None]:
        """By the name of each metric, whether higher is better."""
        metrics = {} if self.scoreboard is None else self.scoreboard.metrics
        return {"score_gain": True} | {name: metric.higher_is_better for name, metric in metrics.items()}

    # ----- at each firing

    def observe(
        self,
        model: nn.Module,
        *,
        epoch: int,
        step: int,
        process: Process | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> EpochRecord:
        """Explain the probe as the network is now.

        Args:
            model: the network, left as it is.
            epoch: of the training.
            step: of the training.
            process: this process, where several share the probe; all of them must call.
            advance: told of every piece explained, by its number of images.

        Returns:
            The record, the same in every process.
        """
        # What is remembered outlives this call, and a tensor made in inference mode could not be used freely later.
        with torch.inference_mode(mode=False), torch.no_grad():
            return self._observe(model, epoch, step, process or Process(), advance or (lambda _images: None))

    def _observe(
        self, model: nn.Module, epoch: int, step: int, process: Process, advance: Callable[[int], None]
    ) -> EpochRecord:
        probe = _known(self.probe)
        # Counted here, since two validations may fall between two optimizer steps.
        self.firings += 1
        findings, seconds = self._findings(model, epoch, process, advance)
        numbers = summary(findings.decomposition) | {"seconds": seconds} | self._scores(findings, epoch, process)
        tracked = self._track(findings)
        numbers |= _tracked_numbers(tracked, findings)
        shared = self._share_basis(process)
        numbers |= {} if shared is None else shared.numbers()
        return EpochRecord.of(
            findings.decomposition,
            epoch=epoch,
            step=step,
            ids=probe.ids,
            labels=probe.labels,
            targets=findings.targets,
            logits=findings.logits,
            numbers=numbers,
            settings=self.settings,
            identities=tracked.identities,
            births=tracked.births,
            deaths=tracked.deaths,
            flips=tracked.flips,
            similarity=tracked.similarity.float(),
            confidence=tracked.confidence.float(),
            drift=tracked.drift.float(),
            **({} if shared is None else _shared_fields(shared)),
        )

    def _findings(
        self, model: nn.Module, epoch: int, process: Process, advance: Callable[[int], None]
    ) -> tuple[Findings, float]:
        """Explain this process's share of the probe and collect the others': the same findings in every process."""
        started = monotonic()
        everyone = process.share(lambda: (self._share(model, epoch, process, advance), monotonic() - started))
        shards = [findings for findings, _ in everyone if findings is not None]
        return Findings.interleaved(shards), max(seconds for _, seconds in everyone)

    def _share(self, model: nn.Module, epoch: int, process: Process, advance: Callable[[int], None]) -> Findings | None:
        if self.scoreboard is not None:
            self.scoreboard.reset()
        if self.shared is not None:
            self.shared.begin(process.rank, process.world)
        share = _known(self.probe).shard(process.rank, process.world)
        if share is None:
            return None
        # By name, since a network may be loaded anew between firings.
        layer, parts = resolve_layer(model, _known(self.layer).name), []
        for piece in explain(
            model,
            layer,
            self.method,
            share,
            target=self.target,
            batch_size=self.batch_size,
            chunk_size=self.chunk_size,
            read_logits=self.read_logits,
        ):
            if self.scoreboard is not None:
                self.scoreboard.update(
                    piece.probe,
                    piece.capture,
                    piece.decomposition,
                    epoch=epoch,
                    model=model,
                    layer=layer,
                    method=self.method,
                    class_accuracy=self.class_accuracy,
                )
            if self.shared is not None:
                self.shared.add(piece.capture, self.method)
            parts.append(Findings.of(piece))
            advance(len(piece.probe))
        return Findings.joined(parts)

    def _scores(self, findings: Findings, epoch: int, process: Process) -> dict[str, float]:
        board, probe = self.scoreboard, _known(self.probe)
        if board is None:
            return {}
        if process.world > 1:
            # Whichever process writes the checkpoint must know the maps of all.
            for state in process.gather(board.history.state_dict()):
                board.history.merge(state)
        if not board.has_fixed_strata and epoch >= self.reference_epoch:
            board.fix_strata(board.stratum_names(findings.logits, probe.labels, probe.ids))
        return numbers_of(board.scores())

    def _track(self, findings: Findings) -> Tracked:
        decomposition = findings.decomposition
        return self.tracker.update(
            decomposition.components,
            decomposition.singular_values,
            ids=self._tracked_ids(findings),
            step=self.firings,
            loadings=decomposition.loadings,
            channels=decomposition.channels,
            valid=decomposition.valid,
        )

    def _tracked_ids(self, findings: Findings) -> list[str]:
        """Names under which components are followed: those of another class are others."""
        ids = _known(self.probe).ids
        if self.target not in ("predicted", "contrast"):
            return list(ids)
        return [f"{image}@{target}" for image, target in zip(ids, findings.targets.tolist(), strict=True)]

    def _share_basis(self, process: Process) -> SharedFindings | None:
        if self.shared is None:
            return None
        images = _known(self.probe).images
        size = (images.shape[-2], images.shape[-1])
        return self.shared.finish(self.method, size, step=self.firings, share=process.share)

    # ----- resuming

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs, as tensors and primitives."""
        board = self._restored.get("scoreboard") if self.scoreboard is None else self.scoreboard.state_dict()
        state = {"firings": self.firings, "tracker": self.tracker.state_dict()}
        state |= {} if self.shared is None else {"shared": self.shared.state_dict()}
        return state if board is None else state | {"scoreboard": board}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.firings = state["firings"]
        self.tracker.load_state_dict(state["tracker"])
        self._restored = dict(state)
        if self.shared is not None and "shared" in state:
            self.shared.load_state_dict(state["shared"])
        if self.scoreboard is not None and "scoreboard" in state:
            self.scoreboard.load_state_dict(state["scoreboard"])


def _refuse_labels_outside(labels: Tensor, n_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"Expected the probe's `labels` to be between 0 and {n_classes - 1}, but got "
            f"{int(labels.min())} to {int(labels.max())}."
        )


def _tracked_numbers(tracked: Tracked, findings: Findings) -> dict[str, float]:
    """Mean gain and energy of the components that began as rank 1, 2, ... in each image, wherever they rank now."""
    decomposition = findings.decomposition
    numbers = {name: value for name, value in summarize(tracked).items() if value == value}  # noqa: PLR0124 -- not NaN
    for cohort in range(tracked.identities.shape[1]):
        alive = (tracked.identities == cohort) & decomposition.finite[:, None]
        if alive.any():
            numbers[f"score_gain/component_{cohort + 1:02d}"] = decomposition.score_gains[alive].mean().item()
            numbers[f"count/component_{cohort + 1:02d}"] = float(alive.sum())
            numbers[f"explained_energy/component_{cohort + 1:02d}"] = (
                decomposition.explained_energy[alive].mean().item()
            )
    return numbers


def _shared_fields(shared: SharedFindings) -> dict[str, Tensor]:
    return {
        "shared_patterns": shared.patterns.half(),
        "shared_energy": shared.energy,
        "shared_identities": shared.tracked.identities[0],
        "shared_images": shared.images,
        "shared_boxes": shared.boxes,
    }


def _known(value: Any) -> Any:
    if value is None:
        raise RuntimeError("Call `prepare` first: probe and layer are not known yet.")
    return value
