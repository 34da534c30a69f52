"""Explanation methods, each a function of one capture."""

from lit_decom.methods.ablation import AblationCAM
from lit_decom.methods.base import CAM, METHODS, ComponentMethod, register
from lit_decom.methods.conceptor_cam import ConceptorCAM
from lit_decom.methods.decom_cam import DecomCAM
from lit_decom.methods.decomposition import Decomposition
from lit_decom.methods.eigen import EigenCAM, EigenGradCAM
from lit_decom.methods.feature_factorization import Concepts, DeepFeatureFactorization
from lit_decom.methods.fused import FMGCAM, ClassMaps
from lit_decom.methods.gradient import GradCAM, GradCAMPP, HiResCAM, LayerCAM, XGradCAM
from lit_decom.methods.integrated_features import AccuracyLeft, FeatureAnalysis, accuracy_left, reduced_logits
from lit_decom.methods.masked import ScoreCAM, ScoreCAMPP
from lit_decom.methods.opti_cam import OptiCAM
from lit_decom.methods.presets import PRESETS, Preset
from lit_decom.methods.uninformed import CenterCAM, FakeCAM, RandomCAM

__all__ = [
    "CAM",
    "FMGCAM",
    "METHODS",
    "PRESETS",
    "AblationCAM",
    "AccuracyLeft",
    "CenterCAM",
    "ClassMaps",
    "ComponentMethod",
    "ConceptorCAM",
    "Concepts",
    "DecomCAM",
    "Decomposition",
    "DeepFeatureFactorization",
    "EigenCAM",
    "EigenGradCAM",
    "FakeCAM",
    "FeatureAnalysis",
    "GradCAM",
    "GradCAMPP",
    "HiResCAM",
    "LayerCAM",
    "OptiCAM",
    "Preset",
    "RandomCAM",
    "ScoreCAM",
    "ScoreCAMPP",
    "XGradCAM",
    "accuracy_left",
    "reduced_logits",
    "register",
]
