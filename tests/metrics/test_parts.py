import pytest
import torch
from torchmetrics import MetricCollection

from lit_decom.functional.part_identity import fixed_index_average_precision, information_floor, part_information
from lit_decom.functional.parts import match_parts, part_agreement
from lit_decom.metrics import StratifiedWrapper
from lit_decom.metrics.base import SetMetric
from lit_decom.metrics.parts import (
    FixedIndexPartAP,
    PartAveragePrecision,
    PartCoverage,
    PartInformation,
    PartIoU,
    PartPurity,
)
from tests.helpers.metric_tester import (
    Inputs,
    assert_same,
    assert_two_processes_equal_one,
    check_metric,
    cut,
    on_two_processes,
    result,
    singles,
)


def everything(n: int = 9, k: int = 4, seed: int = 0) -> Inputs:
    """Components of which some know a part; image 2 has none at all, and image 4 does not show the first part."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.zeros(n, 3, 12, 16, dtype=torch.bool)
    for i in range(n):
        x, y = torch.randint(0, 6, (2,), generator=generator).tolist()
        for r in range(3):
            parts[i, r, y + r : y + r + 2, x + 2 * r : x + 2 * r + 2] = True
    ossms = torch.rand(n, k, 12, 16, generator=generator) * torch.linspace(0.3, 3, n)[:, None, None, None]
    ossms[:, :3] += parts
    ossms[2] = 0
    parts[4, 0] = False
    valid = torch.ones(n, k, dtype=torch.bool)
    valid[5, 1] = False
    return {"ossms": ossms, "parts": parts, "valid": valid}


METRICS = [
    PartAveragePrecision(),
    PartIoU(),
    FixedIndexPartAP(),
    PartInformation(),
    PartCoverage(min_purity=0.6),
    PartPurity(),
]
OF_SETS = [metric for metric in METRICS if isinstance(metric, SetMetric)]


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_batches_copies_precision_and_processes_do_not_matter(metric):
    expected = check_metric(metric, everything())
    assert 0 < expected < 1
    assert_two_processes_equal_one(metric, everything(), expected)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_an_image_without_components_is_counted_and_nothing_is_silently_zero(metric):
    metric = metric.clone()
    for batch in singles(everything()):
        metric.update(**batch)
    assert metric.n_undefined == 1
    assert metric.values.isnan().nonzero().tolist() == [[2]]
    assert result(metric.clone(), [everything()]).isfinite()
    metric.reset()
    metric.update(**cut(everything(), 2, 3))
    assert metric.compute().isnan()


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_reducing_some_rows_is_scoring_those_images(metric):
    metric = metric.clone()
    metric.update(**everything())
    chosen = [0, 3, 5, 8]
    fresh = metric.clone()
    fresh.reset()
    fresh.update(**{name: value[chosen] for name, value in everything().items()})
    assert_same(metric.reduce(metric.rows[chosen]), fresh.compute())
    assert metric.reduce(metric.rows[:0]).isnan()


def test_the_repr_states_every_convention():
    assert repr(PartCoverage()) == "PartCoverage(min_purity=0.9, purity='balanced')"
    assert repr(FixedIndexPartAP()) == "FixedIndexPartAP(n_levels=256)"
    assert repr(PartInformation()) == "PartInformation(purity='balanced', n_permutations=50)"


def test_one_call_of_a_collection_serves_every_metric():
    collection = MetricCollection({f"metric_{i}": metric.clone() for i, metric in enumerate(METRICS)})
    collection.update(**everything(), logits=torch.rand(9, 3))
    for value, metric in zip(collection.compute().values(), METRICS, strict=True):
        assert_same(value, result(metric, [everything()]))


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_what_metrics_share_is_what_each_finds_for_itself(metric):
    inputs = everything()
    shared = {"agreement": part_agreement(**inputs), "match": match_parts(**inputs)}
    metric, alone = metric.clone(), metric.clone()
    metric.update(**inputs, **{metric.shared: shared[metric.shared]})
    alone.update(**inputs)
    assert torch.equal(metric.rows.nan_to_num(-9), alone.rows.nan_to_num(-9))


# ----- metrics of a set


def test_rows_hold_all_that_the_values_of_a_set_are_made_of():
    inputs = everything()
    defined = [i for i in range(9) if i != 2]
    once = torch.ones(1, 8)
    fixed, bits = FixedIndexPartAP(), PartInformation()
    for batch in singles(inputs):
        fixed.update(**batch)
        bits.update(**batch)
    tables = part_agreement(**inputs).average_precision[defined]
    assert_same(fixed.compute(), fixed_index_average_precision(tables, once)[0])
    parts = match_parts(**inputs).part[defined]
    assert_same(bits.compute(), part_information(parts, once)[0] - information_floor(parts))


@pytest.mark.parametrize("metric", OF_SETS, ids=repr)
def test_images_add_up_to_the_value_where_all_show_all_parts(metric):
    metric = metric.clone()
    metric.update(**cut(everything(), 5))
    assert_same(metric.values.mean(), metric.compute())


@pytest.mark.parametrize("metric", OF_SETS, ids=repr)
def test_every_stratum_is_a_set_of_its_own(metric):
    inputs = everything(12)
    labels = torch.tensor([0, 1] * 6)
    wrapped = StratifiedWrapper(metric.clone(), min_count=0)
    wrapped.update(**inputs, logits=torch.tensor([[1.0, 0.0]]).expand(12, 2), labels=labels)
    found = wrapped.compute()
    for name, rows in (("all", labels >= 0), ("correct", labels == 0), ("incorrect", labels == 1)):
        some = {key: value[rows] for key, value in inputs.items()}
        assert_same(found[name], result(metric, [some]))
    if isinstance(
        metric, FixedIndexPartAP
    ):  # each chooses its own indices, so none is worse off than with those of all
        assert found["correct"] + found["incorrect"] >= 2 * found["all"] - 0.02


@pytest.mark.parametrize("metric", OF_SETS, ids=repr)
def test_an_interval_holds_the_value_and_narrows_with_more_images(metric):
    few, many = metric.clone(), metric.clone()
    few.update(**everything(16))
    many.update(**everything(128))
    widths = []
    for each in (few, many):
        low, high = each.interval(each.rows).tolist()
        assert low < each.compute().item() < high
        widths.append(high - low)
    assert widths[1] < 0.8 * widths[0], "eight times the images"
    shuffled = many.rows[torch.randperm(128, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(many.interval(shuffled), many.interval(many.rows), rtol=0, atol=1e-6)
    assert few.interval(few.rows[:5]).isnan().all(), "too few images"


def test_of_two_explanations_the_same_images_tell_which_is_better():
    metric, worse = FixedIndexPartAP(), FixedIndexPartAP()
    inputs = everything(40)
    metric.update(**inputs)
    order = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(i)) for i in range(40)])
    turned = inputs["ossms"][torch.arange(40)[:, None], order]
    worse.update(ossms=turned[:, :3], parts=inputs["parts"])
    low, high = metric.difference_interval(metric.rows, worse.rows).tolist()
    assert 0 < low < (metric.compute() - worse.compute()).item() < high
    back = metric.difference_interval(worse.rows, metric.rows)
    assert back[0] < back[1] < 0
    assert metric.difference_interval(metric.rows, metric.rows).isnan().all(), "no spread at all"


def test_a_process_without_images_learns_the_width_of_a_row():
    metric = FixedIndexPartAP()
    for answers in on_two_processes(metric, ([], [everything()]), "gather"):
        assert answers["gather"].shape == (9, 1 + 4 * 3)
    assert metric.width == 0
    assert metric.rows.shape == (0, 1)
    metric.update(**everything())
    assert metric.width == 13
    with pytest.raises(ValueError, match=r"to have shape \(B, 13\), but got \(9, 10\)"):
        metric.update(**everything(k=3))
    metric.reset()
    metric.update(**everything(k=3))
    assert metric.width == 10


def test_coverage_on_paper():
    parts = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    parts[0, 0, 0, 0] = parts[0, 1, 2:, 2:] = True
    ossms = torch.zeros(1, 2, 4, 4)
    ossms[0, 0, 0, 0] = 1.0
    ossms[0, 1] = 1.0
    metric = PartCoverage()
    metric.update(ossms=ossms, parts=parts)
    assert metric.compute() == 0.5
    metric.update(ossms=ossms, parts=parts, valid=torch.tensor([[False, True]]))
    assert metric.values.tolist() == [0.5, 0]


def test_an_image_whose_components_all_lie_on_the_first_part_counts():
    parts = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    parts[:, 0, :2], parts[:, 1, 2:] = True, True
    ossms = parts[:, :1].float().expand(-1, 3, -1, -1)
    metric = PartInformation()
    metric.update(ossms=ossms, parts=parts)
    assert metric.n_undefined == 0


@pytest.mark.parametrize("metric", OF_SETS, ids=repr)
def test_the_interval_of_a_set_has_the_level_that_was_asked_for(metric):
    metric = metric.clone()
    metric.update(**everything())
    rows = metric.rows
    wide, narrow = (metric.interval(rows, level).diff().item() for level in (0.95, 0.5))
    assert 0 < narrow < 0.7 * wide
