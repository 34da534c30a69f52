"""Nothing but what a class is named for tells it: no option of a data set may leak the label into anything else."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.datasets import load_digits
from torch.nn import functional as F

from lit_decom.data import Critters, Digits
from tests.helpers.nuisance import (
    ALPHA,
    FOLDS,
    border_statistics,
    figure_statistics,
    hits,
    most_by_chance,
    tells_the_class,
)

N = 1200
SIZE = 40
UNEVEN = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
PROPORTIONS = (8, 7, 6, 5, 4, 3, 2, 1)


def nuisances(dataset):
    """Everything of each image that is not its ears, eyes or nose, nor its patch: ``(n, F)``."""
    rows = []
    for index, (image, target) in enumerate(dataset):
        patch = target["shortcut"][0] if "shortcut" in target else torch.zeros(image.shape[1:], dtype=torch.bool)
        where = patch.nonzero().float().mean(0).nan_to_num(-1.0)
        order = torch.tensor([index % len(dataset.classes)])
        rows.append(torch.cat([border_statistics(image, patch), figure_statistics(target), where, order]))
    return torch.stack(rows)


def patch_colours(dataset):
    """Colour of the patch of each image, ``(n, 3)``; -1 where there is none."""
    rows = [image[:, target["shortcut"][0]].float().mean(1).nan_to_num(-1.0) for image, target in dataset]
    return torch.stack(rows)


@lru_cache(maxsize=4)
def marked(mode, rate):
    dataset = Critters(N, SIZE, seed=3, shortcut_rate=rate, shortcut_mode=mode)
    return patch_colours(dataset), dataset.targets


OPTIONS = {
    "none": {},
    "image_size": {"image_size": 64},
    "corruption": {"corruption": 1.0},
    "label_noise": {"label_noise": UNEVEN},
    "class_proportions": {"class_proportions": PROPORTIONS},
    "shortcut_rate": {"shortcut_rate": 0.7},
    "shortcut_mode": {"shortcut_rate": 0.7, "shortcut_mode": "broken"},
    "all": {"corruption": 1.0, "label_noise": UNEVEN, "class_proportions": PROPORTIONS, "shortcut_rate": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_background_noise_size_and_place_tell_nothing_about_the_class_of_a_critter(option):
    dataset = Critters(**{"n": N, "image_size": SIZE, "seed": 3} | OPTIONS[option])
    features = nuisances(dataset)
    assert not tells_the_class(features, dataset.true_targets)
    assert not tells_the_class(features, dataset.targets)


@pytest.mark.slow
def test_a_severity_that_depends_on_the_class_would_be_found(monkeypatch):
    """As the `difficulty` of old had it: one noise level and size per class."""
    monkeypatch.setattr(Critters, "_severity", lambda self, index: int(self.true_targets[index]) / 7)
    dataset = Critters(N, SIZE, seed=3)
    features = nuisances(dataset)
    assert tells_the_class(features, dataset.targets)
    assert all(right > 0.5 * n for right, n in hits(features, dataset.targets))


@pytest.mark.slow
def test_half_of_that_would_be_found(monkeypatch):
    """Half of the severity goes with the class, the rest is chance."""

    def severity(self, index):
        return 0.5 * self._random(index, "severity").random() + 0.5 * int(self.true_targets[index]) / 7

    monkeypatch.setattr(Critters, "_severity", severity)
    dataset = Critters(N, SIZE, seed=3)
    assert tells_the_class(nuisances(dataset), dataset.targets)


@pytest.mark.slow
def test_an_aligned_patch_tells_the_class_of_every_image_that_has_it():
    """That is its purpose."""
    colours, labels = marked("aligned", 1.0)
    assert all(right == n for right, n in hits(colours, labels))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_an_aligned_patch_tells_the_class_as_often_as_it_is_there_and_else_nothing(rate):
    colours, labels = marked("aligned", rate)
    there = colours[:, 0] >= 0
    assert all(right == n for right, n in hits(colours[there], labels[there]))
    # with a patch always right, without one by chance, all the rest of the image being hidden
    chance = rate + (1 - rate) / 8
    for right, n in hits(colours, labels):
        low, high = binom.ppf([ALPHA / FOLDS, 1 - ALPHA / FOLDS], n, chance)
        # a class that is in more of the images without a patch may be guessed there: at most its share of them
        assert low - n * (1 - rate) / 8 <= right <= high + n * (1 - rate) / 8


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_broken_patch_tells_nothing(rate):
    assert not tells_the_class(*marked("broken", rate))


@pytest.mark.slow
def test_an_aligned_patch_tells_the_class_that_is_shown_and_not_the_wrong_label():
    dataset = Critters(N, SIZE, seed=3, shortcut_rate=1.0, label_noise=[1.0] * 8)
    colours = patch_colours(dataset)
    assert all(right == n for right, n in hits(colours, dataset.true_targets))
    assert (dataset.targets != dataset.true_targets).all()


@pytest.mark.parametrize("image_size", [40, 80])
def test_a_digit_is_all_that_is_in_its_image(image_size):
    """Place and size of the ink are the digit; out of reach of the enlargement there is nothing that could tell it."""
    dataset = Digits(image_size=image_size)
    scans = F.pad(torch.from_numpy(load_digits().images), (1, 1, 1, 1))[:, None]
    reached = F.max_pool2d((scans > 0).float(), 5, 1, 2).repeat_interleave(image_size // 10, 2)
    reached = reached.repeat_interleave(image_size // 10, 3)[:, 0] > 0
    assert (~reached).any((1, 2)).float().mean() > 0.9
    for (image, _), near in zip(dataset, reached, strict=True):
        assert not image[:, ~near].any()


def test_chance_is_bounded_by_the_commonest_class():
    rng = np.random.default_rng(0)
    for p in (np.full(8, 1 / 8), np.array([0.65, *[0.05] * 7])):
        assert not tells_the_class(rng.normal(size=(600, 6)), rng.choice(8, size=600, p=p))
    labels = rng.integers(8, size=600)
    assert tells_the_class(labels[:, None] + rng.normal(size=(600, 6)), labels)


def test_the_bound_is_exceeded_as_seldom_as_it_says():
    """Against the definition: the smallest count that chance exceeds with at most the probability asked for."""
    bound = most_by_chance(100, 0.125, alpha=0.1)
    tail = lambda k: sum(binom.pmf(j, 100, 0.125) for j in range(k + 1, 101))  # noqa: E731
    assert tail(bound) <= 0.1 / FOLDS < tail(bound - 1)
