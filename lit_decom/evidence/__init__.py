"""What one forward and one backward pass leave behind at a layer: all hooks and all autograd of the package."""

from lit_decom.evidence.altered import score_gradients
from lit_decom.evidence.capture import Capture, capture
from lit_decom.evidence.differentiable import differentiable_evidence, differentiable_map
from lit_decom.evidence.fingerprint import Fingerprint, ModelChangedError, fingerprint, refuse_changes
from lit_decom.evidence.isolated import Isolation, isolated
from lit_decom.evidence.jacobian import class_gradients, combined_gradients
from lit_decom.evidence.layers import TargetLayer, TargetLayerError, resolve_layer
from lit_decom.evidence.network import Forward, ForwardError, ScoreDtype
from lit_decom.evidence.observing import observing
from lit_decom.evidence.room import Room
from lit_decom.evidence.target_layer import find_target_layer
from lit_decom.evidence.targets import Targets, TargetScore

__all__ = [
    "Capture",
    "Fingerprint",
    "Forward",
    "ForwardError",
    "Isolation",
    "ModelChangedError",
    "Room",
    "ScoreDtype",
    "TargetLayer",
    "TargetLayerError",
    "TargetScore",
    "Targets",
    "capture",
    "class_gradients",
    "combined_gradients",
    "differentiable_evidence",
    "differentiable_map",
    "find_target_layer",
    "fingerprint",
    "isolated",
    "observing",
    "refuse_changes",
    "resolve_layer",
    "score_gradients",
]
