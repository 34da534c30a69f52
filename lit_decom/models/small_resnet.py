"""A residual network small enough to be trained on a CPU within a minute or two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class SmallResNet(nn.Module):
    """A residual network of torchvision's basic blocks with few stages.

    The stem halves the resolution, the first stage keeps it, and every later stage halves it and doubles the width:
    with three stages an image of 112 pixels ends on a grid of 14 x 14. The stages are ``layer1``, ``layer2``, ...

    Args:
        num_classes: Number of logits.
        width: Channels of the stem and of the first stage.
        n_stages: Number of stages.
        blocks: Basic blocks per stage.
        in_channels: Channels of the images.
        dropout: Probability of dropping a pooled feature, 0..1.

    Raises:
        ValueError: If a size is less than 1.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 32,
        n_stages: int = 3,
        blocks: int = 1,
        *,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "width": width, "n_stages": n_stages, "blocks": blocks}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {size}.")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = [f"layer{k + 1}" for k in range(n_stages)]
        channels = width
        for k, name in enumerate(self.stages):
            self.add_module(name, _stage(channels, width << k, blocks, stride=1 if k == 0 else 2))
            channels = width << k
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # convolutions on a CPU run a third faster

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, in_channels, H, W)``."""
        features = self.stem(images)
        for name in self.stages:
            features = self.get_submodule(name)(features)
        logits: Tensor = self.fc(self.dropout(self.avgpool(features).flatten(1)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))
