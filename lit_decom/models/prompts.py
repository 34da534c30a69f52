"""Classes as texts: names in templates, embedded and averaged, and compared with images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.base import widened

EncodeTexts = Callable[[Sequence[str]], Tensor]


def prompt_embeddings(encode: EncodeTexts, class_names: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
    """Embed each class as the mean direction of all its prompts.

    Every prompt's embedding is normalised, their mean over the templates is normalised again: what CLIP's authors call
    an ensemble of prompts (Radford et al. 2021, section 3.1.4).

    Args:
        encode: the text tower: `n` texts to embeddings ``(n, D)``.
        class_names: `N` names, or whole texts.
        templates: prompts with ``{}`` in the place of the name; ``"{}"`` alone for the names as they are.

    Returns:
        ``(N, D)`` of norm 1, with gradients where the text tower's parameters have any.

    Raises:
        ValueError: if there is no name or no template, or a template has no place for the name.
    """
    if isinstance(class_names, str) or not class_names:
        raise ValueError(f"Expected `class_names` to be a list of names, but got {class_names!r}.")
    if isinstance(templates, str) or not templates or not all("{}" in template for template in templates):
        raise ValueError(f"Expected `templates` to be a list of texts with '{{}}' in each, but got {templates!r}.")
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    embeddings = F.normalize(encode(texts).float(), dim=-1)
    return F.normalize(embeddings.view(len(class_names), len(templates), -1).mean(dim=1), dim=-1)


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
