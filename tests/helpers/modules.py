"""Tiny networks and data on which a training takes a fraction of a second."""

import random
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lit_decom import Components, DecomCAM, DecomCAMCallback, Execution, Log, Probe, Scoring

CLASSES = ("north", "east", "south", "west")
SIDE = 32


class Spots(Dataset):
    """Noise with a bright spot at one of four sides, which is the class; readable by index."""

    def __init__(self, n: int = 16, seed: int = 0, *, augment: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(n, 3, SIDE, SIDE, generator=generator) * 0.5
        self.targets = [index % len(CLASSES) for index in range(n)]
        for index, label in enumerate(self.targets):
            row, column = [(2, 12), (12, 22), (22, 12), (12, 2)][label]
            self.images[index, label % 3, row : row + 8, column : column + 8] += 0.5
        self.augment = augment
        self.classes = CLASSES

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.augment:
            # All three global generators, as the augmentations of different libraries do.
            image = image + 0.1 * torch.randn(()) + 0.1 * float(np.random.rand()) + 0.1 * random.random()  # noqa: NPY002
        return image, self.targets[index]


class Stream(IterableDataset):
    """The same images without an index."""

    def __iter__(self) -> Any:
        return iter([Spots()[index] for index in range(4)])


class Tiny(pl.LightningModule):
    """Two convolutions, batch normalisations and dropout; an 8 x 8 grid of 12 channels at ``second``."""

    def __init__(self, *, freeze_first_norm: bool = False, lr: float = 0.02) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(12, len(CLASSES))
        self.freeze_first_norm = freeze_first_norm
        self.lr = lr

    def features(self, images: Tensor) -> Tensor:
        return self.second(self.first(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.features(images).mean(dim=(2, 3))))

    def on_train_start(self) -> None:
        if self.freeze_first_norm:
            self.first[1].eval()
            self.first[1].requires_grad_(requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Wrapped(pl.LightningModule):
    """Trains any network, ``net``, on cross entropy."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Faulty(nn.Module):
    """Passes its input on; raises while ``armed`` and not training, which is when it is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False

    def forward(self, values: Tensor) -> Tensor:
        if self.armed and not self.training and torch.is_grad_enabled():
            raise RuntimeError("the network is broken")
        return values


class TinyFaulty(Tiny):
    """A `Tiny` whose forward can be made to raise in the middle of a snapshot, and only there."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.fault = Faulty()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.fault(self.second(self.first(images)).mean(dim=(2, 3)))))


class Aliased(Tiny):
    """Its second stage goes by a second name, under which it is run."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stage = self.second

    def features(self, images: Tensor) -> Tensor:
        return self.stage(self.first(images))


class Repeated(Tiny):
    """Runs one block twice, out of a list, and another one twice, out of a sequence."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        block, other = (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(2))
        self.blocks = nn.ModuleList([block, block])
        self.sequence = nn.Sequential(other, other)

    def features(self, images: Tensor) -> Tensor:
        values = self.first(images)
        for block in self.blocks:
            values = block(values)
        return self.second(self.sequence(values))


class NormTwice(Tiny):
    """Normalises twice by one BatchNorm that has two names."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.norm = nn.BatchNorm2d(8)
        self.same_norm = self.norm

    def features(self, images: Tensor) -> Tensor:
        return self.second(self.same_norm(self.norm(self.first(images)).relu()))


class Tied(Tiny):
    """Weights of different modules are one parameter: two linear layers, and a convolution and its transpose."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.squeeze, self.expand = nn.Linear(12, 12), nn.Linear(12, 12)
        self.expand.weight = self.squeeze.weight
        self.down, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.up.weight = self.down.weight

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.second(self.up(self.down(self.first(images)).relu())).mean(dim=(2, 3))
        return self.head(self.drop(self.expand(self.squeeze(pooled).tanh())))


class TwoNames(Tiny):
    """One parameter by two names in one module, and by a third in a list."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1.5))
        self.same_scale = self.scale
        self.scales = nn.ParameterList([self.scale])

    def features(self, images: Tensor) -> Tensor:
        return self.second(self.first(images) * self.scale * self.same_scale.sigmoid() + self.scales[0])


class Parametrized(Tiny):
    """Weights that are computed from others, one of them in a block that is run twice."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        nn.utils.parametrizations.weight_norm(self.first[0])
        nn.utils.parametrizations.spectral_norm(self.head)
        self.block = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.blocks = nn.ModuleList([self.block, self.block])

    def features(self, images: Tensor) -> Tensor:
        values = self.first(images)
        for block in self.blocks:
            values = block(values).relu()
        return self.second(values)


SHARING = (Aliased, Repeated, NormTwice, Tied, TwoNames, Parametrized)
"""Networks that hold a module or a parameter more than once."""


class Keep(pl.callbacks.Checkpoint):
    """Saves every epoch, or every batch, after all other callbacks had their turn, as `ModelCheckpoint` does."""

    def __init__(self, folder: Path, *, every_batch: bool = False) -> None:
        self.folder, self.every_batch = folder, every_batch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.every_batch:
            trainer.save_checkpoint(self.folder / f"epoch={trainer.current_epoch}.ckpt")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.every_batch:
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def tiny(cls: type[Tiny] = Tiny, **arguments: Any) -> Any:
    """A network with weights drawn by seed."""
    seed_all(0)
    return cls(**arguments)


def loader(dataset: Dataset | None = None, **arguments: Any) -> DataLoader:
    """Batches of four."""
    return DataLoader(Spots() if dataset is None else dataset, **({"batch_size": 4} | arguments))


def probe(n: int = 6, **known: Any) -> Probe:
    """The first images of a validation set."""
    spots = Spots(n, seed=1)
    return Probe.from_tensors(spots.images, torch.tensor(spots.targets), **({"class_names": CLASSES} | known))


def callback(cls: type[DecomCAMCallback] = DecomCAMCallback, **arguments: Any) -> DecomCAMCallback:
    """Three components of ``second`` in six images, two of them drawn, none scored; an error is an error.

    Trackers get all keys. The arguments of the groups ``scores``, ``components``, ``log`` and ``run`` are given by
    their own names.
    """
    given = {
        "method": DecomCAM(n_components=3),
        "probe": probe(),
        "target_layer": "second",
        "metrics": (),
        "n_images": 2,
        "keys": "all",
        "strict": True,
    } | arguments
    for group, options in {"scores": Scoring, "components": Components, "log": Log, "run": Execution}.items():
        own = {entry.name: given.pop(entry.name) for entry in fields(options) if entry.name in given}
        given[group] = options(**own)
    return cls(**given)


def trainer(root: Path, *callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU without a logger."""
    given = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(entry, pl.callbacks.Checkpoint) for entry in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": root,
        "log_every_n_steps": 1,
    }
    with warnings.catch_warnings():
        return pl.Trainer(callbacks=list(callbacks), **(given | arguments))


def fit(
    root: Path, *callbacks: pl.Callback, module: Tiny | None = None, validate: bool = True, **arguments: Any
) -> pl.Trainer:
    """Train a `Tiny` on four batches an epoch, with the callbacks."""
    ckpt_path = arguments.pop("ckpt_path", None)
    run = trainer(root, *callbacks, **(arguments if validate else arguments | {"limit_val_batches": 0}))
    run.fit(tiny() if module is None else module, loader(), loader(Spots(8, seed=2)), ckpt_path=ckpt_path)
    return run
