import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection

from lit_decom.evidence import capture
from lit_decom.functional.faithfulness import average_drop
from lit_decom.metrics.faithfulness import (
    ADCC,
    AverageDrop,
    AverageGain,
    AverageIncrease,
    Coherency,
    Complexity,
)
from lit_decom.metrics.masking import Masking
from tests.helpers.evidence import Evidence, FixedMaps, brightness, classifier, contrast
from tests.helpers.metric_tester import assert_two_processes_equal_one, check_metric

CHANGES = [AverageDrop, AverageIncrease, AverageGain]


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator)
    masked = logits + 0.5 * torch.randn(7, 4, generator=generator)
    return {"logits": logits, "masked_logits": masked, "labels": torch.arange(7) % 4}


@pytest.fixture
def evidence():
    generator = torch.Generator().manual_seed(1)
    return Evidence(
        torch.randn(7, 3, 6, 5, generator=generator), contrast, torch.full((3,), 0.4), torch.full((3,), 0.2)
    )


@pytest.fixture
def maps():
    return torch.rand(7, 6, 5, generator=torch.Generator().manual_seed(2))


def explain(evidence):
    """A map that depends on the image and on the class."""
    images = evidence.images
    return images.abs().sum(dim=1) * (1 + evidence.targets[:, None, None]) + torch.linspace(0, 1, images.shape[-1])


@pytest.mark.parametrize("metric", CHANGES)
@pytest.mark.parametrize("target", ["predicted", "label"])
def test_changes_keep_the_contract_of_metrics(metric, target, inputs):
    expected = check_metric(metric(target=target), inputs)
    assert 0 < expected.item() < 1
    inputs["masked_logits"][2] = torch.nan
    undefined = check_metric(metric(target=target), inputs)
    assert not undefined.isnan()


@pytest.mark.parametrize("metric", [*CHANGES, ADCC, Coherency])
def test_metrics_that_ask_the_network_keep_the_contract(metric, evidence, maps):
    inputs = {"maps": maps, "capture": evidence}
    if metric in {ADCC, Coherency}:
        inputs["explain"] = CutCallable()
    if metric is Coherency:
        scored = metric(second_class="predicted")
    else:
        scored = metric(target="label")
        inputs |= {"logits": evidence.logits, "labels": torch.arange(7) % 4}
    expected = check_metric(scored, inputs)
    assert 0 < expected.item() <= 1
    assert_two_processes_equal_one(scored, inputs, expected)


class CutCallable:
    """The callable above, which may be cut like a batch."""

    def __call__(self, evidence):
        return explain(evidence)

    def __getitem__(self, part):
        return self


def test_complexity_keeps_the_contract(maps):
    expected = check_metric(Complexity(), {"maps": maps})
    stretched = [((one - one.min()) / (one.max() - one.min())).mean() for one in maps]
    torch.testing.assert_close(expected, torch.stack(stretched).mean())


def test_the_value_is_the_mean_over_defined_images_and_the_others_are_counted(inputs):
    inputs["masked_logits"][[1, 4]] = torch.nan
    metric = AverageDrop()
    metric.update(**inputs)
    defined = [0, 2, 3, 5, 6]
    expected = average_drop(inputs["logits"][defined], inputs["masked_logits"][defined]).mean()
    torch.testing.assert_close(metric.compute(), expected)
    assert metric.n_undefined == 2
    assert metric.values.isnan().nonzero().flatten().tolist() == [1, 4]


def two_pixels(*maps, **known):
    images = torch.tensor([[[[3.0, 1.0]]]]).repeat(len(maps), 1, 1, 1)
    return Evidence(images, brightness, **known), torch.tensor([[one] for one in maps])


def test_masking_before_and_after_normalisation_by_hand():
    known = {"mean": torch.tensor([0.5]), "std": torch.tensor([0.5])}
    evidence, maps = two_pixels([1.0, 0.0], [0.0, 2.0], **known)
    # Hidden pixels are 0 in the normalised image, or 0 before normalisation, which is -1 after it.
    assert Masking().images(evidence, maps).flatten(1).tolist() == [[3, 0], [0, 1]]
    assert Masking(mask_space="unit").images(evidence, maps).flatten(1).tolist() == [[3, -1], [-1, 1]]
    assert Masking().forward(evidence, maps)[:, 0].tolist() == [3, 1]
    assert Masking(mask_space="unit").forward(evidence, maps)[:, 0].tolist() == [2, 0]


def test_masking_in_unit_space_is_normalising_the_masked_image(maps):
    generator = torch.Generator().manual_seed(3)
    unit = torch.rand(7, 3, 6, 5, generator=generator)
    mean, std = torch.rand(3, generator=generator), 0.1 + torch.rand(3, generator=generator)
    normalise = lambda images: (images - mean[:, None, None]) / std[:, None, None]  # noqa: E731
    masks = torch.stack([(one - one.min()) / (one.max() - one.min()) for one in maps])
    masked = Masking(mask_space="unit").images(Evidence(normalise(unit), contrast, mean, std), maps)
    # dividing by the standard deviation, .1 at least, magnifies float32's rounding tenfold
    torch.testing.assert_close(masked, normalise(unit * masks[:, None]), rtol=0, atol=1e-5)


def test_maps_are_stretched_first_also_tiny_ones_in_a_half_precision_image(evidence, maps):
    expected = Masking().images(evidence, maps)
    # taking 3 off costs two bits of the maps, and stretching divides by their range
    torch.testing.assert_close(Masking().images(evidence, 1e-12 * (maps - 3)), expected, rtol=0, atol=1e-4)
    evidence.images = evidence.images.half()
    half = Masking().images(evidence, 1e-12 * maps)
    assert half.dtype == torch.float16
    # float16 has steps of 2e-3 at values of two to four
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=5e-3)


def test_a_broken_map_shows_an_image_that_can_be_explained_again(evidence, maps):
    maps[0, 1, 1], maps[1] = torch.nan, torch.inf
    images = Masking().images(evidence, maps)
    assert images.isfinite().all()
    assert images[0, :, 1, 1].eq(0).all()
    assert images[1].eq(0).all()


def test_blur_as_a_substrate_stands_where_the_map_is_zero(evidence, maps):
    masking = Masking(substrate="blur", scale_to_image=True)
    maps[:, 2, 2], maps[:, 3, 3] = -1.0, 5.0
    images, blurred = masking.images(evidence, maps), masking.background(evidence)
    assert torch.equal(images[..., 2, 2], blurred[..., 2, 2])
    assert torch.equal(images[..., 3, 3], evidence.images[..., 3, 3])
    assert not torch.equal(blurred, evidence.images)


@pytest.mark.parametrize("metric", CHANGES)
@pytest.mark.parametrize("conventions", [{}, {"mask_space": "unit"}, {"substrate": "blur", "scale_to_image": True}])
def test_computing_the_masked_logits_equals_giving_them(metric, conventions, evidence, maps):
    given, computed = metric(**conventions), metric(**conventions)
    given.update(evidence.logits, given.masking.forward(evidence, maps))
    computed.update(evidence.logits, maps=maps, capture=evidence)
    assert torch.equal(given.values, computed.values)
    assert computed.masking == Masking(**conventions)
    other = metric(mask_space="input" if conventions.get("mask_space") else "unit")
    other.update(evidence.logits, maps=maps, capture=evidence)
    assert not torch.equal(other.values, computed.values) or metric is AverageIncrease


def test_one_masked_forward_serves_all(evidence, maps):
    collection = MetricCollection([AverageDrop(), AverageIncrease(), AverageGain()])
    assert len({metric.masking for metric in collection.values()}) == 1
    masked = AverageDrop().masking.forward(evidence, maps)
    assert evidence.calls == [7]
    collection.update(logits=evidence.logits, masked_logits=masked, maps=maps, capture=evidence, ids=list("abcdefg"))
    assert evidence.calls == [7]
    assert set(collection.compute()) == {"AverageDrop", "AverageIncrease", "AverageGain"}


@pytest.mark.parametrize("metric", [AverageDrop, ADCC])
def test_a_map_without_an_order_is_undefined_and_spoils_no_other(metric, evidence, maps):
    def values():
        scored = metric()
        extra = {"explain": explain} if metric is ADCC else {}
        scored.update(logits=evidence.logits, maps=maps, capture=evidence, **extra)
        return scored

    clean = values()
    maps[0], maps[3], maps[5, 1, 1] = 0.0, 0.4, torch.nan
    broken = values()
    assert broken.values.isnan().nonzero().flatten().tolist() == [0, 3, 5]
    assert broken.rows[:, 0].isnan().nonzero().flatten().tolist() == [0, 3, 5]
    torch.testing.assert_close(broken.values[[1, 2, 4, 6]], clean.values[[1, 2, 4, 6]])


def test_a_missing_input_is_named():
    logits, maps = torch.zeros(1, 2), torch.eye(2)[None]
    with pytest.raises(ValueError, match="Expected `masked_logits`, or `maps` and `capture`"):
        AverageDrop().update(logits)
    with pytest.raises(ValueError, match="Expected `masked_maps`, or `capture` and `explain`"):
        Coherency().update(maps)
    with pytest.raises(ValueError, match="Expected `masked_maps`"):
        ADCC().update(maps, logits, masked_logits=logits)
    with pytest.raises(ValueError, match="`labels`"):
        AverageDrop(target="label").update(logits, logits)


@pytest.mark.parametrize(
    ("metric", "wrong"),
    [
        (AverageDrop, {"target": "true"}),
        (AverageGain, {"mask_space": "output"}),
        (AverageIncrease, {"substrate": "mean"}),
        (Coherency, {"second_class": "label"}),
        (ADCC, {"second_class": "label"}),
        (ADCC, {"target": "true"}),
    ],
)
def test_unknown_options_are_refused_at_construction(metric, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"Expected `{name}` to be one of .* but got '{value}'"):
        metric(**wrong)


@pytest.mark.parametrize("metric", [*CHANGES, Complexity, Coherency, ADCC])
def test_settings_of_torchmetrics_reach_it(metric):
    assert metric(sync_on_compute=False).sync_on_compute is False


def test_conventions_show_in_the_repr():
    assert repr(AverageGain(mask_space="unit")) == (
        "AverageGain(target='predicted', mask_space='unit', substrate='zeros', scale_to_image=False)"
    )
    assert repr(ADCC()) == (
        "ADCC(target='predicted', second_class='explained', mask_space='input', substrate='zeros', "
        "scale_to_image=False)"
    )


def test_directions():
    directions = {metric: metric.higher_is_better for metric in (*CHANGES, Complexity, Coherency, ADCC)}
    assert directions == {
        AverageDrop: False,
        AverageIncrease: True,
        AverageGain: True,
        Complexity: False,
        Coherency: True,
        ADCC: True,
    }


def test_metrics_work_on_a_real_capture():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    images, maps = torch.randn(3, 3, 8, 8), torch.rand(3, 8, 8)
    evidence = capture(model, "0", images, "predicted")
    metric = AverageDrop()
    metric.update(evidence.logits, maps=maps, capture=evidence)
    masks = torch.stack([(one - one.min()) / (one.max() - one.min()) for one in maps])
    with torch.no_grad():
        expected = average_drop(model(images), model(images * masks[:, None]))
    torch.testing.assert_close(metric.values, expected)


def test_adcc_keeps_its_three_parts_and_combines_them_per_image(evidence, maps):
    metric, drop, coherent, complex_ = ADCC(), AverageDrop(), Coherency(), Complexity()
    metric.update(maps, evidence.logits, capture=evidence, explain=explain)
    drop.update(evidence.logits, maps=maps, capture=evidence)
    coherent.update(maps, capture=evidence, explain=explain)
    complex_.update(maps)
    torch.testing.assert_close(metric.rows, torch.stack([coherent.values, complex_.values, drop.values], dim=1))
    parts = torch.stack([coherent.values, 1 - complex_.values, 1 - drop.values])
    torch.testing.assert_close(metric.values, 3 / (1 / parts).sum(0))
    torch.testing.assert_close(metric.compute(), metric.values.mean())


@pytest.mark.parametrize("second_class", ["explained", "predicted"])
def test_the_second_map_explains_the_class_that_the_convention_names(second_class):
    # Showing the dark pixel alone turns the prediction from the first class to the second.
    evidence = Evidence(torch.tensor([[[[3.0, -1.0]]]]), brightness)
    maps = torch.tensor([[[0.0, 1.0]]])
    asked = []

    def explain_and_note(masked):
        asked.append((masked.images.flatten().tolist(), masked.targets.tolist()))
        return maps

    metric = ADCC(second_class=second_class)
    metric.update(maps, evidence.logits, capture=evidence, explain=explain_and_note)
    assert asked == [([0.0, -1.0], [0 if second_class == "explained" else 1])]
    given = ADCC(second_class=second_class)
    given.update(maps, evidence.logits, metric.masking.forward(evidence, maps), maps)
    assert torch.equal(given.rows, metric.rows)


def test_an_explanation_that_vanishes_scores_zero(evidence, maps):
    metric = ADCC()
    metric.update(maps, evidence.logits, evidence.logits, torch.zeros_like(maps))
    assert metric.compute().item() == 0.0
    assert metric.n_undefined == 0


@pytest.fixture
def peers_inputs():
    generator = torch.Generator().manual_seed(5)
    images, maps = 3 * torch.randn(6, 3, 10, 10, generator=generator), torch.rand(6, 10, 10, generator=generator)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    model = classifier()
    return model, images, (maps - low) / (high - low), Evidence(images, model)


def test_agrees_with_torchcam(peers_inputs):
    peer = pytest.importorskip("torchcam.metrics", exc_type=ImportError)
    model, images, maps, evidence = peers_inputs
    labels = torch.arange(6) % 4
    metrics = MetricCollection([AverageDrop(target="label"), AverageIncrease(target="label")])
    metrics.update(logits=evidence.logits, maps=maps, capture=evidence, labels=labels)
    other = peer.ClassificationMetric(FixedMaps(model, maps), lambda logits: logits.softmax(1))
    other.update(images, labels.tolist())
    # Its small constant in the denominator makes the drop smaller by less than 1e-6 at these probabilities.
    assert metrics["AverageDrop"].compute().item() == pytest.approx(other.summary()["avg_drop"], abs=1e-6)
    assert metrics["AverageIncrease"].compute().item() == pytest.approx(other.summary()["conf_increase"])
    assert 0 < other.summary()["conf_increase"] < 1


def test_agrees_with_pytorch_grad_cam_whose_drop_is_absolute(peers_inputs):
    peer = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image", exc_type=ImportError)
    model, images, maps, evidence = peers_inputs
    labels = torch.arange(6) % 4
    metrics = MetricCollection([AverageDrop(target="label"), AverageIncrease(target="label")])
    metrics.update(logits=evidence.logits, maps=maps, capture=evidence, labels=labels)
    targets = [lambda logits, index=index: logits.softmax(0)[index] for index in labels.tolist()]
    drops = torch.from_numpy(peer.DropInConfidence()(images, maps.numpy(), targets, model))
    increases = torch.from_numpy(peer.IncreaseInConfidence()(images, maps.numpy(), targets, model))
    probabilities = evidence.logits.softmax(1)[torch.arange(6), labels]
    # differences of float32 probabilities
    torch.testing.assert_close(metrics["AverageDrop"].values * probabilities, drops, rtol=0, atol=1e-6)
    assert torch.equal(metrics["AverageIncrease"].values, increases)
