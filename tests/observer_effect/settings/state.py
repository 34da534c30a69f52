"""State that a network, or what reads the data, keeps beside parameters and the global random generators."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, default_collate
from torchmetrics import MetricCollection
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from tests.helpers.modules import CLASSES, Spots, Tiny, loader, tiny
from tests.helpers.settings import Loaders, Setting
from tests.helpers.training import digest


def plain() -> Loaders:
    """Loaders of the same images in every epoch."""
    return loader(Spots()), loader(Spots(8, seed=2))


class Bank:
    """A feature bank, as a class of the user's own."""

    __slots__ = ("features", "seen")

    def __init__(self) -> None:
        self.seen, self.features = 0, [np.zeros(3)]


class Keeping(Tiny):
    """Keeps what it has seen in attributes of every kind, and computes with it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.calls, self.bank, self.queue = 0, Bank(), torch.zeros(4)
        self.outputs: list[Tensor] = []
        self.by_name: dict[str, Any] = {"mean": torch.zeros(()), "seen": {0}}

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.bank.seen += len(images)
        self.bank.features[0] += self.bank.seen
        self.bank.features.append(np.ones(1))
        self.queue[self.calls % 4] += images.detach().mean().cpu()
        self.by_name["mean"] = self.by_name["mean"] * 0.9 + self.queue.mean() * 0.1
        self.by_name["seen"].add(self.calls)
        logits = super().forward(images) * (1 + 1e-3 * self.calls + 1e-2 * self.by_name["mean"])
        self.outputs = [*self.outputs[-3:], logits.detach()]
        return logits


def kept(_trainer: pl.Trainer, module: Any) -> Any:
    bank = module.bank
    return module.calls, bank.seen, bank.features, module.queue.tolist(), digest(module.outputs), module.by_name


class Measuring(Tiny):
    """Updates metrics in its forward: in place, by assignment and by lists; one is of a collection, one is hidden."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mean = MeanMetric()
        self.both = MetricCollection({"accuracy": MulticlassAccuracy(len(CLASSES)), "mean": MulticlassAccuracy(4)})
        self.hidden = [MeanMetric()]

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.mean.update(logits.detach())
        self.both.update(logits.detach(), logits.argmax(dim=1))
        self.hidden[0](images.detach())
        return logits

    def on_validation_epoch_end(self) -> None:
        self.log("val/mean", self.mean.compute())
        self.mean.reset()


def measured(_trainer: pl.Trainer, module: Any) -> Any:
    metrics = [module.mean, module.hidden[0], *module.both.values()]
    return [(metric._update_count, digest(metric.metric_state)) for metric in metrics]


class Recording:
    """A hook with a count of its own."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        self.count += 1
        return output * (1 + 1e-3 * self.count)

    def before(self, _module: nn.Module, _args: Any) -> None:
        self.count += 10


def hooked() -> pl.LightningModule:
    """A network with hooks whose state is an object, a closure, and an object that a method is bound to."""
    module, hook, bound, seen, total = tiny(freeze_first_norm=True), Recording(), Recording(), [], 0

    def count(*_: Any) -> None:
        nonlocal total
        total += 1
        seen.append(total)

    module.second.register_forward_hook(hook)
    module.first.register_forward_pre_hook(bound.before)
    module.head.register_forward_hook(count)
    module.told = lambda: (hook.count, bound.count, list(seen), total)
    return module


class Rewriting(Tiny):
    """Changes a buffer and a weight past torch's count of writes."""

    weight = False

    def forward(self, images: Tensor) -> Tensor:
        self.first[1].running_var.data.mul_(1.001)
        if self.weight:
            self.head.weight.data.mul_(0.999)
        return super().forward(images)


class RewritingWeights(Rewriting):
    """Its weights shrink in every forward pass."""

    weight = True


class Writing(Tiny):
    """Writes to a weight in every forward pass."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.bias.add_(1e-3)
        return super().forward(images)


class Logging(Tiny):
    """Logs in its forward."""

    def forward(self, images: Tensor) -> Tensor:
        logits, stage = super().forward(images), "train" if self.training else "val"
        self.log(f"{stage}/size", logits.detach().abs().mean(), on_step=False, on_epoch=True)
        self.log_dict({f"{stage}/least": logits.detach().min()}, on_step=False, on_epoch=True)
        return logits


class LoggingSteps(Tiny):
    """Logs every step in its forward, which Lightning refuses where an epoch ends."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.log("size", logits.detach().abs().mean(), on_step=True)
        return logits


class Drawing(Tiny):
    """Draws from generators of its own, also when it is looked at."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.noise = torch.Generator().manual_seed(1)
        self.sources = {"numpy": [np.random.default_rng(2), np.random.RandomState(3)], "python": random.Random(4)}

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.sources["numpy"]
        shift = torch.rand((), generator=self.noise).item() + first.random() + second.rand()
        return super().forward(images + 0.1 * (shift + self.sources["python"].random()))


class Growing(Tiny):
    """Gets a submodule and a hook in its first forward pass, too late for the optimizer."""

    def forward(self, images: Tensor) -> Tensor:
        if not hasattr(self, "extra"):
            self.extra = nn.Linear(1, 1)
            self.head.register_forward_hook(lambda *_: None)
        return super().forward(images)


class Spread(Spots):
    """Its transform draws from generators of its own, as deep as MONAI's dictionary transforms keep them."""

    def __init__(self, n: int = 16, seed: int = 0) -> None:
        global GLOBAL  # noqa: PLW0603 -- begins anew in each of the two trainings
        super().__init__(n, seed)
        GLOBAL = np.random.default_rng(7)
        self.transform = _Held([_Held([_Held(_Held(_Held(np.random.RandomState(5))))])])
        self.own = [_Held(np.random.default_rng(index)) for index in range(n)]
        source = random.Random(6)
        self.gauss = lambda: source.gauss(0, 1)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        drawn = self.transform.held[0].held[0].held.held.held.rand() + self.own[index].held.random() + self.gauss()
        return image + 0.1 * (drawn + GLOBAL.random()), label


GLOBAL = np.random.default_rng(7)


class _Held:
    def __init__(self, held: Any) -> None:
        self.held = held


def one_for_both() -> Loaders:
    """One data set in both loaders, and a sampler with a generator of its own."""
    data = Spread()
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(8))
    return DataLoader(data, batch_size=4, sampler=sampler), loader(data)


def without_validation(**arguments: Any) -> Any:
    """Loaders of training only."""
    return lambda: (loader(Spread(), shuffle=True, **arguments), None)


class Augmenting(pl.LightningDataModule):
    """Draws from generators of its own when it makes a loader, in its transfer hook and when it collates."""

    def __init__(self) -> None:
        super().__init__()
        self.split, self.noise = torch.Generator().manual_seed(1), [np.random.default_rng(2)]
        self.collated = random.Random(3)

    def train_dataloader(self) -> Any:
        return loader(shuffle=True, collate_fn=self.collate)

    def val_dataloader(self) -> Any:
        seed = int(torch.randint(100, (), generator=self.split))
        return [loader(Spots(8, seed=seed), collate_fn=self.collate)]

    def collate(self, samples: list[Any]) -> Any:
        images, labels = default_collate(samples)
        return images + 0.1 * self.collated.random(), labels

    def on_after_batch_transfer(self, batch: Any, _place: int) -> Any:
        return batch[0] + 0.1 * self.noise[0].random(), batch[1]


FOUND = {"probe": 4}

SETTINGS = [
    Setting("attributes that a forward keeps", module=lambda: tiny(Keeping), loaders=plain, state=kept),
    Setting("metrics that a forward updates", module=lambda: tiny(Measuring), state=measured),
    Setting("hooks with state", module=hooked, state=lambda _trainer, module: module.told()),
    Setting("a buffer that is written past the count of writes", module=lambda: tiny(Rewriting)),
    Setting(
        "a weight that is written past the count of writes",
        module=lambda: tiny(RewritingWeights),
        observer={"isolate": "copy"},
    ),
    Setting("a weight that is written", module=lambda: tiny(Writing), observer={"isolate": "copy"}),
    Setting("attributes, looked at in a copy", module=lambda: tiny(Keeping), observer={"isolate": "copy"}, state=kept),
    Setting("values that are logged in a forward", module=lambda: tiny(Logging)),
    Setting("values that are logged in a forward at every step", module=lambda: tiny(LoggingSteps)),
    Setting("values that a copy logs in a forward", module=lambda: tiny(Logging), observer={"isolate": "copy"}),
    Setting("generators that a module holds", module=lambda: tiny(Drawing)),
    Setting("generators that a copied module holds", module=lambda: tiny(Drawing), observer={"isolate": "copy"}),
    Setting(
        "a network that grows in its first forward", module=lambda: tiny(Growing), trainer={"num_sanity_val_steps": 0}
    ),
    Setting(
        "one data set with generators in both loaders", loaders=one_for_both, observer=FOUND, warns=["another image"]
    ),
    Setting(
        "generators in transforms, no validation", loaders=without_validation(), observer=FOUND, warns=["another im"]
    ),
    Setting(
        "generators in forked workers",
        loaders=without_validation(num_workers=1, multiprocessing_context="fork"),
        observer=FOUND,
        warns=["another image"],
    ),
    Setting(
        "generators of a datamodule",
        loaders=lambda: (Augmenting(), None),
        observer=FOUND,
        trainer={"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "max_epochs": 4},
        snapshots=2,
        warns=["another image"],
    ),
]
