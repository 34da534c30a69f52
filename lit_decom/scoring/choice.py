"""Which metrics are scored when nobody says, and what each is called."""

import re

from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.complexity import EffectiveRank, Entropy, Gini, TopComponentShare
from lit_decom.metrics.faithfulness import AverageDrop, AverageGain, AverageIncrease
from lit_decom.metrics.localization import (
    EnergyPointingGame,
    MaskIoU,
    PartCoverage,
    PartPurity,
    PointingGame,
    RelevanceRank,
)
from lit_decom.metrics.stability import MapStability, SettledAt, TargetSwitchRate
from lit_decom.probe import Probe


def default_metrics(probe: Probe) -> list[PerImageMetric]:
    """Choose the metrics for which the probe has what they need, and that cost one masked forward pass per image."""
    chosen: list[PerImageMetric] = []
    if probe.masks is not None:
        chosen += [PointingGame(scale_to_image=True), EnergyPointingGame(), RelevanceRank(), MaskIoU()]
    if probe.parts is not None:
        chosen += [PartCoverage(), PartPurity()]
    chosen += [Gini(), Entropy(), EffectiveRank(), TopComponentShare()]
    chosen += [AverageDrop(), AverageIncrease(), AverageGain()]
    return [*chosen, MapStability(), MapStability("first_correct"), TargetSwitchRate(), SettledAt()]


def metric_key(metric: PerImageMetric) -> str:
    """Name a metric in keys: its class in snake case, and the number of steps or the reference where it has one."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__).lower()
    name = name.replace("io_u", "iou")
    steps = getattr(metric, "n_steps", None)
    if isinstance(metric, MapStability) and metric.reference != "previous":
        return f"{name}_{metric.reference}"
    return name if steps is None else f"{name}_{steps}"
