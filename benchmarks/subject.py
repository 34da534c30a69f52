"""What is timed: a network that has learned something, and images of the size it is asked about."""

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from lit_decom import find_target_layer
from lit_decom.data.critters import Critters
from lit_decom.isolation import isolated_random_state
from lit_decom.models.small_resnet import SmallResNet

_N_CLASSES = 8
_TRAINED_AT = 64  # pixels: the networks are convolutional, and drawing and training are cheap there
_STEP = 32


@dataclass(frozen=True)
class Subject:
    """A network in eval mode and a batch for it.

    Attributes:
        name: of the model.
        model: a classifier.
        layer: name of the target layer.
        images: ``(B, 3, H, W)``.
        targets: ``(B,)``, the true classes.
    """

    name: str
    model: nn.Module
    layer: str
    images: Tensor
    targets: Tensor

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.images.shape[-1]


def make_subject(
    name: str, size: int, batch: int, *, train_images: int, layer: str | None = None, device: str = "cpu", seed: int = 0
) -> Subject:
    """Draw critters and fit a network to some of them, since untrained scores cannot tell components apart.

    Args:
        name: a torchvision classifier, or ``"small_resnet"``.
        size: height and width of the images explained; training is done at 64 pixels.
        batch: how many images.
        train_images: how many critters the network sees, once each; 0 leaves it as initialised.
        layer: the target layer; by default the one that :func:`lit_decom.find_target_layer` finds.
        device: where everything lives.
        seed: of weights and images.
    """
    with isolated_random_state(seed):
        model = (
            SmallResNet(_N_CLASSES)
            if name == "small_resnet"
            else torchvision.models.get_model(name, num_classes=_N_CLASSES)
        ).to(device)
        fit(model, train_images, seed)
    model.eval()
    images, targets = draw(batch, size, "val", seed)
    images = images.to(device)
    found = find_target_layer(model, layer, images).name
    return Subject(name, model, found, images, targets.to(device))


def draw(n: int, size: int, stream: str, seed: int) -> tuple[Tensor, Tensor]:
    """Critters ``(n, 3, size, size)``, centred and scaled, and their classes ``(n,)``."""
    critters = Critters(n, size, seed, stream, cache=False, annotations=False)
    images = torch.stack([critters[i][0].as_subclass(Tensor) for i in range(n)])
    return (images / 255 - 0.5) / 0.25, critters.targets


def fit(model: nn.Module, n: int, seed: int) -> None:
    """One pass over ``n`` critters with a rising and falling learning rate."""
    if n == 0:
        return
    images, targets = draw(n, _TRAINED_AT, "train", seed)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    starts = range(0, n, _STEP)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=len(starts) + 1)
    model.train()
    for start in starts:
        part = slice(start, start + _STEP)
        training_step(model, images[part].to(device), targets[part].to(device), optimizer)
        schedule.step()


def training_step(model: nn.Module, images: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of training in float32."""
    loss = F.cross_entropy(model(images), targets)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
