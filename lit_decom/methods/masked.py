"""Methods that weigh a channel by what the network says of the image seen through that channel alone."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_decom.evidence import Capture, ScoreDtype, observing
from lit_decom.functional.base import check_option
from lit_decom.functional.cam import channel_weights, weighted_map
from lit_decom.functional.decomposition import select_channels
from lit_decom.functional.image import blend, min_max_normalize, upsample
from lit_decom.functional.masking import MaskSpace, substrate_images
from lit_decom.methods.base import CAM, finite_images, register, where_finite

ScoreWeight = Literal["probability", "softmax"]


@register("score_cam")
@dataclass(frozen=True)
class ScoreCAM(CAM):
    """Channels weighted by how the target scores where each of them shows the image (Score-CAM, Wang et al. 2020).

    ``relu(sum_k w_k A_k)``, with ``w_k`` from a forward pass of ``x * n(up(A_k))``, where ``up`` is bilinear and ``n``
    stretches to [0, 1]. It takes one forward pass per channel and image; channels that are constant over the image show
    nothing, take none and weigh nothing, as in the released code.

    With ``weighting="softmax"`` and ``top_k=300`` this is gScoreCAM (Chen et al. 2022), whose released code takes the
    softmax over all channels and gives those that were not chosen a score of 0, and so a weight. Here they have none.

    Attributes:
        weighting: ``"probability"`` (the released code) is the softmax probability of the class, without that of an
            empty image taken off, as equation 6 of the paper would have it: of a contrast the difference of both
            probabilities, of a target that is a callable its own score. ``"softmax"`` (pytorch-grad-cam, torchcam) is
            the softmax over channels of the target scores.
        top_k: how many channels, those with the largest mean gradient; None for all.
        mask_space: ``"input"`` masks the normalised image, so that what is hidden has the mean colour (the released
            code); ``"unit"`` masks before normalisation, so that it is black, and needs mean and std of the images.
        score_dtype: precision of the masked forward passes alone, as in :class:`lit_decom.DecomCAM`.

    Raises:
        ValueError: if an option is unknown or ``top_k`` is below 1.
    """

    weighting: ScoreWeight = "probability"
    top_k: int | None = None
    mask_space: MaskSpace = "input"
    score_dtype: ScoreDtype = "float32"

    def __post_init__(self) -> None:
        check_option("weighting", self.weighting, ScoreWeight)
        check_option("mask_space", self.mask_space, MaskSpace)
        check_option("score_dtype", self.score_dtype, ScoreDtype)
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"Expected `top_k` to be at least 1, but got {self.top_k}.")

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        with observing(capture.model), torch.no_grad():
            return where_finite(weighted_map(self._summed(capture.activations), self.weights(capture)), capture)

    def weights(self, capture: Capture) -> Tensor:
        """Weigh the channels.

        Args:
            capture: what :func:`lit_decom.capture` returned.

        Returns:
            ``(B, C)``; 0 for channels that were not chosen or show nothing, and where the evidence is not finite.

        Raises:
            ValueError: if the mean and std of the images are needed and unknown.
        """
        rows, channels = self._chosen(capture).nonzero(as_tuple=True)
        images, maps, size = capture.images, capture.activations, capture.images.shape[-2:]
        hidden = substrate_images(images[:1], mask_space=self.mask_space, mean=capture.mean, std=capture.std)

        def alter(part: slice) -> Tensor:
            masks = self._masks(upsample(maps[rows[part], channels[part]], (size[0], size[1]), "bilinear"))
            return blend(images[rows[part]], masks.to(images), hidden)

        logits = capture.rescore(rows, alter, self.score_dtype)
        if self.weighting == "softmax":
            scores = maps.new_full(maps.shape[:2], -torch.inf)
            scores[rows, channels] = capture.score(logits, rows).to(maps)
            # An image of which no channel was chosen has none to share the weight.
            return scores.softmax(dim=1).masked_fill(scores.isneginf(), 0.0)
        is_class = bool((capture.targets >= 0).all())
        weights = maps.new_zeros(maps.shape[:2])
        weights[rows, channels] = capture.score(logits.softmax(dim=1) if is_class else logits, rows).to(maps)
        return weights

    def _chosen(self, capture: Capture) -> Tensor:
        maps, gradients = capture.activations, capture.gradients
        chosen = finite_images(maps, gradients)[:, None] & self._shows(maps.flatten(2))
        if self.top_k is None:
            return chosen
        best, _ = select_channels(channel_weights(maps, gradients), self.top_k, positive_only=False)
        return chosen & torch.zeros_like(chosen).scatter(1, best, value=True)

    def _shows(self, maps: Tensor) -> Tensor:
        """Tell which channels ``(B, C, h * w)`` show anything of the image."""
        return maps.amax(dim=2) > maps.amin(dim=2)

    def _masks(self, maps: Tensor) -> Tensor:
        """Make masks in [0, 1] of upsampled channels ``(m, H, W)``."""
        return min_max_normalize(maps)

    def _summed(self, activations: Tensor) -> Tensor:
        """What is summed of the channels."""
        return activations


@register("score_cam_pp")
@dataclass(frozen=True)
class ScoreCAMPP(ScoreCAM):
    """Score-CAM with a gate in the place of the stretching (ScoreCAM++, "Reliable or Deceptive?", arXiv 2404.19341).

    ``relu(sum_k w_k tanh(A_k))``, with ``w_k`` as in :class:`ScoreCAM` from a forward pass of ``x * tanh(up(A_k))``: a
    weak channel shows little, where stretching makes all of them equal. Negative activations show nothing (our choice;
    the paper explains layers that have none). The released variants with a sigmoid, which is never below one half and
    so hides nothing, are not the paper's. Average drop and increase of its tables are of the largest logit; those of
    :mod:`lit_decom.metrics` are of the softmax probability, and not comparable.
    """

    def _shows(self, maps: Tensor) -> Tensor:
        return (maps != 0).any(dim=2)

    def _masks(self, maps: Tensor) -> Tensor:
        return maps.relu().tanh()

    def _summed(self, activations: Tensor) -> Tensor:
        return activations.tanh()
