"""What is scored, on which images apart, and beside what."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from lit_decom.methods.base import METHODS
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.complexity import EffectiveRank, Entropy, Gini, TopComponentShare
from lit_decom.metrics.faithfulness import AverageDrop, AverageGain, AverageIncrease
from lit_decom.metrics.localization import (
    EnergyPointingGame,
    MaskIoU,
    PointingGame,
    RelevanceRank,
)
from lit_decom.metrics.parts import PartAveragePrecision, PartIoU
from lit_decom.metrics.stability import MapStability, SettledAt, TargetSwitchRate
from lit_decom.metrics.strata import Strata, StrataRule
from lit_decom.probe import Probe

Metrics = Sequence[PerImageMetric] | Mapping[str, PerImageMetric] | Literal["default"]


@dataclass(frozen=True)
class Scoring:
    """What is scored at a snapshot.

    Attributes:
        metrics: metrics of :mod:`lit_decom.metrics`, a mapping that names them, ``"default"`` (see
            :func:`default_metrics`), or none.
        strata: the images that are scored apart, as for :class:`lit_decom.metrics.StratifiedWrapper`.
        baselines: names of registered methods that are scored on the same evidence.
        chance: whether maps that know nothing are scored, too.
        reference_epoch: the strata of the images at the first snapshot in or after this epoch are kept, and scored
            under ``fixed_<stratum>``: there, a curve shows the same images throughout.
        n_bins: bins of confidence or class accuracy, where strata are those.

    Raises:
        ValueError: if a baseline is unknown or two metrics have one name.
    """

    metrics: Metrics = "default"
    strata: Strata = "correctness"
    baselines: Sequence[str] = ("grad_cam",)
    chance: bool = True
    reference_epoch: int = 0
    n_bins: int = 10

    def __post_init__(self) -> None:
        unknown = sorted(set(self.baselines) - set(METHODS))
        if unknown:
            raise ValueError(f"Expected `baselines` to be among {sorted(METHODS)}, but got {unknown}.")
        if self.metrics != "default":
            named_metrics(self.metrics)
        _ = self.rule.names

    @property
    def rule(self) -> StrataRule:
        """How images are told apart."""
        return StrataRule(self.strata, self.n_bins)

    @property
    def needs_class_accuracy(self) -> bool:
        """Whether the accuracy of every class over the whole validation set must be known."""
        return self.strata == "class_accuracy"

    def metrics_for(self, probe: Probe) -> dict[str, PerImageMetric]:
        """Name the metrics that are scored on a probe.

        Raises:
            ValueError: if a metric needs what the probe does not have.
        """
        metrics = named_metrics(default_metrics(probe) if self.metrics == "default" else self.metrics)
        for name, metric in metrics.items():
            for needed in ("masks", "parts", "boxes"):
                if needed in needs_of(metric) and getattr(probe, needed) is None:
                    raise ValueError(f"Expected the probe to have `{needed}` for the metric {name!r}, but it has none.")
        return metrics

    @property
    def chosen(self) -> list[str]:
        """Names of the metrics that were asked for one by one."""
        return [] if self.metrics == "default" else list(named_metrics(self.metrics))

    @property
    def always_there(self) -> dict[str, bool]:
        """By the name of every metric that may be scored, whether its value over all images is always there."""
        metrics = named_metrics(_every_default() if self.metrics == "default" else self.metrics)
        return {name: metric.always_there for name, metric in metrics.items()}


def named_metrics(metrics: Sequence[PerImageMetric] | Mapping[str, PerImageMetric]) -> dict[str, PerImageMetric]:
    """Give metrics their names in keys.

    Raises:
        ValueError: if two have the same.
    """
    if isinstance(metrics, Mapping):
        return dict(metrics)
    named = {metric_key(metric): metric for metric in metrics}
    if len(named) < len(metrics):
        raise ValueError(f"Expected `metrics` to have different names, but got only {sorted(named)}.")
    return named


def needs_of(metric: PerImageMetric) -> frozenset[str]:
    """Name what a metric cannot do without."""
    return _arguments(type(metric))[0]


def takes_of(metric: PerImageMetric) -> frozenset[str]:
    """Name what a metric can use."""
    return _arguments(type(metric))[1]


@cache
def _arguments(kind: type[PerImageMetric]) -> tuple[frozenset[str], frozenset[str]]:
    """Arguments of ``update`` without a default, and all of them."""
    _, *parameters = inspect.signature(kind.update).parameters.values()
    needed = frozenset(entry.name for entry in parameters if entry.default is inspect.Parameter.empty)
    return needed, frozenset(entry.name for entry in parameters)


def default_metrics(probe: Probe) -> list[PerImageMetric]:
    """Choose the metrics for which the probe has what they need, and that cost one masked forward pass per image."""
    available = [
        *(_with_masks() if probe.masks is not None else []),
        *(_with_parts() if probe.parts is not None else []),
    ]
    return [*available, *_for_any_probe()]


def _with_masks() -> list[PerImageMetric]:
    return [PointingGame(scale_to_image=True), EnergyPointingGame(), RelevanceRank(), MaskIoU()]


def _with_parts() -> list[PerImageMetric]:
    # The rulers of an index over images are for components that have one; ranks hardly do, and their intervals cost.
    return [PartAveragePrecision(), PartIoU()]


def _for_any_probe() -> list[PerImageMetric]:
    return [
        *(Gini(), Entropy(), EffectiveRank(), TopComponentShare()),
        *(AverageDrop(), AverageIncrease(), AverageGain()),
        *(MapStability(), MapStability("first_correct"), TargetSwitchRate(), SettledAt()),
    ]


def _every_default() -> list[PerImageMetric]:
    return [*_with_masks(), *_with_parts(), *_for_any_probe()]


def metric_key(metric: PerImageMetric) -> str:
    """Name a metric in keys: its class in snake case, and the number of steps or the reference where it has one."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__).lower()
    name = name.replace("io_u", "iou")
    steps = getattr(metric, "n_steps", None)
    if isinstance(metric, MapStability) and metric.reference != "previous":
        return f"{name}_{metric.reference}"
    return name if steps is None else f"{name}_{steps}"
