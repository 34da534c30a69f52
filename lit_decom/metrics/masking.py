"""Images seen through their maps, for all metrics that ask what the network says of them."""

from abc import ABC
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import check_option, has_order, widened
from lit_decom.functional.image import blend, min_max_normalize
from lit_decom.functional.masking import MaskSpace, Substrate, substrate_images
from lit_decom.metrics.base import PerImageMetric


@dataclass(frozen=True)
class Masking:
    """How an image is seen through its map: conventions on which published numbers differ.

    Attributes:
        mask_space: ``"input"`` masks the normalised image, so that what is hidden has the mean colour
            (pytorch-grad-cam, torch-cam); ``"unit"`` masks before normalisation, so that it is black (Opti-CAM).
        substrate: what is seen where nothing is shown: ``"zeros"`` of that space, or the ``"blur"`` of the image.
        scale_to_image: take the blur's pixels as pixels of an image of 224 and scale them.
    """

    mask_space: MaskSpace = "input"
    substrate: Substrate = "zeros"
    scale_to_image: bool = False

    def background(self, capture: Capture) -> Tensor:
        """Return what is seen of each image where nothing is shown, ``(B, 3, H, W)``."""
        return substrate_images(
            capture.images,
            self.substrate,
            mask_space=self.mask_space,
            mean=capture.mean,
            std=capture.std,
            scale_to_image=self.scale_to_image,
        )

    def images(self, capture: Capture, maps: Tensor) -> Tensor:
        """Return the images seen through their maps ``(B, H, W)``, each stretched to [0, 1]."""
        shown = min_max_normalize(widened(maps).nan_to_num(0.0, 0.0, 0.0))
        return blend(capture.images, shown.to(capture.images.dtype), self.background(capture))

    def forward(self, capture: Capture, maps: Tensor) -> Tensor:
        """Return the logits ``(B, N)`` of the masked images; NaN where a map is not finite or constant.

        One such pass serves all metrics that take ``masked_logits`` and have an equal ``masking``.
        """
        logits = capture.relogits(self.images(capture, maps)[:, None])[:, 0]
        return logits.masked_fill(~has_order(maps)[:, None], torch.nan)


class MaskedMetric(PerImageMetric, ABC):
    """A metric of images seen through their maps."""

    def __init__(
        self,
        mask_space: MaskSpace = "input",
        substrate: Substrate = "zeros",
        *,
        scale_to_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_option("mask_space", mask_space, MaskSpace)
        check_option("substrate", substrate, Substrate)
        self.mask_space = mask_space
        self.substrate = substrate
        self.scale_to_image = scale_to_image

    @property
    def masking(self) -> Masking:
        """How the images are masked; metrics with equal ones may share a masked forward pass."""
        return Masking(self.mask_space, self.substrate, self.scale_to_image)

    @property
    def asks_for_masked_logits(self) -> bool:
        """Whether the masked images go through the network."""
        return True

    def _masked_logits(self, given: Tensor | None, maps: Tensor | None, capture: Capture | None) -> Tensor:
        if given is not None:
            return given
        if maps is None or capture is None:
            raise ValueError("Expected `masked_logits`, or `maps` and `capture` to compute them, but got neither.")
        return self.masking.forward(capture, maps)
