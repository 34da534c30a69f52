"""What a vision-language model is to a classifier: two towers and how their embeddings are compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_decom.models.prompts import EncodeTexts

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Towers:
    """Two towers and how their embeddings are compared.

    Attributes:
        image_encoder: images ``(B, 3, H, W)`` to embeddings ``(B, D)``, or to a tuple that begins with them.
        text_encoder: what has the text tower's parameters.
        encode: `n` texts to embeddings ``(n, D)``.
        logit_scale: what similarities are multiplied with.
        logit_bias: what is added then.
        mean: of the colour channels of the images, where known.
        std: standard deviations of the same, where known.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module
    encode: EncodeTexts
    logit_scale: float
    logit_bias: float = 0.0
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def encode_without_gradients(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``(n, D)`` of any number of texts, in evaluation mode, which is left again."""
        modes = {module: module.training for module in self.text_encoder.modules()}
        self.text_encoder.eval()
        try:
            with torch.no_grad():
                starts = range(0, len(texts), _TEXTS_AT_ONCE)
                return torch.cat([self.encode(texts[start : start + _TEXTS_AT_ONCE]) for start in starts])
        finally:
            for module, training in modes.items():
                module.training = training


def number(parameter: Tensor | None, default: float = 0.0) -> float:
    """A learnt number, of shape ``()`` or ``(1,)``, as a float; the default where there is none."""
    return default if parameter is None else float(parameter.detach())


def not_loaded(what: str, remedy: str, reason: Exception) -> OSError:
    """The error of weights that can neither be read nor downloaded."""
    return OSError(
        f"Expected {what} to be on this machine or to be downloaded, but got: {reason}\nWithout a network, {remedy}"
    )
