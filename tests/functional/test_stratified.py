"""Intervals of a mean over strata: by hand, beside SciPy, and by how often they cover."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lit_decom.functional.stratified import stratified_mean_intervals


def noise(n, m=3, seed=0):
    return torch.randn(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_interval(strata, level):
    """From the book, score by score."""
    strata = [stratum[~stratum.isnan()] for stratum in strata]
    parts = [float(stratum.var()) / len(stratum) / len(strata) ** 2 for stratum in strata]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(stratum) - 1) for part, stratum in zip(parts, strata, strict=True))
    centre = sum(float(stratum.mean()) for stratum in strata) / len(strata)
    half = stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(sum(parts))
    return centre - half, centre + half


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_an_interval_is_that_of_the_book(level):
    strata = [noise(8), 3 * noise(30, seed=1) + 1, noise(12, seed=2)]
    strata[1][4:9, 1] = torch.nan
    found = stratified_mean_intervals(strata, level)
    for column in range(3):
        expected = slow_interval([stratum[:, column] for stratum in strata], level)
        assert found[column].tolist() == pytest.approx(expected, rel=1e-9)


def test_one_stratum_is_students_interval():
    values = noise(20, 1)
    expected = stats.ttest_1samp(values[:, 0].numpy(), 0).confidence_interval(0.95)
    assert stratified_mean_intervals([values])[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_strata_in_which_a_score_is_undefined_are_left_out():
    strata = [noise(10), noise(12, seed=1), noise(9, seed=2)]
    strata[1][:, 2] = torch.nan
    found = stratified_mean_intervals(strata)
    assert found[2].equal(stratified_mean_intervals([strata[0], strata[2]])[2])
    assert not found[0].equal(stratified_mean_intervals([strata[0], strata[2]])[0])


def test_too_few_images_in_any_stratum_do_not_tell():
    strata = [noise(8), noise(30, seed=1)]
    strata[0][0, 1] = torch.nan
    assert stratified_mean_intervals(strata).isnan().any(dim=1).tolist() == [False, True, False]


def test_values_without_spread_do_not_tell():
    equal = torch.full((9, 1), 0.1)
    assert stratified_mean_intervals([equal, equal + 1]).isnan().all()
    assert stratified_mean_intervals([equal, noise(9, 1).float()]).isfinite().all()
    assert stratified_mean_intervals([torch.full((9, 1), torch.nan)]).isnan().all()


@pytest.mark.parametrize("sizes", [[8] * 10, [8, 40, 100]])
def test_a_mean_over_strata_is_covered_as_often_as_the_level_says(sizes):
    rng = np.random.default_rng(0)
    for draw, least in ((rng.standard_normal, 0.935), (rng.random, 0.935), (rng.exponential, 0.895)):
        strata = [torch.from_numpy(draw(size=(n, 4000))) for n in sizes]
        low, high = stratified_mean_intervals(strata).T
        truth = {rng.standard_normal: 0.0, rng.random: 0.5, rng.exponential: 1.0}[draw]
        assert least <= float(((low <= truth) & (truth <= high)).double().mean()) <= 0.97


def test_what_is_no_strata_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        stratified_mean_intervals([])
    with pytest.raises(ValueError, match=r"shape \(n, m\)"):
        stratified_mean_intervals([torch.ones(3)])
    with pytest.raises(ValueError, match="`level`"):
        stratified_mean_intervals([noise(9)], 1.0)
