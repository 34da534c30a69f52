"""What cannot be read is left out of a probe: others take its place, and a warning names it."""

import re
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lit_decom import Probe
from lit_decom.probe.batches import NoImagesError
from lit_decom.probe.unreadable import Attempts, UnreadableError


class Files(Dataset):
    """One value per image, its index; four classes, by turns."""

    def __init__(self, n, broken=(), *, known=True):
        self.n, self.broken, self.reads = n, set(broken), []
        if known:
            self.targets = [index % 4 for index in range(n)]

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.broken:
            raise OSError("cannot identify image file.")
        return torch.full((3, 4, 4), float(index)), index % 4


def ids(probe):
    return [int(name) for name in probe.ids]


@pytest.mark.parametrize("known", [True, False])
def test_others_of_the_same_class_take_the_place_of_what_cannot_be_read(known):
    whole = Probe.from_dataset(Files(40, known=known), 8)
    broken = ids(whole)[2:4]
    with pytest.warns(UserWarning, match="leaves out what cannot be read") as warned:
        found = Probe.from_dataset(Files(40, broken, known=known), 8)
    (said,) = (str(entry.message) for entry in warned)
    a, b = broken
    assert re.fullmatch(rf".*: 2 samples \(({a}, {b}|{b}, {a})\), OSError: cannot identify image file\.", said)
    assert len(found) == 8
    assert torch.bincount(found.labels).tolist() == [2, 2, 2, 2]
    # All that can be read and was chosen is chosen still.
    assert set(ids(whole)) - set(broken) <= set(ids(found))
    assert not set(broken) & set(ids(found))
    assert found.images[:, 0, 0, 0].tolist() == ids(found)


def test_where_most_is_broken_the_probe_is_what_is_left_and_five_are_named():
    with pytest.warns(UserWarning, match=r"17 samples \((\d+, ){5}\.\.\.\)"):
        found = Probe.from_dataset(Files(20, range(3, 20)), 8)
    assert sorted(ids(found)) == [0, 1, 2]


def test_no_more_than_some_are_tried():
    files = Files(100_000, range(40, 100_000), known=True)
    files.targets = [0] * 100_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="16 samples"):
            Probe.from_dataset(files, 4)
    assert len(files.reads) == 16


def test_nothing_that_can_be_read_is_an_error_that_says_why():
    words = (
        r"^Expected data that can be read, but all that were tried failed: 3 samples \(.*\), OSError: cannot identify"
    )
    with pytest.raises(UnreadableError, match=words) as raised:
        Probe.from_dataset(Files(3, range(3)), 2)
    assert isinstance(raised.value.__cause__, OSError)


class Texts(Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, index):
        return {"caption": "an owl"}


def test_what_is_not_understood_is_said_in_its_own_words_and_at_once():
    with pytest.raises(NoImagesError, match=r"keys \['caption'\]"):
        Probe.from_dataset(Texts(), 2)


def test_an_image_that_is_gone_at_the_second_reading_stays_in_the_probe():
    class Vanishing(Files):
        def __getitem__(self, index):
            if index in self.reads:
                raise OSError("moved away")
            return super().__getitem__(index)

    assert len(Probe.from_dataset(Vanishing(8), 4)) == 4  # a warning would be an error


class Stream(IterableDataset):
    def __init__(self, n, broken=()):
        self.files = Files(n)
        self.broken = broken

    def __iter__(self):
        return (self.files[index] for index in range(self.files.n))


def test_a_batch_of_a_stream_that_cannot_be_made_is_passed_over():
    def collate(samples):
        if samples[0][0].max() == 2:
            raise IndexError("list index out of range")
        return torch.utils.data.default_collate(samples)

    loader = DataLoader(Stream(8), batch_size=2, collate_fn=collate)
    with (
        pytest.warns(UserWarning, match="is not read by index"),
        pytest.warns(UserWarning, match=r"leaves out .*: 1 batch \(1\), IndexError: list index out of range\."),
    ):
        found = Probe.from_loader(loader, 4)
    assert sorted(found.images[:, 0, 0, 0].tolist()) == [0, 1, 6, 7]


class Endless:
    """A loader whose every batch raises."""

    def __init__(self):
        self.asked = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.asked += 1
        raise ConnectionError("no server")


def test_a_loader_that_only_raises_is_given_up():
    class Loader:
        batches = Endless()

        def __iter__(self):
            return Loader.batches

    with pytest.raises(UnreadableError, match=r"16 batches .*, ConnectionError: no server"):
        Probe.from_loader(Loader(), 4)
    assert Loader.batches.asked == 16


def test_after_too_many_failures_nothing_more_is_tried():
    attempts, tried = Attempts(3), []

    def work(number):
        tried.append(number)
        if number:
            raise OSError
        return number

    assert [attempts.read(number, lambda number=number: work(number)) for number in range(6)] == [0] + [None] * 5
    assert tried == [0, 1, 2, 3]
    assert attempts.spent
