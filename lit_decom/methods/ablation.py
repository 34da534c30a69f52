"""A method that weighs a channel by what the decision loses without it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_decom.evidence import Capture, observing
from lit_decom.functional.cam import weighted_map
from lit_decom.methods.base import CAM, finite_images, register, where_finite


@register("ablation_cam")
@dataclass(frozen=True)
class AblationCAM(CAM):
    """Channels weighted by the share of the target score that is lost without them (Ablation-CAM, Desai et al. 2020).

    ``relu(sum_k w_k A_k)``, ``w_k = (y - y_k) / |y|`` with ``y_k`` the score where channel ``k`` is 0 at every
    position. The paper and its codes divide by ``y``, which turns every map into that of the counter-evidence where
    the score is negative; here the scale alone depends on it (our choice), and where ``y`` is 0 the loss itself is the
    weight. It takes, per image, one pass of what follows the layer for each channel that is not 0 everywhere, and about
    the square root of their number in forward passes of the whole network: see
    :meth:`lit_decom.Capture.rescore_activations`.
    """

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        with observing(capture.model), torch.no_grad():
            return where_finite(weighted_map(capture.activations, self.weights(capture)), capture)

    def weights(self, capture: Capture) -> Tensor:
        """Weigh the channels: ``(B, C)``; 0 where the evidence is not finite."""
        maps = capture.activations
        finite = finite_images(maps, capture.gradients)
        rows, channels = (finite[:, None] & (maps != 0).any(dim=3).any(dim=2)).nonzero(as_tuple=True)

        def ablate(part: slice) -> Tensor:
            altered = maps[rows[part]]
            altered[torch.arange(len(altered), device=maps.device), channels[part]] = 0
            return altered

        score = capture.score(capture.logits, torch.arange(len(maps), device=maps.device))
        lost = score[rows] - capture.score(capture.rescore_activations(rows, ablate), rows)
        weights = maps.new_zeros(maps.shape[:2])
        weights[rows, channels] = (lost / torch.where(score == 0, 1.0, score.abs())[rows]).to(maps)
        return weights
