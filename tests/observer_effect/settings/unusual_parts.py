"""Networks with parts that are not plain modules of torch: quantised, lazy, compiled to TorchScript, checkpointed."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver
from torch.utils.checkpoint import checkpoint

from tests.helpers.modules import CLASSES, Tiny, seed_all, tiny
from tests.helpers.settings import Setting


class FakeQuantized(Tiny):
    """Quantises features per channel, by an observer whose buffers get their size at the first images."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        kinds = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "quant_min": -128, "quant_max": 127}
        self.quantise = FakeQuantize(MovingAveragePerChannelMinMaxObserver, ch_axis=1, **kinds)

    def features(self, images: Tensor) -> Tensor:
        return self.second(self.quantise(self.first(images)))


class Lazy(Tiny):
    """Learns at the first images how large its layers are."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.first[0], self.head = nn.LazyConv2d(8, 3, stride=2, padding=1), nn.LazyLinear(len(CLASSES))


class Scripted(Tiny):
    """Its first stage and its head are TorchScript."""

    def __init__(self, *, trace: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has begun to give it up
            self.first = torch.jit.trace(self.first.eval(), torch.rand(2, 3, 32, 32)) if trace else _script(self.first)
            self.head = torch.jit.trace(self.head, torch.rand(2, 12)) if trace else _script(self.head)
        self.train()


def _script(module: nn.Module) -> nn.Module:
    return torch.jit.script(module)


class Checkpointed(Tiny):
    """Runs what follows the target layer, or the layer as well, again in the backward pass."""

    def __init__(self, *, reentrant: bool, whole: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.reentrant, self.whole = reentrant, whole

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images) if self.whole else self.features(images)
        return checkpoint(self.tail, features, use_reentrant=self.reentrant)

    def tail(self, features: Tensor) -> Tensor:
        return self.head(self.drop((self.second(features) if self.whole else features).mean(dim=(2, 3))))


def of(kind: type[Tiny], **arguments: Any) -> Callable[[], Any]:
    """What builds a network, its first BatchNorm in training mode."""

    def build() -> Any:
        seed_all(0)
        return tiny(kind, **arguments)

    return build


SETTINGS = [
    Setting("fake quantisation per channel", module=of(FakeQuantized)),
    Setting(
        "fake quantisation per channel, first seen by us", module=of(FakeQuantized), trainer={"num_sanity_val_steps": 0}
    ),
    Setting("lazy layers", module=of(Lazy)),
    Setting("lazy layers, first seen by us", module=of(Lazy), trainer={"num_sanity_val_steps": 0}),
    Setting("scripted parts", module=of(Scripted)),
    Setting("traced parts", module=of(Scripted, trace=True)),
    Setting("a checkpointed tail", module=of(Checkpointed, reentrant=False)),
    Setting("a checkpointed tail, reentrant", module=of(Checkpointed, reentrant=True)),
    Setting("a checkpointed part around the layer, reentrant", module=of(Checkpointed, reentrant=True, whole=True)),
]
