import math

import pytest
import torch

from lit_decom.functional.faithfulness import (
    adcc,
    average_drop,
    average_gain,
    average_increase,
    class_scores,
    complexity,
    target_classes,
)

CHANGES = [average_drop, average_increase, average_gain]


def random_logits(seed=0, batch=64, classes=5, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(2, batch, classes, generator=generator)


def probability(logits, index):
    """Softmax of one row in Python floats."""
    exponentials = [math.exp(value) for value in logits.tolist()]
    return exponentials[index] / sum(exponentials)


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_changes_agree_with_the_definition_image_by_image(target):
    logits, masked = random_logits()
    labels = torch.arange(64) % 5
    drops, increases, gains = (change(logits, masked, labels, target=target) for change in CHANGES)
    for i in range(64):
        index = int(logits[i].argmax()) if target == "predicted" else int(labels[i])
        p, o = probability(logits[i], index), probability(masked[i], index)
        # at most 1; logits of order ten are rounded to 1e-6, which a softmax carries into its log-odds
        assert drops[i].item() == pytest.approx(max(0, p - o) / p, abs=1e-5)
        assert increases[i].item() == float(p < o)
        assert gains[i].item() == pytest.approx(max(0, o - p) / (1 - p), abs=1e-5)


def test_predicted_class_comes_from_the_unaltered_image():
    logits, masked = torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[0.3, 0.7]]).log()
    assert average_drop(logits, masked).item() == pytest.approx(0.5)
    assert average_gain(logits, masked, torch.tensor([1]), target="label").item() == pytest.approx(0.5)


def test_gain_follows_the_definition_where_the_probability_rounds_to_one():
    logits, masked = torch.tensor([[30.0, 0.0]]), torch.tensor([[40.0, 0.0]])
    assert logits.softmax(1)[0, 0].item() == 1.0
    assert average_gain(logits, masked).item() == pytest.approx(1 - math.exp(-10), abs=1e-6)
    assert average_drop(logits, masked).item() == 0.0
    assert average_increase(logits, masked).item() == 1.0


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [1.0, 50.0, 500.0, 1e6])
def test_no_change_is_exactly_zero_at_any_confidence(change, size):
    logits = size * torch.tensor([[1.0, -1.0, 0.5]])
    assert change(logits, logits).item() == 0.0


def test_a_probability_that_underflows_is_no_division_by_zero():
    logits, masked, label = torch.tensor([[200.0, 0.0]]), torch.zeros(1, 2), torch.tensor([1])
    assert logits.softmax(1)[0, 1].item() == 0.0
    assert average_drop(logits, masked, label, target="label").item() == 0.0
    assert average_gain(logits, masked, label, target="label").item() == pytest.approx(0.5)
    assert average_drop(masked, logits, label, target="label").item() == 1.0


@pytest.mark.parametrize("change", CHANGES)
def test_a_broken_image_is_undefined_and_spoils_no_other(change):
    logits, masked = random_logits()
    clean = change(logits, masked)
    logits[3, 1], masked[7, 2] = torch.nan, torch.nan
    values = change(logits, masked)
    assert values.isnan().nonzero().flatten().tolist() == [3, 7]
    kept = [i for i in range(64) if i not in {3, 7}]
    assert torch.equal(values[kept], clean[kept])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened_first(change, dtype):
    logits, masked = (part.to(dtype) for part in random_logits())
    assert torch.equal(change(logits, masked), change(logits.float(), masked.float()))


@pytest.mark.parametrize("change", CHANGES)
def test_a_batch_equals_its_images_one_by_one(change):
    logits, masked = random_logits()
    singles = torch.cat([change(logits[i : i + 1], masked[i : i + 1]) for i in range(64)])
    torch.testing.assert_close(change(logits, masked), singles, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, "None"),
        (torch.tensor([0]), "(1,)"),
        (torch.tensor([0.0, 1.0]), "float32"),
        (torch.tensor([0, 2]), "0 to 2"),
        (torch.tensor([-1, 0]), "-1 to 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_what_arrived(labels, said):
    with pytest.raises(ValueError, match="labels") as error:
        target_classes(torch.zeros(2, 2), labels, "label")
    assert said in str(error.value)


def test_other_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="`target` to be one of 'predicted', 'label', but got 'true'"):
        target_classes(torch.zeros(2, 2), None, "true")
    with pytest.raises(ValueError, match=r"`logits` to be \(B, N\) with N >= 2, but got \(2, 1\)"):
        average_drop(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"`masked_logits` to be \(2, 3\)"):
        average_drop(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="`quantity`"):
        class_scores(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), "odds")


def test_class_scores_by_hand():
    logits = torch.tensor([[0.8, 0.2], [0.3, 0.7], [torch.nan, 0.0]]).log()
    classes = torch.tensor([1, 1, 1])
    torch.testing.assert_close(class_scores(logits, classes)[:2], torch.tensor([0.2, 0.7]))
    torch.testing.assert_close(class_scores(logits, classes, "logit")[:2], torch.tensor([0.2, 0.7]).log())
    assert class_scores(logits, classes, "accuracy")[:2].tolist() == [0.0, 1.0]
    assert class_scores(logits, classes).isnan().tolist() == [False, False, True]
    assert class_scores(logits, classes, "accuracy").isnan().tolist() == [False, False, True]


def test_complexity_is_the_mean_and_undefined_without_an_order():
    maps = torch.stack([torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.zeros(2, 2), torch.ones(2, 2), torch.eye(2)])
    maps[3, 0, 0] = torch.inf
    values = complexity(maps)
    assert values[0].item() == 0.75
    assert values[1:].isnan().all()
    assert complexity(maps.half())[0].item() == 0.75


def test_adcc_is_the_harmonic_mean_of_three_parts():
    value = adcc(torch.tensor([0.9]), torch.tensor([0.4]), torch.tensor([0.2])).item()
    assert value == pytest.approx(3 / (1 / 0.9 + 1 / 0.6 + 1 / 0.8))


@pytest.mark.parametrize("parts", [(0.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0), (0.0, 1.0, 1.0)])
def test_adcc_is_zero_where_a_part_is_as_bad_as_can_be(parts):
    assert adcc(*(torch.tensor([part]) for part in parts)).item() == 0.0


def test_adcc_of_rounded_parts_stays_in_its_range():
    beyond = torch.tensor([1.0 + 1e-7])
    assert adcc(torch.tensor([0.5]), beyond, torch.tensor([0.5])).item() == 0.0


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_adcc_of_an_undefined_part_is_undefined(broken):
    parts = [torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([1.0])]
    parts[broken] = torch.tensor([torch.nan])
    assert adcc(*parts).isnan().all()
