"""Scores of a probe's explanations, stratified, and beside them the same scores of baselines and of chance."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lit_decom.evidence import Capture, capture
from lit_decom.evidence.layers import TargetLayer
from lit_decom.functional.bootstrap import bootstrap_interval
from lit_decom.functional.chance import center_maps, random_maps, random_orthogonal_basis
from lit_decom.functional.image import upsample
from lit_decom.methods.base import CAM, METHODS
from lit_decom.methods.decom_cam import Decomposition
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.faithfulness import Masking
from lit_decom.metrics.stability import MapHistory
from lit_decom.metrics.stratified import Strata, StratifiedWrapper
from lit_decom.probe import Probe
from lit_decom.scoring.choice import metric_key
from lit_decom.scoring.score import Score

CHANCE = ("random_map", "center_map", "random_basis")
FIXED = "fixed_"
_OWN = ""


class Scoreboard:
    """Metrics over the explanations of one probe, each stratified, each beside its baselines.

    Every metric is computed for DecomCAM, for the methods in ``baselines`` on the same evidence, and, where it only
    looks at maps or OSSMs, for maps that know nothing: random ones as smooth as the layer's, a Gaussian in the middle,
    and a random rotation of the components within their own span. Each image's generator is seeded by its id.

    Args:
        metrics: metrics, or a mapping that names them.
        strata: as for :class:`lit_decom.metrics.StratifiedWrapper`.
        baselines: names of registered methods.
        chance: whether the maps that know nothing are scored too.
        target: which class is explained, for the record.
        n_bins: bins of confidence or class accuracy.

    Raises:
        ValueError: if a baseline is unknown or two metrics have one name.
    """

    def __init__(
        self,
        metrics: Sequence[PerImageMetric] | Mapping[str, PerImageMetric],
        *,
        strata: Strata = "correctness",
        baselines: Sequence[str] = ("grad_cam",),
        chance: bool = True,
        target: str = "label",
        n_bins: int = 10,
    ) -> None:
        named = metrics if isinstance(metrics, Mapping) else {metric_key(metric): metric for metric in metrics}
        if len(named) < len(metrics):
            raise ValueError(f"Expected `metrics` to have different names, but got only {sorted(named)}.")
        unknown = sorted(set(baselines) - set(METHODS))
        if unknown:
            raise ValueError(f"Expected `baselines` to be among {sorted(METHODS)}, but got {unknown}.")
        self.baselines: dict[str, CAM] = {name: METHODS[name]() for name in baselines}
        self.needs_class_accuracy = strata == "class_accuracy"
        self._boards: dict[str, dict[str, StratifiedWrapper]] = {}
        for explanation in (_OWN, *baselines, *(CHANCE if chance else ())):
            for name, metric in named.items():
                if _applies(metric, explanation):
                    wrapper = StratifiedWrapper(deepcopy(metric), strata, n_bins=n_bins, target=target)
                    self._boards.setdefault(explanation, {})[name] = wrapper
        self.history = MapHistory()
        self._fixed: dict[str, str] = {}
        self._ids: list[str] = []

    def require(self, probe: Probe) -> None:
        """Check that the probe has what the metrics need.

        Raises:
            ValueError: naming the metric and what is missing.
        """
        for name, wrapper in self._boards.get(_OWN, {}).items():
            for needed in ("masks", "parts", "boxes"):
                if needed in _needs(wrapper.metric) and getattr(probe, needed) is None:
                    raise ValueError(f"Expected the probe to have `{needed}` for the metric {name!r}, but it has none.")

    def reset(self) -> None:
        """Forget the images of the last firing."""
        self._ids.clear()
        for wrapper in self._wrappers():
            wrapper.reset()

    def update(
        self,
        probe: Probe,
        evidence: Capture,
        decomposition: Decomposition,
        *,
        epoch: int = 0,
        model: nn.Module | None = None,
        layer: TargetLayer | None = None,
        method: CAM | None = None,
        class_accuracy: Tensor | None = None,
    ) -> None:
        """Score one piece of the probe, and remember its maps for the next firing.

        Args:
            probe: the piece, on the device of its evidence.
            evidence: of the piece.
            decomposition: of the piece.
            epoch: what the history calls this firing.
            model: the network, for the metrics that explain masked images.
            layer: likewise.
            method: likewise.
            class_accuracy: ``(N,)`` over the whole validation set, for strata by it.
        """
        size = (evidence.images.shape[-2], evidence.images.shape[-1])
        known = {
            "masks": probe.masks,
            "parts": probe.parts,
            "boxes": probe.boxes,
            "labels": probe.labels,
            "ids": probe.ids,
            "logits": evidence.logits,
            "capture": evidence,
            "class_accuracy": class_accuracy,
        }
        known = {name: value for name, value in known.items() if value is not None}
        self._ids += probe.ids
        for explanation, wrappers in self._boards.items():
            shown = self._shown(explanation, probe, evidence, decomposition, size)
            if explanation not in CHANCE:
                by = self.baselines.get(explanation, method)
                shown["explain"] = _explainer(evidence, model, layer, by, size)
            if explanation == _OWN:
                shown["history"] = self.history
            _update_all(wrappers.values(), known | shown)
            if explanation == _OWN:
                self.history.observe(epoch, shown["maps"], probe.ids, evidence.logits, probe.labels)

    def _shown(
        self, explanation: str, probe: Probe, evidence: Capture, decomposition: Decomposition, size: tuple[int, int]
    ) -> dict[str, Any]:
        """What one explanation has to show of a piece: maps, or OSSMs, or both."""
        n, grid = len(probe), (decomposition.components.shape[-2], decomposition.components.shape[-1])
        device = evidence.images.device
        if explanation == _OWN:
            return {
                "maps": upsample(decomposition.cam, size).clamp(min=0),
                "ossms": upsample(decomposition.ossms, size).clamp(min=0),
                "singular_values": decomposition.singular_values,
                "contributions": decomposition.contributions,
                "valid": decomposition.valid,
            }
        if explanation in self.baselines:
            return {"maps": upsample(self.baselines[explanation](evidence), size).clamp(min=0)}
        if explanation == "center_map":
            return {"maps": center_maps((n, *size), device=device)}
        generators = [_generator(image_id) for image_id in probe.ids]
        if explanation == "random_map":
            return {"maps": random_maps((n, *size), grid, generators, device)}
        turned = random_orthogonal_basis(decomposition.components, generators, decomposition.valid)
        return {"ossms": upsample(turned.relu(), size).clamp(min=0), "valid": decomposition.valid}

    @property
    def metrics(self) -> dict[str, PerImageMetric]:
        """The metrics by name."""
        return {name: wrapper.metric for name, wrapper in self._boards.get(_OWN, {}).items()}

    def beaten_by(self, other: "Scoreboard") -> dict[str, tuple[float, float]]:
        """By metric, the bootstrap interval of what another network's explanations of the same images are better by."""
        found = {}
        for name, wrapper in self._boards.get(_OWN, {}).items():
            theirs = other._boards[_OWN][name].per_image()[0]  # noqa: SLF001
            better = _better_by(theirs, wrapper.per_image()[0], wrapper.higher_is_better)
            if better is not None:
                found[name] = _ends(bootstrap_interval(better[:, None], lambda drawn: drawn.mean()))
        return found

    @property
    def captions(self) -> list[str]:
        """Every metric with its conventions and strata."""
        return [repr(wrapper) for wrapper in self._boards.get(_OWN, {}).values()]

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

    def stratum_names(self, logits: Tensor, labels: Tensor, ids: Sequence[str]) -> dict[str, str]:
        """Name the stratum of each image by id; those in none are left out."""
        wrapper = next(self._wrappers())
        codes = wrapper.stratify(logits, labels).tolist()
        names = dict(enumerate(wrapper.names))
        return {image: names.get(code, str(code)) for image, code in zip(ids, codes, strict=True) if code >= 0}

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs: the fixed strata and the maps of the last firing."""
        return {"fixed": dict(self._fixed), "history": self.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self._fixed = dict(state["fixed"])
        self.history.load_state_dict(state["history"])

    def scores(self, *, intervals: bool = False) -> list[Score]:
        """Reduce everything seen since the last reset; every process must call it.

        Args:
            intervals: whether to bootstrap over the images, which takes a while.

        Returns:
            One score per metric, stratum and explanation; strata without images are absent.
        """
        found: list[Score] = []
        own: dict[str, Tensor] = {}
        for explanation, wrappers in self._boards.items():
            for name, wrapper in wrappers.items():
                values, _ = wrapper.per_image()
                if explanation == _OWN:
                    own[name] = values
                for stratum, rows in self._strata(wrapper).items():
                    better = _better_by(own[name], values, wrapper.higher_is_better) if stratum == "all" else None
                    found.append(
                        _scored(wrapper.metric, (name, stratum, explanation), rows, better, intervals=intervals)
                    )
        return found

    def _strata(self, wrapper: StratifiedWrapper) -> dict[str, Tensor]:
        """The rows of every stratum, moving and fixed."""
        rows, codes = wrapper.metric.gather(), wrapper.per_image()[1]
        names = dict(enumerate(wrapper.names))
        parts = {"all": rows}
        for code in sorted(set(codes.tolist()) - {-1}):
            parts[names.get(code, str(code))] = rows[codes == code]
        if self._fixed:
            membership = [self._fixed.get(image) for image in self._gathered_ids()]
            for stratum in sorted({name for name in membership if name is not None}):
                inside = torch.tensor([name == stratum for name in membership], device=rows.device)
                parts[f"{FIXED}{stratum}"] = rows[inside]
        return parts

    def _gathered_ids(self) -> list[str]:
        """Ids of every process's images, in the order in which rows are gathered."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self._ids
        everyone: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(everyone, self._ids)
        return [image for ids in everyone for image in ids]

    def _wrappers(self) -> Any:
        return (wrapper for wrappers in self._boards.values() for wrapper in wrappers.values())


def _scored(
    metric: PerImageMetric,
    place: tuple[str, str, str],
    rows: Tensor,
    better_by: Tensor | None,
    *,
    intervals: bool,
) -> Score:
    interval = over = None
    if intervals:
        interval = _ends(bootstrap_interval(rows, metric.reduce))
        if better_by is not None and place[2] != _OWN:
            over = _ends(bootstrap_interval(better_by[:, None], lambda drawn: drawn.mean()))
    undefined = int(rows[:, 0].isnan().sum())
    return Score(*place, float(metric.reduce(rows)), len(rows), undefined, interval, over)


def _better_by(own: Tensor, other: Tensor, higher_is_better: bool | None) -> Tensor | None:
    """What an explanation is better by than a baseline, image by image; None where a metric has no direction."""
    if higher_is_better is None or own.shape != other.shape:
        return None
    return own - other if higher_is_better else other - own


def _ends(interval: Tensor) -> tuple[float, float]:
    low, high = interval.tolist()
    return low, high


def _needs(metric: PerImageMetric) -> set[str]:
    parameters = inspect.signature(metric.update).parameters.values()
    return {parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty}


def _takes(metric: PerImageMetric) -> set[str]:
    return set(inspect.signature(metric.update).parameters)


def _applies(metric: PerImageMetric, explanation: str) -> bool:
    """Whether a metric says anything of an explanation that has maps only, or OSSMs only."""
    needs = _needs(metric)
    if explanation == _OWN:
        return True
    if explanation == "random_basis":
        return "ossms" in needs
    if needs & {"ossms", "singular_values", "history"} or not _takes(metric) & {"maps", "masked_logits"}:
        return False
    # Chance costs no pass through the network.
    return explanation not in CHANCE or not _takes(metric) & {"masked_logits", "capture"}


def _update_all(wrappers: Sequence[StratifiedWrapper] | Any, known: dict[str, Any]) -> None:
    masked: dict[Masking, Tensor] = {}
    for wrapper in wrappers:
        given = dict(known)
        if "masked_logits" in _takes(wrapper.metric):
            masking: Masking = wrapper.metric.masking  # type: ignore[assignment]  # nn.Module hides its type
            if masking not in masked:
                masked[masking] = masking.forward(known["capture"], known["maps"])
            given["masked_logits"] = masked[masking]
        wrapper.update(**given)


def _explainer(
    evidence: Capture, model: nn.Module | None, layer: TargetLayer | None, method: CAM | None, size: tuple[int, int]
) -> Any:
    """From images and classes to maps, for the metrics that explain masked images."""
    if model is None or layer is None or method is None:
        return None

    def explain(images: Tensor, classes: Tensor) -> Tensor:
        again = capture(model, layer, images, classes, mean=evidence.mean, std=evidence.std)
        return upsample(method(again), size).clamp(min=0)

    return explain


def _generator(image_id: str) -> torch.Generator:
    digest = hashlib.sha256(image_id.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
