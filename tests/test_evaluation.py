"""Scores against baselines and chance, on a network whose explanations are known on paper."""

import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, Explainer, Probe, Scoring, capture
from lit_decom.evaluation import NEW_HEAD, evaluate, with_new_head
from lit_decom.functional.image import upsample
from lit_decom.functional.stability import coherency
from lit_decom.metrics import (
    Coherency,
    DeletionAUC,
    EnergyPointingGame,
    Gini,
    MapStability,
    MaskIoU,
    PartCoverage,
    PointingGame,
)
from lit_decom.scores import numbers_of
from lit_decom.scoring import default_metrics, metric_key
from tests.helpers.networks import SmallCNN, seeded


class Objects(nn.Module):
    """Channel 0 of an image is the object, channel 1 the background; class 1 is the object's, class 0 the other's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.conv.weight.data = torch.eye(2)[:, :, None, None]
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[-1.0, 0.5], [4.0, -1.0]])

    def forward(self, images):
        return self.head(self.conv(images).mean(dim=(2, 3)))


def probe(n=12, labels=None):
    masks = torch.zeros(n, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    images = torch.stack([masks.float(), (~masks).float()], dim=1)
    labels = torch.ones(n, dtype=torch.long) if labels is None else labels
    return Probe.from_tensors(images, labels, masks=masks)


def scores(images, *metrics, batch_size=16, **settings):
    explainer = Explainer(DecomCAM(n_components=1), "conv", batch_size=batch_size)
    found = evaluate(Objects(), images, explainer, Scoring(metrics), **settings)
    return {score.key: score for score in found}


def test_an_explanation_on_the_object_beats_maps_that_know_nothing():
    found = scores(probe(), EnergyPointingGame())
    assert found["energy_pointing_game/all"].value == pytest.approx(1.0, abs=1e-5)
    assert found["energy_pointing_game/all/grad_cam"].value == pytest.approx(1.0, abs=1e-5)
    random = found["energy_pointing_game/all/random_map"]
    assert random.value == pytest.approx(16 / 64, abs=0.06), "the area of the object"
    assert random.paired_difference is not None
    assert random.paired_difference[0] > 0.5
    assert found["energy_pointing_game/all/grad_cam"].paired_difference == pytest.approx((0.0, 0.0), abs=1e-5), (
        "a tie is no win"
    )


def test_chance_does_not_depend_on_how_the_probe_is_cut():
    whole, pieces = (scores(probe(), EnergyPointingGame(), batch_size=size) for size in (12, 5))
    assert whole.keys() == pieces.keys()
    for key, score in whole.items():
        assert score.value == pytest.approx(pieces[key].value, abs=1e-6, nan_ok=True), key


def test_strata_count_their_images_and_the_gap_is_their_difference():
    labels = torch.tensor([1, 1, 1, 1, 0, 0])
    found = scores(probe(6, labels), EnergyPointingGame())
    assert [found[f"energy_pointing_game/{name}"].n for name in ("all", "correct", "incorrect")] == [6, 4, 2]
    numbers = numbers_of(list(found.values()))
    assert numbers["energy_pointing_game/correct"] == pytest.approx(1.0, abs=1e-5)
    assert numbers["energy_pointing_game/incorrect"] == pytest.approx(0.0, abs=1e-5), (
        "the label's class is the background"
    )
    assert numbers["energy_pointing_game/gap"] == pytest.approx(1.0, abs=1e-5)
    assert numbers["count/incorrect"] == 2


def test_a_new_head_is_scored_and_leaves_the_network_alone():
    model = Objects()
    before = model.head.weight.clone()
    assert not torch.equal(with_new_head(model).head.weight, before)
    assert torch.equal(model.head.weight, before)
    assert f"energy_pointing_game/all/{NEW_HEAD}" in scores(probe(), EnergyPointingGame())


def noisy(n=12):
    """The object and its background, each with noise, so that no two images score alike."""
    plain = probe(n)
    noise = torch.rand(plain.images.shape, generator=torch.Generator().manual_seed(0))
    return Probe.from_tensors(plain.images + 0.2 * noise, plain.labels, masks=plain.masks)


@pytest.mark.parametrize("turned", [False, True])
def test_the_network_is_compared_with_its_features_under_a_new_head_and_not_the_other_way_round(monkeypatch, turned):
    def on_the_background(model):
        head = Objects()
        head.head.weight.data = model.head.weight.data.flip(1)
        return head

    monkeypatch.setattr("lit_decom.evaluation.with_new_head", on_the_background)
    model = on_the_background(Objects()) if turned else Objects()
    explainer = Explainer(DecomCAM(n_components=1), "conv")
    found = evaluate(model, noisy(), explainer, Scoring([EnergyPointingGame()], baselines=(), chance=False))
    values = {score.key: score for score in found}
    own, other = values["energy_pointing_game/all"], values[f"energy_pointing_game/all/{NEW_HEAD}"]
    assert (own.value > other.value) is not turned
    assert other.is_beaten is not turned
    # Strata are those of the network itself: it gets every image right, whatever the new head says.
    assert (own.n, other.n) == (12, 12)


def test_the_default_set_asks_for_what_the_probe_has():
    plain = Probe.from_tensors(torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long))
    names = {metric_key(metric) for metric in default_metrics(plain)}
    assert "gini" in names
    assert "average_drop" in names
    rulers = {"part_average_precision", "part_iou"}
    assert not names & {"pointing_game", *rulers}
    assert {"pointing_game", "energy_pointing_game", "mask_iou"} <= {metric_key(m) for m in default_metrics(probe())}
    parted = Probe.from_tensors(
        torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long), parts=torch.ones(1, 2, 4, 4, dtype=torch.bool)
    )
    assert {metric_key(metric) for metric in default_metrics(parted)} == names | rulers, (
        "no coverage, no purity, nothing of an index"
    )


@pytest.mark.parametrize(
    ("metric", "key"),
    [
        (EnergyPointingGame(), "energy_pointing_game"),
        (MaskIoU(), "mask_iou"),
        (DeletionAUC(n_steps=7), "deletion_auc_7"),
        (MapStability("first_correct"), "map_stability_first_correct"),
        (PointingGame(), "pointing_game"),
    ],
)
def test_keys_are_named_after_the_metric_and_its_steps(metric, key):
    assert metric_key(metric) == key


@pytest.mark.parametrize(
    ("metrics", "options", "told"),
    [
        ([Gini(), Gini()], {}, "different names"),
        ([Gini()], {"baselines": ["grad_camm"]}, "grad_camm"),
    ],
)
def test_what_does_not_fit_is_named(metrics, options, told):
    with pytest.raises(ValueError, match=told):
        Scoring(metrics, **options)


def test_a_metric_without_its_masks_is_named():
    with pytest.raises(ValueError, match="`parts` for the metric 'part_coverage'"):
        Scoring([PartCoverage()]).metrics_for(probe())


# ----- metrics that explain the masked image


class Wrapped(nn.Module):
    """A network whose output has no logits."""

    def __init__(self):
        super().__init__()
        self.inner = seeded(SmallCNN())

    def forward(self, images):
        return {"scores": self.inner(images)}


def margin(logits, labels):
    return logits.gather(1, labels[:, None]).squeeze(1) - logits.mean(dim=1)


@pytest.mark.parametrize("target", ["label", "predicted", "contrast", margin])
def test_coherency_explains_the_masked_image_for_the_same_score(target):
    model = Wrapped()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    shown = Probe.from_tensors(images, torch.arange(3))
    forward, layer, metric = "inner", "inner.stage2", Coherency()
    explainer = Explainer(DecomCAM(n_components=2), layer, target, forward=forward)
    found = evaluate(model, shown, explainer, Scoring([metric], baselines=["grad_cam"], chance=False), new_head=False)
    # The definition: mask, explain what the unaltered image was explained for, compare.
    (piece,) = explainer.pieces(model, shown)
    maps = upsample(piece.decomposition.cam, (16, 16)).clamp(min=0)
    masked = metric.masking.images(piece.capture, maps)
    score = piece.capture.score
    again = capture(model, layer, masked, score, forward=forward)
    other = upsample(explainer.method(again), (16, 16)).clamp(min=0)
    values = {one.key: one.value for one in found}
    assert values["coherency/all"] == pytest.approx(float(coherency(maps, other).nanmean()), rel=1e-4)
