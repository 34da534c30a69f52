import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lit_decom.functional.bca import statistic_interval, weighted_interval
from lit_decom.functional.intervals import (
    MIN_IMAGES,
    MOST_DRAWN,
    difference_intervals,
    draws,
    mean_intervals,
)
from lit_decom.functional.shares import paired_share_intervals, share_difference_intervals, share_intervals

SAMPLES = {
    "normal": (lambda rng, size: rng.standard_normal(size), 0.0),
    "uniform": (lambda rng, size: rng.random(size), 0.5),
    "u-shaped": (lambda rng, size: rng.beta(0.5, 0.5, size), 0.5),
    "exponential": (lambda rng, size: rng.exponential(1.0, size), 1.0),
    "lognormal": (lambda rng, size: rng.lognormal(0.0, 0.5, size), math.exp(0.125)),
}
N_SETS = 4000
# Below .93 by three standard errors of a share of .93 in so many sets.
COVERS = 0.93 - 3 * math.sqrt(0.93 * 0.07 / N_SETS)


def sample(kind: str, n: int, seed: int = 0) -> tuple[Tensor, float]:
    """Draw many data sets of n images, one per column, and say what their true mean is."""
    draw, mean = SAMPLES[kind]
    return torch.from_numpy(draw(np.random.default_rng(seed), (n, N_SETS))), mean


def coverage(intervals: Tensor, truth: float) -> float:
    return float(((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).double().mean())


def percentile_intervals(values: Tensor, n_resamples: int = 1000) -> Tensor:
    """What everybody takes, and what is too narrow."""
    drawn = torch.randint(len(values), (n_resamples, len(values)), generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(n_resamples, len(values), dtype=values.dtype)
    counts.scatter_add_(1, drawn, torch.ones_like(counts))
    return torch.from_numpy(np.quantile((counts @ values / len(values)).numpy(), [0.025, 0.975], axis=0)).T


def slow_mean_interval(values: Tensor, counts: Tensor, level: float) -> tuple[float, float]:
    """Studentise draw by draw, as the book has it."""
    values = values.sort().values
    n = len(values)
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(n)
    t = []
    for row in counts:
        drawn = values.repeat_interleave(row.round().long())
        spread = float(drawn.std()) / math.sqrt(n)
        away = float(drawn.mean()) - mean
        t.append(away / spread if spread > 1e-9 else math.copysign(math.inf, away) if abs(away) > 1e-9 else 0.0)
    t = sorted(t)
    rank = math.floor((len(t) + 1) * (1 - level) / 2 + 1e-9)
    return mean - t[len(t) - rank] * error, mean - t[rank - 1] * error


def slow_difference_interval(first: Tensor, second: Tensor, counts: list[Tensor], level: float) -> tuple[float, float]:
    """The same of two samples, with the standard error of Welch."""
    samples = [first.sort().values, second.sort().values]

    def away(parts: list[Tensor]) -> tuple[float, float]:
        return float(parts[0].mean() - parts[1].mean()), math.sqrt(sum(float(part.var()) / len(part) for part in parts))

    difference, error = away(samples)
    t = []
    for rows in zip(*counts, strict=True):
        drawn = [sample.repeat_interleave(row.round().long()) for sample, row in zip(samples, rows, strict=True)]
        other, spread = away(drawn)
        t.append((other - difference) / spread)
    t = sorted(t)
    rank = math.floor((len(t) + 1) * (1 - level) / 2 + 1e-9)
    return difference - t[len(t) - rank] * error, difference - t[rank - 1] * error


# --- coverage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "exponential"])
def test_a_mean_of_few_images_is_covered_and_the_percentile_bootstrap_fails_the_same_test(kind):
    values, mean = sample(kind, 10)
    assert coverage(mean_intervals(values), mean) >= COVERS
    assert coverage(percentile_intervals(values), mean) < COVERS


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("n", [MIN_IMAGES, 10, 20, 33, 64])
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_mean_is_covered_as_often_as_the_level_says(kind, n, seed):
    values, mean = sample(kind, n, seed)
    # at most .99: an interval that always covers says nothing
    assert COVERS <= coverage(mean_intervals(values, seed=seed), mean) <= 0.99
    width = mean_intervals(values, seed=seed).diff(dim=1).median()
    assert width < 2 * (percentile_intervals(values).diff(dim=1).median())


@pytest.mark.slow
@pytest.mark.parametrize("n", [MIN_IMAGES, 10])
@pytest.mark.parametrize("kind", SAMPLES)
def test_the_percentile_bootstrap_does_not_cover(kind, n):
    values, mean = sample(kind, n)
    assert coverage(percentile_intervals(values), mean) < COVERS


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 20, 33, 64])
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_difference_of_independent_means_is_covered(kind, n):
    first, mean = sample(kind, n)
    second, other = sample("normal", 2 * n, seed=1)
    assert 0.92 <= coverage(difference_intervals(first, second), mean - other) <= 0.99
    assert 0.92 <= coverage(difference_intervals(second, first), other - mean) <= 0.99


def exact_coverage(share: float, n: int) -> float:
    counts = torch.arange(n + 1)
    ends = share_intervals((torch.arange(n)[:, None] < counts).double())
    hits = (ends[:, 0] <= share) & (share <= ends[:, 1])
    return float((hits * torch.from_numpy(stats.binom.pmf(counts.numpy(), n, share))).sum())


@pytest.mark.parametrize("n", [10, 20, 33, 64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_is_covered_as_often_as_the_level_says(share, n):
    # no simulation: the probability of every count is known; shares jump, .9298 with 10 images and a share of .1
    assert 0.929 <= exact_coverage(share, n) <= 0.99


@pytest.mark.parametrize("n", [10, 33])
@pytest.mark.parametrize(("share", "other"), [(0.1, 0.1), (0.5, 0.5), (0.9, 0.5), (0.1, 0.9), (0.95, 0.8)])
def test_a_difference_of_shares_is_covered(share, other, n):
    counts = torch.arange(n + 1)
    table = (torch.arange(n)[:, None] < counts).double()
    pairs = torch.cartesian_prod(counts, counts)
    ends = share_difference_intervals(table[:, pairs[:, 0]], table[:, pairs[:, 1]])
    chances = stats.binom.pmf(pairs[:, 0].numpy(), n, share) * stats.binom.pmf(pairs[:, 1].numpy(), n, other)
    hits = (ends[:, 0] <= share - other) & (share - other <= ends[:, 1])
    assert 0.929 <= float((hits * torch.from_numpy(chances)).sum()) <= 0.996


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize(
    "cells", [(0.3, 0.2, 0.2, 0.3), (0.6, 0.3, 0.05, 0.05), (0.1, 0.1, 0.1, 0.7), (0.5, 0.0, 0.3, 0.2)]
)
def test_a_difference_of_shares_of_the_same_images_is_covered(cells, n):
    """``cells`` are the probabilities of an image that both, the first alone, the second alone or none is right on."""
    counts = torch.tensor(
        [(a, b, c, n - a - b - c) for a in range(n + 1) for b in range(n + 1 - a) for c in range(n + 1 - a - b)]
    )
    ends_of_cells, images = counts.cumsum(dim=1).T, torch.arange(n)[:, None]
    first = images < ends_of_cells[1]
    second = (images < ends_of_cells[0]) | ((images >= ends_of_cells[1]) & (images < ends_of_cells[2]))
    ends = paired_share_intervals(first.double(), second.double())
    hits = (ends[:, 0] <= cells[1] - cells[2] + 1e-12) & (cells[1] - cells[2] - 1e-12 <= ends[:, 1])
    chances = stats.multinomial.pmf(counts.numpy(), n, cells)
    assert 0.929 <= float((hits * torch.from_numpy(chances)).sum()) <= 0.999


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_mean_is_that_of_the_slow_definition(level):
    values = torch.rand(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[:, 1] = 1e6 + values[:, 1]
    values[:7, 2] = 0.25  # many draws are of these alone
    counts = draws(12, 200, 5) * 12
    assert counts.sum(1).eq(12).all()
    assert counts.sum(0).eq(200).all()  # balanced
    found = mean_intervals(values, level, n_resamples=200, seed=5)
    for column in range(3):
        # the moments lose what the slow two-pass spread keeps: 1e-16 times the magnitude over the spread, 1e6 in one
        assert found[column].tolist() == pytest.approx(slow_mean_interval(values[:, column], counts, level), rel=1e-9)


def test_the_interval_of_a_difference_is_that_of_the_slow_definition():
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(8, 2, dtype=torch.float64, generator=generator)
    second = 3 * torch.rand(31, 2, dtype=torch.float64, generator=generator)
    counts = [draws(n, 200, 2 * 5 + part) * n for part, n in enumerate((8, 31))]
    found = difference_intervals(first, second, 0.9, n_resamples=200, seed=5)
    for column in range(2):
        expected = slow_difference_interval(first[:, column], second[:, column], counts, 0.9)
        assert found[column].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "interval", [mean_intervals, lambda values, **options: difference_intervals(values, -values, **options)]
)
def test_a_thousand_draws_of_seed_0_are_the_default(interval):
    values = torch.rand(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interval(values), interval(values, level=0.95, n_resamples=1000, seed=0))
    assert not torch.equal(interval(values), interval(values, n_resamples=1001))


def test_the_interval_of_a_mean_is_the_normal_one_for_many_images():
    values = torch.rand(400, 1, generator=torch.Generator().manual_seed(0))
    low, high = mean_intervals(values, 0.9, n_resamples=4000)[0]
    half_width = 1.645 * values.std().item() / math.sqrt(400)
    # 5 %: the chance of 4000 draws in the tails
    assert high - values.mean() == pytest.approx(half_width, rel=0.05)
    assert values.mean() - low == pytest.approx(half_width, rel=0.05)


def test_the_interval_of_a_difference_is_welchs_for_many_images():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(400, 2, generator=generator) + 3, 2 * torch.randn(100, 2, generator=generator)
    found = difference_intervals(first, second, n_resamples=4000)
    for column in range(2):
        expected = stats.ttest_ind(first[:, column].numpy(), second[:, column].numpy(), equal_var=False)
        low, high = map(float, expected.confidence_interval(0.95))
        # 6 % of the half width: the chance of 4000 draws in the tails
        assert found[column].tolist() == pytest.approx([low, high], abs=0.06 * (high - low) / 2)


def test_a_skewed_score_has_its_longer_side_where_its_tail_is():
    values, _ = sample("exponential", 20)
    low, high = mean_intervals(values).T
    longer = (high - values.mean(0)) / (values.mean(0) - low)
    assert longer.median() > 1.3


def test_the_share_of_ones_has_scipys_wilson_interval():
    counts = [0, 1, 5, 9, 10, 17, 20]
    values = (torch.arange(20)[:, None] < torch.tensor(counts)).double()
    values = torch.cat([values, torch.full((3, len(counts)), torch.nan, dtype=torch.float64)])
    for level in (0.5, 0.95):
        expected = [list(stats.binomtest(k, 20).proportion_ci(level, method="wilson")) for k in counts]
        # rounding of a sum of numbers below 1
        assert torch.allclose(share_intervals(values, level), torch.tensor(expected, dtype=torch.float64), atol=1e-14)


def test_the_difference_of_shares_is_that_of_the_published_example():
    # Newcombe (1998), table II, 56/70 - 48/80 by method 10 without continuity correction
    first, second = (torch.arange(70) < 56).float()[:, None], (torch.arange(80) < 48).float()[:, None]
    assert share_difference_intervals(first, second)[0].tolist() == pytest.approx([0.0524, 0.3339], abs=5e-5)


def test_the_paired_difference_of_shares_is_that_of_the_published_example():
    # Newcombe (1998, paired data), method 10: 36 both, 12 the first alone, 2 the second alone, none neither
    first, second = torch.arange(50) < 48, (torch.arange(50) < 36) | (torch.arange(50) >= 48)
    found = paired_share_intervals(first.float()[:, None], second.float()[:, None])
    assert found[0].tolist() == pytest.approx([0.0569, 0.3404], abs=5e-5)


def test_a_statistic_has_scipys_bca_interval():
    rows = torch.rand(15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).sort(0).values

    def ratio(first: np.ndarray, second: np.ndarray) -> float:
        return first.sum() / second.sum()

    expected = stats.bootstrap(
        tuple(rows.T.numpy()),
        ratio,
        paired=True,
        vectorized=False,
        n_resamples=500,
        confidence_level=0.9,
        random_state=np.random.default_rng(3),
    ).confidence_interval
    found = statistic_interval(rows, lambda r: r[:, 0].sum() / r[:, 1].sum(), 0.9, n_resamples=500, seed=3)
    assert found.tolist() == pytest.approx(list(expected), rel=1e-9)  # rounding of a ratio of sums


def ratio_of(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """The ratio of the sums of two columns, for many draws at once."""
    return lambda times: times @ rows[:, 0].to(times) / (times @ rows[:, 1].to(times))


def test_a_statistic_of_many_draws_has_the_bca_interval_of_these_draws():
    """Efron and Tibshirani (1993), equations 14.9 to 14.15, for the balanced draws of the means."""
    rows = torch.rand(15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).sort(0).values
    statistic, times = ratio_of(rows), (draws(15, 1000, 0) * 15)
    assert (times.sum(dim=1) - 15).abs().max() < 1e-9, "as many images as there are"
    drawn, value = statistic(times).numpy(), (rows[:, 0].sum() / rows[:, 1].sum()).item()
    left_out = np.array([np.delete(rows.numpy(), i, axis=0).sum(axis=0) for i in range(15)])
    jackknife = left_out[:, 0] / left_out[:, 1]
    away = jackknife.mean() - jackknife
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    bias = stats.norm.ppf((drawn < value).mean())
    tails = [bias + stats.norm.ppf(tail) for tail in (0.025, 0.975)]
    expected = np.quantile(drawn, [stats.norm.cdf(bias + z / (1 - acceleration * z)) for z in tails])
    assert weighted_interval(rows, ratio_of).tolist() == pytest.approx(list(expected), rel=1e-6)
    slow = statistic_interval(rows, lambda r: r[:, 0].sum() / r[:, 1].sum(), n_resamples=4000)
    # two bootstraps of 1000 and 4000 draws: a tenth of the width
    width = float(slow[1] - slow[0])
    assert weighted_interval(rows, ratio_of).tolist() == pytest.approx(slow.tolist(), abs=width / 10)


def test_a_statistic_of_many_draws_leaves_out_what_is_undefined_and_needs_no_order():
    rows = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    rows[3, 0] = rows[11, 0] = torch.nan
    found = weighted_interval(rows, ratio_of)
    assert torch.equal(found, weighted_interval(rows[~rows[:, 0].isnan()], ratio_of))
    shuffled = rows[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(found, weighted_interval(shuffled, ratio_of))
    assert weighted_interval(rows[: MIN_IMAGES - 1], ratio_of).isnan().all()
    assert weighted_interval(torch.ones(20, 2), ratio_of).isnan().all(), "no spread"


def test_draws_that_give_the_value_itself_count_half_on_either_side():
    """So that a statistic with many ties has an interval which turns round with it."""
    rows = (torch.arange(30.0) < 21)[:, None].float()
    share = lambda found: lambda times: times @ found[:, 0].double() / times.sum(dim=1)  # noqa: E731
    low, high = weighted_interval(rows, share).tolist()
    assert weighted_interval(1 - rows, share).tolist() == pytest.approx([1 - high, 1 - low], abs=0.02)


# --- what is left out, and what is not known --------------------------------------------------------------------------

FUNCTIONS = {
    "mean": mean_intervals,
    "difference": lambda values, **settings: difference_intervals(values, values.flip(1) + 0.5, **settings),
    "statistic": lambda values, **settings: torch.stack(
        [statistic_interval(column[:, None], lambda rows: rows.var(), **settings) for column in values.T]
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_undefined_images_are_left_out_of_their_column_alone(name):
    values = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    values[[3, 7], 0] = torch.nan
    values[:11, 1] = torch.nan
    found = FUNCTIONS[name](values)
    assert found.isfinite().all()
    alone = mean_intervals if name == "mean" else FUNCTIONS["statistic"]
    if name != "difference":
        assert torch.equal(found[:1], alone(values[~values[:, 0].isnan()][:, :1]))
        assert torch.equal(found[1:2], alone(values[11:, 1:2]))
    else:
        assert torch.equal(found[:1], difference_intervals(values[~values[:, 0].isnan()][:, :1], values[:, 2:] + 0.5))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_interval_depends_on_the_seed_but_not_on_the_order_of_the_images(name):
    values = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    values[:15, 0] = 0.5  # ties
    values[20:, 1] = torch.nan
    shuffled = values[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    found = FUNCTIONS[name](values)
    assert torch.equal(found, FUNCTIONS[name](shuffled))
    assert not torch.equal(found, FUNCTIONS[name](values, seed=1))


def test_rows_of_ties_are_put_in_order_by_all_their_columns():
    rows = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    rows[:12, 0] = 0.5
    shuffled = rows[torch.randperm(20, generator=torch.Generator().manual_seed(1))]

    def product(drawn: Tensor) -> Tensor:
        return (drawn[:, 0] * drawn[:, 1]).mean()

    # the sum of the drawn rows is rounded in one order or the other
    torch.testing.assert_close(statistic_interval(rows, product), statistic_interval(shuffled, product))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_too_few_images_have_no_interval(name):
    values = torch.rand(MIN_IMAGES, 2, generator=torch.Generator().manual_seed(0))
    assert FUNCTIONS[name](values).isfinite().all()
    assert FUNCTIONS[name](values[1:]).isnan().all()
    assert FUNCTIONS[name](values[:0]).isnan().all()


def test_too_few_images_have_no_share():
    ones = torch.ones(MIN_IMAGES, 1)
    assert share_intervals(ones).isfinite().all()
    assert share_intervals(ones[1:]).isnan().all()
    assert share_intervals(ones[:0]).isnan().all()
    assert share_difference_intervals(ones, ones).isfinite().all()
    assert share_difference_intervals(ones, ones[1:]).isnan().all()
    assert share_difference_intervals(ones[1:], ones).isnan().all()


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e30])
def test_equal_values_tell_nothing_of_their_spread(constant):
    values = torch.rand(11, 2, generator=torch.Generator().manual_seed(0))
    values[:, 0] = constant  # the mean of 11 times .1 is rounded
    found = mean_intervals(values)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()
    assert difference_intervals(values, values.flip(1)).isnan().all()
    assert statistic_interval(values[:, :1], lambda rows: rows.mean()).isnan().all()


def test_a_score_that_hardly_ever_differs_has_an_unknown_end():
    values = torch.zeros(33, 2)
    values[:2, 0] = 1.0  # a draw in eight has none of these
    values[:9, 1] = 1.0
    found = mean_intervals(values)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("broken", [math.inf, -math.inf])
@pytest.mark.parametrize("name", ["mean", "difference"])
def test_an_infinite_value_spoils_its_own_column_alone(name, broken):
    values = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    values[4, 1] = broken
    assert FUNCTIONS[name](values).isfinite().all(1).tolist() == [True, False, True]


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_a_score_of_any_size_keeps_its_interval(scale):
    values = torch.rand(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # rounding of a product
    torch.testing.assert_close(mean_intervals(values * scale) / scale, mean_intervals(values), rtol=1e-12, atol=0)
    found = difference_intervals(values * scale, (values**2) * scale) / scale
    torch.testing.assert_close(found, difference_intervals(values, values**2), rtol=1e-12, atol=0)


def test_draws_without_an_answer_are_left_out_unless_they_are_many():
    rows = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))

    def of_class(drawn: Tensor) -> Tensor:
        return drawn[drawn[:, 1] > 0.5, 0].mean()  # NaN where the class is not drawn

    rows[:, 1] = (torch.arange(12) < 4).float()  # one draw in 130 is without it
    assert statistic_interval(rows, of_class).isfinite().all()
    rows[:, 1] = (torch.arange(12) < 2).float()  # one in nine
    assert statistic_interval(rows, of_class).isnan().all()
    assert statistic_interval(rows, lambda drawn: drawn.new_tensor(torch.nan)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_interval_has_the_type_of_the_scores(dtype):
    values = torch.rand(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name, function in FUNCTIONS.items():
        assert function(values.to(dtype)).dtype == dtype, name
        # half of the digits of float32, which is all that rounding the scores takes
        torch.testing.assert_close(function(values.to(dtype)).double(), function(values), rtol=1e-4, atol=1e-6)
    assert share_intervals(torch.ones(10, 1, dtype=dtype)).dtype == dtype
    assert share_intervals(torch.ones(10, 1, dtype=torch.bool)).dtype == torch.float32


def test_no_columns_have_no_intervals():
    assert mean_intervals(torch.ones(10, 0)).shape == (0, 2)
    assert difference_intervals(torch.ones(10, 0), torch.ones(9, 0)).shape == (0, 2)
    assert share_intervals(torch.ones(10, 0)).shape == (0, 2)


def test_the_global_random_state_is_left_alone():
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 -- it is under test
    for function in FUNCTIONS.values():
        function(torch.rand(11, 2, generator=torch.Generator().manual_seed(0)), seed=17)
    assert torch.equal(before, torch.get_rng_state())
    assert (before_numpy == np.random.get_state()[1]).all()  # noqa: NPY002


def test_intervals_made_under_inference_mode_serve_outside():
    with torch.inference_mode():
        first = mean_intervals(torch.rand(13, 1, generator=torch.Generator().manual_seed(0)), n_resamples=77)
    values = torch.rand(13, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.equal(first, mean_intervals(values, n_resamples=77))


def test_settings_out_of_range_are_refused():
    values = torch.rand(10, 1)
    for name, function in (*FUNCTIONS.items(), ("share", share_intervals)):
        with pytest.raises(ValueError, match="Expected `level` to be between 0 and 1, but got 95"):
            function(torch.ones(10, 1), level=95), name
    for function in FUNCTIONS.values():
        with pytest.raises(ValueError, match=r"`n_resamples` to be at least 39 for a level of 0.95, but got 38"):
            function(values, n_resamples=38)
        assert function(values, n_resamples=39).isfinite().all()
    flat, ones = values[:, 0], torch.ones(10, 1)
    for name, call in {
        "values": lambda: mean_intervals(flat),
        "first": lambda: difference_intervals(flat, values),
        "second": lambda: difference_intervals(values, flat),
        "rows": lambda: statistic_interval(flat, lambda rows: rows.mean()),
    }.items():
        with pytest.raises(ValueError, match=rf"Expected `{name}` to have shape \(n, m\), but got \(10,\)"):
            call()
    for name, call in {
        "values": share_intervals,
        "first": lambda shares: share_difference_intervals(shares, ones),
        "second": lambda shares: share_difference_intervals(ones, shares),
    }.items():
        with pytest.raises(ValueError, match=rf"Expected `{name}` to have shape"):
            call(flat)
        # a single value that is none, and a column of them
        with pytest.raises(ValueError, match=f"Expected `{name}` to be of values 0, 1 or NaN, but got 0.5"):
            call(torch.tensor([[0.5]] + [[1.0]] * (len(ones) - 1)))
        with pytest.raises(ValueError, match=f"Expected `{name}` to be of values 0, 1 or NaN, but got 0.5"):
            call(values.clamp(0.5, 0.5))
    with pytest.raises(ValueError, match="same number of columns, but got 1 and 2"):
        share_difference_intervals(ones, torch.ones(10, 2))
    with pytest.raises(ValueError, match="same number of columns, but got 1 and 2"):
        difference_intervals(values, torch.ones(10, 2))


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_interval_of_very_many_images_is_students_and_covers(kind):
    n = MOST_DRAWN + 1
    values, truth = sample(kind, n)
    ends = mean_intervals(values)
    assert coverage(ends, truth) >= COVERS
    few = values[:, :3].numpy()
    expected = stats.t.interval(0.95, n - 1, few.mean(axis=0), stats.sem(few, axis=0))
    assert torch.allclose(ends[:3], torch.from_numpy(np.stack(expected, axis=1)), rtol=1e-9)
    drawn = mean_intervals(values[:MOST_DRAWN, :50])
    widths = drawn[:, 1] - drawn[:, 0]
    apart = (mean_intervals(values[:, :50]) - drawn).abs().amax(dim=1)
    assert (apart < 0.2 * widths).all(), "no step where the rule changes, but for one image more and the draws"
