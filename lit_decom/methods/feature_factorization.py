"""Deep feature factorization: what a layer sees, as a few parts that only add up, and what speaks for the target."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import check_option
from lit_decom.functional.nmf import decompose_non_negative
from lit_decom.methods.base import CAM, finite_images, register

Over = Literal["image", "batch"]


@dataclass(frozen=True)
class Concepts:
    """Parts of the activations of a batch: ``A ~ sum_k profile_k map_k`` in each image.

    Attributes:
        maps: ``(B, K, h, w)``, where each part is; nowhere negative.
        profiles: ``(B, C, K)``, the channels of each part, of unit norm and nowhere negative; the same in every image
            where they were found over the batch.
        valid: ``(B, K)`` bool, False past the rank.
    """

    maps: Tensor
    profiles: Tensor
    valid: Tensor


@register("deep_feature_factorization")
@dataclass(frozen=True)
class DeepFeatureFactorization(CAM):
    """Non-negative matrix factorisation of the activations (DFF, Collins et al. 2018, arXiv 1806.10206).

    The parts (:meth:`concepts`) know nothing of the target. The map sums them by what each does for it: the gradient
    along its profile, ``relu(sum_k (mean(G) . profile_k) map_k)``, Grad-CAM's map of the approximated activations (our
    choice; it is what pytorch-grad-cam finds by sending each profile through a classifier, where the head is linear).
    The factorisation is :func:`lit_decom.functional.nmf.decompose_non_negative`, which draws nothing, where
    pytorch-grad-cam begins at random; as in the paper nothing explains negative activations, where pytorch-grad-cam
    first subtracts each channel's minimum over the batch, so that a channel that is never 0 gives another factorisation
    there. No pass through the network; up to 30 sweeps over matrices of ``C`` by ``h w`` in float64.

    Attributes:
        n_components: how many parts; of a layer that cannot have as many, all it can.
        over: ``"batch"`` finds parts that all images of the batch share, as the paper does to segment them together:
            then an image's map depends on the others. ``"image"``, the default, finds those of each image for itself.

    Raises:
        ValueError: if there is no part, or ``over`` is unknown.
    """

    n_components: int = 5
    over: Over = "image"

    def __post_init__(self) -> None:
        if self.n_components < 1:
            raise ValueError(f"Expected `n_components` to be at least 1, but got {self.n_components}.")
        check_option("over", self.over, Over)

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        finite = finite_images(capture.activations, capture.gradients)[:, None, None]
        found = self.concepts(capture)
        weights = (capture.gradients.mean(dim=(2, 3))[:, :, None] * found.profiles).sum(dim=1)
        maps = (weights[:, :, None, None] * found.maps).sum(dim=1).relu()
        return maps.masked_fill(~finite, torch.nan)

    def concepts(self, capture: Capture) -> Concepts:
        """Find the parts of a batch; none of an image whose evidence is not finite."""
        finite = finite_images(capture.activations, capture.gradients)[:, None, None, None]
        activations = capture.activations.where(finite, 0)
        batch, channels, height, width = activations.shape
        if self.over == "batch":
            activations = activations.transpose(0, 1).reshape(1, channels, batch * height, width)
        bound = min(channels, activations.shape[-2] * width)
        factors = decompose_non_negative(activations, min(self.n_components, bound))
        if self.over == "image":
            return Concepts(factors.components, factors.loadings, factors.valid)
        maps = factors.components.view(-1, batch, height, width).transpose(0, 1)
        return Concepts(maps, factors.loadings.expand(batch, -1, -1), factors.valid.expand(batch, -1))
