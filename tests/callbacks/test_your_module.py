"""Modules and data as others write them: each row of the README's "Your module, your batch", on three kinds of module.

The stand-ins for torchgeo and Hugging Face do what theirs do with a batch: names of its entries, where images are
normalised, and what forward takes and returns.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, default_collate

from lit_decom.records import displayed
from tests.helpers.modules import CLASSES, Spots, Tiny, callback, trainer

MEAN, STD = [0.3, 0.3, 0.3], [0.25, 0.25, 0.25]


class Photos(Dataset):
    """Spots as samples that `pack` makes of image and label; uint8, or floats in 0..1."""

    def __init__(self, n, seed, pack, *, eight_bit=False, unlabelled=()):
        self.spots, self.pack, self.eight_bit, self.unlabelled = Spots(n, seed), pack, eight_bit, set(unlabelled)

    def __len__(self):
        return len(self.spots)

    def __getitem__(self, index):
        image, label = self.spots[index]
        image = (image * 255).to(torch.uint8) if self.eight_bit else image
        return self.pack(image, -1 if index in self.unlabelled else label, index)


class Streamed(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[index] for index in range(len(self.dataset)))


class Plain(pl.LightningModule):
    """A module that knows its own batches: `pick` finds images and labels."""

    def __init__(self, pick):
        super().__init__()
        torch.manual_seed(0)
        layers = Tiny()
        self.pick, self.first, self.second, self.head = pick, layers.first, layers.second, layers.head

    def logits(self, images: Tensor) -> Tensor:
        images = images / 255 if images.dtype == torch.uint8 else images
        return self.head(self.second(self.first(images)).mean(dim=(2, 3)))

    def forward(self, images: Tensor) -> Any:
        return self.logits(images)

    def loss(self, batch, name):
        images, labels = self.pick(batch)
        logits = self.logits(images)
        known = labels >= 0
        self.log(f"{name}/acc", (logits.argmax(dim=1) == labels)[known].float().mean(), batch_size=len(labels))
        return F.cross_entropy(logits, labels, ignore_index=-1)

    def training_step(self, batch, batch_idx):
        return self.loss(batch, "train")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.loss(batch, "val")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class LikeTorchgeo(Plain):
    """Its datamodule normalises on the device, in the raw units of 0..255; forward takes what comes of it."""


class GeoData(pl.LightningDataModule):
    mean, std = torch.tensor([76.5, 76.5, 76.5]), torch.tensor([63.75, 63.75, 63.75])

    def __init__(self, make_loader):
        super().__init__()
        self.make_loader = make_loader

    def train_dataloader(self):
        return self.make_loader(Photos(16, 0, geo_sample, eight_bit=True))

    def val_dataloader(self):
        return self.make_loader(Photos(16, 2, geo_sample, eight_bit=True))

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images = (batch["image"].float() - self.mean[:, None, None]) / self.std[:, None, None]
        flipped = self.trainer is not None and self.trainer.training
        return {**batch, "image": images.flip(-1) if flipped else images}


def geo_sample(image, label, index):
    return {"image": image, "label": torch.tensor(label), "bounds": torch.rand(4), "crs": "EPSG:4326"}


class LikeHuggingFace(Plain):
    """Forward by name, with or without labels; returns an object with `logits`."""

    def forward(self, pixel_values=None, labels=None):
        logits = self.logits(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def hf_sample(image, label, index):
    return {"pixel_values": (image - 0.3) / 0.25, "labels": label}


def by_keys(image, label):
    return lambda batch: (batch[image], batch[label])


def run(tmp_path, module, data, train=None, **arguments):
    observer = callback(**({"probe": 8, "n_images": 2} | arguments))
    runner = trainer(tmp_path, observer, num_sanity_val_steps=0)
    if isinstance(data, pl.LightningDataModule):
        runner.fit(module, datamodule=data)
    else:
        runner.fit(module, data if train is None else train, data)
    return observer


def assert_explained(observer, module, expected):
    """The network's own answers to the images as its steps see them are what was explained."""
    images, labels = expected
    probe, found = observer.probe, observer.last_snapshot
    assert torch.equal(probe.labels, labels)
    torch.testing.assert_close(probe.images, images)
    torch.testing.assert_close(found.logits, module.eval().logits(images).detach(), atol=1e-4, rtol=1e-4)
    assert observer.errors == 0


def rows_of(observer, n=16, seed=2):
    spots, rows = Spots(n, seed), [int(name) for name in observer.probe.ids]
    return spots.images[rows], torch.tensor(spots.targets)[rows]


class Scene(NamedTuple):
    picture: Tensor
    species: Tensor


@dataclass
class Batch:
    path: list[str]
    img: Tensor
    target: Tensor


def as_dataclass(samples):
    path, images, labels = default_collate(samples)
    return Batch(path, images, labels)


BATCHES = {
    "tuple": (lambda image, label, index: (image, label), lambda batch: batch, None),
    "label first": (lambda image, label, index: (label, image), lambda batch: (batch[1], batch[0]), None),
    "metadata between": (
        lambda image, label, index: (image, {"camera": "a", "hour": 3}, label),
        lambda batch: (batch[0], batch[2]),
        None,
    ),
    "mapping": (geo_sample, by_keys("image", "label"), None),
    "Hugging Face": (hf_sample, by_keys("pixel_values", "labels"), None),
    "named tuple": (
        lambda image, label, index: Scene(image, label),
        lambda batch: (batch.picture, batch.species),
        None,
    ),
    "dataclass": (
        lambda image, label, index: ("a.png", image, label),
        lambda batch: (batch.img, batch.target),
        as_dataclass,
    ),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_common_shapes_need_no_word(tmp_path, name):
    pack, pick, collate_fn = BATCHES[name]
    module = Plain(pick)
    data = DataLoader(Photos(16, 2, pack), batch_size=4, collate_fn=collate_fn)
    observer = run(tmp_path, module, data)
    images, labels = rows_of(observer)
    assert_explained(observer, module, ((images - 0.3) / 0.25 if name == "Hugging Face" else images, labels))


def test_batches_of_no_common_shape_take_one_line(tmp_path):
    def pick(batch):
        return batch["scene"]["pixels"], batch["tags"]["species"] + 1

    module = Plain(lambda batch: (pick(batch)[0], pick(batch)[1] - 1))
    data = Photos(16, 2, lambda image, label, index: {"scene": {"pixels": image}, "tags": {"species": label - 1}})
    module.pick = pick
    observer = run(tmp_path, module, DataLoader(data, batch_size=4), unpack=pick)
    assert_explained(observer, module, rows_of(observer))


def geo_run(tmp_path, make_loader):
    module = LikeTorchgeo(by_keys("image", "label"))
    observer = run(tmp_path, module, GeoData(make_loader))
    images, labels = rows_of(observer)
    eight_bit = (images * 255).to(torch.uint8).float()
    assert_explained(observer, module, ((eight_bit - 76.5) / 63.75, labels))
    torch.testing.assert_close(displayed(observer.probe), eight_bit / 255, atol=1e-4, rtol=0)
    return observer


def hf_run(tmp_path, data):
    module = LikeHuggingFace(by_keys("pixel_values", "labels"))
    observer = run(tmp_path, module, data)
    images, labels = rows_of(observer)
    assert_explained(observer, module, ((images - 0.3) / 0.25, labels))
    return observer


SAMPLER = {"sampler": SubsetRandomSampler(range(4, 12))}


def test_a_sampler_is_obeyed_by_each_kind_of_module(tmp_path):
    plain = Plain(lambda batch: batch)
    data = DataLoader(Photos(16, 2, BATCHES["tuple"][0]), batch_size=4, **SAMPLER)
    observers = [
        run(tmp_path, plain, data),
        geo_run(tmp_path, lambda photos: DataLoader(photos, batch_size=4, **SAMPLER)),
        hf_run(tmp_path, DataLoader(Photos(16, 2, hf_sample), batch_size=4, **SAMPLER)),
    ]
    assert [sorted(map(int, observer.probe.ids)) for observer in observers] == [list(range(4, 12))] * 3


@pytest.mark.filterwarnings("ignore:Streamed in a DataLoader is not read by index")
def test_a_stream_is_read_for_each_kind_of_module(tmp_path):
    def streamed(photos):
        return DataLoader(Streamed(photos), batch_size=4)

    plain = Plain(lambda batch: batch)
    observer = run(tmp_path, plain, streamed(Photos(16, 2, BATCHES["tuple"][0])))
    assert_explained(observer, plain, rows_of(observer))
    geo_run(tmp_path, streamed)
    hf_run(tmp_path, streamed(Photos(16, 2, hf_sample)))


@pytest.mark.parametrize("kind", [Plain, LikeHuggingFace])
def test_what_nobody_labelled_is_left_out_for_each_kind_of_module(tmp_path, kind):
    pack, pick = (hf_sample, by_keys("pixel_values", "labels")) if kind is LikeHuggingFace else BATCHES["tuple"][:2]
    data = Photos(16, 2, pack, unlabelled=range(8))
    train = DataLoader(Photos(16, 0, pack), batch_size=4)
    observer = run(tmp_path, kind(pick), DataLoader(data, batch_size=16), train)
    assert sorted(map(int, observer.probe.ids)) == list(range(8, 16))


def test_what_nobody_labelled_is_left_out_of_data_like_torchgeos(tmp_path):
    def loader_of(photos):
        photos.unlabelled = set(range(8))
        return DataLoader(photos, batch_size=16)

    assert sorted(map(int, geo_run(tmp_path, loader_of).probe.ids)) == list(range(8, 16))


def test_images_of_8_bits_are_explained_as_the_forward_divides_them(tmp_path):
    module = Plain(lambda batch: batch)
    data = DataLoader(Photos(16, 2, BATCHES["tuple"][0], eight_bit=True), batch_size=4)
    observer = run(tmp_path, module, data)
    images, labels = rows_of(observer)
    assert_explained(observer, module, ((images * 255).to(torch.uint8) / 255, labels))


def test_names_of_too_few_classes_are_followed_by_numbers(tmp_path):
    data = Photos(16, 2, BATCHES["tuple"][0])
    data.classes = CLASSES[:2]
    with pytest.warns(UserWarning, match="2 `class_names`, but a label of 3"):
        observer = run(tmp_path, Plain(lambda batch: batch), DataLoader(data, batch_size=4))
    assert observer.probe.class_names == ("north", "east", "2", "3")


def test_a_module_whose_steps_normalise_is_told_so(tmp_path):
    class InItsSteps(Plain):
        def loss(self, batch, name):
            return super().loss(((batch[0] - 0.3) / 0.25, batch[1]), name)

    def unpack(batch):
        return (batch[0] - 0.3) / 0.25, batch[1]

    module = InItsSteps(lambda batch: batch)
    observer = run(tmp_path, module, DataLoader(Photos(16, 2, BATCHES["tuple"][0]), batch_size=4), unpack=unpack)
    images, labels = rows_of(observer)
    assert_explained(observer, module, ((images - 0.3) / 0.25, labels))


def test_a_module_that_returns_logits_among_other_things_is_read_by_the_caller(tmp_path):
    class TwoHeads(Plain):
        def forward(self, images):
            logits = self.logits(images)
            return {"coarse": logits[:, :2], "fine": logits}

    module = TwoHeads(lambda batch: batch)
    data = DataLoader(Photos(16, 2, BATCHES["tuple"][0]), batch_size=4)
    observer = run(tmp_path, module, data, forward=lambda asked, images: asked(images)["fine"])
    assert_explained(observer, module, rows_of(observer))
