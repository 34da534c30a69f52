"""Images and labels in the shapes that batches have in the wild."""

from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes

from lit_decom import Probe
from lit_decom.probe import NoImagesError, images_and_labels, images_and_target
from lit_decom.probe.batches import samples_of

B, SIDE = 5, 6
IMAGES = torch.rand(B, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([3, 1, 4, 1, 5])
BYTES = (IMAGES * 255).to(torch.uint8)
MASKS = torch.arange(B)[:, None, None].expand(B, SIDE, SIDE) % 2


@dataclass
class Record:
    scene: list[str]
    img: Tensor
    y: Tensor


@dataclass
class Unusual:
    weight: Tensor
    picture: Tensor
    species: Tensor


class Pair(NamedTuple):
    picture: Tensor
    species: Tensor


class Named(NamedTuple):
    target: Tensor
    inputs: Tensor


META = {"path": ["a"] * B, "size": torch.ones(B, 2)}

SHAPES = {
    "image, label": (IMAGES, LABELS),
    "list": [IMAGES, LABELS],
    "label first": (LABELS, IMAGES),
    "image, metadata, label": (IMAGES, META, LABELS),
    "image, names, label": (IMAGES, ["a"] * B, LABELS),
    "image, array of names, label": (IMAGES, np.array(["a"] * B), LABELS),
    "image, floats, label": (IMAGES, torch.rand(B), LABELS),
    "image, several numbers each, label": (IMAGES, torch.ones(B, 4, dtype=torch.long), LABELS),
    "image, label, names": (IMAGES, LABELS, ["a"] * B),
    "image, flags, label": (IMAGES, torch.ones(B, dtype=torch.bool), LABELS),
    "image, label as a list": (IMAGES, LABELS.tolist()),
    "image, label as a column": (IMAGES, LABELS[:, None]),
    "two views, label": (IMAGES, IMAGES.flip(3), LABELS),
    "8-bit mask, image, label": (BYTES[:, :1], IMAGES, LABELS),
    "8-bit image": (BYTES, LABELS),
    "mapping in a tuple": (IMAGES, {"label": LABELS}),
    "mapping in a tuple, by another name": (IMAGES, META, {"target": LABELS}),
    "torchgeo": {"image": IMAGES, "label": LABELS, "crs": ["a"] * B, "bounds": torch.rand(B, 4)},
    "torchgeo, with a mask": {"image": IMAGES, "mask": MASKS, "label": LABELS},
    "Hugging Face": UserDict({"pixel_values": IMAGES, "labels": LABELS, "attention_mask": torch.ones(B, 9)}),
    "unusual image name": {"picture": IMAGES, "label": LABELS, "weight": torch.rand(B)},
    "a name for something else": {"x": ["a"] * B, "scan": IMAGES, "target": LABELS},
    "dataclass": Record(["a"] * B, IMAGES, LABELS),
    "dataclass of unusual names": Unusual(torch.rand(B), IMAGES, LABELS),
    "named tuple": Named(LABELS, IMAGES),
    "named tuple of unusual names": Pair(IMAGES, LABELS),
}


@pytest.mark.parametrize("name", SHAPES)
def test_images_and_labels_are_found_in_batches_of_many_shapes(name):
    batch = SHAPES[name]
    images, _ = images_and_target(batch)
    expected = BYTES if name == "8-bit image" else IMAGES
    assert images is expected
    samples = samples_of(batch, None)
    assert [int(target["label"]) for _, target in samples] == LABELS.tolist()
    assert torch.equal(torch.cat([image for image, _ in samples]), expected)
    assert torch.equal(images_and_labels(batch)[1], LABELS)


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_is_found_in_a_batch_of_one(name):
    def first(value):
        if isinstance(value, Tensor | list) and len(value) == B:
            return value[:1]
        return {key: first(inner) for key, inner in value.items()} if isinstance(value, dict | UserDict) else value

    batch = SHAPES[name]
    if isinstance(batch, dict | UserDict):
        batch = first(batch)
    elif isinstance(batch, tuple | list):
        entries = [first(entry) for entry in batch]
        batch = type(batch)(*entries) if hasattr(batch, "_fields") else entries
    else:
        batch = type(batch)(*[first(value) for value in vars(batch).values()])
    ((image, target),) = samples_of(batch, None, alone=True)
    assert image.shape == (1, 3, SIDE, SIDE)
    assert int(target["label"]) == 3


def test_a_single_sample_without_a_batch_dimension_is_one():
    for sample in ((IMAGES[0], 3), (IMAGES[0], {"name": "a"}, torch.tensor(3)), {"image": IMAGES[0], "label": 3}):
        ((image, target),) = samples_of(sample, None)
        assert torch.equal(image, IMAGES[:1])
        assert int(target["label"]) == 3
        images, labels = images_and_labels(sample)
        assert torch.equal(images, IMAGES[:1])
        assert labels.tolist() == [3]


def test_an_image_with_its_usual_name_goes_before_others_where_the_label_has_none():
    @dataclass
    class Pair:
        depth: Tensor
        image: Tensor
        species: Tensor

    images, labels = images_and_target(Pair(torch.ones(B, 1, SIDE, SIDE), IMAGES, LABELS))
    assert images is IMAGES
    assert labels is LABELS


def test_boxes_that_say_how_they_are_measured_are_read_so():
    boxes = [BoundingBoxes([[1, 2, 3, 4]], format="XYWH", canvas_size=(SIDE, SIDE))] * B
    for sample in (
        samples_of((IMAGES, {"label": LABELS, "boxes": boxes}), None)[2],
        *samples_of((IMAGES[0], {"label": 3, "boxes": boxes[0]}), None),
    ):
        assert sample[1]["boxes"].tolist() == [[1, 2, 4, 6]]


def test_two_entries_that_could_be_the_label_are_said():
    index = torch.arange(B)
    with pytest.warns(UserWarning, match="2 entries of a batch may be the labels: the first"):
        _, labels = images_and_target((IMAGES, LABELS, index))
    assert labels is LABELS


def test_a_mask_of_torchgeo_is_where_the_object_is_and_another_one_is_nothing():
    _, target = images_and_target(SHAPES["torchgeo, with a mask"])
    assert torch.equal(target["masks"], MASKS)
    _, target = images_and_target({"image": IMAGES, "label": LABELS, "mask": torch.ones(B, 9)})
    assert "masks" not in target
    given = torch.ones(B, SIDE, SIDE)
    _, target = images_and_target({"image": IMAGES, "label": LABELS, "mask": MASKS, "masks": given})
    assert target["masks"] is given


def test_masks_boxes_and_parts_go_with_their_image():
    parts = torch.rand(B, 2, SIDE, SIDE) > 0.5
    boxes = [torch.rand(row, 4) for row in range(B)]
    batch = (IMAGES, {"label": LABELS, "masks": MASKS.bool(), "boxes": boxes, "parts": parts})
    for row, (_, target) in enumerate(samples_of(batch, None)):
        assert torch.equal(target["masks"], MASKS[row].bool())
        assert torch.equal(target["parts"], parts[row])
        assert torch.equal(target["boxes"], boxes[row])


@pytest.mark.parametrize(
    "batch",
    [LABELS, (LABELS, LABELS), {"tokens": LABELS, "label": LABELS}, ["a", "b"], 3, {"label": LABELS}],
)
def test_batches_without_images_are_told_from_those_without_labels(batch):
    with pytest.raises(ValueError, match="Pass `unpack=`") as caught:
        samples_of(batch, None)
    assert isinstance(caught.value, NoImagesError) is not isinstance(batch, Tensor)


@pytest.mark.parametrize("batch", [IMAGES, (IMAGES,), {"image": IMAGES}, {"image": IMAGES, "mask": MASKS}])
def test_images_without_labels_are_refused_with_the_remedy(batch):
    with pytest.raises(ValueError, match="Pass `unpack=`") as caught:
        samples_of(batch, None)
    assert not isinstance(caught.value, NoImagesError) or isinstance(batch, tuple)


def test_labels_of_fewer_than_all_images_are_refused():
    with pytest.raises(ValueError, match=r"Expected `label` to be one for each of 5 images, but got \(3,\)"):
        samples_of((IMAGES, LABELS[:3]), None)
    with pytest.raises(ValueError, match="Expected `label` to be one for each of 5 images, but got int"):
        samples_of((IMAGES, 3), None)


def test_a_label_that_is_a_text_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"label to be one class index, .* but got 'owl'\. Pass `unpack=`"):
        samples_of((IMAGES, ["owl"] * B), None)
    with pytest.raises(ValueError, match=r"but got \(6, 6\) torch.bool\. Pass `unpack=`"):
        samples_of((IMAGES, MASKS.bool()), None)
    with pytest.raises(ValueError, match=r"but got \(1, 6, 6\) torch.int64\. Pass `unpack=`"):
        samples_of((IMAGES[:1], MASKS[:1]), None, alone=True)
    with pytest.raises(ValueError, match=r"but got \(2,\) torch.float32\. Pass `unpack=`"):
        samples_of((IMAGES, torch.full((B, 2), 0.5)), None)


def test_unpack_goes_before_everything():
    samples = samples_of({"image": IMAGES, "label": LABELS}, lambda batch: (batch["image"] * 2, batch["label"] - 1))
    assert torch.equal(samples[2][0], IMAGES[2:3] * 2)
    assert int(samples[2][1]["label"]) == 3


def test_a_probe_is_made_of_data_whose_metadata_stand_before_the_label():
    class Wild(torch.utils.data.Dataset):
        def __len__(self):
            return B

        def __getitem__(self, index):
            return IMAGES[index], {"time": index, "camera": 7}, int(LABELS[index])

    probe = Probe.from_dataset(Wild(), B)
    assert probe.labels.tolist() == [int(LABELS[int(name)]) for name in probe.ids]
