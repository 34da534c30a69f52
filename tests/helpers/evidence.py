"""Stand-ins for evidence that can be cut into batches, for metrics that ask the network again."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_decom.metrics import MapHistory


def brightness(images: Tensor) -> Tensor:
    """Two logits: the sum of all pixels, and its opposite."""
    total = images.float().sum(dim=(1, 2, 3))
    return torch.stack([total, -total], dim=1)


def contrast(images: Tensor) -> Tensor:
    """Four logits of little size, neither linear nor symmetric in the pixels."""
    flat = images.float().flatten(1)
    ramp = torch.linspace(-1, 1, flat.shape[1])
    return torch.stack([flat @ ramp, flat.square().mean(1), (flat @ ramp.sin()).tanh(), flat[:, ::3].sum(1)], dim=1) / 2


def classifier() -> nn.Module:
    """A small convolutional network with weights drawn by seed, four classes."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)]
    return nn.Sequential(*layers).eval().requires_grad_(requires_grad=False)


@dataclass
class Evidence:
    """What faithfulness metrics read of a capture; ``evidence[a:b]`` is that of a part of the images.

    Attributes:
        images: ``(B, C, H, W)``.
        model: from images to logits.
        mean: normalisation, where known.
        std: normalisation, where known.
        chunk_size: altered images per forward pass.
        calls: how many images each forward pass had.
        bound: the classes explained; None for the predicted ones.
    """

    images: Tensor
    model: Callable[[Tensor], Tensor] = contrast
    mean: Tensor | None = None
    std: Tensor | None = None
    chunk_size: int = 1000
    calls: list[int] = field(default_factory=list)
    bound: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        return self.model(self.images)

    @property
    def targets(self) -> Tensor:
        return self.logits.argmax(dim=1) if self.bound is None else self.bound

    def again(self, images: Tensor, targets: Tensor | None = None) -> "Evidence":
        return replace(self, images=images, bound=self.targets if targets is None else targets)

    def rescore(self, rows: Tensor, alter: Callable[[slice], Tensor]) -> Tensor:
        parts = [self.model(self.images[:0])]
        for start in range(0, len(rows), self.chunk_size):
            altered = alter(slice(start, start + self.chunk_size))
            self.calls.append(len(altered))
            parts.append(self.model(altered))
        return torch.cat(parts)

    def relogits(self, altered: Tensor) -> Tensor:
        batch, versions = altered.shape[:2]
        flat = altered.flatten(0, 1)
        rows = torch.arange(batch).repeat_interleave(versions)
        return self.rescore(rows, lambda part: flat[part]).unflatten(0, (batch, versions))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> "Evidence":
        bound = None if self.bound is None else self.bound[part]
        return Evidence(self.images[part], self.model, self.mean, self.std, self.chunk_size, bound=bound)


class SharedHistory(MapHistory):
    """A history that stays whole when a batch is cut."""

    def __getitem__(self, part: slice) -> "SharedHistory":
        return self


class FixedMaps:
    """A CAM extractor, as torch-cam wants it, whose maps are given."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, _class_idx: Any = None, _scores: Any = None, **_kwargs: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()
