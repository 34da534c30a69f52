import numpy as np
import pytest
import torch

from lit_decom.functional.decomposition import (
    Factors,
    components_for_energy,
    decompose,
    fix_signs,
    integrate,
    select_channels,
)

RULES = ("min_max", "maximum", "softmax_gain", "relu_gain")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spectrum(values, channels, height, width, seed=0):
    """Maps ``(1, P, h, w)`` with given singular values."""
    left = torch.linalg.qr(randn(channels, len(values), seed=seed).double()).Q
    right = torch.linalg.qr(randn(height * width, len(values), seed=seed + 1).double()).Q
    return (left * torch.tensor(values, dtype=torch.double) @ right.T).reshape(1, channels, height, width)


# ----- channels


def test_channels_come_in_descending_order_of_weight():
    weights = torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, 3.0, 2.0, 4.0]])
    order, takes_part = select_channels(weights, 3, positive_only=False)
    assert order.tolist() == [[2, 0, 3], [3, 1, 2]]
    assert takes_part.all()


def test_only_channels_that_speak_for_the_target_take_part_if_asked():
    order, takes_part = select_channels(torch.tensor([[0.5, -1.0, 2.0, 0.0]]), 4, positive_only=True)
    assert order.tolist() == [[2, 0, 3, 1]]
    assert takes_part.tolist() == [[True, True, False, False]]


def test_equal_weights_keep_the_order_of_the_channels():
    assert select_channels(torch.zeros(1, 200), 200, positive_only=False)[0].tolist() == [list(range(200))]


def test_more_channels_than_there_are_means_all():
    assert select_channels(torch.zeros(2, 3), 10, positive_only=False)[0].shape == (2, 3)


# ----- factors


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("channels", "grid"), [(5, (4, 6)), (40, (3, 4)), (12, (3, 4))])
def test_factors_are_numpys_singular_value_decomposition(channels, grid, centred):
    maps, k = randn(3, channels, *grid), 4
    factors = decompose(maps, k, centred=centred)
    for image in range(3):
        matrix = maps[image].flatten(1).double().numpy()
        matrix = matrix - matrix.mean(axis=1, keepdims=True) if centred else matrix
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        # all of it is in float64 and rounded to float32 at the end, relative to the largest entry of its component
        np.testing.assert_allclose(factors.strengths[image], values[:k], rtol=1e-6)
        assert factors.energy[image].item() == pytest.approx((matrix**2).sum(), rel=1e-6)
        for i in range(k):
            mine = factors.components[image, i].flatten().numpy()
            sign = np.sign(mine @ right[i])
            np.testing.assert_allclose(sign * mine, values[i] * right[i], atol=1e-5 * values[i])
            np.testing.assert_allclose(sign * factors.loadings[image, :, i], left[:, i], atol=1e-5)


@pytest.mark.parametrize(("channels", "grid"), [(5, (4, 6)), (40, (3, 4))])
def test_components_are_orthogonal_and_loadings_orthonormal(channels, grid):
    factors = decompose(randn(2, channels, *grid), 4)
    flat = factors.components.flatten(2).double()
    squares = factors.strengths.double().square()
    # components rounded to float32: their products are off by that share of the product of the two norms
    atol = 1e-6 * squares.max().item()
    torch.testing.assert_close(flat @ flat.mT, torch.diag_embed(squares), rtol=0, atol=atol)
    loadings = factors.loadings.double()
    # entries of unit vectors, rounded to float32
    torch.testing.assert_close(loadings.mT @ loadings, torch.eye(4).double().expand(2, 4, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("channels", "grid"), [(6, (3, 5)), (30, (3, 4))])
def test_all_components_reconstruct_the_maps(channels, grid, centred):
    maps = randn(2, channels, *grid)
    factors = decompose(maps, min(channels, grid[0] * grid[1]), centred=centred)
    rebuilt = torch.einsum("bpk,bkhw->bphw", factors.loadings, factors.components)
    expected = maps - maps.mean(dim=(2, 3), keepdim=True) if centred else maps
    # a sum of up to as many rounded products as there are components
    torch.testing.assert_close(rebuilt, expected, rtol=0, atol=3e-6 * expected.abs().max().item())


def test_a_component_past_the_rank_is_zero_and_not_valid():
    maps = spectrum([3.0, 1.0], channels=7, height=3, width=4).float()
    factors = decompose(maps, 5)
    assert factors.valid.tolist() == [[True, True, False, False, False]]
    torch.testing.assert_close(factors.strengths, torch.tensor([[3.0, 1, 0, 0, 0]]))
    assert not factors.components[:, 2:].any()
    assert not factors.loadings[:, :, 2:].any()


@pytest.mark.parametrize("channels", [6, 60])
def test_rounding_noise_of_float32_is_no_component_and_a_weak_one_is(channels):
    noise = 2e-7 * randn(1, channels, 5, 5, seed=9)
    factors = decompose(spectrum([1.0, 1e-3], channels, 5, 5).float() + noise, 4)
    assert factors.valid.tolist() == [[True, True, False, False]]
    assert factors.strengths[0, 1].item() == pytest.approx(1e-3, rel=1e-2)


def test_centring_takes_one_component_of_constant_maps_and_knows_its_rank():
    constant = torch.tensor([3.0, 1.0])[None, :, None, None].expand(1, 2, 2, 3)
    assert decompose(constant, 2).valid.tolist() == [[True, False]]
    assert not decompose(constant, 2, centred=True).valid.any()
    # As many channels as positions: one dimension is the mean's.
    assert decompose(randn(1, 8, 2, 3), 6, centred=True).valid.tolist() == [[True] * 5 + [False]]


def test_blank_maps_have_no_component():
    factors = decompose(torch.zeros(2, 4, 3, 3), 3)
    assert not factors.valid.any()
    assert not factors.components.any()
    assert factors.energy.tolist() == [0.0, 0.0]


def test_batch_is_its_images_one_by_one():
    maps = randn(5, 9, 4, 4)
    together = fix_signs(decompose(maps, 6))
    for image in range(5):
        alone = fix_signs(decompose(maps[image : image + 1], 6))
        # the same float64 sums, perhaps in another order, rounded to float32
        atol = 1e-6 * alone.strengths.max().item()
        torch.testing.assert_close(together.components[image], alone.components[0], rtol=0, atol=atol)


def test_equal_singular_values_span_the_same_space_in_any_batch():
    maps = torch.cat([spectrum([2.0, 2.0, 0.5], 6, 4, 4), spectrum([5.0, 1.0, 0.1], 6, 4, 4, seed=4)]).float()
    together, alone = decompose(maps, 3), decompose(maps[:1], 3)

    def projector(factors):
        flat = factors.components[0, :2].flatten(1) / factors.strengths[0, :2, None]
        return flat.T @ flat

    torch.testing.assert_close(projector(together), projector(alone), rtol=0, atol=1e-5)


def test_scaling_the_maps_scales_the_components_alone():
    maps = randn(1, 6, 3, 3)
    one, other = fix_signs(decompose(maps, 3)), fix_signs(decompose(maps * 1e-12, 3))
    # the scaled maps are rounded to float32, and the gap between singular values divides that
    torch.testing.assert_close(other.components * 1e12, one.components, rtol=0, atol=1e-5 * one.components.max().item())
    assert torch.equal(one.valid, other.valid)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_too_many_or_no_components_are_refused_with_the_bound(k):
    with pytest.raises(ValueError, match=rf"between 1 and 4 \(the smaller of 9 channels and 2 x 2 .*but got {k}\."):
        decompose(randn(1, 9, 2, 2), k)


# ----- signs


def flipped(factors, signs):
    return factors._replace(
        components=factors.components * signs[:, :, None, None], loadings=factors.loadings * signs[:, None, :]
    )


@pytest.mark.parametrize("rule", ["evidence", "largest_entry"])
def test_the_sign_does_not_depend_on_what_the_library_returned(rule):
    factors = decompose(randn(4, 10, 4, 4), 6)
    signs = randn(4, 6, seed=5).sign()
    torch.testing.assert_close(fix_signs(factors, rule), fix_signs(flipped(factors, signs), rule), rtol=0, atol=0)


def test_under_evidence_loadings_never_sum_to_less_than_nothing():
    factors = fix_signs(decompose(randn(20, 10, 4, 4), 8), "evidence")
    assert (factors.loadings.sum(dim=1) >= 0).all()


def test_under_evidence_each_component_adds_its_positive_part_to_the_class_map():
    maps = randn(1, 6, 3, 3)
    factors = fix_signs(decompose(maps, 6), "evidence")
    class_map = torch.einsum("bkhw,bk->bhw", factors.components, factors.loadings.sum(dim=1))
    # a sum of rounded components, relative to the largest of them
    torch.testing.assert_close(class_map, maps.sum(dim=1), rtol=0, atol=3e-6 * factors.components.abs().max().item())


def test_under_largest_entry_the_extreme_of_each_pattern_is_positive():
    components = fix_signs(decompose(randn(20, 10, 4, 4), 8), "largest_entry").components.flatten(2)
    assert torch.equal(components.amax(dim=2), components.abs().amax(dim=2))


def test_evidence_and_largest_entry_disagree_where_a_strong_spot_speaks_against():
    # One pattern, two channels of weight -3 and 4: its dip at the second position outweighs its rise at the first.
    pattern = torch.tensor([[0.5, -1.0]])
    maps = torch.tensor([-3.0, 4.0])[None, :, None, None] * pattern
    assert fix_signs(decompose(maps, 1), "evidence").components[0, 0, 0].tolist() == pytest.approx([2.5, -5.0])
    assert fix_signs(decompose(maps, 1), "largest_entry").components[0, 0, 0].tolist() == pytest.approx([-2.5, 5.0])


@pytest.mark.parametrize("rule", ["evidence", "largest_entry"])
@pytest.mark.parametrize("error", [1e-7, -1e-7])
def test_a_tie_goes_to_the_first_entry_and_not_to_rounding(rule, error):
    # The channels cancel, so evidence cannot tell either; the extremes of the pattern are equal but for rounding.
    pattern = torch.tensor([[0.2, 1.0, 0.2], [0.0, -1.0 + error, 0.0]])
    factors = Factors(
        components=-pattern[None, None],
        strengths=torch.ones(1, 1),
        loadings=torch.tensor([[[0.5**0.5], [-(0.5**0.5)]]]),
        valid=torch.ones(1, 1, dtype=torch.bool),
        energy=torch.ones(1),
        removed=torch.ones(1, 1),
    )
    assert fix_signs(factors, rule).components[0, 0, 0, 1].item() == pytest.approx(1.0)


def test_an_unknown_sign_rule_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Expected `sign` to be one of 'evidence', 'largest_entry', but got 'up'"):
        fix_signs(decompose(randn(1, 3, 2, 2), 1), "up")


# ----- fraction of energy


@pytest.mark.parametrize(("fraction", "needed"), [(0.01, 1), (0.639, 1), (0.641, 2), (0.9, 2), (0.989, 3), (1.0, 4)])
def test_as_many_components_as_explain_the_fraction(fraction, needed):
    # Energies 64, 30.25, 4.75 and 1 of 100; the fractions keep off the sums 64, 94.25 and 99, which are rounded.
    factors = decompose(spectrum([8.0, 5.5, 4.75**0.5, 1.0], 6, 4, 4), 6)
    expected = [True] * needed + [False] * (6 - needed)
    assert components_for_energy(factors, fraction).tolist() == [expected]


def test_the_fraction_is_of_all_energy_and_not_of_the_components_computed():
    factors = decompose(spectrum([3.0, 3.0, 3.0, 3.0], 6, 4, 4), 2)
    assert components_for_energy(factors, 0.5).tolist() == [[True, True]]
    assert components_for_energy(factors, 0.25 - 1e-6).tolist() == [[True, False]]


# ----- integration

VALID = torch.tensor([[True, True, True, False]])
SCORES = torch.tensor([[3.0, 0.5, 2.0, torch.nan]])
BLURRED = torch.tensor([1.0])


@pytest.mark.parametrize(
    ("weighting", "subtract", "threshold", "expected"),
    [
        ("min_max", True, None, [1.0, 0.0, 0.6, 0.0]),
        ("min_max", False, None, [1.0, 0.0, 0.6, 0.0]),
        ("maximum", False, 0.001, [1.0, 0.5 / 3, 2 / 3, 0.0]),
        ("maximum", False, 0.6, [1.0, 0.0, 2 / 3, 0.0]),
        ("maximum", True, 0.01, [1.0, 0.0, 0.5, 0.0]),
        ("relu_gain", True, None, [2 / 3, 0.0, 1 / 3, 0.0]),
    ],
)
def test_weights_by_hand(weighting, subtract, threshold, expected):
    found = integrate(
        SCORES, BLURRED, VALID, weighting=weighting, subtract_reference=subtract, score_threshold=threshold
    )
    assert found.contributions[0].tolist() == pytest.approx(expected)
    assert not found.fallback.any()


def test_softmax_gain_by_hand_keeps_negative_values():
    found = integrate(SCORES, BLURRED, VALID, weighting="softmax_gain")
    gains = np.array([2.0, -0.5, 1.0])
    expected = gains * np.exp(gains) / np.exp(gains).sum()
    assert found.contributions[0].tolist() == pytest.approx([*expected, 0.0])
    assert expected[1] < 0


@pytest.mark.parametrize("weighting", RULES)
@pytest.mark.parametrize("error", [0.0, 1e-6])
def test_scores_equal_to_rounding_weigh_the_same_and_say_so(weighting, error):
    # The network did not care: 7.0 everywhere, seen or blurred, but for the last bit.
    scores = torch.tensor([[7.0, 7.0 + error, 7.0 - error, torch.nan]])
    found = integrate(scores, torch.tensor([7.0]), VALID, weighting=weighting)
    assert found.contributions[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
    assert found.fallback.tolist() == [True]


def test_faint_scores_are_no_equal_ones():
    scores = torch.tensor([[3e-9, 1e-9, 2e-9, torch.nan]])
    found = integrate(scores, torch.tensor([0.0]), VALID)
    assert found.contributions[0].tolist() == pytest.approx([1.0, 0.0, 0.5, 0.0])


def test_a_score_that_is_not_subtracted_does_not_count_as_rounding():
    found = integrate(SCORES * 1e-6, torch.tensor([1e6]), VALID, weighting="maximum", subtract_reference=False)
    assert found.contributions[0].tolist() == pytest.approx([1.0, 0.5 / 3, 2 / 3, 0.0])


@pytest.mark.parametrize(
    ("weighting", "threshold"), [("maximum", 10.0), ("maximum", None), ("relu_gain", None), ("softmax_gain", 10.0)]
)
def test_none_above_the_threshold_weighs_all_the_same_and_says_so(weighting, threshold):
    scores = torch.tensor([[-3.0, -0.5, -2.0, torch.nan]])
    found = integrate(scores, BLURRED, VALID, weighting=weighting, score_threshold=threshold)
    assert found.contributions[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
    assert found.fallback.tolist() == [True]


@pytest.mark.parametrize("weighting", RULES)
def test_no_valid_component_weighs_nothing_and_is_no_fallback(weighting):
    nothing = torch.full((1, 3), torch.nan)
    found = integrate(nothing, BLURRED, torch.zeros(1, 3, dtype=torch.bool), weighting=weighting)
    assert found.contributions.tolist() == [[0.0, 0.0, 0.0]]
    assert found.fallback.tolist() == [False]


@pytest.mark.parametrize("weighting", RULES)
@pytest.mark.parametrize("where", ["score", "reference"])
def test_a_nan_score_spoils_its_image_and_no_other(weighting, where):
    scores, blurred = SCORES.repeat(3, 1), BLURRED.repeat(3)
    clean = integrate(scores, blurred, VALID.repeat(3, 1), weighting=weighting).contributions
    if where == "score":
        scores[1, 1] = torch.nan
    else:
        blurred[1] = torch.nan
    found = integrate(scores, blurred, VALID.repeat(3, 1), weighting=weighting)
    assert found.contributions[1, :3].isnan().all()
    assert torch.equal(found.contributions[[0, 2]], clean[[0, 2]])
    assert not found.fallback.any()


def test_min_max_does_not_know_the_blurred_score_and_relu_gain_does():
    for weighting, same in (("min_max", True), ("relu_gain", False)):
        one = integrate(SCORES, BLURRED, VALID, weighting=weighting).contributions
        other = integrate(SCORES, BLURRED - 1, VALID, weighting=weighting).contributions
        assert torch.allclose(one, other) is same


def test_an_unknown_weighting_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Expected `weighting` to be one of 'min_max', .* but got 'mean'"):
        integrate(SCORES, BLURRED, VALID, weighting="mean")


def test_which_channels_take_part_is_a_mask():
    for positive_only in (False, True):
        takes_part = select_channels(torch.tensor([[0.5, -1.0]]), 2, positive_only=positive_only)[1]
        assert takes_part.dtype == torch.bool
