import pytest
import torch

from lit_decom.functional.road import imputation_noise, linear_imputation, relevance_ranks, road_logits

SIZE = (7, 5)


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, *SIZE, generator=generator), torch.rand(4, *SIZE, generator=generator)


def slow_imputation(image, removed):
    """The definition, one equation per removed pixel, solved densely."""
    height, width = removed.shape
    unknown = [(i, j) for i in range(height) for j in range(width) if removed[i, j]]
    place = {pixel: k for k, pixel in enumerate(unknown)}
    matrix = torch.zeros(len(unknown), len(unknown), dtype=torch.float64)
    right = torch.zeros(len(unknown), len(image), dtype=torch.float64)
    for (i, j), k in place.items():
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                neighbour = (i + di, j + dj)
                if (di, dj) == (0, 0) or not (0 <= neighbour[0] < height and 0 <= neighbour[1] < width):
                    continue
                weight = 1 / 12 if di and dj else 1 / 6
                matrix[k, k] += weight
                if neighbour in place:
                    matrix[k, place[neighbour]] -= weight
                else:
                    right[k] += weight * image[:, neighbour[0], neighbour[1]]
    filled = image.clone()
    for pixel, values in zip(unknown, torch.linalg.solve(matrix, right), strict=True):
        filled[:, pixel[0], pixel[1]] = values.to(image.dtype)
    return filled


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_agrees_with_the_definition_solved_densely(scene, share):
    images, maps = scene
    removed = maps < share
    assert removed.flatten(1).any(1).all()
    expected = torch.stack([slow_imputation(*row) for row in zip(images, removed, strict=True)])
    # both solve in float64; images of order one are rounded to float32
    torch.testing.assert_close(linear_imputation(images, removed), expected, rtol=0, atol=1e-6)


def test_one_missing_pixel_is_the_weighted_mean_of_its_neighbours():
    image = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 100.0, 6.0], [7.0, 8.0, 9.0]]])
    removed = torch.zeros(1, 3, 3, dtype=torch.bool)
    removed[0, 1, 1] = True
    expected = (1 + 3 + 7 + 9) / 12 + (2 + 4 + 6 + 8) / 6
    assert linear_imputation(image[None], removed)[0, 0, 1, 1].item() == pytest.approx(expected)


def test_a_missing_corner_is_the_mean_of_the_neighbours_that_exist():
    image = torch.tensor([[[100.0, 2.0], [3.0, 8.0]]])
    removed = torch.tensor([[[True, False], [False, False]]])
    expected = (2 / 6 + 3 / 6 + 8 / 12) / (1 / 6 + 1 / 6 + 1 / 12)
    assert linear_imputation(image[None], removed)[0, 0, 0, 0].item() == pytest.approx(expected)


def test_a_ramp_is_restored_inside_the_image():
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(8.0), indexing="ij")
    ramp = (2 * rows - 3 * columns + 1)[None, None]
    removed = torch.zeros(1, 9, 8, dtype=torch.bool)
    removed[0, 2:6, 1:6] = True
    # the ramp runs to -20, where float32 has steps of 2e-6
    torch.testing.assert_close(linear_imputation(ramp.masked_fill(removed, 0.0), removed), ramp, rtol=0, atol=1e-5)


def test_kept_pixels_are_untouched_to_the_bit_and_removed_values_are_never_read(scene):
    images, maps = scene
    removed = maps < 0.5
    filled = linear_imputation(images, removed)
    kept = ~removed[:, None].expand_as(images)
    assert torch.equal(filled[kept], images[kept])
    noise = 100 * torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    assert torch.equal(linear_imputation(images + noise * removed[:, None], removed), filled)


def test_imputation_commutes_with_normalisation(scene):
    images, maps = scene
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    removed = maps < 0.6
    before = (linear_imputation(images, removed) - mean) / std
    # dividing by the standard deviation, .2 at least, magnifies the rounding fivefold
    torch.testing.assert_close(linear_imputation((images - mean) / std, removed), before, rtol=0, atol=1e-5)


def test_a_broken_image_spoils_no_other(scene):
    images, maps = scene
    removed = maps < 0.5
    clean = linear_imputation(images, removed)
    images[1, 0][~removed[1]] = torch.nan
    filled = linear_imputation(images, removed)
    assert filled[1, 0].isnan().all()
    assert torch.equal(filled[[0, 2, 3]], clean[[0, 2, 3]])
    assert torch.equal(filled[1, 1:], clean[1, 1:])


def test_nothing_removed_changes_nothing_and_everything_removed_is_refused(scene):
    images, maps = scene
    assert torch.equal(linear_imputation(images, maps > 2), images)
    with pytest.raises(ValueError, match="leave at least one pixel"):
        linear_imputation(images, maps < 2)
    with pytest.raises(ValueError, match=r"`removed` to be \(B, H, W\) bool"):
        linear_imputation(images, maps)


def test_imputation_keeps_half_precision(scene):
    images, maps = scene
    filled = linear_imputation(images.half(), maps < 0.5)
    assert filled.dtype == torch.float16
    # float16 has steps of 1e-3 at values of one, 2e-3 at those of two
    torch.testing.assert_close(filled.float(), linear_imputation(images, maps < 0.5), rtol=0, atol=5e-3)


def test_distinct_values_are_ranked_by_value_whatever_the_seed(scene):
    maps = scene[1]
    ranks = relevance_ranks(maps)
    assert torch.equal(relevance_ranks(maps, seed=5), ranks)
    by_rank = torch.empty(4, 35).scatter_(1, ranks.flatten(1), maps.flatten(1))
    assert (by_rank.diff(dim=1) < 0).all()


def test_equal_values_are_ranked_at_random_but_reproducibly():
    maps = torch.zeros(2, 16, 16)
    maps[:, 8, 8] = 1.0
    ranks = relevance_ranks(maps)
    assert ranks[0, 8, 8].item() == 0
    assert torch.equal(ranks[0], ranks[1])
    assert torch.equal(relevance_ranks(maps), ranks)
    assert not torch.equal(relevance_ranks(maps, seed=1), ranks)
    # In reading order the upper half of the picture would come first.
    upper = (ranks[0, :8] < 128).float().mean().item()
    assert 0.3 < upper < 0.7


def test_noise_is_reproducible_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    noise = imputation_noise((3, 32, 32), seed=4)
    relevance_ranks(torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(imputation_noise((3, 32, 32), seed=4), noise)
    assert not torch.equal(imputation_noise((3, 32, 32), seed=5), noise)
    assert noise.std().item() == pytest.approx(1, abs=0.05)


def pixels_as_logits(images):
    return images.flatten(1)


def direct(rows, alter):
    return pixels_as_logits(alter(slice(0, len(rows))))


def test_most_relevant_and_least_relevant_removal_by_hand():
    images, maps = torch.tensor([[[[0.0, 6.0, 1.0, 3.0]]]]), torch.tensor([[[0.1, 0.9, 0.5, 0.2]]])
    logits = road_logits(images, maps, direct, torch.zeros(1, 1, 4), percentages=(25, 50))
    expected = [
        [[0, 0.5, 1, 3], [0, 1, 2, 3]],  # without the pixel of 0.9, without those of 0.9 and 0.5
        [[6, 6, 1, 3], [6, 6, 1, 1]],  # without the pixel of 0.1, without those of 0.1 and 0.2
    ]
    torch.testing.assert_close(logits[0], torch.tensor(expected))


def test_noise_falls_on_removed_pixels_only():
    images, maps = torch.tensor([[[[0.0, 6.0, 1.0, 3.0]]]]), torch.tensor([[[0.1, 0.9, 0.5, 0.2]]])
    logits = road_logits(images, maps, direct, torch.tensor([[[10.0, 20.0, 30.0, 40.0]]]), percentages=(50,))
    torch.testing.assert_close(logits[0, :, 0], torch.tensor([[0.0, 21, 32, 3], [16, 6, 1, 41]]))


def test_the_two_orders_split_the_image(scene):
    images, maps = scene
    maps = (3 * maps).round()  # with ties
    noise = torch.full((3, *SIZE), 1000.0)
    logits = road_logits(images, maps, direct, noise, percentages=(20, 80))
    gone = logits.unflatten(-1, (3, *SIZE)).abs() > 500
    most_20, most_80 = gone[:, 0].unbind(1)
    least_20, least_80 = gone[:, 1].unbind(1)
    assert torch.equal(most_20, ~least_80)
    assert torch.equal(most_80, ~least_20)
    assert (most_20.sum(dim=(1, 2, 3)) == 3 * 7).all()


@pytest.mark.parametrize("size", [1, 5])
def test_streaming_equals_direct(scene, size):
    images, maps = scene

    def streamed(rows, alter):
        return torch.cat([pixels_as_logits(alter(slice(start, start + size))) for start in range(0, len(rows), size)])

    noise = imputation_noise((3, *SIZE))
    expected = road_logits(images, maps, direct, noise, percentages=(10, 50, 90))
    assert torch.equal(road_logits(images, maps, streamed, noise, percentages=(10, 50, 90)), expected)


def test_a_batch_equals_its_images_one_by_one(scene):
    images, maps = scene
    noise = 0.01 * imputation_noise((3, *SIZE))
    batch = road_logits(images, maps, direct, noise, percentages=(10, 50))
    singles = [road_logits(images[i : i + 1], maps[i : i + 1], direct, noise, percentages=(10, 50)) for i in range(4)]
    assert torch.equal(batch, torch.cat(singles))


def test_a_map_without_an_order_is_undefined_and_costs_nothing(scene):
    images, maps = scene
    noise = torch.zeros(3, *SIZE)
    clean = road_logits(images, maps, direct, noise, percentages=(50,))
    maps[0], maps[2, 0, 0] = 0.0, torch.inf
    seen = []

    def counting(rows, alter):
        seen.extend(rows.tolist())
        return direct(rows, alter)

    logits = road_logits(images, maps, counting, noise, percentages=(50,))
    assert logits.isnan().all(dim=(1, 2, 3)).tolist() == [True, False, True, False]
    assert torch.equal(logits[[1, 3]], clean[[1, 3]])
    assert seen == [1, 1, 3, 3]


@pytest.mark.parametrize("percentages", [(), (0,), (100,), (50, 120)])
def test_percentages_that_remove_nothing_or_everything_are_refused(scene, percentages):
    images, maps = scene
    with pytest.raises(ValueError, match="`percentages` to be between 0 and 100"):
        road_logits(images, maps, direct, torch.zeros(3, *SIZE), percentages=percentages)


def test_maps_of_another_size_are_refused(scene):
    images, maps = scene
    with pytest.raises(ValueError, match="`maps` to be"):
        road_logits(images, maps[:, 1:], direct, torch.zeros(3, *SIZE), percentages=(50,))
