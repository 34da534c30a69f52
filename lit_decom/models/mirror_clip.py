"""MirrorCLIP: what an image shows and what is written on it, told apart by the mirror image."""

from __future__ import annotations

import math
from copy import copy
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_decom.functional.base import widened
from lit_decom.models.zero_shot import ZeroShotClassifier

_Module = TypeVar("_Module", bound=nn.Module)
Reading = Literal["visual", "textual"]
READINGS: tuple[Reading, ...] = ("visual", "textual")


class Disentangled(NamedTuple):
    """Both readings of an image's embedding, each of norm 1 (or 0, see :func:`disentangled`).

    Attributes:
        visual: ``(B, D)``, what the image shows.
        textual: ``(B, D)``, what is written on it.
    """

    visual: Tensor
    textual: Tensor


def disentangled(straight: Tensor, mirrored: Tensor) -> Disentangled:
    """Tell what an image shows from what is written on it, by its embedding and that of its mirror image.

    With ``f`` and ``f'`` the two embeddings, each of norm 1, and ``M`` 1 in the dimensions where ``f f' > 0``:
    ``visual = norm(f' + M f)`` and ``textual = norm(f - M f')``. Where the signs agree the one adds and the other
    subtracts; elsewhere the visual reading keeps the mirror image's embedding and the textual one the image's own.

    An image whose embedding is that of its mirror image has no textual reading: it is 0, and so are its logits.

    Source: the code of MirrorCLIP, "CLIP in Mirror: Disentangling text from visual images through reflection" (NeurIPS
    2024). ``M`` is a comparison, so no gradient passes through it; it passes through both embeddings.

    Args:
        straight: embeddings of the images, ``(B, D)``.
        mirrored: embeddings of the same images, mirrored left to right, ``(B, D)``.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> disentangled(torch.tensor([[0.6, 0.8]]), torch.tensor([[0.6, -0.8]]))
        Disentangled(visual=tensor([[ 0.8321, -0.5547]]), textual=tensor([[0., 1.]]))
    """
    if straight.ndim != 2 or straight.shape != mirrored.shape:
        raise ValueError(
            "Expected `straight` and `mirrored` to have the same shape (B, D), "
            f"but got {tuple(straight.shape)} and {tuple(mirrored.shape)}."
        )
    straight, mirrored = F.normalize(straight, dim=-1), F.normalize(mirrored, dim=-1)
    agree = (straight * mirrored > 0).to(straight)
    visual, textual = mirrored + agree * straight, straight - agree * mirrored
    return Disentangled(F.normalize(visual, dim=-1), F.normalize(textual, dim=-1))


class MirrorCLIP(nn.Module):
    """A zero-shot classifier that looks at every image and at its mirror image, so that a word does not fool it.

    The mirror of a word is unreadable, at least to a network that has not seen mirrored words, while the mirror of what
    is shown is much the same. So what both embeddings agree on is what is shown, and what they do not is what is
    written: see :func:`disentangled`.

    It is a classifier like any other. Both views go through the tower as one batch of ``2B``, so to be explained it has
    to be told a `layer` of the tower: what that returns for both views, for the mirror image mirrored back, passes
    through a module of its own, `target_layer`, as one grid of twice the channels. A map there is the sum of what the
    image and its mirror image say of a place, and gradients arrive from both.

    The tower is not copied: its submodules, but for those around `layer`, are shared with `classifier`, which keeps its
    own structure.

    Args:
        classifier: whose image tower and class embeddings are used.
        reading: "visual" for what the image shows, "textual" for what is written on it.
        layer: what is explained, by its name in the classifier, such as ``"image_encoder.layer4"``. It returns a grid
            ``(B, C, h, w)``, or tokens ``(B, T, C)`` or ``(T, B, C)`` of square images, of which the last are the
            patches, row by row. None where nothing is to be explained.

    Attributes:
        target_layer: the name under which both views are explained; None without `layer`.
        mean: the classifier's.
        std: the classifier's.

    Raises:
        ValueError: if the reading is unknown or there is no such layer.
    """

    def __init__(self, classifier: ZeroShotClassifier, reading: Reading = "visual", layer: str | None = None) -> None:
        super().__init__()
        if reading not in READINGS:
            raise ValueError(f"Expected `reading` to be one of {READINGS}, but got {reading!r}.")
        self.reading: Reading = reading
        self.classifier = classifier
        self.mean, self.std = classifier.mean, classifier.std
        self.target_layer: str | None = None
        if layer is not None:
            self._look_at(layer)

    def _look_at(self, layer: str) -> None:
        inner = dict(self.classifier.image_encoder.named_modules(prefix="image_encoder")).get(layer)
        if inner is None:
            raise ValueError(
                "Expected `layer` to be a submodule of the classifier, 'image_encoder...', "
                f"but {type(self.classifier.image_encoder).__name__} has no {layer!r}."
            )
        self.classifier = _with_instead(self.classifier, layer.split("."), _BothViews(inner))
        self.target_layer = f"classifier.{layer}.both"

    def embeddings(self, images: Tensor) -> Disentangled:
        """Read images ``(B, 3, H, W)`` both ways: embeddings ``(B, D)`` each."""
        views = torch.cat([images, images.flip(-1)])
        for module in self.modules():
            if isinstance(module, _BothViews):
                module.views = (len(views), views.shape[-2], views.shape[-1])
        both = widened(self.classifier.embed(views))
        with torch.autocast(both.device.type, enabled=False):
            return disentangled(*both.chunk(2))

    def forward(self, images: Tensor) -> Tensor:
        """Score images ``(B, 3, H, W)`` against every class by one reading: logits ``(B, N)``."""
        logits: Tensor = self.classifier.score(getattr(self.embeddings(images), self.reading))
        return logits


class _SideBySide(nn.Module):
    """What a layer returns for both views as one grid of twice the channels: the place that is explained."""

    def forward(self, straight: Tensor, mirrored: Tensor, channels: int) -> Tensor:
        """Join them along the dimension of the channels."""
        return torch.cat([straight, mirrored], dim=channels)


class _BothViews(nn.Module):
    """A layer of the tower, whose outputs for both views pass together through one module that can be explained.

    Args:
        inner: the layer.

    Attributes:
        views: number, height and width of the views that go through the tower, set before they do.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.both = _SideBySide()
        self.views = (0, 0, 0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        output = self.inner(*args, **kwargs)
        if isinstance(output, tuple):
            return (self._through(output[0]), *output[1:])
        return self._through(output)

    def _through(self, output: Tensor) -> Tensor:
        n, height, width = self.views
        if output.ndim == 4 and len(output) == n and abs(output.shape[3] - output.shape[2] * width / height) <= 1:
            straight, mirrored = output.chunk(2)
            straight, mirrored = self.both(straight, mirrored.flip(-1), 1).chunk(2, dim=1)
            return torch.cat([straight, mirrored.flip(-1)])
        if output.ndim == 3 and n in output.shape[:2] and height == width:
            first = len(output) == n
            tokens = output if first else output.transpose(0, 1)
            straight, mirrored = tokens.chunk(2)
            joined = self.both(straight, _mirrored_tokens(mirrored), 2)
            straight, mirrored = joined.chunk(2, dim=2)
            tokens = torch.cat([straight, _mirrored_tokens(mirrored)])
            return tokens if first else tokens.transpose(0, 1)
        raise ValueError(
            "Expected `layer` to return a grid (B, C, h, w), or tokens (B, T, C) or (T, B, C) of square images, "
            f"but got {tuple(output.shape)} for {n} views of {height} x {width} pixels."
        )


def _mirrored_tokens(tokens: Tensor) -> Tensor:
    """Mirror the patches of tokens ``(B, T, C)``, the last square number of them; those in front stay."""
    side = math.isqrt(tokens.shape[1])
    prefix = tokens.shape[1] - side**2
    patches = tokens[:, prefix:].reshape(len(tokens), side, side, -1).flip(2).flatten(1, 2)
    return torch.cat([tokens[:, :prefix], patches], dim=1)


def _with_instead(module: _Module, path: list[str], last: nn.Module) -> _Module:
    """Copy a module with another submodule at a path; what is not on that path is shared with the original."""
    twin, (name, *rest) = copy(module), path
    twin._modules = dict(module._modules)  # noqa: SLF001 -- shared with the original otherwise
    twin._modules[name] = _with_instead(module.get_submodule(name), rest, last) if rest else last  # noqa: SLF001
    return twin
