import math

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torchmetrics.functional.image import structural_similarity_index_measure

from lit_decom.functional.stability import coherency, map_similarity

SIMILARITIES = ["cosine", "pearson", "spearman", "ssim"]


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 14, 12, generator=generator), torch.rand(6, 14, 12, generator=generator)


def test_cosine_by_hand():
    first, second = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]]), torch.tensor([[[4.0, 3.0]], [[0.0, 2.0]]])
    torch.testing.assert_close(map_similarity(first, second), torch.tensor([24 / 25, 0.0]))


@pytest.mark.parametrize(("similarity", "reference"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_correlations_agree_with_scipy_also_with_ties(maps, similarity, reference):
    first, second = ((5 * part).round() for part in maps)
    values = map_similarity(first, second, similarity)
    for i in range(6):
        expected = reference(first[i].flatten().numpy(), second[i].flatten().numpy()).statistic
        # at most 1 and rounded to float32
        assert values[i].item() == pytest.approx(expected, abs=1e-6)


def test_ssim_agrees_with_torchmetrics_where_windows_lie_inside(maps):
    def stretched(part):
        low, high = part.amin((1, 2), keepdim=True), part.amax((1, 2), keepdim=True)
        return ((part - low) / (high - low))[:, None]

    first, second = maps[0], 0.5 * maps[0] + maps[1]
    _, everywhere = structural_similarity_index_measure(
        stretched(first), stretched(second), data_range=1.0, reduction="none", return_full_image=True
    )
    # torchmetrics also averages windows that hang over the border, filled by reflection.
    expected = everywhere[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    # torchmetrics takes variances as differences of float32 moments
    torch.testing.assert_close(map_similarity(first, second, "ssim"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_map_is_like_itself_at_any_scale(maps, similarity):
    for scale in (1.0, 1e-25, 1e25):
        same = map_similarity(maps[0], scale * maps[0], similarity)
        # scaling rounds the maps to float32
        torch.testing.assert_close(same, torch.ones(6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarity_is_symmetric_and_a_batch_equals_its_images(maps, similarity):
    forth, back = map_similarity(*maps, similarity), map_similarity(*reversed(maps), similarity)
    torch.testing.assert_close(forth, back, rtol=0, atol=1e-6)
    singles = torch.cat([map_similarity(maps[0][i : i + 1], maps[1][i : i + 1], similarity) for i in range(6)])
    torch.testing.assert_close(forth, singles, rtol=0, atol=1e-6)


@pytest.mark.parametrize("similarity", ["pearson", "spearman"])
def test_an_inverted_map_is_the_opposite(maps, similarity):
    torch.testing.assert_close(map_similarity(maps[0], -maps[0], similarity), -torch.ones(6))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("side", [0, 1])
def test_blank_and_broken_maps_are_undefined_and_spoil_no_other(maps, similarity, side):
    clean = map_similarity(*maps, similarity)
    maps[side][1] = 0.0
    maps[side][2, 3, 3] = torch.nan
    maps[side][4, 0, 0] = torch.inf
    values = map_similarity(*maps, similarity)
    assert values.isnan().nonzero().flatten().tolist() == [1, 2, 4]
    torch.testing.assert_close(values[[0, 3, 5]], clean[[0, 3, 5]])


def test_a_constant_map_has_a_cosine_but_no_correlation(maps):
    constant = torch.full_like(maps[0], 0.1)
    expected = [part.mean().item() / part.square().mean().sqrt().item() for part in maps[0]]
    torch.testing.assert_close(map_similarity(maps[0], constant), torch.tensor(expected))
    for similarity in ("pearson", "spearman", "ssim"):
        assert map_similarity(maps[0], constant, similarity).isnan().all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_half_precision_is_widened(maps, similarity):
    first, second = (part.half() for part in maps)
    assert torch.equal(
        map_similarity(first, second, similarity), map_similarity(first.float(), second.float(), similarity)
    )


def test_wrong_inputs_are_refused(maps):
    with pytest.raises(ValueError, match=r"`maps` and `others` to have one shape \(B, H, W\)"):
        map_similarity(maps[0], maps[1][:, 1:])
    with pytest.raises(ValueError, match="`similarity` to be one of 'cosine'"):
        map_similarity(*maps, "hog")
    with pytest.raises(ValueError, match="at least 11 x 11"):
        map_similarity(maps[0][:, :10], maps[1][:, :10], "ssim")


def test_coherency_maps_the_correlation_to_the_unit_interval(maps):
    for i, value in enumerate(coherency(*maps).tolist()):
        expected = pearsonr(maps[0][i].flatten().numpy(), maps[1][i].flatten().numpy()).statistic
        assert value == pytest.approx((expected + 1) / 2, abs=1e-6)


def test_coherency_is_zero_where_the_second_map_vanished_and_undefined_where_one_is_broken(maps):
    first, second = maps
    second[0], second[1] = 0.0, 0.3
    second[2, 0, 0] = torch.nan
    first[3], first[4, 1, 1] = 0.0, torch.nan
    values = coherency(first, second).tolist()
    assert values[:2] == [0.0, 0.0]
    assert all(math.isnan(value) for value in values[2:5])
    assert 0 < values[5] < 1


def test_coherency_is_undefined_where_both_maps_are_blank(maps):
    assert coherency(0 * maps[0], 0 * maps[1]).isnan().all()
