"""CLIP-like models as classifiers: logits over prompts."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_decom.functional.base import widened


class ZeroShotClassifier(nn.Module):
    """An image tower whose logits are scaled cosine similarities to one text embedding per class.

    It makes a vision-language model a classifier like any other, so that no explanation method needs to know of text.

    Args:
        image_encoder: images ``(B, 3, H, W)`` to embeddings ``(B, D)``.
        class_embeddings: one embedding ``(N, D)`` per class or prompt; normalised here.
        logit_scale: what the similarities are multiplied with (CLIP's trained value is 100, the exponential of what its
            checkpoint stores).

    Raises:
        ValueError: if the embeddings are not ``(N, D)``.
    """

    class_embeddings: Tensor

    def __init__(self, image_encoder: nn.Module, class_embeddings: Tensor, logit_scale: float = 100.0) -> None:
        super().__init__()
        if class_embeddings.ndim != 2:
            raise ValueError(f"Expected `class_embeddings` to be (N, D), but got {tuple(class_embeddings.shape)}.")
        self.image_encoder = image_encoder
        self.logit_scale = logit_scale
        self.register_buffer("class_embeddings", F.normalize(widened(class_embeddings.detach()), dim=-1))

    def forward(self, images: Tensor) -> Tensor:
        """Score images ``(B, 3, H, W)`` against every class: logits ``(B, N)``."""
        return scaled_cosines(self.image_encoder(images), self.class_embeddings, self.logit_scale)


def scaled_cosines(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """Compare every image with every text: ``(B, N)``.

    Args:
        images: embeddings ``(B, D)`` of any floating-point type.
        texts: embeddings ``(N, D)``.
        scale: what the cosines are multiplied with.
    """
    images = widened(images)
    # In half precision a similarity times 100 is told apart from its neighbours in steps of 0.1.
    with torch.autocast(images.device.type, enabled=False):
        return scale * F.normalize(images, dim=-1) @ F.normalize(texts.to(images), dim=-1).T
