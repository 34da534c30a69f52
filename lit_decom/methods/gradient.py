"""Baselines that weigh activations by gradients: one line of arithmetic each, on the same capture."""

from dataclasses import dataclass

from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.cam import channel_weights, weighted_map, x_grad_cam_weights
from lit_decom.methods.base import CAM, register, where_finite


@register("grad_cam")
@dataclass(frozen=True)
class GradCAM(CAM):
    """Channels weighted by their mean gradient (Selvaraju et al. 2017)."""

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``relu(sum_k mean(G_k) A_k)``, ``(B, h, w)``."""
        return where_finite(
            weighted_map(capture.activations, channel_weights(capture.activations, capture.gradients, "mean")), capture
        )


@register("grad_cam_pp")
@dataclass(frozen=True)
class GradCAMPP(CAM):
    """Channels weighted by rectified gradients with position weights (Grad-CAM++, Chattopadhay et al. 2018)."""

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        return where_finite(
            weighted_map(capture.activations, channel_weights(capture.activations, capture.gradients, "grad_cam_pp")),
            capture,
        )


@register("x_grad_cam")
@dataclass(frozen=True)
class XGradCAM(CAM):
    """Channels weighted by their gradient averaged over activation (XGrad-CAM, Fu et al. 2020)."""

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        return where_finite(
            weighted_map(capture.activations, x_grad_cam_weights(capture.activations, capture.gradients)), capture
        )


@register("hi_res_cam")
@dataclass(frozen=True)
class HiResCAM(CAM):
    """Gradient times activation, position by position (HiResCAM, Draelos and Carin 2020)."""

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``relu(sum_k G_k A_k)``, ``(B, h, w)``."""
        return where_finite((capture.gradients * capture.activations).sum(dim=1).relu(), capture)


@register("layer_cam")
@dataclass(frozen=True)
class LayerCAM(CAM):
    """Rectified gradient times activation, position by position (LayerCAM, Jiang et al. 2021)."""

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``relu(sum_k relu(G_k) A_k)``, ``(B, h, w)``."""
        return where_finite((capture.gradients.relu() * capture.activations).sum(dim=1).relu(), capture)
