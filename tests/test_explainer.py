"""Explaining a whole probe without a Trainer."""

import io
import math
from dataclasses import fields, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lit_decom import DecomCAM, Decomposition, capture, explain
from lit_decom.explainer import Explainer, Explanations, summary, targets_of
from tests.helpers.modules import Spots, probe, tiny

METHOD = DecomCAM(n_components=3)


def pieces(model, shown, **arguments):
    return Explainer(METHOD, "second", **arguments).pieces(model, shown)


def findings(model, shown, **arguments):
    return Explanations.joined([Explanations.of(piece) for piece in pieces(model, shown, **arguments)])


def assert_same(left: Explanations, right: Explanations, tolerance: float = 1e-5) -> None:
    assert torch.equal(left.targets, right.targets)
    torch.testing.assert_close(left.logits, right.logits, rtol=tolerance, atol=tolerance)
    for entry in fields(Decomposition):
        one, other = (getattr(found.decomposition, entry.name) for found in (left, right))
        # Stretching the gains of an untrained network to [0, 1] stretches their rounding, too.
        bound = 20 * tolerance if entry.name == "contributions" else tolerance
        torch.testing.assert_close(one, other, rtol=bound, atol=bound, equal_nan=True)


@pytest.fixture(scope="module")
def model():
    return tiny().eval()


@pytest.mark.parametrize(("batch_size", "chunk_size"), [(1, 1), (1, None), (4, 7), (99, None)])
def test_findings_do_not_depend_on_how_the_work_is_cut(model, batch_size, chunk_size):
    cut = findings(model, probe(), batch_size=batch_size, chunk_size=chunk_size)
    assert_same(cut, findings(model, probe(), batch_size=6))


def test_pieces_come_in_the_order_of_the_probe(model):
    found = list(pieces(model, probe(), batch_size=4))
    assert [piece.probe.ids for piece in found] == [("0", "1", "2", "3"), ("4", "5")]
    with torch.no_grad():
        expected = model(probe().images)
    torch.testing.assert_close(torch.cat([piece.capture.logits for piece in found]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "world"), [(6, 2), (6, 3), (7, 3), (2, 4), (1, 1)])
def test_shards_of_several_processes_come_back_in_the_order_of_the_probe(model, n, world):
    shown = probe(n)
    shards = [shown.shard(rank, world) for rank in range(world)]
    parts = [findings(model, shard, batch_size=2) for shard in shards if shard is not None]
    assert_same(Explanations.interleaved(parts), findings(model, shown))


def test_the_model_is_left_as_it_was(model):
    mode = tiny().train()
    before = [module.training for module in mode.modules()]
    findings(mode, probe())
    assert [module.training for module in mode.modules()] == before
    assert all(parameter.grad is None for parameter in mode.parameters())


# ----- targets


def test_target_policies():
    labels = torch.tensor([2, 0])
    assert torch.equal(targets_of("label", labels), labels)
    assert targets_of("predicted", labels) == "predicted"
    assert targets_of("contrast", labels) == "contrast"
    assert targets_of(3, labels) == 3
    policy = targets_of(lambda logits, known: logits[:, 0] + known, labels)
    # Altered versions of images 1, 1, 0: each meets the label of its own image.
    assert policy(torch.tensor([[10.0], [20.0], [30.0]]), torch.tensor([1, 1, 0])).tolist() == [10, 20, 32]
    with pytest.raises(ValueError, match=r"Expected `target` to be 'label'.*but got 'gold'"):
        targets_of("gold", labels)


def test_a_policy_of_the_users_own_is_the_gradient_that_is_explained(model):
    shown = probe()
    (own,) = pieces(model, shown, target=lambda logits, labels: 2 * logits[range(len(labels)), labels])
    (plain,) = pieces(model, shown)
    torch.testing.assert_close(own.capture.gradients, 2 * plain.capture.gradients)
    assert own.capture.targets.tolist() == [-1] * 6


# ----- the summary


def handmade() -> Decomposition:
    """Three images of two components: one whole, one of rank one, one whose evidence is not finite."""
    nan = math.nan
    components = torch.zeros(3, 2, 1, 2)
    components[0] = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]])
    components[1, 0] = torch.tensor([[5.0, 0.0]])
    components[2] = nan
    return Decomposition(
        components=components,
        strengths=torch.tensor([[4.0, 3.0], [5.0, 0.0], [nan, nan]]),
        channels=torch.zeros(3, 1, dtype=torch.long),
        loadings=torch.zeros(3, 1, 2),
        valid=torch.tensor([[True, True], [True, False], [False, False]]),
        energy=torch.tensor([25.0, 100.0, nan]),
        removed=torch.tensor([[16.0, 9.0], [25.0, 0.0], [nan, nan]]),
        scores=torch.tensor([[3.0, 1.0], [2.5, nan], [nan, nan]]),
        reference_scores=torch.tensor([2.0, 2.0, nan]),
        contributions=torch.tensor([[1.0, 0.0], [1.0, 0.0], [nan, nan]]),
        fallback=torch.tensor([False, True, False]),
    )


def test_the_summary_of_a_case_known_on_paper():
    numbers = summary(handmade())
    # Image 0 gains 1 and -1, image 1 gains 0.5; energies 16/25, 9/25 and 25/100.
    assert numbers["score_gain/rank_01"] == pytest.approx(0.75)
    assert numbers["score_gain/rank_02"] == pytest.approx(-1.0)
    assert numbers["explained_energy/rank_01"] == pytest.approx((0.64 + 0.25) / 2)
    assert numbers["explained_energy/rank_02"] == pytest.approx(0.36)
    entropy = -(0.64 * math.log(0.64) + 0.36 * math.log(0.36))
    assert numbers["effective_rank"] == pytest.approx((math.exp(entropy) + 1) / 2)
    assert numbers["valid_components"] == pytest.approx(1.5)
    assert numbers["positive_gain_share"] == pytest.approx(2 / 3)
    assert numbers["blank_maps"] == 0
    assert numbers["nonfinite_images"] == 1
    assert numbers["uniform_weights"] == 1


def test_a_score_that_is_not_finite_spoils_its_own_image_alone():
    spoiled = handmade()
    scores = spoiled.scores.clone()
    scores[0, 1] = torch.inf
    numbers = summary(replace(spoiled, scores=scores))
    assert numbers["score_gain/rank_01"] == pytest.approx(0.5)
    assert "score_gain/rank_02" not in numbers
    assert numbers["nonfinite_images"] == 2
    assert all(math.isfinite(value) for value in numbers.values())


def test_a_reference_that_is_not_finite_spoils_its_own_image_alone():
    numbers = summary(replace(handmade(), reference_scores=torch.tensor([math.nan, 2.0, math.nan])))
    assert numbers["score_gain/rank_01"] == pytest.approx(0.5)
    assert numbers["nonfinite_images"] == 2


def test_maps_that_are_zero_are_counted_and_enter_no_mean():
    blank = handmade()
    contributions = blank.contributions.clone()
    contributions[0] = 0
    assert summary(replace(blank, contributions=contributions))["blank_maps"] == 1
    nothing = replace(blank, valid=torch.zeros(3, 2, dtype=torch.bool))
    numbers = summary(nothing)
    assert not any(
        key.startswith(("score_gain", "explained_energy", "effective", "valid", "positive")) for key in numbers
    )


def test_a_network_that_looks_at_nothing_has_blank_maps(model):
    blind = tiny()
    torch.nn.init.zeros_(blind.head.weight)
    evidence = capture(blind, "second", Spots(4).images, torch.arange(4))
    numbers = summary(METHOD.decompose(evidence))
    assert numbers["blank_maps"] == 4
    assert numbers["nonfinite_images"] == 0


def test_explain_explains_all_images_at_once(model):
    shown = probe()
    found = explain(model, shown, Explainer(METHOD, "second", batch_size=2))
    assert found.probe.ids == shown.ids
    assert_same(Explanations.of(found), findings(model, shown, batch_size=2))


def test_what_is_shown_is_a_picture_that_a_notebook_draws_and_no_window(model):
    before = plt.get_fignums()
    picture = explain(model, probe(), Explainer(METHOD, "second")).show(n_images=4)
    assert plt.get_fignums() == before
    with Image.open(io.BytesIO(picture._repr_png_())) as drawn:
        assert drawn.size == picture.size
    fewer = explain(model, probe(), Explainer(METHOD, "second")).show(n_images=2)
    assert (fewer.size[0], fewer.size[1]) < picture.size
    np.testing.assert_array_equal(np.asarray(fewer)[:135], np.asarray(picture)[:135])


def test_what_is_shown_says_whether_the_network_is_right(model):
    """The same maps with another truth: a cross, a red frame and the true class in place of a mark."""
    shown = probe()
    found = explain(model, shown, Explainer(METHOD, "second", target=0))
    answers = found.capture.logits.argmax(dim=1)
    truths = answers, (answers + 1) % 4
    right, wrong = (replace(found, probe=replace(shown, labels=labels)).show() for labels in truths)
    reds = [(np.asarray(picture) == [0xC4, 0x12, 0x1E]).all(axis=2).sum() for picture in (right, wrong)]
    assert reds[1] - reds[0] > 6 * 1000, "the frames of six images"
    assert wrong.size[1] == right.size[1] + 6 * 15, "a line for the true class"


def test_masks_are_outlined_on_request(model):
    masks = torch.zeros(6, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    found = explain(model, replace(probe(), masks=masks), Explainer(METHOD, "second"))
    cyan = [(np.asarray(each) == [0, 255, 255]).all(axis=2).sum() for each in (found.show(), found.show(outline=True))]
    assert cyan[0] == 0
    assert cyan[1] > 6 * 5 * 100


def test_a_decomposition_is_shown_over_grey_where_it_has_no_images(model):
    evidence = capture(model, "second", probe().images, probe().labels)
    picture = np.asarray(METHOD.decompose(evidence).show(n_images=2))
    assert (picture[39 : 39 + 112, 3 : 3 + 112] == 128).all()
    assert (picture[39 : 39 + 112, 118 : 118 + 112] != 128).any()
