"""What the core must know of a network."""

from lit_decom.models.layers import TargetLayer, TargetLayerError, resolve_layer
from lit_decom.models.zero_shot import ZeroShotClassifier

__all__ = ["TargetLayer", "TargetLayerError", "ZeroShotClassifier", "resolve_layer"]
