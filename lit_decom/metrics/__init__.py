"""Interpretability scores as torchmetrics, one value per image."""

from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.complexity import EffectiveRank, Entropy, Gini, TopComponentShare
from lit_decom.metrics.faithfulness import ADCC, AverageDrop, AverageGain, AverageIncrease, Coherency, Complexity
from lit_decom.metrics.insertion_deletion import DeletionAUC, InsertionAUC, InsertionDeletion
from lit_decom.metrics.localization import (
    EnergyPointingGame,
    MaskIoU,
    MaxBoxAccuracy,
    PixelAveragePrecision,
    PointingGame,
    RelevanceRank,
)
from lit_decom.metrics.map_history import MapHistory
from lit_decom.metrics.parts import (
    FixedIndexPartAP,
    PartAveragePrecision,
    PartCoverage,
    PartInformation,
    PartIoU,
    PartPurity,
)
from lit_decom.metrics.road import ROAD
from lit_decom.metrics.stability import MapStability, SettledAt, TargetSwitchRate
from lit_decom.metrics.stratified import StratifiedWrapper

__all__ = [
    "ADCC",
    "ROAD",
    "AverageDrop",
    "AverageGain",
    "AverageIncrease",
    "Coherency",
    "Complexity",
    "DeletionAUC",
    "EffectiveRank",
    "EnergyPointingGame",
    "Entropy",
    "FixedIndexPartAP",
    "Gini",
    "InsertionAUC",
    "InsertionDeletion",
    "MapHistory",
    "MapStability",
    "MaskIoU",
    "MaxBoxAccuracy",
    "PartAveragePrecision",
    "PartCoverage",
    "PartInformation",
    "PartIoU",
    "PartPurity",
    "PerImageMetric",
    "PixelAveragePrecision",
    "PointingGame",
    "RelevanceRank",
    "SettledAt",
    "StratifiedWrapper",
    "TargetSwitchRate",
    "TopComponentShare",
]
