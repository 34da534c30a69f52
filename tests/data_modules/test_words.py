import random
from itertools import combinations

import pytest
import torch
from torch.utils.data import default_collate

from lit_decom.data import Critters, CrittersDataModule, CrittersWithWords, CrittersWithWordsDataModule
from lit_decom.data.words import _FONT, _coverage, _dots
from tests.data_modules.test_critters import digest, widened
from tests.helpers.nuisance import most_by_chance

PICTURES = "c05f95ce996fd9e0"


def labels(dataset):
    return dataset.targets, torch.tensor([dataset.word_label(i) for i in range(len(dataset))])


def test_the_pictures_are_the_published_ones():
    assert digest(CrittersWithWords(16, image_size=64, seed=7, words="random", word_rate=0.8)) == PICTURES


def test_an_image_is_the_critter_with_a_plate_that_hides_what_is_under_it():
    options = {"image_size": 64, "seed": 3, "shortcut_rate": 1.0, "corruption": 0.5}
    plain, written = Critters(16, **options), CrittersWithWords(16, **options, word_rate=0.5)
    rates = []
    for (image, target), (altered, found) in zip(plain, written, strict=True):
        plate = found["word"][0]
        rates.append(found["word_label"] >= 0)
        assert plate.any() == rates[-1]
        assert torch.equal(image[:, ~plate], altered[:, ~plate])
        for name in ("masks", "parts", "shortcut"):
            assert torch.equal(found[name], target[name] & ~plate)
        assert torch.equal(found["parts"].any(dim=0), found["masks"][0])
        rows, columns = plate.nonzero().T
        assert not rates[-1] or plate.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        left, top, right, bottom = found["boxes"][0].int().tolist()
        assert found["masks"][0, top:bottom, left:right].sum() == found["masks"].sum()
    assert 0 < sum(rates) < 16


def test_the_same_image_comes_again_and_no_random_state_is_touched():
    states = random.getstate(), torch.get_rng_state()
    first, again = CrittersWithWords(8, 48, cache=False), CrittersWithWords(80, 48)
    for i in (7, 2, 2):
        assert torch.equal(first[i][0], again[i][0])
        assert first[i][1]["word_label"] == again[i][1]["word_label"]
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_the_cache_is_not_written_on():
    critters = CrittersWithWords(2, 48)
    assert torch.equal(critters[0][0], critters[0][0])
    critters.word_rate = 0.0
    assert torch.equal(critters[0][0], Critters(2, 48)[0][0])


def test_right_words_name_the_class_and_wrong_ones_never_do():
    shown, named = labels(CrittersWithWords(800, 32, words="right"))
    assert torch.equal(shown, named)
    shown, named = labels(CrittersWithWords(800, 32, words="wrong"))
    assert not (shown == named).any()
    assert ((named - shown) % 8).unique().tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("label", range(8))
def test_random_words_and_whether_there_is_one_tell_nothing_of_the_class(label):
    shown, named = labels(CrittersWithWords(4000, 32, words="random", word_rate=0.5))
    counts = torch.bincount(named[(shown == label) & (named >= 0)], minlength=8)
    assert counts.max() <= most_by_chance(int(counts.sum()), 1 / 8)
    assert (named[shown == label] >= 0).sum() <= most_by_chance(500, 0.5)
    assert (named[shown == label] < 0).sum() <= most_by_chance(500, 0.5)


def test_names_are_told_apart_by_their_pixels_and_from_their_mirror():
    classes = CrittersWithWords(1).classes
    drawn = {word: _coverage(word, 12, 48) for word in classes}
    for one, other in combinations(classes, 2):
        assert (drawn[one] - drawn[other]).abs().sum() > 0.03 * 9 * 12 * 48
    for word in classes:
        assert not any(torch.equal(_dots(word).flip(1), _dots(other)) for other in classes)


def test_every_letter_has_its_dots():
    assert sorted(_FONT) == sorted("abcdefghijklmnopqrstuvwxyz ")
    assert all(len(rows.split()) == 7 and all(len(row) == 5 for row in rows.split()) for rows in _FONT.values())
    assert len(set(_FONT.values())) == 27
    assert _dots("il")[3].tolist() == [int(dot == "#") for dot in "." + ".##.." + "." + "..#.." + "."]


def test_a_letter_covers_what_its_dots_cover():
    # One pixel to a dot: nine fine ones or none.
    assert torch.equal(_coverage("k", 9, 7), 9 * _dots("k"))
    halves = _coverage("k", 18, 14)
    assert torch.equal(halves[::2, ::2], 9 * _dots("k"))


def test_a_word_alone_lies_on_the_critters_background():
    plain = Critters(24, 64, captions=True)
    written = CrittersWithWords(24, 64, words="right", word_rate=0.5, alone_rate=0.5, captions=True)
    both = CrittersWithWords(24, 64, words="right", word_rate=0.5)
    alone = [i for i in range(24) if written.is_alone(i)]
    assert 2 < len(alone) < 10
    for i in range(24):
        (image, target), (known, labelled), (original, shown) = written[i], both[i], plain[i]
        assert torch.equal(target["word"], labelled["word"])
        if i not in alone:
            assert torch.equal(image, known)
            assert target["caption"] == shown["caption"]
            continue
        assert target["caption"] == f"a photo of a {written.classes[target['label']]}"
        assert not target["masks"].any()
        assert not target["parts"].any()
        assert target["boxes"].shape == (0, 4)
        beside = ~widened(shown["masks"])[0] & ~target["word"][0]
        assert torch.equal(image[:, beside], original[:, beside])
        assert (image != original)[:, shown["masks"][0]].any(dim=0).float().mean() > 0.9


def test_the_datamodule_draws_the_same_critters_with_words_and_does_not_flip_them():
    options = {"n_train": 8, "n_val": 8, "n_test": 8, "image_size": 40, "seed": 5}
    data = CrittersWithWordsDataModule(**options, words="wrong", word_rate=1.0, captions=True)
    plain = CrittersDataModule(**options, augmentation=[])
    for name in ("train_dataset", "val_dataset", "test_dataset"):
        written, alone = getattr(data, name), getattr(plain, name)
        assert torch.equal(written.targets, alone.targets)
        for (image, target), (expected, _) in zip(written, alone, strict=True):
            changed = (image != expected).any(dim=0)
            assert 0 < changed.sum() < changed.numel() / 2
            assert target["caption"]
            assert "word" not in target or not (changed & ~target["word"][0]).any()
    assert (written.words, written.word_rate) == ("wrong", 1.0)


def test_training_images_of_the_datamodule_are_words_alone_as_often_as_it_was_told():
    sizes = {"n_train": 400, "n_val": 50, "n_test": 50, "image_size": 32}
    data = CrittersWithWordsDataModule(**sizes, word_rate=0.5, alone_rate=0.5)
    alone = [sum(map(found.is_alone, range(len(found)))) for found in (data.train_dataset, data.val_dataset)]
    assert 70 < alone[0] < 130
    assert alone[1] == 0
    image, plain = data.train_dataset, CrittersDataModule(**sizes, augmentation=[]).train_dataset
    first = next(index for index in range(400) if image.is_alone(index))
    assert (image[first][0] != plain[first][0]).any(dim=0).float().mean() > 0.2


def test_targets_can_be_collated_and_training_ones_are_the_label_alone():
    batch = default_collate([CrittersWithWords(8, 32, word_rate=0.5)[i] for i in range(8)])
    assert batch[1]["word"].shape == (8, 1, 32, 32)
    assert CrittersWithWords(1, 32, annotations=False)[0][1].keys() == {"label"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": "left"}, "Expected `words` to be 'right', 'wrong' or 'random', but got 'left'"),
        ({"word_rate": 1.5}, "Expected `word_rate` to be between 0 and 1, but got 1.5"),
        ({"alone_rate": 0.5}, "Expected `words` to be 'right' where `alone_rate` is positive, but got 'wrong'"),
        ({"words": "right", "alone_rate": -0.5}, "Expected `alone_rate` to be between 0 and 1, but got -0.5"),
        ({"image_size": 8}, "Expected `image_size` to be at least 32"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CrittersWithWords(4, **options)


def test_a_letter_that_has_no_dots_is_refused():
    with pytest.raises(ValueError, match="Expected a word of lower-case letters, a to z, but got 'Piko'"):
        _dots("Piko")
