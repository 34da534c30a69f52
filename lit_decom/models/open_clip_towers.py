"""Models of open_clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lit_decom.models.towers import Towers, not_loaded, number

Tokenizer = Callable[[Sequence[str]], Tensor]


def open_clip_towers(
    model: str | nn.Module, pretrained: str | None = None, tokenizer: Tokenizer | None = None
) -> Towers:
    """Take a model of open_clip apart, as ``ZeroShotClassifier.from_open_clip`` has it."""
    if isinstance(model, str):
        model, tokenizer = _load(model, pretrained, tokenizer)
    elif pretrained is not None:
        raise ValueError(f"Expected `pretrained` to be None for a model that is not a name, but got {pretrained!r}.")
    if tokenizer is None:
        raise ValueError(
            "Expected `tokenizer` for a model that is not a name, such as `open_clip.get_tokenizer('ViT-B-32')`, "
            "but got None."
        )
    network: Any = model
    texts: Tokenizer = tokenizer

    def encode(prompts: Sequence[str]) -> Tensor:
        embeddings: Tensor = network.encode_text(texts(list(prompts)).to(network.logit_scale.device))
        return embeddings

    # Given by `create_model`; a model that was made otherwise does not say.
    known = getattr(network.visual, "preprocess_cfg", None) or {}
    return Towers(
        network.visual,
        network,
        encode,
        math.exp(number(network.logit_scale)),
        number(network.logit_bias),
        known.get("mean"),
        known.get("std"),
    )


def _load(name: str, pretrained: str | None, tokenizer: Tokenizer | None) -> tuple[nn.Module, Tokenizer]:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Expected open_clip to be installed: `pip install 'lit-decom[clip]'`.") from error
    if ":" not in name and open_clip.get_model_config(name.replace("/", "-")) is None:
        raise ValueError(f"Expected `model` to be one of {', '.join(open_clip.list_models())}, but got {name!r}.")
    try:
        model = open_clip.create_model(name, pretrained, require_pretrained=pretrained is not None)
        return model, tokenizer or open_clip.get_tokenizer(name)
    except (OSError, RuntimeError) as error:
        raise not_loaded(
            f"the weights {pretrained!r} of open_clip's {name!r}" if pretrained else f"open_clip's {name!r}",
            "download them elsewhere and pass `pretrained=` the path of the file, or `model='local-dir:FOLDER'` with "
            f"open_clip_config.json in it. Known tags: {open_clip.list_pretrained_tags_by_model(name)}.",
            error,
        ) from error
