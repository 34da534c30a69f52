"""Three kinds of module, with their data, as others write them: plain, like torchgeo's, like Hugging Face's.

The last two do what theirs do with a batch: names of its entries, where images are normalised, what forward takes and
returns. Each can be made of either of Lightning's names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.helpers.modules import CLASSES, Spots, Tiny

MEAN, STD = 0.3, 0.25


class Photos(Dataset):
    """Spots as samples that `pack` makes of image, what `answer` makes of the class, and index.

    Images have 8 bits, or are floats in 0..1. What is in `unlabelled` has a label of -1.
    """

    def __init__(self, n, seed, pack, *, eight_bit=False, unlabelled=(), answer=int):
        self.spots, self.pack, self.eight_bit = Spots(n, seed), pack, eight_bit
        self.unlabelled, self.answer = set(unlabelled), answer

    def __len__(self):
        return len(self.spots)

    def __getitem__(self, index):
        image, label = self.spots[index]
        image = (image * 255).to(torch.uint8) if self.eight_bit else image
        return self.pack(image, -1 if index in self.unlabelled else self.answer(label), index)


class Classifier:
    """Steps that know their own batches: `pick` finds images and labels."""

    def __init__(self, pick, n_logits=4):
        super().__init__()
        torch.manual_seed(0)
        layers = Tiny()
        self.pick, self.first, self.second = pick, layers.first, layers.second
        self.head = layers.head if n_logits == len(CLASSES) else nn.Linear(12, n_logits)

    def logits(self, images: Tensor) -> Tensor:
        images = images / 255 if images.dtype == torch.uint8 else images
        return self.head(self.second(self.first(images)).mean(dim=(2, 3)))

    def forward(self, images: Tensor) -> Any:
        return self.logits(images)

    def understood(self, labels: Tensor) -> Tensor:
        return labels

    def loss(self, batch, name):
        images, labels = self.pick(batch)
        logits, labels = self.logits(images), self.understood(labels)
        if labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels.view_as(logits).to(logits))
        known = labels >= 0
        self.log(f"{name}/acc", (logits.argmax(dim=1) == labels)[known].float().mean(), batch_size=len(labels))
        return F.cross_entropy(logits, labels, ignore_index=-1)

    def training_step(self, batch, batch_idx):
        return self.loss(batch, "train")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.loss(batch, "val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class GeoClassifier(Classifier):
    """Like torchgeo's; its data come normalised, from :class:`GeoData`."""


class GeoData:
    """Normalises and augments on the device, in raw units of 0..255."""

    mean, std = torch.full((3,), 255 * MEAN), torch.full((3,), 255 * STD)

    def __init__(self, train, val):
        super().__init__()
        self.train, self.val = train, val

    def train_dataloader(self):
        return self.train

    def val_dataloader(self):
        return self.val

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images = batch["image"].to(self.trainer.lightning_module.dtype)
        images = (images - self.mean[:, None, None]) / self.std[:, None, None]
        return {**batch, "image": images.flip(-1) if self.trainer.training else images}


class HuggingFaceClassifier(Classifier):
    """Forward by name, with or without labels; returns an object with `logits`."""

    def forward(self, pixel_values=None, labels=None):
        logits = self.logits(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def plain_sample(image, label, index):
    return image, label


def geo_sample(image, label, index):
    return {"image": image, "label": torch.as_tensor(label), "bounds": torch.rand(4), "crs": "EPSG:4326"}


def hf_sample(image, label, index):
    return {"pixel_values": image if image.dtype == torch.uint8 else (image - MEAN) / STD, "labels": label}


def by_keys(image, label):
    return lambda batch: (batch[image], batch[label])


@dataclass(frozen=True)
class Kind:
    """A kind of module: its steps, its samples, and how it finds image and label in them."""

    steps: type[Classifier]
    pack: Callable[[Tensor, Any, int], Any]
    pick: Callable[[Any], Any]

    def photos(self, n=16, seed=2, **options):
        return Photos(n, seed, self.pack, **({"eight_bit": self is GEO} | options))

    def loader(self, *arguments, **options):
        return DataLoader(self.photos(*arguments, **options), batch_size=4)

    def module(self, root=pl, steps=Classifier, **options):
        """A module of that root; `steps` may change what those of the kind do."""
        bases = (self.steps,) if issubclass(self.steps, steps) else (steps, self.steps)
        return type(self.steps.__name__, (*bases, root.LightningModule), {})(self.pick, **options)

    def data(self, train, val, root=pl):
        """What a Trainer is given of loaders."""
        if self is GEO:
            return {"datamodule": type("GeoData", (GeoData, root.LightningDataModule), {})(train, val)}
        return {"train_dataloaders": train, "val_dataloaders": val}

    def seen(self, images):
        """What the network sees of images in 0..1."""
        images = (images * 255).to(torch.uint8) / 255 if self is GEO else images
        return images if self is PLAIN else (images - MEAN) / STD


PLAIN = Kind(Classifier, plain_sample, lambda batch: batch)
GEO = Kind(GeoClassifier, geo_sample, by_keys("image", "label"))
HUGGING_FACE = Kind(HuggingFaceClassifier, hf_sample, by_keys("pixel_values", "labels"))
KINDS = {"plain": PLAIN, "torchgeo": GEO, "hugging_face": HUGGING_FACE}
