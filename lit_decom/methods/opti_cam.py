"""A method that looks for the weights of the channels by optimisation, image by image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_decom.evidence import Capture, observing, score_gradients
from lit_decom.functional.base import check_option
from lit_decom.functional.cam import weighted_map
from lit_decom.functional.image import blend, min_max_normalize, upsample
from lit_decom.functional.masking import MaskSpace, substrate_images
from lit_decom.methods.base import CAM, finite_images, register, where_finite

OptiLoss = Literal["mask", "difference"]
_START = 0.5  # of every weight, before the softmax, as in the released code


@register("opti_cam")
@dataclass(frozen=True)
class OptiCAM(CAM):
    """The weighting of the channels through which the image scores best (Opti-CAM, Zhang et al., arXiv 2301.07002).

    ``S = sum_k softmax(u)_k relu(A_k)``, with ``u`` of each image found by Adam such that the target score of
    ``x * n(up(S))`` is large, where ``up`` is bilinear and ``n`` stretches to [0, 1]. All images of a batch are
    optimised at once, each for itself, and one that no longer changes takes no further part. It takes up to
    ``max_iterations`` forward passes per image, and as many backward passes through the whole network. Rounding grows
    from one iteration to the next: after a hundred, maps of another batch or chunk size agree in a few digits, and now
    and then differ by some percent of their largest value.

    It optimises what average drop and average gain measure, and wins these; its authors report worse insertion,
    deletion and localization than those of Grad-CAM.

    Attributes:
        loss: ``"mask"`` (the paper's best) takes the target score off, ``"difference"`` brings it to that of the
            unaltered image: ``|y - y_masked|``.
        mask_space: ``"unit"`` masks before normalisation, so that what is hidden is black (the paper), and needs the
            mean and std of the images; ``"input"`` masks the normalised image, so that it has the mean colour.
        max_iterations: of Adam.
        learning_rate: of Adam.
        tolerance: an image whose loss changes by less from one iteration to the next is done.

    Raises:
        ValueError: if an option is unknown or out of range.
    """

    loss: OptiLoss = "mask"
    mask_space: MaskSpace = "input"
    max_iterations: int = 100
    learning_rate: float = 0.1
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        check_option("loss", self.loss, OptiLoss)
        check_option("mask_space", self.mask_space, MaskSpace)
        if self.max_iterations < 1:
            raise ValueError(f"Expected `max_iterations` to be at least 1, but got {self.max_iterations}.")
        if self.learning_rate <= 0:
            raise ValueError(f"Expected `learning_rate` to be positive, but got {self.learning_rate}.")
        if self.tolerance < 0:
            raise ValueError(f"Expected `tolerance` not to be negative, but got {self.tolerance}.")

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``S``, ``(B, h, w)``."""
        with observing(capture.model):
            return where_finite(weighted_map(capture.activations.relu(), self.weights(capture)), capture)

    def weights(self, capture: Capture) -> Tensor:
        """Weigh the channels.

        Args:
            capture: what :func:`lit_decom.capture` returned.

        Returns:
            ``softmax(u)``, ``(B, C)``; equal weights where the evidence is not finite.

        Raises:
            ValueError: if the mean and std of the images are needed and unknown, or the target score cannot be
                differentiated with regard to the images.
        """
        maps = capture.activations
        weights = [row.clone() for row in torch.full_like(maps[:, :, 0, 0], _START)]
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        active = finite_images(maps, capture.gradients).nonzero().flatten()
        before = maps.new_full((len(maps),), torch.inf)
        for _ in range(self.max_iterations):
            losses, gradients = self._losses(capture, active, torch.stack(weights)[active])
            goes_on = (losses - before[active]).abs() >= self.tolerance
            before[active] = losses
            active, gradients = active[goes_on], gradients[goes_on]
            if not len(active):
                break
            # Adam leaves alone what has no gradient.
            optimizer.zero_grad()
            for row, gradient in zip(active.tolist(), gradients, strict=True):
                weights[row].grad = gradient
            optimizer.step()
        return torch.stack(weights).softmax(dim=1)

    def _losses(self, capture: Capture, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The loss ``(n,)`` of some images at their weights ``(n, C)``, and its gradients ``(n, C)``."""
        images, features, size = capture.images, capture.activations.relu(), capture.images.shape[-2:]
        hidden = substrate_images(images[:1], mask_space=self.mask_space, mean=capture.mean, std=capture.std)

        def alter(part_weights: Tensor, part: slice) -> Tensor:
            summed = weighted_map(features[rows[part]], part_weights.softmax(dim=1))
            masks = min_max_normalize(upsample(summed, (size[0], size[1]), "bilinear"))
            return blend(images[rows[part]], masks.to(images), hidden)

        scores, gradients = score_gradients(capture, rows, weights, alter)
        if self.loss == "mask":
            return -scores, -gradients
        everyone = torch.arange(len(images), device=images.device)
        missing = capture.score(capture.logits, everyone)[rows] - scores
        return missing.abs(), -missing.sign()[:, None] * gradients
