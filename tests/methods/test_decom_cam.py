import copy
import dataclasses
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_decom import DecomCAM, capture
from lit_decom.explainer import summary
from lit_decom.functional.image import gaussian_blur, min_max_normalize, upsample
from lit_decom.methods.precision import has_bfloat16_units
from tests.helpers.networks import Drawing, HalfByHand, Patches, SmallCNN, golden, noise_images, seeded
from tests.helpers.rounding import magnification, map_tolerance

PRESETS = ("paper", "v25", "notebook", "predecessor", "predecessor_pp", "relu_gain")
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_units(torch.device("cpu")), reason="slow and warned about here")


def evidence_of(network=None, images=None, targets="predicted", **options):
    network = seeded(SmallCNN()) if network is None else network
    images = noise_images() if images is None else images
    return capture(network, "stage2", images, targets, mean=MEAN, std=STD, **options)


def assert_same(found, expected, method, rtol=1e-5):
    """Agreement of two decompositions of the same images by one method, to rounding.

    ``rtol`` is what float32 loses when sums are taken in another order, relative to the largest number of each field:
    a hundred units in the last place for components, whose error grows with how close their singular values lie, and a
    fifth of it for scores. Contributions divide by what sets the scores apart, and so does their error; the map carries
    it on.
    """
    assert torch.equal(found.valid, expected.valid)
    assert torch.equal(found.channels, expected.channels)
    assert torch.equal(found.fallback, expected.fallback)
    for name in ("components", "strengths", "loadings", "energy", "removed", "scores", "reference_scores"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        share = rtol / 5 if name in ("scores", "reference_scores") else rtol
        tolerance = share * theirs.nan_to_num().abs().max().item()
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance, equal_nan=True)
    tolerance = rtol / 5 * magnification(expected, method)
    assert_within(found.contributions, expected.contributions, tolerance[:, None])
    assert_within(found.cam, expected.cam, map_tolerance(expected, method, rtol / 5, rtol)[:, None, None])


def assert_within(found, expected, tolerance):
    assert torch.equal(found.isnan(), expected.isnan())
    excess = ((found - expected).abs() - tolerance).nan_to_num(-1.0)
    assert (excess <= 0).all(), f"beyond its tolerance by {excess.max():.2e}"


def take(decomposition, rows):
    fields = dataclasses.fields(decomposition)
    return type(decomposition)(**{entry.name: getattr(decomposition, entry.name)[rows] for entry in fields})


# ----- the published vectors


def golden_decomposition(rows=slice(None), **options):
    network, vectors = golden()
    evidence = capture(network, "relu3", vectors.images[rows], "predicted")
    method = DecomCAM(n_components=6, top_p=32, integration="v25", **options)
    return method.decompose(evidence), evidence, {name: value[rows] for name, value in vars(vectors).items()}


@pytest.mark.parametrize("rows", [slice(None), slice(0, 1), slice(1, 2), slice(2, 3)], ids=["batch", "0", "1", "2"])
def test_v25_reproduces_the_published_vectors(rows):
    found, evidence, vectors = golden_decomposition(rows)
    assert torch.equal(evidence.targets, vectors["targets"])
    # float32 through three layers, summed in another order: a hundred units in the last place of the largest number
    for name in ("logits", "activations", "gradients"):
        expected = vectors[name]
        atol = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(getattr(evidence, name), expected, rtol=0, atol=atol)

    projections = vectors["projections"].mT
    largest = projections.abs().amax(dim=2, keepdim=True)
    assert ((found.components.flatten(2) - projections).abs() <= 1e-4 * largest).all()
    torch.testing.assert_close(found.scores, vectors["scores"], rtol=0, atol=1e-3)
    cam = min_max_normalize(upsample(found.cam, (48, 48)).relu())
    torch.testing.assert_close(cam, vectors["cam"], rtol=0, atol=1e-3)
    ossms = upsample(found.ossms, (48, 48))
    assert ((ossms - vectors["ossms"]).abs() <= 1e-4 * largest[..., None]).all()


def test_published_channels_and_share_of_energy():
    found, evidence, vectors = golden_decomposition()
    rows = torch.arange(3)[:, None]
    weights = evidence.gradients.mean(dim=(2, 3))[rows, found.channels]
    weighted = (evidence.activations[rows, found.channels] * weights[:, :, None, None]).flatten(2).mT
    torch.testing.assert_close(weighted, vectors["weighted"], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.explained_energy, vectors["explained_variance_ratio"], rtol=0, atol=1e-5)


def test_torchs_reflect_padding_would_miss_the_published_scores():
    # Guards the tolerance above: another border rule for the blur is seen.
    network, vectors = golden()
    found, *_ = golden_decomposition()
    masks = min_max_normalize(upsample(found.ossms, (48, 48)))[0]
    window = torch.exp(-torch.arange(-40, 41.0).square() / 200)
    window = window / window.sum()
    padded = F.pad(vectors.images[:1], (40, 40, 40, 40), mode="reflect")
    blurred = F.conv2d(padded.transpose(0, 1), window[None, None, :, None])
    blurred = F.conv2d(blurred, window[None, None, None, :]).transpose(0, 1)
    composed = torch.maximum(vectors.images[:1] * masks[:, None], blurred * (1 - masks[:, None]))
    scores = network(composed)[:, vectors.targets[0]]
    assert (scores - vectors.scores[0]).abs().max() > 1e-3


# ----- a network whose components are known on paper

# A red patch, two green ones, and blue ones that speak against the target.
PICTURE = torch.zeros(1, 3, 8, 8)
PICTURE[0, 0, 0:2, 0:2] = 1.0
PICTURE[0, 1, 2:4, 4:8] = 0.5
PICTURE[0, 2, 6:8, 0:2] = 1.0
HEAD = [[2.0, 1.0, -3.0], [0.0, 0.0, 0.0], [0.0, -1.0, 5.0]]


def test_components_known_on_paper():
    found = DecomCAM(n_components=3).decompose(capture(Patches(HEAD), "colours", PICTURE, 0))
    red, green = torch.zeros(4, 4), torch.zeros(4, 4)
    red[0, 0], green[1, 2:] = 2.0, 0.5
    torch.testing.assert_close(found.components[0], torch.stack([red, green, torch.zeros(4, 4)]))
    assert found.strengths[0].tolist() == pytest.approx([2.0, 0.5**0.5, 0.0])
    assert found.channels[0, :2].tolist() == [0, 1]
    torch.testing.assert_close(found.loadings[0], torch.eye(3) * torch.tensor([1.0, 1.0, 0.0]))
    assert found.valid.tolist() == [[True, True, False]]
    assert found.energy.item() == pytest.approx(4.5)
    assert found.explained_energy[0].tolist() == pytest.approx([4 / 4.5, 0.5 / 4.5, 0.0])
    # Blurring with the edge repeated keeps the mean of each colour, which is all that this network reads.
    original = (2 * 4 * 1 + 1 * 8 * 0.5 - 3 * 4 * 1) / 64
    assert found.reference_scores.item() == pytest.approx(original, abs=1e-6)
    assert found.scores[0, 2].isnan()
    assert found.score_gains[0, 2].isnan()
    assert found.score_gains[0, :2].tolist() == pytest.approx((found.scores[0, :2] - original).tolist(), abs=1e-6)


def test_the_integrated_map_is_the_weighted_sum_of_the_rectified_components():
    found = DecomCAM(n_components=6).decompose(evidence_of())
    assert (found.components < 0).any()
    expected = sum(w[:, None, None] * m for w, m in zip(found.contributions.T, found.ossms.unbind(1), strict=True))
    torch.testing.assert_close(found.cam, expected.relu())
    assert torch.equal(found.ossms, found.components.clamp(min=0))


def test_no_channel_for_the_target_means_no_component_and_a_blank_map_that_is_counted():
    found = DecomCAM(n_components=2).decompose(
        capture(Patches([[-1.0, -2.0, -3.0], [1.0, 1.0, 1.0]]), "colours", PICTURE, 0)
    )
    assert not found.valid.any()
    assert not found.cam.any()
    assert found.contributions.tolist() == [[0.0, 0.0]]
    assert found.fallback.tolist() == [False]
    numbers = summary(found)
    assert numbers["blank_maps"] == 1.0
    assert numbers["uniform_weights"] == 0.0
    assert "score_gain/rank_01" not in numbers


def test_signed_presets_take_channels_against_the_target():
    evidence = capture(Patches([[-1.0, -2.0, -3.0], [1.0, 1.0, 1.0]]), "colours", PICTURE, 0)
    assert DecomCAM(n_components=2, positive_only=False).decompose(evidence).valid.all()


def test_a_network_that_does_not_care_weighs_all_components_the_same_and_says_so():
    network = seeded(SmallCNN())
    with torch.no_grad():
        network.head.weight.zero_()
    evidence = evidence_of(network)
    # A head of zeros has no gradient either; the test is about scores.
    evidence = dataclasses.replace(evidence, gradients=torch.ones_like(evidence.gradients))
    found = DecomCAM(n_components=4).decompose(evidence)
    assert found.valid.all()
    torch.testing.assert_close(found.contributions, torch.full((4, 4), 0.25))
    assert found.fallback.all()
    assert (found.cam.flatten(1).amax(dim=1) > 0).all()
    assert summary(found)["uniform_weights"] == 4.0


def test_all_scores_below_the_threshold_weigh_the_same_and_say_so():
    evidence = evidence_of()
    found = DecomCAM(n_components=4, integration="v25", score_threshold=1e6).decompose(evidence)
    torch.testing.assert_close(found.contributions, torch.full((4, 4), 0.25))
    assert found.fallback.all()


# ----- algebra


@pytest.mark.parametrize("preset", PRESETS)
def test_components_are_orthogonal_before_they_are_rectified(preset):
    found = DecomCAM(n_components=8, integration=preset).decompose(evidence_of())
    patterns = found.components.flatten(2) / found.strengths[:, :, None]
    torch.testing.assert_close(patterns @ patterns.mT, torch.eye(8).expand(4, 8, 8), rtol=0, atol=1e-5)


def test_at_full_rank_components_and_loadings_give_back_the_class_weighted_maps():
    evidence = evidence_of()
    found = DecomCAM(n_components=12, positive_only=False).decompose(evidence)
    rows = torch.arange(4)[:, None]
    weights = evidence.gradients.sum(dim=(2, 3))[rows, found.channels]
    maps = evidence.activations[rows, found.channels] * weights[:, :, None, None]
    rebuilt = torch.einsum("bpk,bkhw->bphw", found.loadings, found.components)
    torch.testing.assert_close(rebuilt, maps, rtol=0, atol=1e-5 * maps.abs().max().item())
    torch.testing.assert_close(found.explained_energy.sum(dim=1), torch.ones(4))


def test_the_evidence_rule_holds_in_every_image():
    found = DecomCAM(n_components=8, positive_only=False).decompose(evidence_of())
    assert (found.loadings.sum(dim=1) >= 0).all()


def test_largest_entry_is_what_it_says():
    found = DecomCAM(n_components=8, sign="largest_entry").decompose(evidence_of())
    assert torch.equal(found.components.flatten(2).amax(dim=2), found.components.flatten(2).abs().amax(dim=2))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1000])
def test_any_chunk_size_gives_the_same_numbers(preset, chunk_size):
    method = DecomCAM(n_components=5, integration=preset)
    found, expected = (method.decompose(evidence_of(chunk_size=size)) for size in (chunk_size, 10))
    assert_same(found, expected, method)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_is_its_images_one_by_one(preset):
    images = noise_images(5)
    method = DecomCAM(n_components=5, integration=preset)
    together = method.decompose(evidence_of(images=images))
    parts = [method.decompose(evidence_of(images=images[row : row + 1])) for row in range(5)]
    names = [entry.name for entry in dataclasses.fields(together)]
    joined = type(together)(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
    assert_same(together, joined, method)


def test_images_need_not_be_square():
    images = F.interpolate(noise_images(2), size=(32, 48), mode="bicubic")
    found = DecomCAM(n_components=3).decompose(evidence_of(images=images))
    assert found.components.shape == (2, 3, 8, 12)
    assert found.scores.isfinite().all()


@pytest.mark.parametrize("size", [(28, 56), (56, 28)])
def test_the_blur_scales_with_the_shorter_side(size):
    images = noise_images(1)[:, :, :1, :1].expand(1, 3, *size).clone()
    images[..., 14, 14] = 9.0
    assert DecomCAM().preset.blur_scaled
    found = DecomCAM()._blur(images)
    torch.testing.assert_close(found, gaussian_blur(images, 10.0 * 28 / 224, 4.0))


# ----- how many


def test_an_explicit_number_above_the_bound_is_refused_with_the_bound():
    evidence = evidence_of()
    DecomCAM(n_components=12).decompose(evidence)
    with pytest.raises(ValueError, match=r"`n_components` to be between 1 and 12 \(12 channels, 8 x 8 .*but got 13"):
        DecomCAM(n_components=13).decompose(evidence)
    with pytest.raises(ValueError, match=r"between 1 and 6 \(6 channels, 8 x 8 positions\), but got 7"):
        DecomCAM(n_components=7, top_p=6).decompose(evidence)


def test_centring_costs_one_position():
    evidence = capture(Patches([[1.0, 2.0, 3.0]]), "colours", torch.rand(1, 3, 4, 2), 1)
    assert evidence.activations.shape[-2:] == (2, 1)
    assert DecomCAM(n_components=2).decompose(evidence).valid.all()
    with pytest.raises(ValueError, match=r"between 1 and 1 \(3 channels, 2 x 1 positions, less one for the mean\)"):
        DecomCAM(n_components=2, centred=True).decompose(evidence)


def test_the_default_number_is_lowered_with_one_warning_per_instance():
    evidence = capture(Patches(HEAD), "colours", PICTURE, 0)
    for method in (DecomCAM(), DecomCAM()):
        with pytest.warns(UserWarning, match=r"`n_components` is lowered from 10 to 3"):
            assert method.decompose(evidence).valid.shape == (1, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method.decompose(evidence)


def test_asking_for_more_channels_than_there_are_is_said_once_and_the_presets_own_number_is_not():
    evidence = evidence_of()
    method = DecomCAM(n_components=4, top_p=13)
    with pytest.warns(UserWarning, match=r"`top_p` is 13, but the layer has 12 channels: all of them are used"):
        found = method.decompose(evidence)
    method.decompose(evidence)
    assert_same(found, DecomCAM(n_components=4, top_p=12).decompose(evidence), method)
    DecomCAM(n_components=4, integration="v25").decompose(evidence)


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.999])
def test_a_fraction_keeps_as_many_components_as_explain_it_in_each_image(fraction):
    evidence = evidence_of()
    every = DecomCAM(n_components=12).decompose(evidence)
    found = DecomCAM(n_components=fraction).decompose(evidence)
    shares = every.explained_energy.cumsum(dim=1)
    for image in range(4):
        kept = int(found.valid[image].sum())
        assert shares[image, kept - 1] >= fraction
        assert kept == 1 or shares[image, kept - 2] < fraction
        torch.testing.assert_close(found.components[image, :kept], every.components[image, :kept])
        assert not found.components[image, kept:].any()
        assert found.scores[image, kept:].isnan().all()
        assert not found.contributions[image, kept:].any()
    assert found.explained_energy.sum(dim=1).min() >= fraction


def test_a_fraction_stays_under_its_cap_and_under_the_layers_bound_in_silence():
    evidence = evidence_of()
    assert DecomCAM(n_components=1.0, max_components=3).decompose(evidence).valid.shape == (4, 3)
    assert DecomCAM(n_components=1.0, max_components=50).decompose(evidence).valid.shape == (4, 12)


def test_a_rank_deficient_image_has_fewer_components_than_its_neighbours():
    images = torch.zeros(2, 3, 8, 8)
    images[:, 0, :2, :2] = 1.0
    images[1, 1, 4:6, 4:6] = 1.0
    found = DecomCAM(n_components=3).decompose(capture(Patches([[1.0, 1.0, 1.0]]), "colours", images, 1))
    assert found.valid.tolist() == [[True, False, False], [True, True, False]]
    assert not found.components[~found.valid].any()
    assert not found.strengths[~found.valid].any()
    assert not found.contributions[~found.valid].any()
    assert found.scores[~found.valid].isnan().all()
    assert found.explained_energy.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


# ----- bad evidence


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_bad_image_does_not_touch_its_neighbours(preset, bad):
    images = noise_images(4)
    method = DecomCAM(n_components=5, integration=preset)
    clean = method.decompose(evidence_of(images=images))
    images[1, 0, 5, 5] = bad
    found = method.decompose(evidence_of(images=images))
    others = torch.tensor([0, 2, 3])
    assert_same(take(found, others), take(clean, others), method)
    for name in (
        "components",
        "strengths",
        "loadings",
        "energy",
        "removed",
        "scores",
        "reference_scores",
        "contributions",
    ):
        assert getattr(found, name)[1].isnan().all(), name
    assert found.cam[1].isnan().all()
    assert not found.valid[1].any()
    assert not found.fallback[1]
    assert summary(found)["nonfinite_images"] == 1.0


@pytest.mark.parametrize("field", ["activations", "gradients"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e38])
def test_bad_evidence_anywhere_and_products_that_overflow_are_isolated(field, value):
    evidence = evidence_of()
    spoilt = getattr(evidence, field).clone()
    spoilt[2, :, 3, 3] = value
    changes = {field: spoilt}
    if value == 1e38:
        # Finite for itself, but not once it is multiplied.
        other = "gradients" if field == "activations" else "activations"
        changes[other] = getattr(evidence, other).clone()
        changes[other][2] = 1e10
    method = DecomCAM(n_components=3)
    found = method.decompose(dataclasses.replace(evidence, **changes))
    assert found.components[2].isnan().all()
    rest = torch.tensor([0, 1, 3])
    assert_same(take(found, rest), take(method.decompose(evidence), rest), method)


# ----- precision


@needs_bfloat16
def test_masked_forwards_in_bfloat16_stay_close_and_keep_the_ranks():
    evidence = evidence_of(images=3 * noise_images(8))
    exact = DecomCAM(n_components=5, integration="v25").decompose(evidence)
    rough = DecomCAM(n_components=5, integration="v25", score_dtype="bfloat16").decompose(evidence)
    for name in ("components", "strengths", "loadings", "channels", "energy"):
        assert torch.equal(getattr(rough, name), getattr(exact, name))
    assert not torch.equal(rough.scores, exact.scores)
    assert rough.scores.dtype == torch.float32
    errors = (rough.scores - exact.scores).abs()
    spread = exact.scores.amax(dim=1) - exact.scores.amin(dim=1)
    assert (errors.amax(dim=1) < 0.05 * spread).all()
    ranks = [found.contributions.argsort(dim=1).argsort(dim=1).flatten() for found in (rough, exact)]
    assert torch.corrcoef(torch.stack(ranks).float())[0, 1] > 0.97


@needs_bfloat16
def test_a_network_that_leaves_autocast_for_its_head_can_be_scored_in_bfloat16():
    network = seeded(HalfByHand())
    exact = DecomCAM(n_components=3).decompose(evidence_of(network))
    rough = DecomCAM(n_components=3, score_dtype="bfloat16").decompose(evidence_of(network))
    torch.testing.assert_close(rough.scores, exact.scores, rtol=0.02, atol=0.02)
    assert not torch.equal(rough.scores, exact.scores)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_decompose_and_cam_changes_nothing(dtype):
    evidence = evidence_of()
    exact = DecomCAM(n_components=5).decompose(evidence)
    with torch.autocast("cpu", dtype=dtype):
        found = DecomCAM(n_components=5).decompose(evidence)
        assert torch.equal(found.cam, exact.cam)
    assert_same(found, exact, DecomCAM(n_components=5), rtol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_results_never_belong_to_inference_mode_or_to_a_graph(mode):
    evidence = evidence_of()
    with mode():
        found = DecomCAM(n_components=3).decompose(evidence)
    for entry in dataclasses.fields(found):
        tensor = getattr(found, entry.name)
        assert not tensor.is_inference()
        assert not tensor.requires_grad


def test_decomposing_draws_nothing_for_others():
    network = seeded(Drawing())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    DecomCAM(n_components=3).decompose(evidence_of(network))
    assert torch.equal(torch.rand(3), expected)


# ----- settings


@pytest.mark.parametrize("preset", ["notebook", "predecessor", "predecessor_pp"])
@pytest.mark.parametrize("known", [{}, {"mean": MEAN}, {"std": STD}])
def test_presets_that_work_in_the_unit_range_need_mean_and_std(preset, known):
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(), 0, **known)
    with pytest.raises(ValueError, match=r"Expected the mean and std of the images.*capture\(\.\.\., mean=, std=\)"):
        DecomCAM(n_components=3, integration=preset).decompose(evidence)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_components": 0}, r"`n_components` to be a whole number of at least 1, but got 0"),
        ({"n_components": "many"}, r"`n_components` to be a whole number of at least 1, but got 'many'"),
        ({"n_components": 0.0}, r"fractional `n_components` to be in \(0, 1\], but got 0\.0"),
        ({"n_components": 1.5}, r"fractional `n_components` to be in \(0, 1\], but got 1\.5"),
        ({"max_components": 0}, r"`max_components` to be a whole number of at least 1, but got 0"),
        ({"top_p": 0}, r"`top_p` to be a whole number of at least 1, but got 0"),
        ({"top_p": 0.5}, r"`top_p` to be a whole number of at least 1, but got 0\.5"),
        ({"integration": "v2"}, r"`integration` to be one of \['notebook', 'paper', .*\], but got 'v2'"),
        ({"score_dtype": "float16"}, r"`score_dtype` to be one of 'float32', 'bfloat16', 'auto', but got 'float16'"),
        ({"channel_weight": "gap"}, r"`channel_weight` to be one of 'sum', .* but got 'gap'"),
        ({"sign": "up"}, r"`sign` to be one of 'evidence', 'largest_entry', but got 'up'"),
        ({"composite": "max"}, r"`composite` to be one of 'convex', 'maximum', but got 'max'"),
        ({"composite_space": "bytes"}, r"`composite_space` to be one of 'input', 'unit', but got 'bytes'"),
        ({"weighting": "mean"}, r"`weighting` to be one of .* but got 'mean'"),
        ({"blur_sigma": 0.0}, r"`blur_sigma` to be positive, but got 0\.0"),
    ],
)
def test_a_bad_setting_is_refused_when_it_is_made(setting, message):
    with pytest.raises(ValueError, match=message):
        DecomCAM(**setting)


def test_every_field_of_a_preset_can_be_set_by_itself():
    v25 = DecomCAM(integration="v25").preset
    for entry in dataclasses.fields(v25):
        value = getattr(v25, entry.name)
        assert getattr(DecomCAM(integration="paper", **{entry.name: value}).preset, entry.name) == value
    given = {entry.name: getattr(v25, entry.name) for entry in dataclasses.fields(v25)} | {"top_p": 12}
    rebuilt = DecomCAM(n_components=5, **given)
    named = DecomCAM(n_components=5, integration="v25")
    assert_same(rebuilt.decompose(evidence_of()), named.decompose(evidence_of()), named)


def test_the_repr_names_what_differs_from_the_defaults():
    assert repr(DecomCAM()) == "DecomCAM(n_components=10, integration='paper')"
    method = DecomCAM(n_components=8, integration="v25", top_p=32)
    assert repr(method) == "DecomCAM(n_components=8, top_p=32, integration='v25')"
    assert eval(repr(method)) == method


def test_methods_can_be_compared_hashed_copied_and_sent():
    method = DecomCAM(n_components=8)
    assert method == DecomCAM(n_components=8) != DecomCAM(n_components=9)
    assert len({method, DecomCAM(n_components=8)}) == 1
    for again in (copy.deepcopy(method), pickle.loads(pickle.dumps(method)), dataclasses.replace(method)):
        assert again == method


def test_calling_the_method_gives_the_integrated_map():
    evidence = evidence_of()
    method = DecomCAM(n_components=4)
    assert torch.equal(method(evidence), method.decompose(evidence).cam)


def test_weighted_maps_leave_out_channels_that_speak_against_the_target_where_the_preset_does():
    evidence = evidence_of()
    weights = evidence.gradients.mean(dim=(2, 3), keepdim=True)
    assert (weights < 0).any()
    everything = DecomCAM(channel_weight="mean", positive_only=False).weighted_maps(evidence)
    torch.testing.assert_close(everything, evidence.activations * weights)
    some = DecomCAM(channel_weight="mean", positive_only=True).weighted_maps(evidence)
    torch.testing.assert_close(some, evidence.activations * weights.relu())


def test_what_a_picture_says_of_a_component_is_its_score_gain_and_its_energy():
    found = DecomCAM(n_components=2).decompose(evidence_of())
    gains = dataclasses.replace(found, scores=found.scores + 3)
    energy = dataclasses.replace(found, energy=2 * found.energy)
    pictures = [np.asarray(each.show(n_images=1)) for each in (found, gains, energy)]
    # The same maps at the same places, with other numbers written beside them.
    assert pictures[0].shape == pictures[1].shape == pictures[2].shape
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
