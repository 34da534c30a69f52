import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from torchvision import tv_tensors

from lit_decom import Probe

SIDE = 6


class Labelled(Dataset):
    """Images whose pixels all hold their index; class 2 is rare."""

    def __init__(self, n=40, *, targets=True):
        self.labels_of = [2 if index % 20 == 7 else index % 2 for index in range(n)]
        self.reads = []
        if targets:
            self.targets = self.labels_of

    def __len__(self):
        return len(self.labels_of)

    def image(self, index):
        return torch.full((3, SIDE, SIDE), float(index))

    def __getitem__(self, index):
        self.reads.append(index)
        return self.image(index), self.labels_of[index]


class WithRegions(Labelled):
    classes = ("a", "b", "c")
    part_names = ("head", "tail")

    def target(self, index):
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        mask[index % SIDE] = True
        boxes = torch.tensor([[0.0, 1, 2, 3]]).repeat(index % 3, 1)
        return {"label": self.labels_of[index], "masks": mask, "boxes": boxes, "parts": torch.stack([mask, ~mask])}

    def __getitem__(self, index):
        return self.image(index), self.target(index)


def tensors(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, SIDE, SIDE, generator=generator), torch.arange(n) % 3


def ids_of(probe):
    return [int(name) for name in probe.ids]


# ----- choosing


@pytest.mark.parametrize("dataset", [Labelled(), Labelled(targets=False)], ids=["known labels", "read labels"])
def test_classes_take_turns_as_far_as_they_reach(dataset):
    probe = Probe.from_dataset(dataset, 9)
    # Class 2 has two images; the others share what is left.
    assert torch.bincount(probe.labels).tolist() in ([4, 3, 2], [3, 4, 2])
    assert sorted(probe.labels[:3].tolist()) == [0, 1, 2]
    assert sorted(probe.labels[3:6].tolist()) == [0, 1, 2]
    assert len(set(probe.ids)) == 9


def test_images_labels_and_ids_belong_together():
    dataset = Labelled()
    probe = Probe.from_dataset(dataset, 9)
    assert probe.images[:, 0, 0, 0].tolist() == ids_of(probe)
    assert probe.labels.tolist() == [dataset.labels_of[index] for index in ids_of(probe)]


def test_known_labels_are_not_looked_up_by_reading_images():
    dataset = Labelled()
    Probe.from_dataset(dataset, 5)
    assert len(set(dataset.reads)) == 5


def test_unknown_labels_are_looked_up_in_a_part_of_a_large_dataset():
    dataset = Labelled(2000, targets=False)
    probe = Probe.from_dataset(dataset, 3)
    assert len(set(dataset.reads)) <= 60
    assert len(set(probe.labels.tolist())) >= 2


def test_the_same_seed_chooses_the_same_and_another_one_does_not():
    choices = [Probe.from_dataset(Labelled(), 6, seed) for seed in (0, 0, 1)]
    assert choices[0].ids == choices[1].ids
    assert choices[0].digest == choices[1].digest
    assert choices[0].ids != choices[2].ids


def test_a_balance_of_none_takes_any():
    probe = Probe.from_dataset(Labelled(4000), 300, balance="none")
    assert (probe.labels == 2).sum() < 40
    assert ids_of(probe) != sorted(ids_of(probe))


def test_asking_for_more_than_there_are_takes_all():
    assert sorted(ids_of(Probe.from_dataset(Labelled(), 100))) == list(range(40))


def test_no_global_generator_is_drawn_from_even_if_the_transforms_do():
    class Augmented(Labelled):
        def __getitem__(self, index):
            noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
            return self.image(index) + noise, self.labels_of[index]

    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    with pytest.warns(UserWarning, match="another image at the second reading"):
        Probe.from_dataset(Augmented(targets=False), 5)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected  # noqa: NPY002


def test_a_random_transform_is_warned_about_frozen_and_repeatable():
    class Augmented(Labelled):
        def __getitem__(self, index):
            return self.image(index) + torch.rand(()), self.labels_of[index]

    probes = []
    for state in (1, 2):
        torch.manual_seed(state)
        with pytest.warns(UserWarning, match=r"random transform\?\): the probe keeps the first"):
            probes.append(Probe.from_dataset(Augmented(), 6))
    assert probes[0].digest == probes[1].digest
    with pytest.warns(UserWarning, match="random transform"):
        assert Probe.from_dataset(Augmented(), 6, seed=1).digest != probes[0].digest


@pytest.mark.parametrize("depth", [1, 2])
def test_a_subset_knows_the_labels_and_names_of_what_it_is_a_subset_of(depth):
    dataset = WithRegions()
    dataset.classes = ("a", "b", "c")
    subset = Subset(dataset, range(39, -1, -1))
    if depth == 2:
        subset = Subset(subset, range(20))
    probe = Probe.from_dataset(subset, 6)
    assert sorted(probe.labels[:2].tolist()) != [2, 2]
    assert probe.images[:, 0, 0, 0].tolist() == [39 - index for index in ids_of(probe)]
    assert probe.labels.tolist() == [dataset.labels_of[39 - index] for index in ids_of(probe)]
    assert (probe.class_names, probe.part_names) == (("a", "b", "c"), ("head", "tail"))


def test_datasets_put_together_are_read_by_index():
    probe = Probe.from_dataset(ConcatDataset([Labelled(10), Labelled(10)]), 4)
    assert len(probe) == 4


@pytest.mark.parametrize(
    "targets", [["a.xml", "b.xml"], [{"label": 0}, {"label": 1}], [[3, 4], [5, 6]], torch.ones(2, 4) * 7]
)
def test_targets_that_are_no_labels_are_read_instead(targets):
    dataset = Labelled(2)
    dataset.targets = targets
    assert Probe.from_dataset(dataset, 2).labels.tolist() == [0, 1]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class NoLength(Dataset):
    def __getitem__(self, index):
        return torch.zeros(3, 2, 2), 0


@pytest.mark.parametrize("dataset", [Stream(), NoLength(), iter([])])
def test_what_cannot_be_read_by_index_is_refused_with_the_remedy(dataset):
    name = type(dataset).__name__
    with pytest.raises(
        TypeError,
        match=rf"Expected `dataset` to be read by index, but {name} .*`Probe\.from_tensors\(images, labels\)`",
    ):
        Probe.from_dataset(dataset, 2)


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (Labelled(0), {}, r"to hold images for the probe, but Labelled is empty"),
        (Labelled(), {"n": 0}, r"Expected `n` to be at least 1, but got 0"),
        (Labelled(), {"balance": "classes"}, r"`balance` to be 'class' or 'none', but got 'classes'"),
    ],
)
def test_bad_choices_are_refused(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        Probe.from_dataset(dataset, **{"n": 2, **options})


# ----- samples


class Samples(Dataset):
    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


IMAGE = torch.ones(3, SIDE, SIDE)


@pytest.mark.parametrize(
    "sample",
    [
        (IMAGE, 1),
        [IMAGE, torch.tensor(1)],
        (IMAGE, np.int64(1)),
        (IMAGE, torch.tensor([1])),
        (IMAGE, 1, "and more"),
        (IMAGE, {"label": 1}),
        {"image": IMAGE, "label": 1},
        (tv_tensors.Image(IMAGE), 1),
        (IMAGE.numpy(), 1),
    ],
)
def test_usual_samples_are_understood(sample):
    probe = Probe.from_dataset(Samples(sample), 1)
    assert type(probe.images) is torch.Tensor
    assert torch.equal(probe.images, IMAGE[None])
    assert probe.labels.tolist() == [1]
    assert probe.labels.dtype == torch.int64


def test_other_samples_are_unpacked_by_the_caller():
    dataset = Samples({"pixels": IMAGE, "y": {"fine": 3}}, {"pixels": 2 * IMAGE, "y": {"fine": 1}})
    probe = Probe.from_dataset(dataset, 2, unpack=lambda batch: (batch["pixels"], batch["y"]["fine"]))
    assert sorted(probe.labels.tolist()) == [1, 3]
    assert probe.images.shape == (2, 3, SIDE, SIDE)


def test_the_loaders_collate_and_the_modules_transfer_are_passed_through_one_sample_at_a_time():
    seen = []

    def collate(samples):
        seen.append(len(samples))
        image, label = samples[0]
        return {"image": image[None] / 10, "label": torch.tensor([label])}

    def transfer(batch):
        return {**batch, "image": batch["image"] - 0.5}

    probe = Probe.from_dataset(Labelled(), 4, collate_fn=collate, transfer=transfer)
    expected = torch.tensor(ids_of(probe)) / 10 - 0.5
    torch.testing.assert_close(probe.images[:, 1, 2, 3], expected)
    assert set(seen) == {1}


def test_masks_boxes_parts_and_names_come_along():
    dataset = WithRegions()
    probe = Probe.from_dataset(dataset, 6, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    for row, index in enumerate(ids_of(probe)):
        target = dataset.target(index)
        assert torch.equal(probe.masks[row], target["masks"])
        assert torch.equal(probe.parts[row], target["parts"])
        assert torch.equal(probe.boxes[row], target["boxes"])
    assert probe.masks.dtype == probe.parts.dtype == torch.bool
    assert (probe.class_names, probe.part_names) == (("a", "b", "c"), ("head", "tail"))
    assert probe.mean.tolist() == [0.5, 0.5, 0.5]


def test_given_names_go_before_the_datasets():
    assert Probe.from_dataset(WithRegions(), 3, class_names=("x", "y", "z")).class_names == ("x", "y", "z")


def test_names_that_do_not_reach_the_labels_are_followed_by_numbers():
    dataset = Labelled()
    dataset.classes = ("a", "b")
    with pytest.warns(UserWarning, match="2 `class_names`, but a label of 2"):
        probe = Probe.from_dataset(dataset, 6)
    assert probe.class_names == ("a", "b", "2")
    images, labels = tensors()
    with pytest.warns(UserWarning, match="1 `class_names`, but a label of 2"):
        probe = Probe.from_tensors(images, labels, class_names=["a"])
    # Said once, and not of every piece.
    assert [piece.class_names for piece in probe.batches(2)] == [("a", "1", "2")] * 3


def test_object_masks_of_one_image_are_united():
    masks = tv_tensors.Mask(torch.zeros(2, SIDE, SIDE, dtype=torch.uint8))
    masks[0, 0], masks[1, 5] = 1, 1
    probe = Probe.from_dataset(Samples((IMAGE, {"label": 0, "masks": masks})), 1)
    assert probe.masks[0].any(dim=1).tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize("as_mapping", [False, True])
@pytest.mark.parametrize(
    ("layout", "boxes"),
    [("XYXY", [[1.0, 2, 4, 6]]), ("XYWH", [[1.0, 2, 3, 4]]), ("CXCYWH", [[2.5, 4, 3, 4]])],
)
def test_boxes_in_any_of_torchvisions_formats_become_corners(layout, boxes, as_mapping):
    boxes = tv_tensors.BoundingBoxes(boxes, format=layout, canvas_size=(SIDE, SIDE))
    sample = {"image": IMAGE, "label": 0, "boxes": boxes} if as_mapping else (IMAGE, {"label": 0, "boxes": boxes})
    corners = [[1.0, 2.0, 4.0, 6.0]]
    assert Probe.from_dataset(Samples(sample), 1).boxes[0].tolist() == corners
    probe = Probe.from_tensors(IMAGE[None], torch.tensor([0]), boxes=[boxes])
    assert probe.boxes[0].tolist() == corners
    assert type(probe.boxes[0]) is torch.Tensor


def test_what_only_some_images_have_is_left_out():
    mask = torch.ones(SIDE, SIDE)
    probe = Probe.from_dataset(Samples((IMAGE, {"label": 0, "masks": mask}), (IMAGE, {"label": 1})), 2)
    assert probe.masks is None


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (IMAGE, r"a sample to be \(image, label\) .* but got Tensor\. Pass `unpack=`"),
        ({"pixels": IMAGE, "kind": 1}, r"but got dict with the keys \['kind', 'pixels'\]\. Pass `unpack=`"),
        ((IMAGE, {"kind": 1}), r"target to have the key 'label', but got \['kind'\]"),
        (("photo.png", 1), r"a sample's image to be \(C, H, W\), but got tuple"),
        ((torch.ones(SIDE, SIDE, 3, 1, 1), 1), r"image to be \(C, H, W\), but got \(1, 6, 6, 3, 1, 1\)"),
        (
            (IMAGE, torch.tensor([0.3, 0.7])),
            r"label to be one class index, or .* but got \(1, 2\) torch\.float32",
        ),
        ((IMAGE, torch.tensor([0, 2])), r"label to be one class index, or .* but got \(1, 2\) torch\.int64"),
        ((IMAGE, 0.5), r"label to be one class index, or .* but got \(1,\) torch\.float64"),
        (
            (IMAGE, {"label": 0, "masks": torch.ones(2 * SIDE, 2 * SIDE)}),
            r"`masks` to have its image's size \(6, 6\), but got \(1, 12, 12\)",
        ),
        ((torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), 0), r"floating point, but got torch\.uint8"),
    ],
)
def test_samples_that_are_not_understood_are_refused_with_the_remedy(sample, message):
    with pytest.raises(ValueError, match=message):
        Probe.from_dataset(Samples(sample), 1)


def test_images_of_different_sizes_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"images of one size, but got \[\(3, 4, 4\), \(3, 6, 6\)\]\. Resize them"):
        Probe.from_dataset(Samples((IMAGE, 0), (torch.ones(3, 4, 4), 1)), 2)


def test_a_collate_that_gives_several_images_is_refused():
    with pytest.raises(ValueError, match=r"image to be \(C, H, W\), but got \(2, 3, 6, 6\)"):
        Probe.from_dataset(Samples((IMAGE, 0)), 1, collate_fn=lambda samples: (IMAGE.repeat(2, 1, 1, 1), 0))


# ----- tensors


def test_tensors_are_copied_off_the_callers_and_off_the_graph():
    images, labels = tensors()
    images.requires_grad_()
    probe = Probe.from_tensors(images, labels)
    before = probe.digest
    with torch.no_grad():
        images.zero_()
    labels.zero_()
    assert probe.digest == before
    assert not probe.images.requires_grad
    assert probe.ids == ("0", "1", "2", "3", "4")


def test_lists_arrays_and_other_number_types_are_taken():
    images, _ = tensors(2)
    probe = Probe.from_tensors(
        images,
        np.array([0, 1], dtype=np.uint8),
        masks=np.ones((2, SIDE, SIDE)),
        boxes=[[[0, 0, 1, 1]], []],
        mean=[0.1, 0.2, 0.3],
        std=np.array([1, 1, 1]),
        ids=[7, "x"],
    )
    assert probe.labels.dtype == torch.int64
    assert probe.masks.dtype == torch.bool
    assert [tuple(boxes.shape) for boxes in probe.boxes] == [(1, 4), (0, 4)]
    assert probe.mean.dtype == probe.std.dtype == torch.float32
    assert probe.ids == ("7", "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(0, 3, SIDE, SIDE), "labels": torch.zeros(0)}, r"with n >= 1, but got \(0, 3, 6, 6\)"),
        ({"images": torch.zeros(3, SIDE, SIDE)}, r"`images` to be \(n, C, H, W\) .* but got \(3, 6, 6\)"),
        ({"images": torch.zeros(5, 3, SIDE, SIDE, dtype=torch.uint8)}, r"floating point, but got torch\.uint8"),
        ({"labels": torch.zeros(4, dtype=torch.long)}, r"`labels` to be \(5,\) class indices, but got \(4,\)"),
        (
            {"labels": torch.full((5,), 0.5)},
            r"`labels` to be class indices \(n,\), or .* but got \(5,\) torch\.float32",
        ),
        ({"ids": "abcd"}, r"`ids` to be 5 different names, but got 4"),
        ({"ids": "abcda"}, r"`ids` to be 5 different names, but got 4"),
        ({"masks": torch.ones(5, SIDE, 4)}, r"`masks` to be \(5, 6, 6\), but got \(5, 6, 4\)"),
        ({"parts": torch.ones(5, 2, SIDE, 4)}, r"`parts` to be \(5, 2, 6, 6\), but got \(5, 2, 6, 4\)"),
        ({"parts": torch.ones(5, SIDE, SIDE)}, r"`parts` to be \(5, 0, 6, 6\), but got \(5, 6, 6\)"),
        (
            {"parts": torch.ones(5, 2, SIDE, SIDE), "part_names": ("head",)},
            r"`parts` to be \(5, 1, 6, 6\), but got \(5, 2, 6, 6\)",
        ),
        ({"boxes": [torch.zeros(1, 4)] * 4}, r"`boxes` to be 5 tensors \(m, 4\), but got 4"),
        ({"mean": [0.5]}, r"`mean` to be \(3,\), but got \(1,\)"),
        ({"std": [1.0] * 4}, r"`std` to be \(3,\), but got \(4,\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    images, labels = tensors()
    with pytest.raises(ValueError, match=message):
        Probe.from_tensors(**{"images": images, "labels": labels, **changes})


def test_boxes_of_another_width_are_refused():
    images, labels = tensors(1)
    with pytest.raises(ValueError, match=r"1 tensors \(m, 4\), but got 1: \[\(2, 3\)\]"):
        Probe(images, labels, boxes=(torch.zeros(2, 3),))


def test_an_unknown_attribute_is_refused():
    with pytest.raises(TypeError, match="mask"):
        Probe.from_tensors(*tensors(), mask=torch.ones(5, SIDE, SIDE))


# ----- digest

FULL = {
    "masks": torch.zeros(5, SIDE, SIDE),
    "parts": torch.zeros(5, 2, SIDE, SIDE),
    "boxes": [torch.tensor([[0.0, 0, 1, 1]])] * 5,
    "ids": "abcde",
}


def full(**changes):
    images, labels = tensors()
    return Probe.from_tensors(**{"images": images, "labels": labels, **FULL, **changes})


def test_the_digest_is_of_the_content():
    assert full().digest == full().digest
    assert len(full().digest) == 64
    changed = torch.zeros(5, SIDE, SIDE)
    changed[4, 5, 5] = 1
    images, labels = tensors()
    nudged = images.clone()
    nudged[4, 2, 5, 5] += 1e-6
    changes = [
        {"images": nudged},
        {"images": images.double()},
        {"labels": labels.flip(0)},
        {"masks": changed},
        {"masks": None},
        {"parts": torch.stack([changed, changed], dim=1)},
        {"parts": None},
        {"boxes": [torch.tensor([[0.0, 0, 1, 1]])] * 4 + [torch.tensor([[0.0, 0, 1, 2]])]},
        {"boxes": [torch.tensor([[0.0, 0, 1, 1]] * 2)] + [torch.tensor([[0.0, 0, 1, 1]])] * 3 + [[]]},
        {"boxes": None},
        {"ids": "abcdf"},
    ]
    digests = {full(**change).digest for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1


def test_the_digest_knows_neither_the_layout_nor_the_kind_of_labels():
    images, labels = tensors()
    expected = Probe.from_tensors(images, labels).digest
    assert Probe.from_tensors(images.contiguous(memory_format=torch.channels_last), labels.int()).digest == expected
    assert len(Probe.from_tensors(images.bfloat16(), labels).digest) == 64


# ----- pieces


def assert_rows(part, whole, rows):
    for name in ("images", "labels", "masks", "parts"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[rows])
    assert part.ids == tuple(whole.ids[row] for row in rows)
    assert all(torch.equal(mine, whole.boxes[row]) for mine, row in zip(part.boxes, rows, strict=True))


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_batches_are_consecutive_and_complete(size):
    probe = full()
    parts = list(probe.batches(size))
    assert [len(part) for part in parts] == [min(size, 5 - start) for start in range(0, 5, size)]
    start = 0
    for part in parts:
        assert_rows(part, probe, list(range(start, start + len(part))))
        start += len(part)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_at_least_one_image(size):
    with pytest.raises(ValueError, match=rf"`size` to be at least 1, but got {size}"):
        list(full().batches(size))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_share_the_probe_without_overlap(world):
    probe = full()
    shards = [probe.shard(rank, world) for rank in range(world)]
    for rank, shard in enumerate(shards):
        rows = list(range(rank, 5, world))
        assert (shard is None) is (not rows)
        if shard is not None:
            assert_rows(shard, probe, rows)


def test_selected_images_keep_the_order_asked_for():
    probe = full(class_names=("a", "b", "c"), mean=[0.0] * 3, std=[1.0] * 3)
    part = probe.select([3, 0, 3 - 1])
    assert_rows(part, probe, [3, 0, 2])
    assert part.class_names == ("a", "b", "c")
    assert part.mean is probe.mean
    assert_rows(probe.select(torch.tensor([4, 1])), probe, [4, 1])


def test_selecting_nothing_is_refused():
    with pytest.raises(ValueError, match=r"with n >= 1, but got \(0, 3, 6, 6\)"):
        full().select([])


def test_a_probe_moved_to_a_device_is_the_same_probe():
    probe = full(class_names=("a", "b", "c"), mean=[0.0] * 3, std=[1.0] * 3)
    moved = probe.to(torch.device("cpu"))
    assert moved.digest == probe.digest
    assert (moved.ids, moved.class_names) == (probe.ids, probe.class_names)
    elsewhere = full().to(torch.device("meta"))
    assert {elsewhere.images.device.type, elsewhere.parts.device.type, elsewhere.boxes[0].device.type} == {"meta"}


def test_reading_without_anything_random_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Probe.from_dataset(WithRegions(), 6)
