"""A small image-text model: CLIP's two towers in a size that a CPU trains in minutes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_decom.models.prompts import scaled_cosines
from lit_decom.models.small_resnet import SmallResNet


class WordTokenizer:
    """Texts to the numbers of their words in a fixed vocabulary; what is no letter separates words.

    Args:
        words: Lower-case words; the first has number 1, and 0 fills texts up to one length.
        length: Most words of a text.

    Example:
        >>> WordTokenizer(["a", "cat", "photo"], length=4)(["A photo.", "a cat"])
        tensor([[1, 3, 0, 0],
                [1, 2, 0, 0]])
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        self.numbers = {word: number for number, word in enumerate(words, start=1)}
        self.length = length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Numbers ``(n, length)`` int64 of `n` texts.

        Raises:
            ValueError: If a text has no word, too many, or one that is not in the vocabulary.
        """
        rows = [self._numbers(text) for text in texts]
        return torch.tensor([row + [0] * (self.length - len(row)) for row in rows])

    def _numbers(self, text: str) -> list[int]:
        words = re.findall(r"[a-z]+", text.lower())
        unknown = [word for word in words if word not in self.numbers]
        if unknown:
            raise ValueError(
                f"Expected texts of the words {', '.join(self.numbers)}, but got {unknown[0]!r} in {text!r}."
            )
        if not 1 <= len(words) <= self.length:
            raise ValueError(f"Expected a text to have 1 to {self.length} words, but got {len(words)}: {text!r}.")
        return [self.numbers[word] for word in words]


class TextTransformer(nn.Module):
    """A transformer over learnt embeddings of words and of their places; a text's embedding is the mean of its words'.

    Args:
        n_words: Size of the vocabulary, without the padding.
        length: Most words of a text.
        embedding: Width `D` of the embedding of a text.
        width: Width of the embeddings of words.
        n_blocks: Number of blocks.
        n_heads: Attention heads of a block.
    """

    def __init__(
        self, n_words: int, length: int, embedding: int, *, width: int = 64, n_blocks: int = 2, n_heads: int = 4
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(n_words + 1, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        block = nn.TransformerEncoderLayer(
            width, n_heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, n_blocks, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.projection = nn.Linear(width, embedding, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings ``(n, D)`` of the numbers ``(n, length)`` of words, 0 where there is none."""
        padding = tokens == 0
        embedded: Tensor = self.blocks(self.words(tokens) + self.places, src_key_padding_mask=padding)
        kept = (~padding)[:, :, None].to(embedded)
        projected: Tensor = self.projection((embedded * kept).sum(dim=1) / kept.sum(dim=1))
        return projected


class ImageTextModel(nn.Module):
    """An image tower and a text tower whose embeddings of what belongs together point the same way.

    A small residual network sees, a small transformer reads words of a fixed vocabulary: CLIP (Radford et al. 2021) in
    a size that two CPU cores train in minutes. Use it as a classifier by ``ZeroShotClassifier.from_image_text``.

    Args:
        words: Vocabulary: lower-case words.
        embedding: Width `D` of the embeddings that are compared.
        width: Channels of the first stage of the image tower, a :class:`SmallResNet`.
        n_stages: Stages of the image tower, each but the first of half the resolution.
        text_width: Width of the text tower.
        text_blocks: Blocks of the text tower.
        length: Most words of a text.

    Attributes:
        image_encoder: The image tower; its ``layer1``, ``layer2``, ... can be explained.
        text_encoder: The text tower.
        tokenizer: What it reads.
        logit_scale: Logarithm of what similarities are multiplied with, learnt from 1 / 0.07 on.
        largest_logit_scale: What training keeps it below: 100, as in CLIP.
    """

    largest_logit_scale = math.log(100)

    def __init__(
        self,
        words: Sequence[str],
        embedding: int = 64,
        *,
        width: int = 16,
        n_stages: int = 3,
        text_width: int = 64,
        text_blocks: int = 2,
        length: int = 24,
    ) -> None:
        super().__init__()
        self.tokenizer = WordTokenizer(words, length)
        self.image_encoder = SmallResNet(embedding, width, n_stages)
        self.text_encoder = TextTransformer(len(words), length, embedding, width=text_width, n_blocks=text_blocks)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``(n, D)`` of `n` texts, of any length."""
        embeddings: Tensor = self.text_encoder(self.tokenizer(texts).to(self.logit_scale.device))
        return embeddings

    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Logits ``(B, n)``: scaled cosine similarities of images ``(B, 3, H, W)`` and `n` texts."""
        return scaled_cosines(self.image_encoder(images), self.encode_texts(texts), self.logit_scale.exp())
