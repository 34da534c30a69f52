"""Baselines that keep the leading component of a decomposition, without asking what it does for the target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.decomposition import decompose, fix_signs
from lit_decom.methods.base import CAM, finite_images, register, where_finite


@register("eigen_cam")
@dataclass(frozen=True)
class EigenCAM(CAM):
    """The leading component of the activations (Eigen-CAM, Muhammad and Yeasin 2020); the same for every target.

    The published method leaves the sign open; the rule here is ``evidence`` (our choice).
    """

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        return where_finite(_leading(capture.activations), capture)


@register("eigen_grad_cam")
@dataclass(frozen=True)
class EigenGradCAM(CAM):
    """The leading component of gradient times activation, sign by ``evidence`` (our choice)."""

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        return where_finite(_leading(capture.gradients * capture.activations), capture)


def _leading(maps: Tensor) -> Tensor:
    broken = ~finite_images(maps)[:, None, None]
    factors = fix_signs(decompose(maps.masked_fill(broken[:, None], 0), n_components=1), "evidence")
    return factors.components[:, 0].relu().masked_fill(broken, torch.nan)
