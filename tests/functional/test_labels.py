"""Sigmoids read as classes have the same probabilities and answers; labels are told apart by their form."""

import pytest
import torch
from torch.testing import assert_close

from lit_decom.functional.faithfulness import average_drop, class_scores
from lit_decom.functional.labels import as_labels, logits_of_label, two_logits
from lit_decom.functional.strata import confidence_strata, correctness_strata


def logits(n=40, n_labels=5, seed=0):
    return torch.randn(n, n_labels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4


def test_two_logits_have_the_probability_and_the_answer_of_one():
    one = logits(n_labels=1)
    both = two_logits(one)
    assert_close(both.softmax(dim=1)[:, 1:], one.sigmoid())
    assert torch.equal(both.argmax(dim=1), (one[:, 0] > 0).long())
    assert torch.equal(both[:, 1] - both[:, 0], one[:, 0])


def test_each_row_is_the_two_classes_of_its_label_and_nothing_else():
    several = logits()
    asked = torch.arange(40) % 5
    found = logits_of_label(several, asked)
    assert found.shape == (40, 10)
    for row in range(40):
        label, z = int(asked[row]), float(several[row, asked[row]])
        for index in range(10):
            value = {label: z / 2, 5 + label: -z / 2}.get(index, float("-inf"))
            assert float(found[row, index]) == value
    there, absent = asked, asked + 5
    probability = several.sigmoid().gather(1, asked[:, None])[:, 0]
    assert_close(class_scores(found, there), probability)
    assert_close(class_scores(found, absent), 1 - probability)
    # Right is what passes the threshold: a label that is there above it, one that is not there at or below it.
    passes = several.gather(1, asked[:, None])[:, 0] > 0
    assert torch.equal(correctness_strata(found, there) == 0, passes)
    assert torch.equal(correctness_strata(found, absent) == 0, ~passes)
    surest = torch.maximum(probability, 1 - probability)
    assert torch.equal(confidence_strata(found), (surest * 10 + 1e-5).long().clamp(max=9))


def test_a_drop_is_that_of_the_sigmoids_probability():
    before, after = logits(seed=1), logits(seed=2)
    asked = torch.arange(40) % 5
    drops = average_drop(logits_of_label(before, asked), logits_of_label(after, asked), asked, target="label")
    p, o = (values.gather(1, asked[:, None])[:, 0].sigmoid() for values in (before, after))
    assert_close(drops, ((p - o) / p).clamp(min=0))


def test_gradients_pass_to_the_label_that_is_asked_about_alone():
    several = logits(3).requires_grad_()
    found = logits_of_label(several, torch.tensor([4, 0, 2]))
    found[[0, 1, 2], [4, 5, 2]].sum().backward()
    expected = torch.zeros(3, 5, dtype=torch.float64)
    expected[0, 4], expected[1, 0], expected[2, 2] = 0.5, -0.5, 0.5
    assert torch.equal(several.grad, expected)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([3, 0], dtype=torch.uint8), torch.tensor([3, 0])),
        (torch.tensor([[3], [0]]), torch.tensor([3, 0])),
        (torch.tensor([1.0, 0.0]), torch.tensor([1, 0])),
        (torch.tensor([[1.0], [0.0]]).half(), torch.tensor([1, 0])),
        (torch.tensor([True, False]), torch.tensor([1, 0])),
        (torch.tensor([[1, 0, 1], [0, 0, 0]]), torch.tensor([[True, False, True], [False] * 3])),
        (torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])),
        (torch.zeros(0), torch.zeros(0, dtype=torch.long)),
    ],
)
def test_labels_are_told_apart_by_their_form(labels, expected):
    found = as_labels(labels)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0.0, 0.5]),
        torch.tensor([[0.2, 0.8]]),
        torch.tensor([[2, 0]]),
        torch.tensor([[-1, 1]]),
        torch.tensor([1.0, float("nan")]),
        torch.tensor(1),
        torch.zeros(2, 2, 2),
    ],
)
def test_what_is_neither_is_refused(labels):
    with pytest.raises(ValueError, match=r"Expected `labels` to be class indices \(n,\), or 0 and 1 for each of N"):
        as_labels(labels)
