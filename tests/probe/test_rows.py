"""Where an image may have several labels, the probe has a row for each that it has."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lit_decom import Probe
from lit_decom.records import RunDirectory

SIDE = 6
NAMES = ("cat", "dog", "owl")
LABELS = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]])


def images_of(n):
    """Images whose pixels all hold their index."""
    return torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 3, SIDE, SIDE).clone()


class Several(Dataset):
    """Label k is there where bit k of the index is; its mask is row k of the image."""

    classes = NAMES

    def __init__(self, n=40, *, known=True):
        self.reads = []
        self.answers = torch.stack([(torch.arange(n) >> bit) & 1 for bit in range(3)], dim=1)
        if known:
            self.targets = self.answers

    def __len__(self):
        return len(self.answers)

    def __getitem__(self, index):
        self.reads.append(index)
        masks = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
        masks[torch.arange(3), torch.arange(3)] = True
        return images_of(len(self))[index], {"label": self.answers[index].float(), "label_masks": masks}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(image, label) for image, label in zip(images_of(40), Several().answers.float(), strict=True)])


def rows_of(probe):
    return [name.split(":") for name in probe.ids]


# ----- out of tensors


def test_an_image_is_there_once_for_each_label_that_it_has():
    probe = Probe.from_tensors(images_of(3), LABELS.float(), class_names=NAMES)
    assert probe.ids == ("0:cat", "0:owl", "1:dog", "2:cat", "2:dog", "2:owl")
    assert probe.images[:, 0, 0, 0].tolist() == [0, 0, 1, 2, 2, 2]
    assert probe.labels.tolist() == probe.asked.tolist() == [0, 2, 1, 0, 1, 2]
    assert probe.class_names == ("cat", "dog", "owl", "no cat", "no dog", "no owl")
    assert probe.multilabel


def test_what_is_known_of_an_image_is_known_of_its_rows():
    masks = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    masks[torch.arange(3), torch.arange(3)] = True
    parts = masks[:, None].repeat(1, 2, 1, 1)
    boxes = [[[float(index), 0, 3, 3]] * index for index in range(3)]
    probe = Probe.from_tensors(images_of(3), LABELS, masks=masks, parts=parts, boxes=boxes, ids=["a", "b", "c"])
    images = [0, 0, 1, 2, 2, 2]
    assert torch.equal(probe.masks, masks[images])
    assert torch.equal(probe.parts, parts[images])
    assert [box.tolist() for box in probe.boxes] == [boxes[index] for index in images]
    assert probe.ids == ("a:0", "a:2", "b:1", "c:0", "c:1", "c:2")
    assert probe.class_name(5) == "no 2"


def test_each_label_may_have_a_mask_of_its_own():
    masks = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.5
    probe = Probe.from_tensors(images_of(3), LABELS, masks=masks)
    assert torch.equal(probe.masks, masks[[0, 0, 1, 2, 2, 2], [0, 2, 1, 0, 1, 2]])


def test_images_without_a_label_have_no_row_and_that_is_said():
    with pytest.warns(UserWarning, match="1 of 2 images have none of the 2 labels: no row asks about them"):
        probe = Probe.from_tensors(images_of(2), torch.tensor([[0, 0], [0, 1]]))
    assert probe.ids == ("1:1",)


def test_a_label_that_is_not_there_can_be_asked_about_by_hand():
    names = (*NAMES, *(f"no {name}" for name in NAMES))
    probe = Probe.from_tensors(images_of(2), torch.tensor([4, 1]), class_names=names, multilabel=True)
    assert probe.asked.tolist() == [1, 1]
    assert [probe.class_name(label) for label in probe.labels.tolist()] == ["no dog", "dog"]


@pytest.mark.parametrize("names", [None, ("a", "b", "c")])
def test_rows_need_names_of_the_absence_of_labels(names):
    with pytest.raises(ValueError, match="`class_names` of every label and of its absence, but got"):
        Probe.from_tensors(images_of(2), torch.tensor([0, 1]), class_names=names, multilabel=True)


def test_names_and_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`ids` and `class_names` for `labels` \(3, 3\), but got 3, 3 and 4"):
        Probe.from_tensors(images_of(3), LABELS, class_names=(*NAMES, "elk"))
    with pytest.raises(ValueError, match=r"but got 3, 2 and 3"):
        Probe.from_tensors(images_of(3), LABELS, class_names=NAMES, ids=["a", "b"])


def test_labels_beyond_the_names_that_are_given_are_called_by_their_number():
    with pytest.warns(UserWarning, match="There are 2 `class_names`, but 3 labels: the others are called by their num"):
        probe = Probe.from_tensors(images_of(3), LABELS, class_names=("a", "b"))
    assert probe.class_names == ("a", "b", "2", "no a", "no b", "no 2")


ONE_HOT = torch.eye(3)


def test_labels_that_may_be_classes_are_asked_about_with_the_remedy():
    with pytest.warns(UserWarning, match=r"Each of 3 images has exactly one of the 3 labels.*`labels.argmax") as said:
        probe = Probe.from_tensors(images_of(3), ONE_HOT)
    assert len(said) == 1
    assert probe.multilabel
    data = DataLoader(list(zip(images_of(3), ONE_HOT, strict=True)), batch_size=3)
    with pytest.warns(UserWarning, match="Each of 3 images has exactly one of the 3 labels"):
        Probe.from_loader(data, 3)
    probe = Probe.from_loader(data, 3, unpack=lambda batch: (batch[0], batch[1].argmax(dim=1)))
    assert (probe.multilabel, sorted(probe.labels.tolist())) == (False, [0, 1, 2])


def test_labels_that_are_said_to_be_independent_are_not_asked_about():
    assert Probe.from_tensors(images_of(3), ONE_HOT, multilabel=True).labels.tolist() == [0, 1, 2]


def test_pieces_of_the_probe_ask_what_it_asks(tmp_path):
    probe = Probe.from_tensors(images_of(3), LABELS, class_names=NAMES)
    part = probe.select([5, 1]).to(torch.device("cpu"))
    assert (part.multilabel, part.asked.tolist(), part.class_names) == (True, [2, 2], probe.class_names)
    directory = RunDirectory(tmp_path)
    directory.open("run", probe, {})
    kept = directory.probe()
    assert (kept.multilabel, kept.ids, kept.class_names) == (True, probe.ids, probe.class_names)
    assert torch.equal(kept.asked, probe.asked)


# ----- out of data


@pytest.mark.parametrize("known", [True, False], ids=["known labels", "read labels"])
@pytest.mark.parametrize("n", [1, 12, 30])
def test_labels_take_turns_and_every_image_comes_with_all_of_its_labels(known, n):
    dataset = Several(known=known)
    probe = Probe.from_dataset(dataset, n)
    rows = rows_of(probe)
    images = list(dict.fromkeys(int(image) for image, _ in rows))
    expected = [[str(image), NAMES[label]] for image in images for label in range(3) if dataset.answers[image, label]]
    assert rows == expected
    # Not one more image would be within it; a single one is always taken.
    assert len(rows) <= max(n, 3)
    assert len(rows) > n - 3
    assert n == 1 or torch.bincount(probe.labels, minlength=3).min() >= n / 6
    assert torch.equal(probe.masks[0], dataset[0][1]["label_masks"][probe.asked[0]])
    if known:
        assert len(set(dataset.reads)) <= n + 1


def test_a_loader_that_is_not_read_by_index_gives_rows_as_well():
    with pytest.warns(UserWarning, match="not read by index"):
        probe = Probe.from_loader(DataLoader(Stream(), batch_size=8), 12)
    answers = Several().answers
    for image, label in rows_of(probe):
        assert answers[int(image), int(label)]
    assert 10 <= len(probe) <= 12
    assert torch.bincount(probe.labels, minlength=3).min() >= 2


def test_known_labels_of_a_part_of_the_data_are_those_of_the_part():
    part = Subset(Several(), [7, 1, 8, 2])
    assert {name for name, _ in rows_of(Probe.from_loader(DataLoader(part, batch_size=2), 8))} == {"0", "1", "3"}


# ----- one label, there or not


@pytest.mark.parametrize("labels", [[0, 0], [0, 1], [1, 1]])
def test_one_name_is_that_of_the_presence_whatever_the_probe_holds(labels):
    probe = Probe.from_tensors(images_of(2), torch.tensor(labels), class_names=["crest"])
    assert [probe.class_name(label) for label in (0, 1)] == ["no crest", "crest"]


@pytest.mark.parametrize("label", [1.0, torch.tensor(1.0), torch.tensor([1.0]), True])
def test_yes_in_floating_point_is_class_1(label):
    class One(Several):
        def __getitem__(self, index):
            return images_of(2)[0], label

    probe = Probe.from_dataset(One(2, known=False), 1, class_names=["crest"])
    assert probe.labels.tolist() == [1]
    assert probe.class_names == ("no crest", "crest")
    assert not probe.multilabel
    assert probe.asked is None


def test_labels_in_floating_point_are_found_beside_metadata():
    images, meta = images_of(2), {"where": ["a", "b"]}
    for labels, found in ((torch.tensor([1.0, 0.0]), [0, 1]), (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), [0, 1, 1])):
        loader = DataLoader([(image, meta["where"][0], label) for image, label in zip(images, labels, strict=True)])
        probe = Probe.from_loader(loader, 3)
        assert sorted(probe.labels.tolist()) == found
