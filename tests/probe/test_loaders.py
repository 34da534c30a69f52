"""What a loader would read is what the probe is chosen from, and reading it leaves no trace in the loader."""

import random

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from lit_decom import Probe
from lit_decom.probe import NoImagesError
from lit_decom.probe.choice import known_labels

SIDE = 4
VALIDATION = [3, 5, 8, 13, 21, 34]


def image(index):
    return torch.full((3, SIDE, SIDE), float(index))


class Numbers(Dataset):
    """Images that are their index; the class is the parity."""

    def __init__(self, n=40, *, targets=True):
        self.n, self.reads = n, 0
        if targets:
            self.targets = [index % 2 for index in range(n)]

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.reads += 1
        return image(index), index % 2


class Stream(IterableDataset):
    """The same without an index, sorted by class as streams often are; counts what is taken from it."""

    def __init__(self, n=1000, unlabelled=0):
        self.n, self.taken, self.in_worker, self.unlabelled = n, 0, False, unlabelled

    def __iter__(self):
        for index in range(self.n):
            self.taken += 1
            self.in_worker |= get_worker_info() is not None
            yield image(index), -1 if index < self.unlabelled else index * 4 // self.n


def ids_of(probe):
    return [int(name) for name in probe.ids]


class Backwards(Sampler):
    def __iter__(self):
        return iter(torch.tensor(VALIDATION[::-1]))


class Pairs(Sampler):
    """A batch sampler of its own."""

    def __iter__(self):
        return iter([VALIDATION[:2], VALIDATION[2:4], VALIDATION[4:]])

    def __len__(self):
        return 3


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield random.choice(VALIDATION)


def distributed(kind, *arguments, **options):
    return kind(*arguments, num_replicas=3, rank=1, **options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"sampler": SubsetRandomSampler(VALIDATION)}, id="subset, shuffled"),
        pytest.param({"sampler": Backwards(), "batch_size": 4}, id="the user's own, of tensors"),
        pytest.param({"batch_sampler": Pairs()}, id="the user's own batches"),
        pytest.param({"batch_sampler": BatchSampler(SubsetRandomSampler(VALIDATION), 4, drop_last=True)}, id="batches"),
        pytest.param({"sampler": distributed(DistributedSamplerWrapper, SubsetRandomSampler(VALIDATION))}, id="shares"),
        pytest.param({"sampler": Endless()}, id="endless"),
        pytest.param({"sampler": SubsetRandomSampler(VALIDATION), "num_workers": 2}, id="workers"),
    ],
)
@pytest.mark.parametrize("targets", [True, False])
def test_only_what_the_sampler_gives_is_read(options, targets):
    probe = Probe.from_loader(DataLoader(Numbers(targets=targets), **options), 64)
    assert sorted(ids_of(probe)) == VALIDATION
    assert probe.images[:, 0, 0, 0].tolist() == ids_of(probe)
    assert probe.labels.tolist() == [index % 2 for index in ids_of(probe)]


class Repeating:
    """A batch sampler without an end, as loaders have it that keep one pass for all epochs."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from self.sampler


class KeepsItsPass(DataLoader):
    """As timm's MultiEpochsDataLoader: its workers, and what they have drawn in advance, stay from epoch to epoch."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        vars(self)["batch_sampler"] = Repeating(self.batch_sampler)
        self.iterator = super().__iter__()

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        return (next(self.iterator) for _ in range(len(self)))


@pytest.mark.filterwarnings("ignore:Numbers in a KeepsItsPass is not read by index")
def test_a_loader_that_keeps_one_pass_for_all_epochs_is_not_moved_on():
    def read(n):
        torch.manual_seed(1)
        loader = KeepsItsPass(Numbers(), 4, sampler=SubsetRandomSampler(VALIDATION))
        seen = [batch[1].tolist() for _, batch in zip(range(1), loader, strict=False)]
        if n:
            assert len(Probe.from_loader(loader, n)) == n
        return seen + [batch[0][:, 0, 0, 0].tolist() for _ in range(3) for batch in loader]

    assert read(4) == read(0)


def test_a_share_of_one_process_is_widened_to_all_of_the_data():
    dataset = Numbers()
    loader = DataLoader(dataset, sampler=distributed(DistributedSampler, dataset, shuffle=False))
    assert sorted(ids_of(Probe.from_loader(loader, 64))) == list(range(40))


def test_a_loader_over_everything_gives_the_choice_of_the_dataset_however_it_shuffles():
    expected = Probe.from_dataset(Numbers(), 9).digest
    for options in ({}, {"shuffle": True}, {"shuffle": True, "batch_size": 7, "drop_last": True}):
        assert Probe.from_loader(DataLoader(Numbers(), **options), 9).digest == expected


def test_the_choice_is_a_matter_of_the_seed():
    loader = DataLoader(Numbers(), sampler=WeightedRandomSampler([1.0] * 40, 20))
    choices = [Probe.from_loader(loader, 6, seed).ids for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


class Counting(Sampler):
    """Shuffles a list of its own in place, draws from two generators of its own, and counts its passes."""

    def __init__(self):
        self.order, self.passes = list(range(40)), 0
        self.generator, self.numbers = torch.Generator().manual_seed(1), np.random.default_rng(1)

    def __iter__(self):
        self.passes += 1
        self.numbers.shuffle(self.order)
        return iter([self.order[row] for row in torch.randperm(40, generator=self.generator)])


@pytest.mark.parametrize("in_batches", [True, False])
def test_a_sampler_goes_on_as_if_nobody_had_asked_it(in_batches):
    def loader():
        sampler = Counting()
        return DataLoader(
            Numbers(),
            **({"batch_sampler": BatchSampler(sampler, 4, drop_last=False)} if in_batches else {"sampler": sampler}),
        )

    asked, fresh = loader(), loader()
    Probe.from_loader(asked, 8)
    assert [batch[1].tolist() for batch in asked] == [batch[1].tolist() for batch in fresh]


class Held(Sampler):
    """Cannot be copied."""

    def __init__(self):
        self.generator, self.lines = torch.Generator().manual_seed(1), (line for line in "")

    def __iter__(self):
        return iter([VALIDATION[row] for row in torch.randperm(6, generator=self.generator)])


def test_a_sampler_that_cannot_be_copied_has_its_generators_put_back():
    sampler = Held()
    before = sampler.generator.get_state()
    assert sorted(ids_of(Probe.from_loader(DataLoader(Numbers(), sampler=sampler), 9))) == VALIDATION
    assert torch.equal(sampler.generator.get_state(), before)


class OwnGenerators(Numbers):
    """Transforms that draw from generators of their own, some of them inside other objects."""

    def __init__(self):
        super().__init__(targets=False)
        self.torch, self.transforms = torch.Generator().manual_seed(0), [{"inner": random.Random(0)}]
        self.legacy, self.numpy = np.random.RandomState(0), np.random.default_rng(0)

    def draw(self):
        return (
            torch.rand((), generator=self.torch).item(),
            self.transforms[0]["inner"].random(),
            self.legacy.rand(),
            self.numpy.random(),
        )

    def __getitem__(self, index):
        self.draw()
        return super().__getitem__(index)


@pytest.mark.parametrize("options", [{"shuffle": True}, {"batch_size": None}], ids=["by index", "pipeline"])
@pytest.mark.filterwarnings("ignore:OwnGenerators in a DataLoader is not read by index")
def test_neither_global_generators_nor_those_of_the_loader_and_the_dataset_move(options):
    def states(loader):
        return torch.rand(()).item(), random.random(), np.random.rand(), loader.generator.get_state().sum().item()  # noqa: NPY002

    drawn = []
    for read in (True, False):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
        loader = DataLoader(OwnGenerators(), generator=torch.Generator().manual_seed(5), **options)
        if read:
            Probe.from_loader(loader, 4)
        drawn.append((states(loader), loader.dataset.draw()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"sampler": SubsetRandomSampler(range(5000))}])
def test_nobody_reads_a_thousand_samples_to_choose_64(options):
    dataset = Numbers(10_000, targets=False)
    assert len(Probe.from_loader(DataLoader(dataset, **options))) == 64
    assert dataset.reads <= 5 * 64 + 4


def test_a_sampler_that_gives_nothing_is_told_from_data_that_hold_nothing():
    with pytest.raises(NoImagesError, match="but its sampler gives nothing of Numbers"):
        Probe.from_loader(DataLoader(Numbers(), sampler=SubsetRandomSampler([])))
    with pytest.raises(NoImagesError, match="but Numbers is empty"):
        Probe.from_loader(DataLoader(Numbers(0)))


# ----- pipelines

CHOSEN_AMONG = "is not read by index, so the probe is chosen among its first"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [None, 1, 16])
def test_of_a_stream_the_first_batches_are_read_in_this_process(workers, batch_size):
    stream = Stream(300)
    with pytest.warns(UserWarning, match=f"Stream in a DataLoader {CHOSEN_AMONG}") as said:
        probe = Probe.from_loader(DataLoader(stream, batch_size=batch_size, num_workers=workers), 20)
    assert len(said) == 1
    # 4 x 20 images are looked at: 75 of class 0, 5 or more of class 1.
    assert 80 <= stream.taken < 80 + 16
    assert not stream.in_worker
    assert probe.labels.bincount().tolist()[1] >= 5
    assert probe.images[:, 0, 0, 0].tolist() == ids_of(probe)
    assert probe.labels[:2].tolist() == [0, 1]


def test_a_stream_takes_turns_as_if_all_that_was_looked_at_had_been_kept():
    labels = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(0)).tolist()

    class Mixed(IterableDataset):
        def __iter__(self):
            return iter([(image(index), label) for index, label in enumerate(labels)])

    with pytest.warns(UserWarning, match="first 80 images"):
        probe = Probe.from_loader(DataLoader(Mixed(), batch_size=5), 20)
    members = {label: [place for place in range(80) if labels[place] == label] for label in range(5)}
    turns = sorted((turn, place) for places in members.values() for turn, place in enumerate(places))
    assert ids_of(probe) == [place for _, place in turns[:20]]


def test_a_stream_without_balance_ends_as_soon_as_there_are_enough():
    stream = Stream()
    with pytest.warns(UserWarning, match="first 20 images"):
        probe = Probe.from_loader(DataLoader(stream, batch_size=10), 20, balance="none")
    assert ids_of(probe) == list(range(20))
    assert stream.taken == 20


def test_a_balance_that_there_is_not_is_refused_for_streams_as_well():
    with pytest.raises(ValueError, match="`balance` to be 'class' or 'none', but got 'classes'"):
        Probe.from_loader(DataLoader(Stream()), 4, balance="classes")


def test_a_short_stream_is_read_to_its_end():
    with pytest.warns(UserWarning, match="first 7 images"):
        assert len(Probe.from_loader(DataLoader(Stream(7), batch_size=4), 20)) == 7


class Prefetching:
    """A loader of another library: batches of dictionaries, normalised in the loader."""

    def __iter__(self):
        for start in (0, 3):
            images = torch.stack([image(start + row) for row in range(3)]) / 10
            masks = torch.zeros(3, SIDE, SIDE)
            masks[:, start // 3] = 1
            yield {"image": images, "label": torch.tensor([0, 1, 1]), "masks": masks, "boxes": [torch.ones(1, 4)] * 3}


def test_loaders_of_other_libraries_are_read_with_all_that_they_know():
    with pytest.warns(UserWarning, match=f"Prefetching {CHOSEN_AMONG} 6 images"):
        probe = Probe.from_loader(Prefetching(), 6, class_names=("a", "b"))
    assert torch.equal(probe.images[:, 0, 0, 0], torch.tensor(ids_of(probe)) / 10)
    assert [mask.any(dim=1).nonzero().item() for mask in probe.masks] == [place // 3 for place in ids_of(probe)]
    assert [tuple(boxes.shape) for boxes in probe.boxes] == [(1, 4)] * 6


def test_a_loader_of_ready_made_batches_is_no_loader_of_samples():
    class Batches(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return torch.stack([image(2 * index), image(2 * index + 1)]), torch.tensor([0, 1])

    with pytest.warns(UserWarning, match=CHOSEN_AMONG):
        probe = Probe.from_loader(DataLoader(Batches(), batch_size=None), 6)
    assert probe.images[:, 0, 0, 0].tolist() == ids_of(probe)
    assert probe.labels.tolist() == [place % 2 for place in ids_of(probe)]


@pytest.mark.parametrize("loader", [iter([(torch.ones(1, 3, SIDE, SIDE), torch.tensor([0]))]), 3, None])
def test_what_reading_would_use_up_is_refused(loader):
    with pytest.raises(TypeError, match="iterated again and again, but got"):
        Probe.from_loader(loader)


# ----- labels


def test_what_nobody_labelled_is_left_out():
    dataset = Numbers(30)
    dataset.targets = [-1 if index < 20 else 0 for index in range(30)]
    assert sorted(ids_of(Probe.from_loader(DataLoader(dataset), 30))) == list(range(20, 30))
    assert len(Probe.from_dataset(dataset, 30, balance="none")) == 10
    with pytest.warns(UserWarning, match=CHOSEN_AMONG):
        probe = Probe.from_loader(DataLoader(Stream(100, unlabelled=30), batch_size=8), 40)
    assert min(ids_of(probe)) == 30


def test_what_a_transform_takes_the_label_of_is_left_out():
    class Remapped(Numbers):
        def __getitem__(self, index):
            return image(index), index if index < 3 else -1

    dataset = Remapped(6)
    dataset.targets = [0] * 6
    assert sorted(ids_of(Probe.from_dataset(dataset, 6))) == [0, 1, 2]
    with pytest.raises(ValueError, match="all 2 that were read have a negative label"):
        Probe.from_dataset(Subset(dataset, [4, 5]), 6)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list], ids=["array", "tensor", "list"])
@pytest.mark.parametrize("column", [False, True], ids=["flat", "column"])
def test_known_labels_of_every_kind_are_balanced_without_reading_an_image(kind, column):
    dataset = Numbers(400, targets=False)
    labels = [index // 390 for index in range(400)]
    # As MedMNIST's.
    dataset.labels = kind([[label] for label in labels] if column else labels)
    assert known_labels(dataset) == [[label] for label in labels]
    probe = Probe.from_dataset(dataset, 8, unpack=lambda batch: (batch[0], labels[int(batch[0][0, 0, 0, 0])]))
    assert probe.labels.bincount().tolist() == [4, 4]
    assert dataset.reads == 8 + 4


def test_data_without_a_label_are_refused():
    dataset = Numbers()
    dataset.targets = [-1] * 40
    with pytest.raises(ValueError, match="Expected labelled images, but all 40 looked at have none, or a negative one"):
        Probe.from_loader(DataLoader(dataset), 5)
    with pytest.raises(ValueError, match="to give labelled images for the probe, but got none"):
        Probe.from_loader(DataLoader(Stream(100, unlabelled=100)), 5)


def test_a_subset_is_read_by_its_own_index():
    loader = DataLoader(Subset(Numbers(), VALIDATION), shuffle=True)
    probe = Probe.from_loader(loader, 64)
    assert sorted(probe.images[:, 0, 0, 0].tolist()) == VALIDATION
    assert sorted(ids_of(probe)) == list(range(6))


def test_a_random_sampler_that_draws_again_gives_each_image_once():
    loader = DataLoader(Numbers(), sampler=RandomSampler(range(40), replacement=True, num_samples=200))
    ids = ids_of(Probe.from_loader(loader, 64))
    assert len(ids) == len(set(ids)) > 15
