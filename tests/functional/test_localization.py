import itertools

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from lit_decom.functional.localization import (
    energy_pointing_game,
    histogram_average_precision,
    mask_iou,
    pixel_average_precision,
    pointing_game,
    relevance_rank,
    score_histograms,
)

EVERY_SCORE = [pointing_game, energy_pointing_game, relevance_rank, mask_iou, pixel_average_precision]


def random_case(seed: int = 0, batch: int = 6, height: int = 5, width: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(batch, height, width, generator=generator)
    masks = torch.rand(batch, height, width, generator=generator) < 0.3
    masks[:, 0, 0] = True
    return maps, masks


def pixels(mask: Tensor) -> list[tuple[int, int]]:
    return [(i, j) for i in range(mask.shape[0]) for j in range(mask.shape[1]) if mask[i, j]]


def lone_point(height: int, width: int, row: int, column: int) -> Tensor:
    maps = torch.zeros(1, height, width)
    maps[0, row, column] = 1.0
    return maps


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2, 3])
def test_pointing_game_agrees_with_a_search_over_all_pixels(tolerance):
    maps, masks = random_case(seed=1, batch=20)
    expected = []
    for values, mask in zip(maps.tolist(), masks, strict=True):
        i, j = max(((i, j) for i in range(5) for j in range(7)), key=lambda p, v=values: v[p[0]][p[1]])
        squares = [(i - y) ** 2 + (j - x) ** 2 for y, x in pixels(mask)]
        expected.append(float(0 in squares or any(square < tolerance**2 for square in squares)))
    assert pointing_game(maps, masks, tolerance).tolist() == expected


def test_pointing_game_at_exactly_the_tolerance_is_a_miss():
    masks = lone_point(9, 9, 4, 7).bool()
    maps = lone_point(9, 9, 4, 4)
    assert pointing_game(maps, masks, tolerance=3).item() == 0
    assert pointing_game(maps, masks, tolerance=3.01).item() == 1


def test_pointing_game_without_tolerance_asks_for_the_pixel_itself():
    maps = lone_point(3, 3, 1, 1)
    assert pointing_game(maps, maps.bool(), tolerance=0).item() == 1
    assert pointing_game(maps, lone_point(3, 3, 1, 2).bool(), tolerance=0).item() == 0


def test_pointing_game_scales_its_tolerance_to_the_shorter_side():
    # 15 * 32 / 224 = 2.14 pixels
    maps = lone_point(32, 64, 10, 10)
    near, far = lone_point(32, 64, 10, 12).bool(), lone_point(32, 64, 13, 10).bool()
    assert pointing_game(maps, near, scale_to_image=True).item() == 1
    assert pointing_game(maps, far, scale_to_image=True).item() == 0
    assert pointing_game(maps, far).item() == 1


def test_pointing_game_takes_the_first_of_equal_maxima():
    maps = torch.tensor([[[0.0, 1.0, 1.0]]])
    assert pointing_game(maps, torch.tensor([[[False, True, False]]]), tolerance=0).item() == 1
    assert pointing_game(maps, torch.tensor([[[False, False, True]]]), tolerance=0).item() == 0


def test_energy_is_summed_inside_rows_and_columns_and_not_the_other_way_round():
    maps = torch.zeros(1, 4, 6)
    maps[0, 1:3, 4:6] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    masks = torch.zeros(1, 4, 6, dtype=torch.bool)
    masks[0, 1:2, 4:6] = True
    assert energy_pointing_game(maps, masks).item() == pytest.approx(0.3)


def test_energy_of_a_uniform_map_is_the_share_of_the_mask():
    _, masks = random_case()
    torch.testing.assert_close(energy_pointing_game(torch.ones(6, 5, 7), masks), masks.float().mean(dim=(1, 2)))


def test_negative_values_are_no_energy():
    masks = torch.tensor([[[True, False, True]]])
    signed = torch.tensor([[[3.0, 1.0, -9.0]]])
    assert energy_pointing_game(signed, masks).item() == pytest.approx(0.75)
    assert energy_pointing_game(-signed.abs(), masks).isnan().all()


def test_energy_whose_sum_overflows_has_shares():
    maps, masks = random_case()
    torch.testing.assert_close(energy_pointing_game(3e38 * maps, masks), energy_pointing_game(maps, masks))


def test_relevance_rank_agrees_with_a_sorted_list():
    maps, masks = random_case()
    expected = []
    for values, mask in zip(maps.tolist(), masks, strict=True):
        inside = set(pixels(mask))
        ranked = sorted(((i, j) for i in range(5) for j in range(7)), key=lambda p, v=values: -v[p[0]][p[1]])
        expected.append(len(inside & set(ranked[: len(inside)])) / len(inside))
    torch.testing.assert_close(relevance_rank(maps, masks), torch.tensor(expected))
    torch.testing.assert_close(relevance_rank(maps, masks, ties="expected"), torch.tensor(expected))


def test_equal_pixels_rank_in_order_or_by_the_mean_over_all_orders():
    values = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    mask = [False, True, False, True, False, True]
    shares = []
    for order in itertools.permutations(range(6)):
        ranked = sorted(order, key=lambda i: -values[i])
        shares.append(sum(mask[i] for i in ranked[:3]) / 3)
    maps, masks = torch.tensor([[values]]), torch.tensor([[mask]])
    # the two high pixels are outside; the first zero is inside
    assert relevance_rank(maps, masks).item() == pytest.approx(1 / 3)
    assert relevance_rank(maps, masks, ties="expected").item() == pytest.approx(sum(shares) / len(shares))


def otsu_by_definition(levels: list[int]) -> int:
    def spread(part: list[int]) -> float:
        mean = sum(part) / len(part)
        return sum((x - mean) ** 2 for x in part)

    cuts = range(min(levels), max(levels))
    return min(cuts, key=lambda t: spread([x for x in levels if x <= t]) + spread([x for x in levels if x > t]))


def test_otsu_minimises_the_spread_within_the_two_classes():
    maps, masks = random_case(seed=3)
    maps = maps**3
    expected = []
    for values, mask in zip(maps, masks, strict=True):
        flat = ((values - values.min()) / (values.max() - values.min())).flatten()
        levels = [int(x * 255) for x in flat]
        cut = otsu_by_definition(levels)
        chosen = {i for i, level in enumerate(levels) if level > cut}
        inside = {i for i, x in enumerate(mask.flatten().tolist()) if x}
        expected.append(len(chosen & inside) / len(chosen | inside))
    torch.testing.assert_close(mask_iou(maps, masks), torch.tensor(expected))


def test_best_threshold_is_the_best_of_all_cuts():
    maps, masks = random_case(seed=1)
    maps = (maps * 5).round()  # ties must stay together
    expected = []
    for values, mask in zip(maps, masks, strict=True):
        cuts = [values >= v for v in values.unique()]
        expected.append(max(((c & mask).sum() / (c | mask).sum()).item() for c in cuts))
    best = mask_iou(maps, masks, threshold="best")
    torch.testing.assert_close(best, torch.tensor(expected))
    for threshold in ("otsu", 0.0, 0.3, 0.8):
        assert (mask_iou(maps, masks, threshold) <= best + 1e-6).all()


def test_a_fixed_threshold_applies_to_the_stretched_map_and_is_strict():
    maps = torch.tensor([[[10.0, 12.0, 11.0, 10.0]]])
    masks = torch.tensor([[[False, True, True, False]]])
    assert mask_iou(maps, masks, threshold=0.5).item() == pytest.approx(0.5)
    assert mask_iou(maps, masks, threshold=0.49).item() == 1


def test_average_precision_agrees_with_scikit_learn_on_the_binned_scores():
    maps, masks = random_case(height=12, width=9)
    spans = maps.amax(dim=(1, 2), keepdim=True) - maps.amin(dim=(1, 2), keepdim=True)
    binned = ((maps - maps.amin(dim=(1, 2), keepdim=True)) / spans * 20).floor()
    expected = [
        average_precision_score(m.flatten().numpy(), b.flatten().numpy()) for m, b in zip(masks, binned, strict=True)
    ]
    torch.testing.assert_close(pixel_average_precision(maps, masks, 20), torch.tensor(expected).float())
    pooled = histogram_average_precision(score_histograms(maps, masks, 20).sum(dim=0))
    expected_pooled = average_precision_score(masks.flatten().numpy(), binned.flatten().numpy())
    # at most 1 and rounded to float32
    assert pooled.item() == pytest.approx(expected_pooled, abs=1e-6)


def test_histograms_count_every_pixel_once_and_the_maximum_apart():
    maps = torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    counts = score_histograms(maps, torch.tensor([[[True, False, False, True]]]), n_thresholds=4)
    assert counts.tolist() == [[[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]]
    coarse = score_histograms(maps, torch.tensor([[[True, False, False, True]]]), n_thresholds=1)
    assert coarse.tolist() == [[[1, 1], [2, 0]]]


def test_a_perfect_map_scores_one_everywhere():
    _, masks = random_case()
    for score in EVERY_SCORE:
        torch.testing.assert_close(score(masks.float(), masks), torch.ones(6))


@pytest.mark.parametrize("score", EVERY_SCORE)
def test_an_undefined_image_is_nan_and_leaves_the_others_alone(score):
    maps, masks = random_case()
    clean = score(maps, masks)
    maps[1] = 0
    maps[2, 3, 3] = torch.nan
    maps[3, 0, 0] = torch.inf
    masks[4] = False
    values = score(maps, masks)
    assert values.isnan().tolist() == [False, True, True, True, True, False]
    assert torch.equal(values[[0, 5]], clean[[0, 5]])


@pytest.mark.parametrize("score", [pointing_game, relevance_rank, mask_iou, pixel_average_precision])
def test_a_constant_map_ranks_nothing(score):
    _, masks = random_case()
    assert score(torch.full((6, 5, 7), 0.4), masks).isnan().all()


@pytest.mark.parametrize("score", EVERY_SCORE)
def test_half_precision_is_computed_in_single(score):
    maps, masks = random_case()
    values = score(maps.half(), masks)
    assert values.dtype == torch.float32
    assert torch.equal(values, score(maps.half().float(), masks))


@pytest.mark.parametrize("score", EVERY_SCORE)
def test_masks_of_another_shape_or_type_are_refused(score):
    maps, masks = random_case()
    with pytest.raises(ValueError, match=r"Expected `maps` and `masks` to have the same shape \(B, H, W\), but got"):
        score(maps, masks[:, :4])
    with pytest.raises(TypeError, match="Expected `masks` to be of type"):
        score(maps, masks.float())


def test_settings_out_of_range_are_refused():
    maps, masks = random_case()
    with pytest.raises(ValueError, match="Expected `tolerance` to be at least 0, but got -1"):
        pointing_game(maps, masks, tolerance=-1)
    with pytest.raises(ValueError, match="Expected `ties`"):
        relevance_rank(maps, masks, ties="random")
    for threshold in ("median", 1.0, -0.1):
        with pytest.raises(ValueError, match="Expected `threshold`"):
            mask_iou(maps, masks, threshold)
    with pytest.raises(ValueError, match="Expected `n_thresholds` to be at least 1, but got 0"):
        pixel_average_precision(maps, masks, n_thresholds=0)
