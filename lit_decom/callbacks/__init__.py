"""Lightning callbacks."""

from lit_decom.callbacks.decom_cam import DecomCAMCallback
from lit_decom.callbacks.options import Execution, Log
from lit_decom.callbacks.replay import ReplayCallback

__all__ = ["DecomCAMCallback", "Execution", "Log", "ReplayCallback"]
