"""Modules and data as others write them: the rows of the README's "Your module, your batch", on three kinds."""

from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, default_collate

from lit_decom.records import displayed
from tests.helpers.kinds import GEO, HUGGING_FACE, KINDS, PLAIN, Classifier, Photos
from tests.helpers.modules import CLASSES, Spots, callback, trainer

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def run(tmp_path, kind, val=None, module=None, train=None, *, precision="32-true", max_epochs=1, **arguments):
    """Train on four batches an epoch and validate on `val`; the callback, and the module as it is in validation."""
    observer = callback(**({"probe": 8, "n_images": 2} | arguments))
    val, module = kind.loader() if val is None else val, kind.module() if module is None else module
    options = {"num_sanity_val_steps": 0, "precision": precision, "max_epochs": max_epochs}
    trainer(tmp_path, observer, **options).fit(
        module, **kind.data(kind.loader(seed=0) if train is None else train, val)
    )
    return observer, module.eval()


def rows_of(observer, n=16, seed=2):
    spots, rows = Spots(n, seed), [int(name.split(":")[0]) for name in observer.probe.ids]
    return spots.images[rows], torch.tensor(spots.targets)[rows]


def assert_explained(observer, module, expected):
    """The network's own answers to the images as its steps see them are what was explained."""
    images, labels = expected
    probe, found = observer.probe, observer.last_snapshot
    assert torch.equal(probe.labels, labels)
    torch.testing.assert_close(probe.images, images)
    torch.testing.assert_close(found.logits, module.logits(images).detach(), atol=1e-4, rtol=1e-4)
    assert observer.errors == 0


def assert_explained_as_seen(observer, module, kind):
    images, labels = rows_of(observer)
    assert_explained(observer, module, (kind.seen(images), labels))


# ----- batches


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
    "label first": (lambda image, label, index: (label, image), lambda batch: (batch[1], batch[0]), None),
    "metadata between": (
        lambda image, label, index: (image, {"camera": "a", "hour": 3}, label),
        lambda batch: (batch[0], batch[2]),
        None,
    ),
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


class Own(Classifier, pl.LightningModule):
    pass


@each_kind
def test_the_batches_of_each_kind_need_no_word(tmp_path, kind):
    assert_explained_as_seen(*run(tmp_path, kind), kind)


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_common_shapes_need_no_word(tmp_path, name):
    pack, pick, collate_fn = BATCHES[name]
    data = DataLoader(Photos(16, 2, pack), batch_size=4, collate_fn=collate_fn)
    assert_explained_as_seen(*run(tmp_path, PLAIN, data, Own(pick), data), PLAIN)


def test_batches_of_no_common_shape_take_one_line(tmp_path):
    def pick(batch):
        return batch["scene"]["pixels"], batch["tags"]["species"] + 1

    photos = Photos(16, 2, lambda image, label, index: {"scene": {"pixels": image}, "tags": {"species": label - 1}})
    data = DataLoader(photos, batch_size=4)
    assert_explained_as_seen(*run(tmp_path, PLAIN, data, Own(pick), data, unpack=pick), PLAIN)


def test_a_module_whose_steps_normalise_is_told_so(tmp_path):
    class InItsSteps(Own):
        def loss(self, batch, name):
            return super().loss(((batch[0] - 0.3) / 0.25, batch[1]), name)

    def unpack(batch):
        return (batch[0] - 0.3) / 0.25, batch[1]

    observer, module = run(tmp_path, PLAIN, module=InItsSteps(PLAIN.pick), unpack=unpack)
    images, labels = rows_of(observer)
    assert_explained(observer, module, ((images - 0.3) / 0.25, labels))


def test_a_module_that_returns_logits_among_other_things_is_read_by_the_caller(tmp_path):
    class TwoHeads(Own):
        def forward(self, images):
            logits = self.logits(images)
            return {"coarse": logits[:, :2], "fine": logits}

    module = TwoHeads(PLAIN.pick)
    found = run(tmp_path, PLAIN, module=module, forward=lambda asked, images: asked(images)["fine"])
    assert_explained_as_seen(*found, PLAIN)


# ----- loaders


@each_kind
def test_a_sampler_is_obeyed(tmp_path, kind):
    data = DataLoader(kind.photos(), batch_size=4, sampler=SubsetRandomSampler(range(4, 12)))
    observer, module = run(tmp_path, kind, data)
    assert_explained_as_seen(observer, module, kind)
    assert sorted(map(int, observer.probe.ids)) == list(range(4, 12))


class Streamed(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[index] for index in range(len(self.dataset)))


class InBatches(Dataset):
    """Ready-made batches of four by index."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset) // 4

    def __getitem__(self, index):
        return default_collate([self.dataset[4 * index + row] for row in range(4)])


class OwnLoader:
    """As of another library."""

    def __init__(self, dataset):
        self.batches = InBatches(dataset)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return (self.batches[index] for index in range(len(self)))


PIPELINES = {
    "stream": lambda photos: DataLoader(Streamed(photos), batch_size=4),
    "no batch size": lambda photos: DataLoader(InBatches(photos), batch_size=None),
    "own loader": OwnLoader,
}


@each_kind
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_pipeline_is_read_from_its_first_batches(tmp_path, kind, pipeline):
    with pytest.warns(UserWarning, match="is not read by index, so the probe is chosen among its first 16 images"):
        found = run(tmp_path, kind, PIPELINES[pipeline](kind.photos()))
    assert_explained_as_seen(*found, kind)


@each_kind
def test_what_nobody_labelled_is_left_out(tmp_path, kind):
    observer, module = run(tmp_path, kind, DataLoader(kind.photos(unlabelled=range(8)), batch_size=16))
    assert_explained_as_seen(observer, module, kind)
    assert sorted(map(int, observer.probe.ids)) == list(range(8, 16))


# ----- either Lightning


@each_kind
def test_pytorch_lightning_trains_each_kind_with_pictures(tmp_path, kind):
    root, observer = import_module("pytorch_lightning"), callback(probe=8, n_images=2)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    runner = root.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[observer],
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **quiet,
    )
    module = kind.module(root)
    runner.fit(module, **kind.data(kind.loader(seed=0), kind.loader(), root))
    assert_explained_as_seen(observer, module.eval(), kind)
    assert len(list((observer.directory.path / "pictures").glob("*.jpg"))) == 1


# ----- images


def described(mean, std):
    """Validation images of Hugging Face's kind whose dataset says how they were normalised."""
    photos = HUGGING_FACE.photos()
    photos.mean, photos.std = mean, std
    return DataLoader(photos, batch_size=4)


@pytest.mark.parametrize(
    "shape", [lambda value: value, lambda value: [value] * 3, lambda value: torch.full((3, 1, 1), value)]
)
def test_pictures_are_drawn_by_the_mean_and_std_of_a_dataset(tmp_path, shape):
    observer, _ = run(tmp_path, HUGGING_FACE, described(shape(0.3), shape(0.25)))
    torch.testing.assert_close(displayed(observer.probe), rows_of(observer)[0])


def test_pictures_are_drawn_by_the_mean_and_std_of_a_datamodule_in_raw_units(tmp_path):
    observer, _ = run(tmp_path, GEO)
    torch.testing.assert_close(displayed(observer.probe), (rows_of(observer)[0] * 255).floor() / 255)


@pytest.mark.parametrize("kind", [PLAIN, HUGGING_FACE], ids=["plain", "hugging_face"])
def test_images_of_8_bits_are_explained_as_the_forward_divides_them(tmp_path, kind):
    # Those of torchgeo's kind always come in 8 bits, and are normalised on their way.
    observer, module = run(tmp_path, kind, kind.loader(eight_bit=True), train=kind.loader(seed=0, eight_bit=True))
    images, labels = rows_of(observer)
    assert_explained(observer, module, ((images * 255).to(torch.uint8) / 255, labels))


@each_kind
def test_double_precision_draws_its_grids(tmp_path, kind):
    observer, _ = run(tmp_path, kind, precision="64-true")
    assert observer.last_snapshot.logits.dtype == torch.float64
    assert len(list((observer.directory.path / "pictures").glob("*.jpg"))) == 1


# ----- answers


@each_kind
def test_names_of_too_few_classes_are_followed_by_numbers(tmp_path, kind):
    data = kind.loader()
    data.dataset.classes = CLASSES[:2]
    with pytest.warns(UserWarning, match="2 `class_names`, but a label of 3"):
        observer, _ = run(tmp_path, kind, data)
    assert observer.probe.class_names == ("north", "east", "2", "3")


@each_kind
def test_one_logit_is_explained_as_two_classes(tmp_path, kind):
    options = {"answer": lambda label: float(label % 2)}
    train, val = kind.loader(seed=0, **options), kind.loader(**options)
    observer, module = run(tmp_path, kind, val, kind.module(n_logits=1), train)
    images, labels = rows_of(observer)
    assert torch.equal(observer.probe.labels, labels % 2)
    z = module.logits(kind.seen(images)).detach()
    expected = torch.cat([-z, z], dim=1) / 2
    torch.testing.assert_close(observer.last_snapshot.logits, expected, atol=1e-4, rtol=1e-4)


HAS = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [0, 1, 1]])


@each_kind
def test_each_label_of_an_image_is_explained(tmp_path, kind):
    options = {"answer": HAS.__getitem__}
    train, val = kind.loader(seed=0, **options), kind.loader(**options)
    observer, module = run(tmp_path, kind, val, kind.module(n_logits=3), train)
    images, classes = rows_of(observer)
    asked = observer.probe.asked
    assert HAS[classes, asked].all()
    z = module.logits(kind.seen(images)).detach()[torch.arange(len(asked)), asked]
    found = observer.last_snapshot.logits[torch.arange(len(asked)), asked]
    torch.testing.assert_close(found, z / 2, atol=1e-4, rtol=1e-4)


class Embedding(Classifier):
    def logits(self, images):
        return self.second(self.first(images)).mean(dim=(2, 3))


@each_kind
def test_what_returns_embeddings_is_warned_about(tmp_path, kind):
    data = kind.loader()
    data.dataset.classes = CLASSES
    with pytest.warns(UserWarning, match="returns 12 values per image for 4 classes"):
        run(tmp_path, kind, data, kind.module(steps=Embedding))


class Shifted(Classifier):
    def understood(self, labels):
        return (labels + 1) % len(CLASSES)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@each_kind
def test_labels_that_the_steps_change_are_warned_about(tmp_path, kind):
    train = DataLoader(kind.photos(64, 0), 4, shuffle=True, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="something else than what the module sees"):
        run(tmp_path, kind, kind.loader(64), kind.module(steps=Shifted), train, max_epochs=4, probe=32, n_images=0)
