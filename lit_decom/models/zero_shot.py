"""CLIP-like models as classifiers: logits over prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_decom.functional.base import widened
from lit_decom.models.hugging_face_towers import hugging_face_towers
from lit_decom.models.image_text import ImageTextModel
from lit_decom.models.open_clip_towers import open_clip_towers
from lit_decom.models.prompts import prompt_embeddings, scaled_cosines
from lit_decom.models.towers import Towers

CLIP_TEMPLATES = ("a photo of a {}.",)


class ZeroShotClassifier(nn.Module):
    """An image tower whose logits are scaled cosine similarities to one text embedding per class.

    It makes a vision-language model a classifier like any other, so that no explanation method needs to know of text.
    Most are made from a model and names: :meth:`from_open_clip`, :meth:`from_hugging_face`, :meth:`from_image_text`.

    The images must be normalised as the model was trained, which ``mean`` and ``std`` tell where the model says so.

    Args:
        image_encoder: images ``(B, 3, H, W)`` to embeddings ``(B, D)``, or to a tuple that begins with them, as CoCa's
            does.
        class_embeddings: one embedding ``(N, D)`` per class or prompt; normalised here.
        logit_scale: what the similarities are multiplied with (CLIP's trained value is 100, the exponential of what its
            checkpoint stores).
        logit_bias: what is added to every logit (SigLIP's is near -10, others have none).
        background: embeddings ``(M, D)`` of texts that the classes are set against: what is said of any image. Their
            mean similarity is taken off every class's, so that a single text has a logit around 0 and its map leaves
            out what all texts share. Probabilities between classes stay as they are. None for none.
        mean: of the colour channels ``(3,)`` of the images that the tower was trained on, where known.
        std: standard deviations ``(3,)`` of the same, where known.

    Raises:
        ValueError: if the embeddings are not ``(N, D)``.
    """

    class_embeddings: Tensor
    background: Tensor | None

    def __init__(
        self,
        image_encoder: nn.Module,
        class_embeddings: Tensor,
        logit_scale: float = 100.0,
        *,
        logit_bias: float = 0.0,
        background: Tensor | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check_embeddings("class_embeddings", class_embeddings)
        self.image_encoder = image_encoder
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self.mean = None if mean is None else tuple(mean)
        self.std = None if std is None else tuple(std)
        self.register_buffer("class_embeddings", F.normalize(widened(class_embeddings.detach()), dim=-1))
        if background is not None:
            _check_embeddings("background", background)
            background = F.normalize(widened(background.detach()), dim=-1)
        self.register_buffer("background", background)

    @classmethod
    def from_open_clip(
        cls,
        model: str | nn.Module,
        class_names: Sequence[str],
        templates: Sequence[str] = CLIP_TEMPLATES,
        *,
        background: Sequence[str] = (),
        pretrained: str | None = None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> ZeroShotClassifier:
        """Ask a model of open_clip (CLIP, SigLIP, CoCa and others; `pip install 'lit-decom[clip]'`) for classes.

        Args:
            model: a name, such as "ViT-B-32", "hf-hub:organisation/model" or "local-dir:folder", or a model; its image
                tower is used as it is, not copied.
            class_names: what is put into the templates, or whole texts with ``templates=["{}"]``.
            templates: prompts with ``{}`` in the place of a name; a class is the mean of its prompts.
            background: whole texts that the classes are set against, as for the class.
            pretrained: weights of a model that is given by a plain name: a tag, such as "openai", or a file. None draws
                them at random, which only tests want.
            tokenizer: of a model that is not given by name, such as ``open_clip.get_tokenizer("ViT-B-32")``.

        Returns:
            The classifier, in evaluation mode.

        Raises:
            ValueError: if there is no such model or tag, or an argument does not fit the kind of model.
            OSError: if weights can neither be read nor downloaded; it says what to do.
            ModuleNotFoundError: if open_clip is not installed.
        """
        return cls.from_towers(open_clip_towers(model, pretrained, tokenizer), class_names, templates, background)

    @classmethod
    def from_hugging_face(
        cls,
        model: str | nn.Module,
        class_names: Sequence[str],
        templates: Sequence[str] = CLIP_TEMPLATES,
        *,
        background: Sequence[str] = (),
        processor: Any = None,
    ) -> ZeroShotClassifier:
        """Ask a CLIP or SigLIP model of Hugging Face's transformers (`pip install 'lit-decom[clip]'`) for classes.

        Args:
            model: a name on the hub, such as "google/siglip-base-patch16-224", a folder, or a model; its image tower is
                used as it is, not copied.
            class_names: as for :meth:`from_open_clip`.
            templates: as for :meth:`from_open_clip`.
            background: as for :meth:`from_open_clip`.
            processor: tokenizer, or processor that has one, of a model that is not given by name.

        Returns:
            The classifier, in evaluation mode.

        Raises:
            TypeError: if the model has no image tower and text tower of the kind of CLIP's.
            ValueError: if an argument does not fit the kind of model.
            OSError: if weights can neither be read nor downloaded; it says what to do.
            ModuleNotFoundError: if transformers is not installed.
        """
        return cls.from_towers(hugging_face_towers(model, processor), class_names, templates, background)

    @classmethod
    def from_image_text(
        cls,
        model: ImageTextModel,
        class_names: Sequence[str],
        templates: Sequence[str] = CLIP_TEMPLATES,
        *,
        background: Sequence[str] = (),
    ) -> ZeroShotClassifier:
        """Ask our own small image-text model for classes, with the words that it knows.

        Args:
            model: the model, whose image tower is used as it is, not copied.
            class_names: as for :meth:`from_open_clip`.
            templates: as for :meth:`from_open_clip`.
            background: as for :meth:`from_open_clip`.

        Returns:
            The classifier, in evaluation mode.
        """
        towers = Towers(model.image_encoder, model.text_encoder, model.encode_texts, model.logit_scale.exp().item())
        return cls.from_towers(towers, class_names, templates, background)

    @classmethod
    def from_towers(
        cls, towers: Towers, class_names: Sequence[str], templates: Sequence[str], background: Sequence[str] = ()
    ) -> ZeroShotClassifier:
        """Ask any pair of towers for classes, as :meth:`from_open_clip` does."""
        encode = towers.encode_without_gradients
        return cls(
            towers.image_encoder,
            prompt_embeddings(encode, class_names, templates),
            towers.logit_scale,
            logit_bias=towers.logit_bias,
            background=prompt_embeddings(encode, background) if background else None,
            mean=towers.mean,
            std=towers.std,
        ).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Score images ``(B, 3, H, W)`` against every class: logits ``(B, N)``."""
        return self.score(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """Embed images ``(B, 3, H, W)``: ``(B, D)``, of any length."""
        return _first(self.image_encoder(images))

    def score(self, embeddings: Tensor) -> Tensor:
        """Score embeddings ``(B, D)`` of images against every class: logits ``(B, N)``."""
        logits = scaled_cosines(embeddings, self.class_embeddings, self.logit_scale)
        if self.background is None:
            return logits + self.logit_bias
        # The bias is the same for classes and background.
        return logits - scaled_cosines(embeddings, self.background, self.logit_scale).mean(dim=1, keepdim=True)

    def with_linear_head(self) -> nn.Module:
        """Exchange the comparison with texts for a linear layer that begins as it: for linear probes and fine-tuning.

        Returns:
            A network of the same image tower, not copied, whose ``head`` sees embeddings of norm 1 and gives the same
            logits as long as it is not trained.
        """
        texts = self.class_embeddings
        bias = torch.full((len(texts),), self.logit_bias)
        if self.background is not None:
            texts, bias = texts - self.background.mean(dim=0), torch.zeros(len(texts))
        head = nn.Linear(texts.shape[1], len(texts), device=texts.device, dtype=texts.dtype)
        with torch.no_grad():
            head.weight.copy_(self.logit_scale * texts)
            head.bias.copy_(bias)
        layers = OrderedDict(image_encoder=self.image_encoder, direction=Direction(), head=head)
        return nn.Sequential(layers).train(self.training)


class Direction(nn.Module):
    """Embeddings ``(B, D)`` of norm 1, out of those of an image tower."""

    def forward(self, embeddings: Any) -> Tensor:
        """Normalise, in float32 at least."""
        return F.normalize(widened(_first(embeddings)), dim=-1)


def _first(embeddings: Any) -> Tensor:
    """CoCa's tower returns its tokens, too."""
    found: Tensor = embeddings[0] if isinstance(embeddings, tuple) else embeddings
    return found


def _check_embeddings(name: str, embeddings: Tensor) -> None:
    if embeddings.ndim != 2:
        raise ValueError(f"Expected `{name}` to be (N, D), but got {tuple(embeddings.shape)}.")
