"""Networks whose maps are known on paper, and small ones that do what real ones do to an observer."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

GOLDEN = Path(__file__).parents[1] / "data" / "decomcam_v25_reference.npz"


def seeded(network, seed=0):
    """Give a network weights that do not depend on any global generator, and put it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(noise * 1.4 / weight[0].numel() ** 0.5)
            else:
                weight.copy_(0.1 * noise + float(name.endswith("weight")))
    return network.eval()


def noise_images(batch=4, size=32, seed=1):
    """Images ``(B, 3, size, size)`` of smooth noise around 0, so that blurring changes them and does not erase them."""
    coarse = torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(size, size), mode="bicubic")


def two_sized_images(batch=4, height=32, width=48, seed=1):
    return F.interpolate(noise_images(batch, 32, seed), size=(height, width), mode="bicubic")


class Golden(nn.Module):
    """The network of the published vectors."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(24, 48, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.fc = nn.Linear(48, 5)

    def forward(self, images):
        features = self.relu2(self.conv2(self.relu1(self.conv1(images))))
        return self.fc(self.relu3(self.conv3(features)).mean(dim=(2, 3)))


def golden():
    """The published network and vectors."""
    with np.load(GOLDEN) as file:
        vectors = {name: torch.from_numpy(file[name]) for name in file.files}
    network = Golden()
    weights = {name.removeprefix("weight."): value for name, value in vectors.items() if name.startswith("weight.")}
    network.load_state_dict(weights)
    per_image = {name: value for name, value in vectors.items() if "." not in name and value.ndim > 0}
    return network.eval(), SimpleNamespace(**per_image)


class Patches(nn.Module):
    """Channel k is the mean of colour k over 2 x 2 pixels; logits are ``head`` times the mean of each channel.

    So the gradient of logit c at channel k is ``head[c, k] / (h w)`` at every position, and the class-weighted map of a
    channel is ``head[c, k]`` times the picture of one colour, halved in size.
    """

    def __init__(self, head):
        super().__init__()
        self.colours = nn.Conv2d(3, 3, 2, stride=2, bias=False)
        self.head = nn.Linear(3, len(head), bias=False)
        with torch.no_grad():
            self.colours.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 2, 2) / 4)
            self.head.weight.copy_(torch.tensor(head))

    def forward(self, images):
        return self.head(self.colours(images).mean(dim=(2, 3)))


class SmallCNN(nn.Module):
    """Two stages with BatchNorm, in-place ReLU and dropout; ``stage2`` has 12 channels at a quarter of the size."""

    def __init__(self, n_classes=5):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, n_classes)

    def features(self, images):
        return self.stage2(self.stage1(images))

    def forward(self, images):
        return self.head(self.dropout(self.features(images).mean(dim=(2, 3))))


class Flattening(SmallCNN):
    """Calls ``.view`` on a feature map, which a channels-last map does not allow, and reads every position."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12 * 64, 5)

    def forward(self, images):
        features = self.features(images)
        return self.head(features.view(len(features), -1))


class InPlaceAfter(SmallCNN):
    """Changes the layer's output in place, and then what went into the layer, which in eval mode is the same tensor."""

    def __init__(self, *, in_place=True):
        super().__init__()
        self.in_place = in_place
        self.layer = nn.Dropout(0.3)

    def forward(self, images):
        before = self.features(images)
        after = self.layer(before)
        if self.in_place:
            after.mul_(2).relu_()
            before.add_(1)
        else:
            after = (2 * after).relu()
        return self.head(after.mean(dim=(2, 3)))


class NoGradBackbone(SmallCNN):
    """Runs its backbone, pooling included, without recording, as transfer-learning tutorials do."""

    def forward(self, images):
        with torch.no_grad():
            pooled = self.features(images).mean(dim=(2, 3))
        return self.head(pooled)


class Counting(SmallCNN):
    """Counts its forward passes in buffers, also in eval mode: in place, by assignment, and in ones that come late."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("assigned", torch.zeros(()))
        self.register_buffer("late", None)

    def forward(self, images):
        self.in_place += 1
        self.assigned = self.assigned + 1
        self.late = torch.ones(())
        if not hasattr(self, "registered"):
            self.register_buffer("registered", torch.ones(()))
        return super().forward(images)


class Drawing(SmallCNN):
    """Draws from every global generator in its forward pass."""

    def forward(self, images):
        import random

        random.random()
        np.random.rand()  # noqa: NPY002 -- the global one is the point
        return super().forward(images + 0 * torch.rand(()))


class HalfByHand(SmallCNN):
    """Leaves autocast for its head, as models with a delicate head do."""

    def forward(self, images):
        pooled = self.features(images).mean(dim=(2, 3))
        with torch.autocast(images.device.type, enabled=False):
            return self.head(pooled.float())


CALLS = Counter()
"""How often something was called: attributes of a network are put back when it was looked at, this is not."""


class Faulty(SmallCNN):
    """Raises at a given forward pass."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, images):
        CALLS[self] += 1
        logits = super().forward(images)
        if CALLS[self] == self.at:
            raise OSError("the network failed")
        return logits


class Pair(NamedTuple):
    """What a layer may return."""

    features: torch.Tensor
    weights: str


class Answering(SmallCNN):
    """Wraps its logits, and the output of its layer, as real models do."""

    def __init__(self, wrap=lambda logits: logits, wrap_layer=lambda features: features):
        super().__init__()
        self.wrap = wrap
        self.layer = _Wrapping(wrap_layer)

    def forward(self, images):
        features = self.layer(self.features(images))
        features = features if isinstance(features, torch.Tensor) else features[0]
        return self.wrap(self.head(features.mean(dim=(2, 3))))


class _Wrapping(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, features):
        return self.wrap(features)


class Twice(SmallCNN):
    """Runs one layer twice, has one that never runs, and one whose output does not matter."""

    def __init__(self):
        super().__init__()
        self.shared = nn.ReLU()
        self.unused = nn.Conv2d(3, 3, 1)
        self.aside = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        self.aside(images)
        features = self.shared(self.stage1(images) - 0.1)
        return self.head(self.shared(self.stage2(features)).mean(dim=(2, 3)))


class ChannelsLast(nn.Module):
    """Feature maps ``(B, h, w, C)``, as in Swin transformers."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.block = nn.Sequential(nn.Linear(16, 16), nn.GELU())
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        return self.head(self.block(self.patch(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


class Block(nn.Module):
    """One attention block on ``(B, T, C)`` or, with ``sequence_first``, ``(T, B, C)``."""

    def __init__(self, width, *, sequence_first):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=not sequence_first)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, tokens):
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(tokens)


class Transformer(nn.Module):
    """A vision transformer with ``prefix`` tokens in front of 4 x 4-pixel patches; the first of them is read out.

    Without prefix tokens the mean of the patches is read out. ``zero_head`` leaves the head at 0, as torchvision does.
    """

    def __init__(self, prefix=1, *, sequence_first=False, zero_head=False, size=32, depth=3):
        super().__init__()
        self.sequence_first, self.zero_head = sequence_first, zero_head
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.prefix = nn.Parameter(torch.zeros(1, prefix, 16)) if prefix else None
        self.position = nn.Parameter(torch.zeros(1, prefix + (size // 4) ** 2, 16))
        self.blocks = nn.ModuleList(Block(16, sequence_first=sequence_first) for _ in range(depth))
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        tokens = self.patch(images).flatten(2).mT
        if self.prefix is not None:
            tokens = torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self.position
        tokens = tokens.transpose(0, 1) if self.sequence_first else tokens
        for block in self.blocks:
            tokens = block(tokens)
        tokens = tokens.transpose(0, 1) if self.sequence_first else tokens
        return self.head(tokens[:, 0] if self.prefix is not None else tokens.mean(dim=1))


def transformer(**options):
    network = seeded(Transformer(**options))
    if network.zero_head:
        nn.init.zeros_(network.head.weight)
    return network


def plain_evidence(network, name, images, targets):
    """Logits, activations and gradients at a layer by a plain forward and backward pass per image, without our code."""
    kept = {}

    def keep(_module, _args, output):
        kept["output"] = output[0] if isinstance(output, tuple) else output
        kept["output"].requires_grad_()
        kept["output"].retain_grad()
        # Views and clones keep in-place operations that follow away from what is read.
        shown = kept["output"].clone()
        return (shown, *output[1:]) if isinstance(output, tuple) else shown

    rows = []
    for image, target in zip(images, targets, strict=True):
        handle = network.get_submodule(name).register_forward_hook(keep)
        logits = network(image[None])
        handle.remove()
        logits[0, int(target)].backward()
        rows.append((logits.detach()[0], kept["output"].detach()[0], kept["output"].grad[0]))
        network.zero_grad(set_to_none=True)
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


TARGETS = torch.tensor([0, 3, 1, 4])


def assert_plain(evidence, network, layer, images, *, targets=TARGETS, to_grid=lambda rows: rows):
    """Assert that evidence is what a plain forward and backward pass of each image leaves behind."""
    logits, activations, gradients = plain_evidence(network, layer, images, targets)
    torch.testing.assert_close(evidence.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(evidence.activations, to_grid(activations), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(evidence.gradients, to_grid(gradients), rtol=1e-4, atol=1e-6)
    assert evidence.gradients.abs().sum(dim=(1, 2, 3)).min() > 0
