"""Training-time interpretability for PyTorch Lightning: what does a network learn to look at, while it learns it?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_decom.callbacks import DecomCAMCallback, Execution, Log
    from lit_decom.comparison import compare
    from lit_decom.components import Components
    from lit_decom.evaluation import evaluate
    from lit_decom.evidence import Capture, capture, find_target_layer, observing
    from lit_decom.explainer import Explainer, explain
    from lit_decom.methods import CAM, METHODS, DecomCAM, Decomposition
    from lit_decom.models import ZeroShotClassifier
    from lit_decom.probe import Probe
    from lit_decom.scoring import Scoring

# Names are loaded when asked for, so that the core never pulls in Lightning or wandb.
_HOMES = {
    "CAM": "methods",
    "Capture": "evidence",
    "Components": "components",
    "DecomCAM": "methods",
    "DecomCAMCallback": "callbacks",
    "Decomposition": "methods",
    "Execution": "callbacks",
    "Explainer": "explainer",
    "Log": "callbacks",
    "METHODS": "methods",
    "Probe": "probe",
    "Scoring": "scoring",
    "ZeroShotClassifier": "models",
    "capture": "evidence",
    "compare": "comparison",
    "evaluate": "evaluation",
    "explain": "explainer",
    "find_target_layer": "evidence",
    "observing": "evidence",
}

__all__ = [
    "CAM",
    "METHODS",
    "Capture",
    "Components",
    "DecomCAM",
    "DecomCAMCallback",
    "Decomposition",
    "Execution",
    "Explainer",
    "Log",
    "Probe",
    "Scoring",
    "ZeroShotClassifier",
    "capture",
    "compare",
    "evaluate",
    "explain",
    "find_target_layer",
    "observing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
