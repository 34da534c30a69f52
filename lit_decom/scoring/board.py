"""Every metric of a probe's explanations, and beside it the same metric of baselines and of chance."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.evidence import Capture
from lit_decom.functional.chance import blob_components, center_maps, random_maps, random_orthogonal_basis
from lit_decom.functional.image import upsample
from lit_decom.methods.base import CAM, METHODS
from lit_decom.methods.decomposition import Decomposition
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.map_history import MapHistory
from lit_decom.probe import Probe
from lit_decom.scores import Column, RowTable, Score
from lit_decom.scoring.options import Scoring, needs_of, takes_of
from lit_decom.scoring.reduction import reduced
from lit_decom.scoring.shared_work import SharedWork

# What a metric that says the same of the same maps at every snapshot may take.
_CONSTANT = {"maps", "ossms", "masks", "parts", "boxes", "labels", "ids", "valid"}


class Scoreboard:
    """Scores the explanations of one probe, snapshot after snapshot.

    Every metric is computed for the method, for the baselines on the same evidence and, where it only looks at maps or
    OSSMs, for maps that know nothing: random ones as smooth as the layer's, a Gaussian in the middle, a random rotation
    of the components within their own span, and as many blobs of Grad-CAM's map. Each image's generator is seeded by
    its id.

    At each snapshot: :meth:`reset`, :meth:`update` with every piece of the probe, :meth:`table` for the rows of this
    process, :meth:`scores` of the rows of all. A metric that raises is missing from that snapshot; what the others say
    stands.

    Args:
        metrics: by name.
        scoring: what is scored beside them, and on which images apart.
        strict: whether a metric that raises raises here.
    """

    def __init__(self, metrics: Mapping[str, PerImageMetric], scoring: Scoring, *, strict: bool = False) -> None:
        self.metrics = {name: deepcopy(metric) for name, metric in metrics.items()}
        self.scoring, self.strict = scoring, strict
        self.baselines: dict[str, CAM] = {name: METHODS[name]() for name in scoring.baselines}
        chance = tuple(keys.CHANCE) if scoring.chance else ()
        self.explanations = (keys.OWN, *self.baselines, *chance)
        self.history = MapHistory(thresholds=_thresholds(self.metrics.values()))
        self._rule = scoring.rule
        self._fixed: dict[str, str] = {}
        self._constant: dict[Column, dict[str, Tensor]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the images of the last snapshot, but not their maps."""
        self._parts: list[RowTable] = []
        self._dropped: dict[str, str] = {}

    def update(
        self,
        probe: Probe,
        evidence: Capture,
        decomposition: Decomposition,
        *,
        method: CAM,
        epoch: int = 0,
        class_accuracy: Tensor | None = None,
    ) -> None:
        """Score one piece of the probe, and remember its maps for the next snapshot.

        Args:
            probe: the piece, on the device of its evidence.
            evidence: of the piece.
            decomposition: of the piece.
            method: that made it, for the metrics that explain masked images.
            epoch: what the history calls this snapshot.
            class_accuracy: ``(N,)`` over the whole validation set, for strata by it.
        """
        known = {
            "masks": probe.masks,
            "parts": probe.parts,
            "boxes": probe.boxes,
            "labels": probe.labels,
            "ids": probe.ids,
            "logits": evidence.logits,
            "capture": evidence,
            "class_accuracy": class_accuracy,
            "history": self.history,
        }
        piece = _Piece(
            probe, evidence, decomposition, {name: value for name, value in known.items() if value is not None}
        )
        columns: dict[Column, Tensor] = {}
        for explanation in self.explanations:
            columns |= self._columns(explanation, piece, self.baselines.get(explanation, method))
        codes = self._rule(evidence.logits, probe.labels, class_accuracy).cpu()
        self._parts.append(RowTable(probe.ids, codes, columns, self._rule.names))
        self.history.observe(epoch, piece.maps, probe.ids, evidence.logits, probe.labels)

    def table(self) -> RowTable | None:
        """Give the rows of everything seen since the last reset; None if there was nothing."""
        if not self._parts:
            return None
        joined = RowTable.joined(self._parts)
        columns = {column: rows for column, rows in joined.columns.items() if column[0] not in self._dropped}
        return RowTable(joined.ids, joined.codes, columns, joined.names, dict(self._dropped))

    def scores(self, table: RowTable, *, intervals: bool = True) -> list[Score]:
        """Reduce the rows of the whole probe.

        Args:
            table: of every image.
            intervals: whether to say how sure each value is.

        Returns:
            One score per metric, stratum and explanation; strata without images are absent.
        """
        return reduced(table, self.metrics, self.strata(table), intervals=intervals)

    def strata(self, table: RowTable) -> dict[str, Tensor]:
        """Tell which rows belong to each stratum, by its name, the fixed ones included."""
        return table.strata(self._fixed)

    @property
    def possible_keys(self) -> set[str]:
        """Name every score that some snapshot may have."""
        return keys.possible_keys(self.metrics, self._rule.names, self.explanations[1:])

    @property
    def captions(self) -> list[str]:
        """Every metric with its conventions."""
        return [f"{name}: {metric!r}" for name, metric in self.metrics.items()]

    @property
    def has_fixed_strata(self) -> bool:
        """Whether the strata of the reference epoch are known."""
        return bool(self._fixed)

    def fix_strata(self, names: Mapping[str, str]) -> None:
        """Keep which stratum each image is in now, for scores over the same images from now on.

        Args:
            names: stratum by image id, for the whole probe, the same in every process.
        """
        self._fixed = dict(names)

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs: the fixed strata and the maps of the last snapshot."""
        return {"fixed": dict(self._fixed), "history": self.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self._fixed = dict(state["fixed"])
        self.history.load_state_dict(state["history"])

    def _columns(self, explanation: str, piece: "_Piece", method: CAM) -> dict[Column, Tensor]:
        """Rows of every metric that says something of an explanation."""
        applying = {name: metric for name, metric in self.metrics.items() if _applies(metric, explanation)}
        columns: dict[Column, Tensor] = {}
        for name in list(applying):
            kept = self._constant_rows((name, explanation), piece.probe.ids)
            if kept is not None:
                columns[name, explanation] = kept
                del applying[name]
        if not applying:
            return columns
        shown = piece.known | _shown(explanation, piece, method)
        shared = SharedWork(shown)
        for name, metric in applying.items():
            if name not in self._dropped:
                rows = self._rows(name, metric, shared)
                if rows is not None:
                    columns[name, explanation] = rows
                    self._keep_constant((name, explanation), metric, piece.probe.ids, rows)
        return columns

    def _rows(self, name: str, metric: PerImageMetric, shared: "SharedWork") -> Tensor | None:
        """Rows of one metric; None where it raises, and it is not asked again in this snapshot."""
        try:
            return shared.rows(metric)
        except Exception as error:
            if self.strict:
                raise
            self._dropped[name] = f"{type(error).__name__}: {error}"
            return None

    def _constant_rows(self, column: Column, ids: tuple[str, ...]) -> Tensor | None:
        """Rows of what does not change from snapshot to snapshot, where they are known for all these images."""
        kept = self._constant.get(column, {})
        return torch.stack([kept[image] for image in ids]) if all(image in kept for image in ids) else None

    def _keep_constant(self, column: Column, metric: PerImageMetric, ids: tuple[str, ...], rows: Tensor) -> None:
        if column[1] in ("random_map", "center_map") and takes_of(metric) <= _CONSTANT:
            self._constant.setdefault(column, {}).update(zip(ids, rows, strict=True))


@dataclass
class _Piece:
    """A piece of the probe with everything that explanations are made of; maps are resized once."""

    probe: Probe
    evidence: Capture
    decomposition: Decomposition
    known: dict[str, Any]
    maps: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.maps = self.resized(self.decomposition.cam)

    @property
    def size(self) -> tuple[int, int]:
        return self.evidence.images.shape[-2], self.evidence.images.shape[-1]

    def resized(self, maps: Tensor) -> Tensor:
        return upsample(maps, self.size).clamp_(min=0)


def _shown(explanation: str, piece: _Piece, method: CAM) -> dict[str, Any]:
    """What one explanation has to show of a piece: maps, or OSSMs, or both."""
    n, device = len(piece.probe), piece.evidence.images.device
    decomposition = piece.decomposition
    if explanation == keys.OWN:
        return {
            "maps": piece.maps,
            "ossms": piece.resized(decomposition.ossms),
            "singular_values": decomposition.singular_values,
            "contributions": decomposition.contributions,
            "valid": decomposition.valid,
            "explain": _explainer(piece, method),
        }
    if explanation == "center_map":
        return {"maps": center_maps((n, *piece.size), device=device)}
    if explanation not in keys.CHANCE:
        return {"maps": piece.resized(method(piece.evidence)), "explain": _explainer(piece, method)}
    generators = [_generator(image_id) for image_id in piece.probe.ids]
    if explanation == "random_map":
        grid = (decomposition.components.shape[-2], decomposition.components.shape[-1])
        return {"maps": random_maps((n, *piece.size), grid, generators, device)}
    if explanation == "blob_components":
        blobs = blob_components(METHODS["grad_cam"]()(piece.evidence), decomposition.valid.shape[1], generators)
        return {"ossms": piece.resized(blobs)}
    turned = random_orthogonal_basis(decomposition.components, generators, decomposition.valid)
    return {"ossms": piece.resized(turned.relu()), "valid": decomposition.valid}


def _explainer(piece: _Piece, method: CAM) -> Callable[[Capture], Tensor]:
    """From evidence of masked images to maps, for the metrics that explain those."""
    return lambda evidence: piece.resized(method(evidence))


def _thresholds(metrics: Iterable[PerImageMetric]) -> list[float]:
    """Least similarities for which some metric asks the history since when maps have been as similar."""
    asked = [getattr(metric, "threshold", None) for metric in metrics if "history" in needs_of(metric)]
    return [threshold for threshold in asked if isinstance(threshold, int | float)]


def _applies(metric: PerImageMetric, explanation: str) -> bool:
    """Whether a metric says anything of an explanation that has maps only, or OSSMs only."""
    if explanation == keys.OWN:
        return True
    needs, takes = needs_of(metric), takes_of(metric)
    if explanation in ("random_basis", "blob_components"):
        return "ossms" in needs
    if needs & {"ossms", "singular_values", "history"} or not takes & {"maps", "masked_logits"}:
        return False
    # Chance costs no pass through the network.
    return explanation not in keys.CHANCE or not takes & {"masked_logits", "capture"}


def _generator(image_id: str) -> torch.Generator:
    digest = hashlib.sha256(image_id.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
