"""CLIP and SigLIP models of Hugging Face's transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lit_decom.models.towers import Towers, not_loaded, number


class HuggingFaceTower(nn.Module):
    """The image tower of a model of transformers: images in, embeddings out.

    Args:
        vision_model: returns ``pooler_output`` for ``pixel_values``.
        projection: to the embedding that is compared with texts; None where the tower's output is.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.projection = nn.Identity() if projection is None else projection

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` of images ``(B, 3, H, W)``."""
        embeddings: Tensor = self.projection(self.vision_model(pixel_values=images).pooler_output)
        return embeddings


def hugging_face_towers(model: str | nn.Module, processor: Any = None) -> Towers:
    """Take a model of transformers apart, as ``ZeroShotClassifier.from_hugging_face`` has it."""
    if isinstance(model, str):
        model, processor = _load(model, processor)
    if processor is None:
        raise ValueError("Expected `processor` (or a tokenizer) for a model that is not a name, but got None.")
    network: Any = model
    missing = [name for name in ("vision_model", "get_text_features", "logit_scale") if not hasattr(network, name)]
    if missing:
        raise TypeError(
            f"Expected `model` to be of the kind of CLIPModel or SiglipModel, but {type(network).__name__} has no "
            f"{', '.join(missing)}."
        )
    images = getattr(processor, "image_processor", None)
    return Towers(
        HuggingFaceTower(network.vision_model, getattr(network, "visual_projection", None)),
        network,
        lambda texts: _encode(network, getattr(processor, "tokenizer", processor), texts),
        math.exp(number(network.logit_scale)),
        number(getattr(network, "logit_bias", None)),
        getattr(images, "image_mean", None),
        getattr(images, "image_std", None),
    )


def _encode(network: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Embed texts as in training: filled up to the tower's whole length, which SigLIP reads, too."""
    config = network.config
    tokens: Mapping[str, Tensor] = tokenizer(
        list(texts),
        padding="max_length",
        max_length=config.text_config.max_position_embeddings,
        truncation=True,
        return_tensors="pt",
    )
    # SigLIP attends to the padding, whatever a tokenizer says of it.
    read = ("input_ids",) if config.model_type.startswith("siglip") else ("input_ids", "attention_mask")
    device = network.logit_scale.device
    found = network.get_text_features(**{name: tokens[name].to(device) for name in read if name in tokens})
    embeddings: Tensor = getattr(found, "pooler_output", found)  # a plain tensor up to transformers 4
    return embeddings


def _load(name: str, processor: Any) -> tuple[nn.Module, Any]:
    try:
        from transformers import AutoModel, AutoProcessor
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Expected transformers to be installed: `pip install 'lit-decom[clip]'`.") from error
    try:
        return AutoModel.from_pretrained(name), processor or AutoProcessor.from_pretrained(name)
    except OSError as error:
        raise not_loaded(
            f"transformers' model {name!r}",
            f"download it elsewhere (`hf download {name} --local-dir FOLDER`) and pass `model=` the folder.",
            error,
        ) from error
