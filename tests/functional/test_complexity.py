import math

import pytest
import torch

from lit_decom.functional.complexity import effective_rank, entropy, gini, top_component_share


def test_gini_is_half_the_relative_mean_difference():
    values = [0.5, 2.0, 0.0, 7.0, 2.0, 0.1]
    n, mean = len(values), sum(values) / len(values)
    expected = sum(abs(x - y) for x in values for y in values) / (2 * n * n * mean)
    assert gini(torch.tensor([values]).view(1, 2, 3)).item() == pytest.approx(expected)


def test_gini_and_entropy_of_the_extremes():
    one_pixel, uniform = torch.zeros(1, 4, 5), torch.full((1, 4, 5), 0.3)
    one_pixel[0, 2, 2] = 3.0
    assert gini(one_pixel).item() == pytest.approx(19 / 20)
    assert entropy(one_pixel).item() == 0
    assert gini(uniform).item() == pytest.approx(0, abs=1e-6)
    assert entropy(uniform).item() == pytest.approx(1)


def test_entropy_is_that_of_the_shares_over_that_of_a_uniform_map():
    values = [0.5, 2.0, 0.0, 7.0, 2.5]
    shares = [v / sum(values) for v in values if v]
    expected = -sum(p * math.log(p) for p in shares) / math.log(5)
    assert entropy(torch.tensor([[values]])).item() == pytest.approx(expected)


@pytest.mark.parametrize("score", [gini, entropy])
def test_neither_scale_nor_sign_nor_place_matters(score):
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(score(maps), score(-100 * maps.flip(1)))


def test_equal_components_count_in_full_and_a_dominant_one_alone():
    assert effective_rank(torch.full((1, 7), 0.2)).item() == pytest.approx(7)
    assert effective_rank(torch.tensor([[3.0, 0.0, 0.0]])).item() == 1


def test_effective_rank_takes_shares_of_energy():
    # energies 9 and 1: shares 0.9 and 0.1
    expected = math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert effective_rank(torch.tensor([[3.0, 1.0]])).item() == pytest.approx(expected)
    assert effective_rank(torch.tensor([[300.0, 100.0]])).item() == pytest.approx(expected)


def test_top_component_share_is_by_absolute_value():
    assert top_component_share(torch.tensor([[1.0, -3.0, 0.0]])).item() == pytest.approx(0.75)
    assert top_component_share(torch.full((1, 5), -0.1)).item() == pytest.approx(0.2)


@pytest.mark.parametrize("score", [effective_rank, top_component_share])
def test_components_that_do_not_exist_are_not_counted(score):
    values = torch.tensor([[3.0, 1.0, 5.0, torch.nan]])
    valid = torch.tensor([[True, True, False, False]])
    assert score(values, valid).item() == pytest.approx(score(values[:, :2]).item())
    assert score(values).isnan().all()


@pytest.mark.parametrize("score", [gini, entropy, effective_rank, top_component_share])
def test_an_undefined_image_is_nan_and_leaves_the_others_alone(score):
    rows = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    clean = score(rows)
    rows[1] = 0
    rows[2, 3] = torch.nan
    rows[3, 0] = torch.inf
    values = score(rows)
    assert values.isnan().tolist() == [False, True, True, True]
    assert values[0] == clean[0]


@pytest.mark.parametrize("scale", [1e-38, 3e38])
@pytest.mark.parametrize("score", [gini, entropy, effective_rank, top_component_share])
def test_values_whose_sum_overflows_or_squares_vanish_are_scored_alike(score, scale):
    rows = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
    # 1e-38 is near the smallest normal float32: half of it has lost a digit
    torch.testing.assert_close(score(scale * rows), score(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("score", [gini, entropy, effective_rank, top_component_share])
def test_half_precision_is_computed_in_single(score):
    rows = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).half()
    assert torch.equal(score(rows), score(rows.float()))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Expected `singular_values` to have shape \(B, K\), but got \(3,\)"):
        effective_rank(torch.ones(3))
    with pytest.raises(ValueError, match=r"Expected `contributions` to have shape"):
        top_component_share(torch.ones(3))
    with pytest.raises(ValueError, match=r"Expected `valid` to have shape \(1, 3\), but got \(1, 2\)"):
        top_component_share(torch.ones(1, 3), torch.ones(1, 2, dtype=torch.bool))
