"""One snapshot after another, without a Trainer: explain the probe, score it, follow its components."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from lit_decom import keys
from lit_decom.components import Components, FactorFindings, FollowedFactors, FollowedImages, SharedFindings
from lit_decom.evidence import ForwardError, Isolation, ScoreDtype, isolated, refuse_changes
from lit_decom.evidence.lazy import shaped
from lit_decom.evidence.observing import device_of
from lit_decom.evidence.room import is_out_of_memory
from lit_decom.explainer import Explained, Explainer, Explanations, summary, warn_of_embeddings
from lit_decom.methods.base import CAM
from lit_decom.methods.decom_cam import DecomCAM
from lit_decom.methods.precision import chosen_score_dtype, has_bfloat16_units
from lit_decom.probe import Probe
from lit_decom.process import Process, Stopwatch
from lit_decom.records import Snapshot
from lit_decom.scores import RowTable, Score, numbers_of
from lit_decom.scoring import Scoreboard, Scoring


class Observer:
    """Explains one probe at every snapshot of one run, and remembers what curves over snapshots need.

    The callback drives it during a training, and replay over a folder of checkpoints: both get the same records.

    Args:
        explainer: what is explained, and how.
        scoring: what is scored.
        components: which components are followed beside those of every image.
        strict: whether a metric that raises ends the snapshot, instead of being left out of it.
        isolate: what is explained: the network itself (``"in_place"``), or at each snapshot a copy of it (``"copy"``),
            for networks whose forward pass changes what cannot be put back.
    """

    def __init__(
        self,
        explainer: Explainer = Explainer(),  # noqa: B008 -- frozen
        scoring: Scoring = Scoring(),  # noqa: B008 -- frozen
        components: Components = Components(),  # noqa: B008 -- frozen
        *,
        strict: bool = False,
        isolate: Isolation = "in_place",
    ) -> None:
        self.explainer, self.scoring, self.strict, self.isolate = explainer, scoring, strict, isolate
        # The class that is explained may change from snapshot to snapshot with these.
        self.images = FollowedImages(by_target=explainer.target in ("predicted", "contrast"))
        self.shared = components.new(explainer.method)
        self.class_accuracy: Tensor | None = None
        self.score_dtype: ScoreDtype | None = None  # the one chosen, where the method leaves the choice
        self.n_snapshots = 0
        self.probe: Probe | None = None
        self.board: Scoreboard | None = None
        self.table: RowTable | None = None
        self._restored: dict[str, Any] = {}

    # ----- before the first snapshot

    def prepare(self, model: nn.Module, probe: Probe) -> tuple[int, int]:
        """Find the layer, and explain and score one image, so that what cannot work fails now.

        Args:
            model: the network, on its device.
            probe: what is explained at every snapshot.

        Returns:
            The feature grid ``(h, w)`` of the layer.

        Raises:
            ValueError: if the network does not take the probe's images, the labels are no classes of it, the method or
                a metric cannot work on them, explaining changes the network, or there is not enough memory for it.
        """
        first = probe.select([0]).to(device_of(model))
        try:
            with refuse_changes(model), isolated(model, self.isolate) as seen:
                seen = shaped(seen, first.images, self.explainer.forward)  # noqa: PLW2901 -- the same, or a copy
                explainer = self.explainer.at(seen, first.images)
                predicted = explainer.capture(seen, first, "predicted")
                warn_of_embeddings(predicted.logits.shape[1], probe)
                if not callable(explainer.target):
                    _refuse_labels_outside(probe.labels, predicted.logits.shape[1])
                evidence = explainer.capture(seen, first)
                decomposition = explainer.method.decompose(evidence)
                board = self._new_board(probe)
                if board is not None:
                    self._try_metrics(first, evidence, decomposition)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise ValueError(
                    f"Expected enough memory to explain one image beside the training, but: {str(error).rstrip('.')}. "
                    "A smaller batch in training, or smaller images in the probe, leave more."
                ) from error
            raise ValueError(
                f"Expected the probe's images {tuple(probe.images.shape)} to go through {type(model).__name__}, "
                f"but: {error}"
            ) from error
        self.probe, self.explainer, self.board = probe, explainer, board
        if probe.multilabel and isinstance(self.shared, FollowedFactors):
            # They tell classes that exclude one another apart: what all logits share is nothing to a softmax, but is
            # an answer of each sigmoid.
            self.shared = None
        return predicted.activations.shape[-2], predicted.activations.shape[-1]

    def _new_board(self, probe: Probe) -> Scoreboard | None:
        metrics = self.scoring.metrics_for(probe)
        if not metrics:
            return None
        board = Scoreboard(metrics, self.scoring, strict=self.strict)
        if (known := self._board_state()) is not None:
            board.load_state_dict(known)
        return board

    def _board_state(self) -> dict[str, Any] | None:
        """What the scores of this run remember, here or in the checkpoint that it goes on from."""
        return self._restored.get("board") if self.board is None else self.board.state_dict()

    def _try_metrics(self, first: Probe, evidence: Any, decomposition: Any) -> None:
        """Compute every metric on one image, on a board that is thrown away."""
        trial = Scoreboard(self.scoring.metrics_for(first), self.scoring, strict=True)
        n_classes = evidence.logits.shape[1]
        accuracy = torch.ones(n_classes) if self.scoring.needs_class_accuracy else None
        trial.update(first, evidence, decomposition, method=self.explainer.method, class_accuracy=accuracy)

    @property
    def settings(self) -> dict[str, Any]:
        """What a record must say about how it came to be."""
        strata = self.scoring.strata
        return self.explainer.settings | {
            "strata": strata if isinstance(strata, str) else repr(strata),
            "metrics": [] if self.board is None else self.board.captions,
            **({} if self.score_dtype is None else {"score_dtype": self.score_dtype}),
            "probe_digest": None if self.probe is None else self.probe.digest,
            "lit_decom": _own_version(),
            "torch": torch.__version__,
        }

    @property
    def directions(self) -> dict[str, bool | None]:
        """By the name of each metric, whether higher is better."""
        metrics = {} if self.board is None else self.board.metrics
        return {name: metric.higher_is_better for name, metric in metrics.items()}

    # ----- at each snapshot

    def observe(
        self,
        model: nn.Module,
        *,
        epoch: int,
        step: int,
        process: Process = Process(),  # noqa: B008 -- frozen
        advance: Callable[[int], None] = lambda _images: None,
    ) -> Snapshot:
        """Explain the probe as the network is now.

        What is remembered outlives this call: a tensor made in inference mode could not be used freely later.

        Args:
            model: the network, left as it is.
            epoch: of the training.
            step: of the training.
            process: this process, where several share the probe; all of them must call.
            advance: told of every piece explained, by its number of images.

        Returns:
            The snapshot, the same in every process but for the wall time.

        Raises:
            RuntimeError: if another process failed; what failed here is raised as it is. Nothing of such a snapshot is
                remembered, in any process.
        """
        watch, probe = Stopwatch(), self._known_probe()
        all_or_nothing, seeing = self._remembering_all_or_nothing(), isolated(model, self.isolate)
        with torch.inference_mode(mode=False), torch.no_grad(), all_or_nothing, process.together(), seeing as seen:
            # Counted here, since two validations may fall between two optimizer steps.
            self.n_snapshots += 1
            if self._may_choose:
                with watch.measuring("explain"):
                    self._score_in(process.share(self._chosen_dtype, seen, process)[0])
            everyone = process.share(self._explain_share, seen, epoch, process, advance, watch)
            shares = [share for share in everyone if share is not None]
            explanations = Explanations.interleaved([share.explanations for share in shares])
            with watch.measuring("score"):
                scores, dropped = self._scores([share.rows for share in shares], epoch, process)
            with watch.measuring("track"):
                found = self.images.update(
                    explanations.decomposition, probe.ids, explanations.targets, step=self.n_snapshots
                )
                shared = self._share_basis(process)
            numbers = summary(explanations.decomposition) | found.numbers() | numbers_of(scores)
            numbers |= {} if shared is None else shared.numbers()
            numbers |= self._factor_numbers(shared) if isinstance(shared, FactorFindings) else {}
            numbers["accuracy"] = _accuracy(explanations.logits, probe.labels)
            numbers |= {keys.seconds_key(part): seconds for part, seconds in watch.slowest(process).items()}
            return Snapshot.of(
                explanations.decomposition,
                epoch=epoch,
                step=step,
                ids=probe.ids,
                labels=probe.labels,
                targets=explanations.targets,
                logits=explanations.logits,
                numbers=numbers,
                metric_scores=tuple(scores),
                dropped=dropped,
                # Where each snapshot begins at the one before, a record is what it is only as this one of its series.
                settings=self.settings | ({"snapshot": self.n_snapshots} if self.explainer.method.warm_start else {}),
                **found.fields(),
                **({} if shared is None else shared.fields()),
                **_class_fields(explanations),
            )

    @property
    def _may_choose(self) -> bool:
        """Whether the method leaves it to the first snapshot how exactly components are scored."""
        method = self.explainer.method
        return isinstance(method, DecomCAM) and method.score_dtype == "auto"

    def _chosen_dtype(self, model: nn.Module, process: Process) -> ScoreDtype | None:
        """What the first process chooses for all, by its first images; None in the others."""
        method = self.explainer.method
        if process.rank or not isinstance(method, DecomCAM):
            return None
        if not has_bfloat16_units(device_of(model)):
            return "float32"
        first = next(self.explainer.pieces(model, self._known_probe()))
        return chosen_score_dtype(method, first.capture, first.decomposition)

    def _score_in(self, dtype: ScoreDtype | None) -> None:
        """Score components as exactly as was chosen, from now on."""
        if dtype is not None and isinstance(self.explainer.method, DecomCAM):
            self.score_dtype = dtype
            self.explainer = self.explainer.by(replace(self.explainer.method, score_dtype=dtype))

    @contextmanager
    def _remembering_all_or_nothing(self) -> Iterator[None]:
        """Go back to what the last snapshot left behind where this one fails, in whatever part of it."""
        before, table = self.state_dict(), self.table
        try:
            yield
        except BaseException:
            self.load_state_dict(before)
            self.table = table
            if self.shared is not None:
                self.shared.begin()
            raise

    def values_by_image(self, score: Score) -> dict[str, float]:
        """Give what each image of a score's stratum has, by id, at the last snapshot; those undefined are left out."""
        column = (score.metric, score.explanation)
        if self.board is None or self.table is None or column not in self.table.columns:
            return {}
        values = self.board.metrics[score.metric].score(self.table.columns[column])
        rows = self.board.strata(self.table).get(score.stratum, torch.empty(0, dtype=torch.long))
        return {self.table.ids[row]: float(values[row]) for row in rows.tolist() if values[row].isfinite()}

    def _explain_share(
        self, model: nn.Module, epoch: int, process: Process, advance: Callable[[int], None], watch: "Stopwatch"
    ) -> "_Share | None":
        """Explain and score the images that fall to this process; None where none does."""
        if self.board is not None:
            self.board.reset()
        if self.shared is not None:
            self.shared.begin(process.rank, process.world)
        probe = self._known_probe().shard(process.rank, process.world)
        if probe is None:
            return None
        parts = []
        with watch.measuring("explain"), _as_raised():
            starts = self._starts if self.explainer.method.warm_start else None
            for piece in self.explainer.pieces(model, probe, starts):
                with watch.measuring("score"):
                    self._score(piece, epoch)
                with watch.measuring("track"):
                    if self.shared is not None:
                        self.shared.add(piece.capture)
                parts.append(Explanations.of(piece.told_apart(self._baselines)))
                advance(len(piece.probe))
        return _Share(Explanations.joined(parts), None if self.board is None else self.board.table())

    @property
    def _baselines(self) -> Iterable[CAM]:
        return () if self.board is None else self.board.baselines.values()

    def _score(self, piece: Explained, epoch: int) -> None:
        if self.board is not None:
            accuracy = self.class_accuracy
            self.board.update(
                piece.probe,
                piece.capture,
                piece.decomposition,
                method=self.explainer.method,
                epoch=epoch,
                # One number stands for all classes.
                class_accuracy=None if accuracy is None else accuracy.expand(piece.capture.logits.shape[1]),
            )

    def _scores(
        self, tables: list[RowTable | None], epoch: int, process: Process
    ) -> tuple[list[Score], dict[str, str]]:
        """Scores of all processes' rows, and what each metric said that raised in any of them."""
        board, parts = self.board, [table for table in tables if table is not None]
        if board is None or not parts:
            return [], {}
        if process.world > 1:
            # Whichever process writes the checkpoint must know the maps of all.
            for state in process.gather(board.history.state_dict()):
                board.history.merge(state)
        self.table = RowTable.joined(parts).ordered(self._known_probe().ids)
        if not board.has_fixed_strata and epoch >= self.scoring.reference_epoch:
            board.fix_strata(self.table.names_by_id())
        return board.scores(self.table), dict(self.table.dropped)

    def _starts(self, piece: Probe, targets: Tensor) -> list[Tensor]:
        """Components of each image as last seen, to begin from; none of an image that is new."""
        return self.images.last_seen(piece.ids, targets)

    def _share_basis(self, process: Process) -> SharedFindings | FactorFindings | None:
        if self.shared is None:
            return None
        images = self._known_probe().images
        size = (images.shape[-2], images.shape[-1])
        return self.shared.finish(size, step=self.n_snapshots, share=process.share)

    def _factor_numbers(self, found: FactorFindings) -> dict[str, float]:
        if self.board is None or self.table is None:
            return {}
        return found.stratum_numbers(self.board.strata(self.table))

    def _known_probe(self) -> Probe:
        if self.probe is None:
            raise RuntimeError("Call `prepare` first: probe and layer are not known yet.")
        return self.probe

    # ----- resuming

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs, as tensors and primitives."""
        board = self._board_state()
        state = {"n_snapshots": self.n_snapshots, "tracker": self.images.state_dict()}
        state |= {} if self.shared is None else {"shared": self.shared.state_dict()}
        state |= {} if self.score_dtype is None else {"score_dtype": self.score_dtype}
        return state if board is None else state | {"board": board}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.n_snapshots = state["n_snapshots"]
        self.images.load_state_dict(state["tracker"])
        self._restored = dict(state)
        if self._may_choose:
            self._score_in(state.get("score_dtype"))
        if self.shared is not None and "shared" in state:
            self.shared.load_state_dict(state["shared"])
        if self.board is not None and "board" in state:
            self.board.load_state_dict(state["board"])


@dataclass(frozen=True, eq=False)
class _Share:
    """What one process found of its images."""

    explanations: Explanations
    rows: RowTable | None


@contextmanager
def _as_raised() -> Iterator[None]:
    """Let a network's own error through: one that has answered before is asked in the right way."""
    try:
        yield
    except ForwardError as error:
        raise error.__cause__ or error from None


def _refuse_labels_outside(labels: Tensor, n_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"Expected the probe's `labels` to be between 0 and {n_classes - 1}, but got "
            f"{int(labels.min())} to {int(labels.max())}."
        )


@cache
def _own_version() -> str:
    """This package's; looked up once, since that reads files and keeps what it finds on the path."""
    return version("lit-decom")


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the images that the network gets right; one whose logits are not finite is wrong."""
    # Minus infinity is the logit of what cannot be.
    right = (logits.argmax(dim=1) == labels.cpu()) & logits.amax(dim=1).isfinite()
    return right.float().mean().item()


def _class_fields(explanations: Explanations) -> dict[str, Tensor]:
    told = explanations.class_maps
    return {} if told is None else {"class_maps": told.maps.half(), "class_map_classes": told.classes}
