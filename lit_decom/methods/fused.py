"""FM-G-CAM: the maps of several classes of an image in one, each position left to the one it speaks for most."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_decom.evidence import Capture, class_gradients
from lit_decom.functional.base import check_option
from lit_decom.methods.base import CAM, finite_images, register

ClassScale = Literal["map", "columns", "none"]


@dataclass(frozen=True)
class ClassMaps:
    """What speaks for which class in each image.

    Attributes:
        classes: ``(B, K)``, the classes by descending logit.
        maps: ``(B, K, h, w)`` in [0, 1], at each position above 0 for at most one class; NaN throughout where an
            image's evidence is not finite.
    """

    classes: Tensor
    maps: Tensor


@register("fm_g_cam")
@dataclass(frozen=True)
class FMGCAM(CAM):
    """Fused multi-class Grad-CAM (FM-G-CAM, arXiv 2312.05975): where the image speaks for any of its likeliest classes.

    For each of the ``n_classes`` classes of largest logit ``M_c = 1/C sum_k mean(dy_c/dA_k) A_k``; each position is
    left to the class with the largest value there; each class is scaled, what speaks against it is cut off, and all
    maps of an image are stretched to [0, 1] together. The released code weighs one activation in place, class after
    class, so that its second map is of ``a1 a2 A`` and its third of ``a1 a2 a3 A``; here each class weighs the
    activation itself. Its GELU and ELU in place of ReLU are left out.

    The target of the capture does not matter, only its images. One forward and ``n_classes`` backward passes more.

    Attributes:
        n_classes: how many classes; all that can be where there are less.
        scale: how the classes' maps are made comparable: ``"map"``, each to unit norm (our reading of the paper, which
            normalises maps); ``"columns"``, each column of each map to unit norm, which the released code does;
            ``"none"``, which leaves them in the units of the logits (the code with ``enhance=False``).

    Raises:
        ValueError: if there is no class or the scale is unknown.
    """

    n_classes: int = 3
    scale: ClassScale = "map"

    def __post_init__(self) -> None:
        if self.n_classes < 1:
            raise ValueError(f"Expected `n_classes` to be at least 1, but got {self.n_classes}.")
        check_option("scale", self.scale, ClassScale)

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: what speaks for any of the classes, ``(B, h, w)`` in [0, 1]."""
        return self.class_maps(capture).maps.sum(dim=1)

    def class_maps(self, capture: Capture) -> ClassMaps:
        """Tell the classes of a batch apart."""
        activations = capture.activations
        possible = int((capture.logits != -torch.inf).sum(dim=1).amax())
        classes = capture.logits.topk(min(self.n_classes, possible), dim=1).indices
        positions = activations.shape[-2] * activations.shape[-1]
        weights = class_gradients(capture, classes) / positions
        # One class after the other, not all weighted activations at once, in the precision of the evidence.
        maps = torch.stack([(activations * own[:, :, None, None]).mean(dim=1) for own in weights.unbind(1)], dim=1)
        finite = finite_images(activations, capture.gradients, weights, maps)[:, None, None, None]
        maps = maps.where(finite, 0)
        most = maps.argmax(dim=1, keepdim=True)
        fused = torch.zeros_like(maps).scatter(1, most, maps.gather(1, most))
        fused = self._scaled(fused).relu()
        largest = fused.amax(dim=(1, 2, 3), keepdim=True)
        return ClassMaps(classes, (fused / torch.where(largest > 0, largest, 1)).masked_fill(~finite, torch.nan))

    def _scaled(self, maps: Tensor) -> Tensor:
        if self.scale == "none":
            return maps
        norms = torch.linalg.vector_norm(maps, dim=(2, 3) if self.scale == "map" else 2, keepdim=True)
        return maps / torch.where(norms > 0, norms, 1)
