import pytest
import torch

from lit_decom.functional.strata import bin_names, class_accuracy_strata, confidence_strata, correctness_strata


def logits_for(probabilities: list[float]) -> torch.Tensor:
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], dim=1)


def test_right_answers_are_stratum_zero():
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [torch.nan, 3.0, 2.0]])
    assert correctness_strata(logits, torch.tensor([1, 2, 1])).tolist() == [0, 1, -1]


def test_confidence_bins_are_closed_below_and_the_last_above_too():
    strata = confidence_strata(logits_for([0.55, 0.6, 0.69, 0.95]))
    assert strata.tolist() == [5, 6, 6, 9]
    sure = torch.tensor([[200.0, 0.0], [torch.nan, 0.0]])
    assert confidence_strata(sure).tolist() == [9, -1]
    assert confidence_strata(sure, n_bins=4).tolist() == [3, -1]


@pytest.mark.parametrize("n_bins", [10, 22])
def test_an_accuracy_at_an_edge_is_in_the_upper_bin(n_bins):
    """In float32, 13 / 22 * 22 is less than 13."""
    for k in range(n_bins + 1):
        accuracy = torch.tensor([k / n_bins, 0.0])
        stratum = class_accuracy_strata(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), accuracy, n_bins)
        assert stratum.item() == min(n_bins - 1, k)


def test_class_accuracy_bins_hold_right_answers_of_known_classes_only():
    logits = torch.eye(3)[[0, 1, 2, 0]]
    labels = torch.tensor([0, 1, 2, 2])
    strata = class_accuracy_strata(logits, labels, torch.tensor([0.24, 1.0, torch.nan]))
    assert strata.tolist() == [2, 9, -1, -1]
    with pytest.raises(ValueError, match=r"Expected `class_accuracy` to have shape \(3,\), but got \(2,\)"):
        class_accuracy_strata(logits, labels, torch.ones(2))


def test_bins_are_named_by_their_edges_and_no_two_alike():
    assert bin_names("confidence", 10)[9] == "confidence_0.9_1.0"
    assert bin_names("class_accuracy", 4)[1] == "class_accuracy_0.25_0.50"
    assert len(set(bin_names("confidence", 100))) == 100
    for n_bins in (0, 101):
        with pytest.raises(ValueError, match="Expected `n_bins` to be between 1 and 100"):
            bin_names("confidence", n_bins)
