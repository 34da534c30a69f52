import hashlib
import random
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from lit_decom.data import Critters, CrittersDataModule
from lit_decom.data.figure import PART_NAMES, SPECIES

PICTURES = "4abf955a18e67c06"
CORRUPTED = "1d9805fd68c9008a"


def digest(dataset):
    sha = hashlib.sha256()
    for image, target in dataset:
        sha.update(image.contiguous().numpy().tobytes())
        sha.update(target["parts"].contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def widened(mask):
    """A mask with one more pixel on each side, for the smoothed rim of a shape."""
    return F.max_pool2d(mask[None].float(), 3, 1, 1)[0] > 0


def test_the_pictures_are_the_published_ones():
    assert digest(Critters(16, image_size=64, seed=7, shortcut_rate=0.5)) == PICTURES
    assert digest(Critters(16, image_size=64, seed=7, corruption=1.0)) == CORRUPTED


def test_an_image_depends_on_its_seed_and_index_alone():
    reference = Critters(20, 48, seed=1)
    random.seed(5)
    torch.manual_seed(5)
    longer = Critters(100, 48, seed=1, cache=False)
    for i in (19, 3, 3, 0):
        assert torch.equal(longer[i][0], reference[i][0])
        assert longer[i][1]["label"] == reference[i][1]["label"]
    assert not torch.equal(Critters(20, 48, seed=2)[0][0], reference[0][0])
    assert not torch.equal(Critters(20, 48, seed=1, stream="val")[0][0], reference[0][0])


def test_drawing_leaves_the_global_random_states_alone():
    states = random.getstate(), torch.get_rng_state()
    Critters(2, 48, shortcut_rate=1.0, corruption=1.0, label_noise=[0.5] * 8, class_proportions=[1] * 8)[1]
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_labels_are_known_without_drawing_and_balanced_in_every_run_of_eight(monkeypatch):
    monkeypatch.setattr(Critters, "draw", lambda *_: pytest.fail("drew an image"))
    dataset = Critters(43, 48)
    assert len(dataset) == 43
    for start in range(0, 40, 8):
        assert sorted(dataset.targets[start : start + 8].tolist()) == list(range(8))
    assert dataset.targets[:8].tolist() != dataset.targets[8:16].tolist()
    assert torch.equal(Critters(19, 48).targets, dataset.targets[:19])


def test_the_eight_species_are_the_combinations_of_three_parts():
    assert len({(s.ears, s.eyes, s.nose) for s in SPECIES}) == len({s.name for s in SPECIES}) == 8
    assert Critters(1).classes == ("piko", "pikonk", "pizo", "pizonk", "muko", "mukonk", "muzo", "muzonk")


@pytest.mark.parametrize("image_size", [64, 112])
def test_parts_are_disjoint_visible_and_make_up_the_mask_in_its_box(image_size):
    for image, target in Critters(64, image_size, seed=4):
        parts, mask = target["parts"], target["masks"][0]
        assert image.shape == (3, image_size, image_size)
        assert image.dtype == torch.uint8
        assert parts.dtype == mask.dtype == torch.bool
        assert torch.equal(parts.sum(0), mask.long())
        assert parts.flatten(1).sum(1).min() >= (12 if image_size == 112 else 3)
        x0, y0, x1, y1 = target["boxes"][0].int().tolist()
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert all(line.any() for line in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))
        assert 0.1 < mask.float().mean() < 0.7


def test_the_parts_lie_where_an_animal_has_them():
    rows = torch.arange(112.0)[:, None]
    for _, target in Critters(32, seed=4):
        height = {
            name: (part * rows).sum() / part.sum() for name, part in zip(PART_NAMES, target["parts"], strict=True)
        }
        assert height["ears"] < height["eyes"] < height["nose"] < height["mouth"]


def test_the_same_critter_comes_in_every_size():
    small, large = Critters(8, 56, seed=2), Critters(8, 112, seed=2)
    for i in range(8):
        halved = F.avg_pool2d(large[i][0].float(), 2)
        assert (halved - small[i][0].float()).abs().mean() < 12
        torch.testing.assert_close(large[i][1]["boxes"] / 2, small[i][1]["boxes"], atol=1.0, rtol=0)


@pytest.mark.parametrize("part", ["ears", "eyes", "nose"])
def test_two_species_that_differ_in_one_part_differ_in_its_pixels_alone(part):
    names = ("ears", "eyes", "nose")
    kind = {(s.ears, s.eyes, s.nose): label for label, s in enumerate(SPECIES)}
    other = {"pointed": "round", "round": "pointed", "open": "sleepy", "sleepy": "open", "button": "snout"}
    other["snout"] = "button"
    dataset = Critters(16, 64)
    for i in range(16):
        species = SPECIES[dataset.targets[i]]
        twin = kind[
            tuple(other[value] if name == part else value for name, value in vars(species).items() if name in names)
        ]
        here, there = dataset.draw(i), dataset.draw(i, twin)
        number = PART_NAMES.index(part) + 1
        allowed = widened((here.parts == number) | (there.parts == number))
        differs = (here.image != there.image).any(0)
        assert differs.any()
        assert not (differs & ~allowed).any()


def test_colour_and_place_tell_nothing_about_the_class():
    """Mean colour, mean place and size differ between classes no more than between random groups."""
    dataset = Critters(400, 32, seed=9)
    features = torch.stack(
        [
            torch.cat([image.float().mean((1, 2)), target["boxes"][0, :2], target["boxes"][0, 2:]])
            for image, target in dataset
        ]
    )
    features = (features - features.mean(0)) / features.std(0)
    means = torch.stack([features[dataset.targets == label].mean(0) for label in range(8)])
    # the standard error of a mean of 50 is 0.14; pointed ears reach higher, so the upper edge is left out
    assert means[:, [0, 1, 2, 5, 6]].abs().max() < 4 * 0.14


def test_samples_collate_and_batches_hold_plain_tensors():
    images, target = default_collate([Critters(4, 48, shortcut_rate=0.5)[i] for i in range(4)])
    assert images.shape == (4, 3, 48, 48)
    shapes = {name: tuple(value.shape) for name, value in target.items()}
    assert shapes == {
        "label": (4,),
        "masks": (4, 1, 48, 48),
        "boxes": (4, 1, 4),
        "parts": (4, 5, 48, 48),
        "shortcut": (4, 1, 48, 48),
    }
    assert target["label"].dtype == torch.int64


def test_geometry_moves_masks_boxes_and_parts_together():
    plain = Critters(4, 48)
    flipped = Critters(4, 48, transform=v2.RandomHorizontalFlip(p=1.0))
    for (image, target), (mirrored, moved) in zip(plain, flipped, strict=True):
        assert torch.equal(image.flip(-1), mirrored)
        assert isinstance(moved["parts"], tv_tensors.Mask)
        for name in ("masks", "parts"):
            assert torch.equal(target[name].flip(-1), moved[name])
        x0, y0, x1, y1 = target["boxes"][0].tolist()
        assert moved["boxes"][0].tolist() == [48 - x1, y0, 48 - x0, y1]


def test_the_cache_draws_once_and_cannot_be_edited_from_outside(monkeypatch):
    dataset = Critters(2, 48, shortcut_rate=1.0)
    image, target = dataset[0]
    kept = image.clone(), target["masks"].clone(), target["shortcut"].clone()
    monkeypatch.setattr(Critters, "draw", lambda *_: pytest.fail("drew again"))
    image.zero_()
    target["masks"].zero_()
    target["shortcut"].zero_()
    again, annotations = dataset[0]
    assert torch.equal(again, kept[0])
    assert torch.equal(annotations["masks"], kept[1])
    assert torch.equal(annotations["shortcut"], kept[2])


def test_without_a_cache_every_access_draws(monkeypatch):
    calls = []
    draw = Critters.draw
    monkeypatch.setattr(Critters, "draw", lambda self, index: calls.append(index) or draw(self, index))
    dataset = Critters(2, 48, cache=False)
    assert torch.equal(dataset[1][0], dataset[1][0])
    assert calls == [1, 1]


class TestShortcut:
    def test_only_the_patch_differs_from_the_image_without_it(self):
        plain, marked = Critters(24, 64), Critters(24, 64, shortcut_rate=1.0)
        for (image, target), (patched, annotated) in zip(plain, marked, strict=True):
            patch = annotated["shortcut"][0]
            assert patch.sum() == 9 * 9
            assert torch.equal((image != patched).any(0) & ~patch, torch.zeros(64, 64, dtype=torch.bool))
            assert len(patched[:, patch].unique(dim=1).T) == 1
            assert torch.equal(annotated["parts"], target["parts"] & ~patch)
            rows, columns = patch.any(1).nonzero(), patch.any(0).nonzero()
            assert rows.min() == 0 or rows.max() == 63 or columns.min() == 0 or columns.max() == 63

    def test_there_is_no_key_without_shortcuts(self):
        assert "shortcut" not in Critters(1, 48)[0][1]

    def test_the_rate_is_the_share_of_images(self):
        dataset = Critters(200, 32, shortcut_rate=0.3)
        share = sum(bool(target["shortcut"].any()) for _, target in dataset) / 200
        assert share == pytest.approx(0.3, abs=0.1)  # three standard deviations

    def test_aligned_colours_are_one_for_each_class(self):
        assert len(self.colours("aligned")) == 8

    def test_broken_colours_are_drawn_apart_from_the_class(self):
        pairs = self.colours("broken")
        assert len({colour for _, colour in pairs}) == 8
        assert len(pairs) > 40  # of 64, with 128 draws
        own = self.colours("aligned")
        assert {colour for _, colour in pairs} == {colour for _, colour in own}

    def test_both_modes_put_the_patch_at_the_same_place(self):
        modes = [Critters(16, 48, shortcut_rate=0.5, shortcut_mode=mode) for mode in ("aligned", "broken")]
        for (_, aligned), (_, broken) in zip(*modes, strict=True):
            assert torch.equal(aligned["shortcut"], broken["shortcut"])

    @staticmethod
    def colours(mode):
        dataset = Critters(128, 32, shortcut_rate=1.0, shortcut_mode=mode)
        return {(target["label"], tuple(image[:, target["shortcut"][0]][:, 0].tolist())) for image, target in dataset}


class TestCorruption:
    def test_the_severity_of_an_image_grows_with_the_option_and_not_with_its_class(self):
        weak, strong = Critters(400, 32, corruption=0.5), Critters(400, 32, corruption=1.0)
        severities = torch.tensor([strong._severity(i) for i in range(400)])
        assert torch.equal(severities / 2, torch.tensor([weak._severity(i) for i in range(400)]))
        # uniform over 0..1 in every class: mean and standard error of fifty
        means = torch.stack([severities[strong.targets == label].mean() for label in range(8)])
        assert (means - 0.5).abs().max() < 4 * (1 / 12 / 50) ** 0.5
        assert severities.min() < 0.03
        assert severities.max() > 0.97

    def test_without_it_images_keep_their_pixels(self):
        plain, explicit = Critters(8, 48), Critters(8, 48, corruption=0.0)
        assert all(torch.equal(plain[i][0], explicit[i][0]) for i in range(8))

    def test_more_of_it_means_smaller_critters_hidden_faces_and_more_noise(self, monkeypatch):
        levels = []
        for severity in (0.0, 0.5, 1.0):
            monkeypatch.setattr(Critters, "_severity", lambda *_, level=severity: level)
            levels.append(self.measure(Critters(24, 64)))
        for easier, harder in pairwise(levels):
            assert harder["size"] < 0.9 * easier["size"]
            assert harder["face"] < 0.97 * easier["face"]
            assert harder["roughness"] > 1.2 * easier["roughness"]

    @staticmethod
    def measure(dataset):
        size = face = roughness = 0.0
        for image, target in dataset:
            box = target["boxes"][0]
            size += float((box[3] - box[1]) / 24)
            face += float(target["parts"][:3].sum() / ((box[3] - box[1]) ** 2) / 24)
            roughness += float(image.float().diff(dim=-1).abs().mean() / 24)
        return {"size": size, "face": face, "roughness": roughness}


class TestLabelNoise:
    RATES = (0.0, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)

    def test_the_rate_of_each_class_is_its_share_of_wrong_labels(self):
        dataset = Critters(8 * 500, 32, label_noise=self.RATES)
        wrong = dataset.targets != dataset.true_targets
        for label, rate in enumerate(self.RATES):
            share = float(wrong[dataset.true_targets == label].float().mean())
            assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 500) ** 0.5)

    def test_wrong_labels_are_any_of_the_others_alike(self):
        dataset = Critters(8 * 700, 32, label_noise=[1.0] * 8)
        for label in range(8):
            counts = dataset.targets[dataset.true_targets == label].bincount(minlength=8)
            assert counts[label] == 0
            others = counts[torch.arange(8) != label].float()
            assert (others - 100).abs().max() < 4.5 * (700 / 7 * 6 / 7) ** 0.5

    def test_images_stay_as_they_are_and_samples_carry_the_wrong_label(self):
        plain, noisy = Critters(16, 48), Critters(16, 48, label_noise=[1.0] * 8)
        assert torch.equal(plain.targets, noisy.true_targets)
        for i in range(16):
            assert torch.equal(plain[i][0], noisy[i][0])
            assert noisy[i][1]["label"] == noisy.targets[i] != plain.targets[i]

    def test_a_label_does_not_depend_on_the_number_of_images(self):
        few, many = (Critters(n, 32, label_noise=[0.5] * 8) for n in (20, 300))
        assert torch.equal(few.targets, many.targets[:20])


class TestClassProportions:
    def test_each_class_has_its_share(self):
        proportions = torch.tensor([0.0, 1, 1, 2, 3, 5, 8, 13])
        shares = proportions / proportions.sum()
        counts = Critters(4000, 32, class_proportions=proportions.tolist()).targets.bincount(minlength=8)
        assert counts[0] == 0
        assert ((counts - 4000 * shares).abs() <= 4 * (4000 * shares * (1 - shares)).sqrt()).all()

    def test_a_label_does_not_depend_on_the_number_of_images(self):
        few, many = (Critters(n, 32, class_proportions=[1, 2] * 4) for n in (20, 300))
        assert torch.equal(few.targets, many.targets[:20])
        assert torch.equal(few.targets, few.true_targets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "Expected `n` to be at least 1, but got 0"),
        ({"image_size": 16}, "`image_size` to be at least 32 pixels, but got 16"),
        ({"shortcut_rate": 1.5}, "`shortcut_rate` to be between 0 and 1, but got 1.5"),
        ({"shortcut_mode": "bent"}, "`shortcut_mode` to be 'aligned' or 'broken', but got 'bent'"),
        ({"corruption": -0.5}, "`corruption` to be between 0 and 1, but got -0.5"),
        ({"label_noise": [0.5]}, "`label_noise` to be 8 numbers between 0 and 1"),
        ({"label_noise": [2.0] * 8}, "`label_noise` to be 8 numbers between 0 and 1"),
        ({"class_proportions": [1.0] * 7}, "`class_proportions` to be 8 numbers of at least 0 and not all 0"),
        ({"class_proportions": [-1.0, *[1.0] * 7]}, "`class_proportions` to be 8 numbers of at least 0"),
        ({"class_proportions": [0.0] * 8}, "`class_proportions` to be 8 numbers of at least 0 and not all 0"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Critters(**{"n": 1} | arguments)


def test_the_module_offers_three_disjoint_splits_with_annotations_for_evaluation():
    module = CrittersDataModule(n_train=8, n_val=16, n_test=24, image_size=32, batch_size=4, augmentation=[])
    module.setup("fit")
    assert [len(d) for d in (module.train_dataset, module.val_dataset, module.test_dataset)] == [8, 16, 24]
    pictures = [
        image.numpy().tobytes()
        for d in (module.train_dataset, module.val_dataset, module.test_dataset)
        for image, _ in d
    ]
    assert len(set(pictures)) == 48
    images, target = next(iter(module.train_dataloader()))
    assert list(target) == ["label"]
    assert images.dtype == torch.float32
    images, target = next(iter(module.val_dataloader()))
    assert list(target) == ["label", "masks", "boxes", "parts"]
    assert -2 <= images.min() < images.max() <= 2
    assert module.part_names == PART_NAMES
    assert module.num_classes == len(module.class_names) == 8


def test_evaluation_may_break_the_shortcut_of_training():
    module = CrittersDataModule(8, 8, 8, 32, shortcut_rate=1.0, eval_shortcut_mode="broken")
    modes = [d.shortcut_mode for d in (module.train_dataset, module.val_dataset, module.test_dataset)]
    assert modes == ["aligned", "broken", "broken"]
    assert CrittersDataModule(shortcut_mode="broken").eval_shortcut_mode == "broken"


def test_training_labels_alone_are_noisy_and_uneven_and_images_of_every_split_corrupted():
    module = CrittersDataModule(
        64, 64, 64, 32, corruption=0.5, label_noise=[1.0] * 8, class_proportions=[1, 0, 0, 0, 0, 0, 0, 1]
    )
    train = module.train_dataset
    assert set(train.true_targets.tolist()) == {0, 7}
    assert (train.targets != train.true_targets).all()
    for dataset in (module.val_dataset, module.test_dataset):
        assert torch.equal(dataset.targets, dataset.true_targets)
        assert dataset.targets.bincount().tolist() == [8] * 8
    assert [d.corruption for d in (train, module.val_dataset, module.test_dataset)] == [0.5] * 3
