import math

import pytest
import torch
from torch import Tensor

from lit_decom.functional.bootstrap import bootstrap_interval


def mean(rows: Tensor) -> Tensor:
    return rows[:, 0].mean()


def test_the_interval_of_a_mean_is_the_normal_one_for_many_images():
    values = torch.rand(400, 1, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_interval(values, mean, level=0.9, n_resamples=4000)
    half_width = 1.645 * values.std().item() / math.sqrt(400)
    assert high - values.mean() == pytest.approx(half_width, rel=0.1)
    assert values.mean() - low == pytest.approx(half_width, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(200):
        values = torch.randn(40, 1, generator=generator)
        low, high = bootstrap_interval(values, mean, level=0.8, n_resamples=100, seed=seed)
        hits += bool(low <= 0 <= high)
    assert 0.7 < hits / 200 < 0.88


def test_the_interval_depends_on_the_seed_but_not_on_the_order_of_the_images():
    rows = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    rows[:15, 0] = 0.5  # ties in the first column
    shuffled = rows[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    interval = bootstrap_interval(rows, lambda r: (r[:, 0] * r[:, 1]).mean())
    assert torch.equal(interval, bootstrap_interval(shuffled, lambda r: (r[:, 0] * r[:, 1]).mean()))
    assert not torch.equal(interval, bootstrap_interval(rows, lambda r: (r[:, 0] * r[:, 1]).mean(), seed=1))


def test_undefined_images_are_left_out_and_one_image_has_no_spread():
    rows = torch.tensor([[0.0], [torch.nan], [1.0], [2.0]])
    assert torch.equal(bootstrap_interval(rows, mean), bootstrap_interval(rows[[0, 2, 3]], mean))
    assert bootstrap_interval(rows[:2], mean).isnan().all()
    assert bootstrap_interval(rows[:0], mean).isnan().all()


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    bootstrap_interval(torch.rand(5, 1, generator=torch.Generator().manual_seed(0)), mean)
    assert torch.equal(before, torch.get_rng_state())


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="Expected `level` to be between 0 and 1, but got 95"):
        bootstrap_interval(torch.ones(3, 1), mean, level=95)
    with pytest.raises(ValueError, match="Expected `n_resamples` to be at least 1, but got 0"):
        bootstrap_interval(torch.ones(3, 1), mean, n_resamples=0)
