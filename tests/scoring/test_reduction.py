"""From rows to scores: every number against the definition, written slowly."""

import pytest
import torch

from lit_decom import keys
from lit_decom.functional.intervals import (
    MIN_IMAGES,
    difference_intervals,
    mean_intervals,
)
from lit_decom.functional.shares import paired_share_intervals, share_difference_intervals, share_intervals
from lit_decom.metrics import (
    AverageDrop,
    EnergyPointingGame,
    Gini,
    PixelAveragePrecision,
    PointingGame,
    TopComponentShare,
)
from lit_decom.scores import RowTable
from lit_decom.scoring.reduction import reduced

N = 40
RIGHT, WRONG = torch.arange(0, 24), torch.arange(24, N)
STRATA = {"all": torch.arange(N), "correct": RIGHT, "incorrect": WRONG}


def rows(seed, width=1):
    return torch.rand(N, width, generator=torch.Generator().manual_seed(seed))


def hits(seed, share=0.5):
    return (rows(seed) < share).float()


def table(columns):
    codes = torch.zeros(N, dtype=torch.long)
    codes[WRONG] = 1
    return RowTable(tuple(map(str, range(N))), codes, columns, ("correct", "incorrect"))


def scores(metrics, columns, strata=None, **options):
    found = reduced(table(columns), metrics, STRATA if strata is None else strata, **options)
    return {score.key: score for score in found}


def test_values_and_counts_are_those_of_the_stratum():
    own = rows(0)
    own[[0, 30]] = torch.nan
    found = scores({"energy": EnergyPointingGame()}, {("energy", ""): own})
    for stratum, index in STRATA.items():
        score = found[f"energy/{stratum}"]
        assert score.value == pytest.approx(float(own[index].nanmean()))
        assert score.n == len(index)
        assert score.undefined == int(own[index].isnan().sum())
    gap = found["energy/gap"]
    assert gap.value == pytest.approx(float(own[RIGHT].nanmean() - own[WRONG].nanmean()))
    assert (gap.n, gap.undefined) == (N, 2)


@pytest.mark.parametrize(("metric", "sign"), [(EnergyPointingGame(), 1), (AverageDrop(), -1)])
def test_a_paired_difference_is_above_zero_where_the_method_is_better(metric, sign):
    better, worse = rows(0) * 0.2 + 0.5 + 0.2 * sign, rows(1) * 0.2 + 0.5 - 0.2 * sign
    found = scores({"m": metric}, {("m", ""): better, ("m", "grad_cam"): worse})
    for stratum, index in STRATA.items():
        score = found[f"m/{stratum}/grad_cam"]
        expected = mean_intervals(sign * (better - worse)[index])[0]
        assert score.paired_difference == pytest.approx(tuple(expected.tolist()))
        assert score.is_beaten
        assert found[f"m/{stratum}"].paired_difference is None, "nothing is compared with itself"
    turned = scores({"m": metric}, {("m", ""): worse, ("m", "grad_cam"): better})
    assert not any(turned[f"m/{stratum}/grad_cam"].is_beaten for stratum in STRATA)


def test_the_gap_has_the_interval_of_two_samples():
    own, other = rows(0), rows(1)
    found = scores({"m": EnergyPointingGame()}, {("m", ""): own, ("m", "random_map"): other})
    expected = difference_intervals(own[RIGHT], own[WRONG])[0]
    assert found["m/gap"].interval == pytest.approx(tuple(expected.tolist()))
    better = own - other
    expected = difference_intervals(better[RIGHT], better[WRONG])[0]
    assert found["m/gap/random_map"].paired_difference == pytest.approx(tuple(expected.tolist()))
    assert found["m/gap"].higher_is_better is None


def test_shares_have_the_intervals_of_shares():
    own, other = hits(0, 0.7), hits(1, 0.4)
    found = scores({"m": PointingGame()}, {("m", ""): own, ("m", "random_map"): other})
    assert found["m/all"].interval == pytest.approx(tuple(share_intervals(own)[0].tolist()))
    expected = paired_share_intervals(own, other)[0]
    assert found["m/all/random_map"].paired_difference == pytest.approx(tuple(expected.tolist()))
    expected = share_difference_intervals(own[RIGHT], own[WRONG])[0]
    assert found["m/gap"].interval == pytest.approx(tuple(expected.tolist()))


def test_where_every_image_is_a_hit_and_no_other_one_the_method_is_better():
    found = scores({"m": PointingGame()}, {("m", ""): torch.ones(N, 1), ("m", "random_map"): torch.zeros(N, 1)})
    assert found["m/all/random_map"].is_beaten


def test_a_tie_is_no_win():
    own = rows(0)
    tie = scores({"m": EnergyPointingGame()}, {("m", ""): own, ("m", "grad_cam"): own + 1e-8})["m/all/grad_cam"]
    assert tie.paired_difference == (0.0, 0.0)
    assert tie.is_beaten is False


def test_too_few_images_have_a_value_and_no_interval():
    few = torch.arange(MIN_IMAGES - 1)
    found = scores(
        {"m": EnergyPointingGame()},
        {("m", ""): rows(0), ("m", "grad_cam"): rows(1)},
        {"all": STRATA["all"], "few": few},
    )
    assert found["m/few"].is_defined
    assert found["m/few"].interval is None
    assert found["m/few/grad_cam"].paired_difference is None
    assert found["m/few/grad_cam"].is_beaten is None


def test_a_metric_without_direction_is_never_beaten():
    found = scores({"m": TopComponentShare()}, {("m", ""): rows(0), ("m", "grad_cam"): rows(1)})
    assert found["m/all/grad_cam"].is_beaten is None
    assert found["m/all/grad_cam"].interval is not None


def test_a_value_of_a_whole_set_is_reduced_from_its_rows_and_not_averaged():
    metric = PixelAveragePrecision(n_thresholds=5)
    metric.update(torch.rand(N, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(N, 4, 4).bool().triu())
    found = scores({"m": metric}, {("m", ""): metric.rows}, intervals=False)
    assert found["m/correct"].value == pytest.approx(float(metric.reduce(metric.rows[RIGHT])))
    assert found["m/all"].interval is None, "none was asked for"


def test_the_direction_and_whether_it_is_always_there_are_those_of_the_metric():
    found = scores({"mine": EnergyPointingGame(), "gini": Gini(), "drop": AverageDrop()}, {
        ("mine", ""): rows(0), ("gini", ""): rows(1), ("drop", ""): rows(2)
    })  # fmt: skip
    assert [found[f"{name}/all"].higher_is_better for name in ("mine", "gini", "drop")] == [True, True, False]
    assert found["mine/all"].always_there
    assert not found["mine/correct"].always_there


def test_scores_come_by_explanation_metric_and_stratum():
    metrics = {"a": EnergyPointingGame(), "b": Gini()}
    columns = {(name, by): rows(0) for by in ("", "grad_cam") for name in metrics}
    order = [(score.explanation, score.metric, score.stratum) for score in reduced(table(columns), metrics, STRATA)]
    places = [*STRATA, keys.GAP]
    assert order == [(by, name, place) for by in ("", "grad_cam") for name in metrics for place in places]
