"""From rows to standings: ranks, ties, strata and bins, by hand."""

from dataclasses import replace

import pytest
import torch

from lit_decom.comparison.cost import peak_bytes
from lit_decom.comparison.measures import Measure
from lit_decom.comparison.store import Rows, Store
from lit_decom.comparison.summary import class_accuracies, costs, standings
from lit_decom.functional.intervals import mean_intervals
from lit_decom.functional.stratified import stratified_mean_intervals
from lit_decom.metrics.strata import StrataRule

HIGHER = Measure("gain", higher_is_better=True, is_share=False)
LOWER = Measure("drop", higher_is_better=False, is_share=False)
SHARE = Measure("increase", higher_is_better=True, is_share=True)
NEITHER = Measure("size", higher_is_better=None, is_share=False)


def rows(values, labels=None, answers=None, confidences=None, start=0):
    """Rows of ``(n, M)`` or ``(n, M, C)`` values."""
    values = values if values.ndim == 3 else values[..., None]
    n, n_methods, n_measures = values.shape
    labels = torch.zeros(n, dtype=torch.long) if labels is None else torch.tensor(labels)
    return replace(
        Rows.of_unlabelled(range(start, start + n), n_methods, n_measures),
        values=values.float(),
        labels=labels,
        answers=labels if answers is None else torch.tensor(answers),
        confidences=torch.ones(n) if confidences is None else torch.tensor(confidences),
    )


def stood(found, measure, rule=StrataRule(), **settings):  # noqa: B008 -- frozen
    names = [f"m{number}" for number in range(found.values.shape[1])]
    return standings(found, names, [measure], rule, **settings)


def noise(n, m, seed=0):
    return torch.randn(n, m, generator=torch.Generator().manual_seed(seed))


def test_ranks_are_those_that_paired_differences_bear_out():
    base = noise(40, 1)
    # The images differ far more than the methods: only pairs tell 0.3 from 0.0.
    values = 3 * base + torch.tensor([0.0, 0.3, 0.3, -0.3]) + 0.05 * noise(40, 4, 1)
    best = [each.rank for each in stood(rows(values), HIGHER) if each.stratum == "all"]
    assert best == [3, 1, 1, 4]
    assert [each.rank for each in stood(rows(values), LOWER) if each.stratum == "all"] == [2, 3, 3, 1]
    assert [each.rank for each in stood(rows(values), NEITHER) if each.stratum == "all"] == 4 * [None]


def test_the_interval_beside_the_first_method_is_that_of_paired_differences():
    values = noise(30, 2).double()
    for measure, sign in ((HIGHER, 1), (LOWER, -1)):
        first, second = stood(rows(values), measure)[:2]
        expected = mean_intervals(sign * (values[:, :1] - values[:, 1:]).float().double())[0].tolist()
        assert first.better_than_first is None
        assert second.better_than_first == pytest.approx((-expected[1], -expected[0]), abs=1e-6)


def test_methods_that_are_alike_share_a_rank_and_differ_by_nothing():
    values = noise(12, 1).expand(12, 2)
    first, second = stood(rows(values), HIGHER)[:2]
    assert (first.rank, second.rank) == (1, 1)
    assert second.better_than_first == (0, 0)


def test_too_few_images_have_no_rank():
    assert [each.rank for each in stood(rows(noise(7, 2)), HIGHER)[:2]] == [None, None]


def test_shares_are_compared_as_shares():
    values = torch.zeros(40, 2)
    values[:30, 1] = 1
    first, second = stood(rows(values), SHARE)[:2]
    assert (first.rank, second.rank) == (2, 1)
    assert second.interval == pytest.approx((0.5981, 0.8581), abs=1e-3), "Wilson's"


def test_what_is_undefined_is_left_out_and_counted():
    values = noise(20, 2)
    values[:5, 0] = torch.nan
    first, second = stood(rows(values), HIGHER)[:2]
    assert (first.n, first.undefined, second.undefined) == (20, 5, 0)
    assert first.value == pytest.approx(float(values[5:, 0].mean()), abs=1e-6)


def test_bins_of_class_accuracy_hold_correct_images_of_such_classes():
    # class 0: 3 of 4 right, class 1: 1 of 2, class 2: 0 of 1
    labels, answers = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 0, 1]
    values = torch.arange(7.0)[:, None]
    found = {each.stratum: each for each in stood(rows(values, labels, answers), HIGHER, StrataRule("class_accuracy"))}
    assert class_accuracies(rows(values, labels, answers)).tolist() == [0.75, 0.5, 0.0]
    assert {name: (each.n, each.value) for name, each in found.items()} == {
        "all": (7, 3.0),
        "class_accuracy_0.5_0.6": (1, 4.0),
        "class_accuracy_0.7_0.8": (3, 1.0),
        "mean_of_bins": (4, 2.5),
    }
    right = stood(rows(values, labels, answers), HIGHER, StrataRule("class_accuracy"), correct_only=True)
    assert (right[0].n, right[0].value) == (4, 1.75)


def test_bins_of_confidence_leave_out_what_has_no_answer():
    found = stood(
        rows(noise(4, 1), answers=[0, 1, -1, 0], confidences=[0.2, 0.9, float("nan"), 0.95]),
        HIGHER,
        StrataRule("confidence", 2),
    )
    assert {each.stratum: each.n for each in found} == {
        "all": 4, "confidence_0.0_0.5": 1, "confidence_0.5_1.0": 2, "mean_of_bins": 3,
    }  # fmt: skip


def test_cost_is_divided_by_the_images_that_were_explained_and_memory_is_the_largest():
    parts = [
        replace(
            rows(noise(n, 2), start=start),
            n_explained=torch.tensor(n),
            seconds=torch.tensor([1.0, 2.0], dtype=torch.float64),
            forwards=torch.tensor([0, 5 * n]),
            peaks=torch.tensor(peaks, dtype=torch.float64),
        )
        for n, start, peaks in ((3, 5, [7.0, 9.0]), (5, 0, [torch.nan, torch.nan]))
    ]
    joined = Rows.joined(parts)
    assert joined.places.tolist() == list(range(8))
    one, other = costs(joined, ["one", "other"])
    assert (one.seconds, one.forwards, one.peak_bytes) == (0.25, 0, 7)
    assert (other.seconds, other.forwards, other.peak_bytes) == (0.5, 5, 9)


def test_a_batch_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.begin({"a": 1})
    store.write(rows(noise(3, 2)))

    def broken(file, **_):
        file.write(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr("lit_decom.comparison.store.np.savez", broken)
    with pytest.raises(OSError, match="full"):
        store.write(rows(noise(3, 2), start=3))
    assert store.places() == {0, 1, 2}
    assert store.read().values.shape == (3, 2, 1)


def test_peak_memory_is_that_of_the_tensors_alive_at_once():
    def work():
        first = torch.ones(1000)
        second = first + 1
        del first
        view = second.view(10, 100)
        third = view * 2
        third.add_(1)
        del second, view, third
        torch.ones(1500)

    assert peak_bytes(work, torch.device("cpu")) == 8000


def test_the_mean_of_bins_has_an_interval_and_ranks_of_its_own():
    # Two bins of confidence, the smaller of which moves the mean as much as the larger one.
    confidences = 12 * [0.3] + 40 * [0.9]
    values = noise(52, 1) + torch.tensor([0.0, 0.5, 0.0]) + 0.1 * noise(52, 3, 1)
    values[:12, 2] += 2
    found = stood(rows(values, confidences=confidences), HIGHER, StrataRule("confidence", n_bins=2))
    everything, macro = ([each for each in found if each.stratum == name] for name in ("all", "mean_of_bins"))
    bins = [values[:12].double(), values[12:].double()]
    assert [each.value for each in macro] == pytest.approx(sum(part.mean(0) for part in bins).div(2).tolist(), abs=1e-6)
    for each, ends in zip(macro, stratified_mean_intervals(bins).tolist(), strict=True):
        assert each.interval == pytest.approx(ends, abs=1e-6)
    better = stratified_mean_intervals([part[:, 1:] - part[:, :1] for part in bins]).tolist()
    assert macro[1].better_than_first == pytest.approx(better[0], abs=1e-6)
    assert macro[2].better_than_first == pytest.approx(better[1], abs=1e-6)
    # The third method's gain in the few images of the first bin counts by half of it, not by twelve of fifty-two.
    assert [each.rank for each in everything] == [3, 1, 1]
    assert [each.rank for each in macro] == [3, 2, 1]
    assert [
        each.rank
        for each in stood(rows(values, confidences=confidences), LOWER, StrataRule("confidence", n_bins=2))
        if each.stratum == "mean_of_bins"
    ] == [1, 2, 3]
