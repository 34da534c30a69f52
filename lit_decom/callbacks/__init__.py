"""Lightning callbacks."""

from lit_decom.callbacks.decom_cam import DecomCAMCallback

__all__ = ["DecomCAMCallback"]
