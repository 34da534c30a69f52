import math
from collections import Counter

import pytest
import torch

from lit_decom.functional.part_identity import (
    fixed_index_average_precision,
    fixed_indices,
    information_floor,
    part_information,
    pointwise_information,
)


def tables(n: int = 6, k: int = 4, r: int = 3) -> torch.Tensor:
    found = torch.rand(n, k, r, generator=torch.Generator().manual_seed(0))
    found[1, :, 0] = found[2, :, 0] = found[2, :, 1] = torch.nan
    return found


def draws(n: int = 6, d: int = 20) -> torch.Tensor:
    times = torch.randint(0, 3, (d, n), generator=torch.Generator().manual_seed(1)).double()
    times[:, 0] += times.sum(dim=1) == 0
    return times


def fixed_index_by_definition(images: list[torch.Tensor]) -> tuple[float, list[int]]:
    """One image after another, as often as it was drawn."""
    values, chosen = [], []
    for r in range(3):
        shown = [image[:, r].tolist() for image in images if not image[:, r].isnan().any()]
        if shown:
            means = [sum(image[k] for image in shown) / len(shown) for k in range(4)]
            values.append(max(means))
            chosen.append(means.index(max(means)))
        else:
            chosen.append(-1)
    return (sum(values) / len(values) if values else math.nan), chosen


def test_each_part_keeps_the_component_of_best_mean_over_the_images_drawn():
    found = fixed_index_average_precision(tables(), draws())
    for value, times in zip(found.tolist(), draws(), strict=True):
        images = [image for image, count in zip(tables(), times.tolist(), strict=True) for _ in range(int(count))]
        expected, chosen = fixed_index_by_definition(images)
        # float32 means
        assert value == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert fixed_indices(tables(), times).tolist() == chosen


def test_a_part_that_no_image_shows_is_no_part():
    only = tables()[2:3]
    assert fixed_indices(only).tolist()[:2] == [-1, -1]
    value = fixed_index_average_precision(only, torch.ones(1, 1))
    assert value.item() == pytest.approx(only[0, :, 2].max().item())
    assert fixed_index_average_precision(torch.full((2, 4, 3), torch.nan), torch.ones(1, 2)).isnan().all()


def parts() -> torch.Tensor:
    found = torch.randint(0, 3, (40, 5), generator=torch.Generator().manual_seed(2))
    found[:, 1] = torch.where(torch.arange(40) % 3 == 0, found[:, 1], 2)
    found[torch.arange(40) % 7 == 0, 4] = -1
    return found


def information_by_definition(pairs: list[tuple[int, int]]) -> float:
    n, joint = len(pairs), Counter(pairs)
    index, part = Counter(k for k, _ in pairs), Counter(r for _, r in pairs)
    return sum(c / n * math.log2(c * n / (index[k] * part[r])) for (k, r), c in joint.items())


def pairs_of(found: torch.Tensor) -> list[tuple[int, int]]:
    return [(k, r) for row in found.tolist() for k, r in enumerate(row) if r >= 0]


def test_information_is_that_of_all_pairs_drawn():
    times = torch.randint(0, 3, (10, 40), generator=torch.Generator().manual_seed(3)).double()
    for value, count in zip(part_information(parts(), times).tolist(), times, strict=True):
        expected = information_by_definition(pairs_of(parts().repeat_interleave(count.long(), dim=0)))
        assert value == pytest.approx(expected, abs=1e-9)


def test_an_index_that_is_its_part_has_all_the_bits_and_one_that_means_nothing_none():
    once = torch.ones(1, 64)
    same = torch.arange(4).expand(64, 4)
    assert part_information(same, once).item() == pytest.approx(2.0, abs=1e-5)
    balanced = torch.stack([torch.arange(4).roll(i) for i in range(64)])
    assert part_information(balanced, once).item() == pytest.approx(0.0, abs=1e-5)
    assert part_information(torch.full((64, 3), -1), once).isnan().all()


def test_images_add_up_to_the_information():
    each = pointwise_information(parts())
    # float32 logarithms of 200 pairs
    assert each.mean().item() == pytest.approx(part_information(parts(), torch.ones(1, 40).double()).item(), abs=1e-5)


def test_the_floor_is_the_mean_over_permutations_of_each_image():
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(400):
        permuted = parts().clone()
        for row in permuted:
            there = (row >= 0).nonzero().flatten()
            row[there] = row[there[torch.randperm(len(there), generator=generator)]]
        values.append(information_by_definition(pairs_of(permuted)))
    mean, spread = torch.tensor(values).mean().item(), torch.tensor(values).std().item()
    # four standard errors of both means
    error = 4 * spread * math.sqrt(1 / 400 + 1 / 400)
    assert information_floor(parts(), n_permutations=400).item() == pytest.approx(mean, abs=error)
    assert mean < part_information(parts(), torch.ones(1, 40)).item() / 2


def test_the_floor_depends_neither_on_the_order_of_images_nor_on_global_randomness():
    before = torch.get_rng_state()
    shuffled = parts()[torch.randperm(40, generator=torch.Generator().manual_seed(9))]
    assert information_floor(shuffled) == information_floor(parts())
    assert torch.equal(before, torch.get_rng_state())


def test_the_floor_of_drawn_images_grows_with_the_squares_of_how_often_they_are_drawn():
    """What `PartInformation` takes off in a draw, against permutations in which an image's copies stay together."""
    generator = torch.Generator().manual_seed(6)
    chance = torch.randint(0, 4, (60, 6), generator=generator)
    times = torch.bincount(torch.randint(0, 60, (60,), generator=generator), minlength=60).double()
    values = []
    for _ in range(300):
        permuted = torch.stack([row[torch.randperm(6, generator=generator)] for row in chance])
        values.append(part_information(permuted, times[None]).item())
    expected = information_floor(chance).item() * 60 * times.square().sum().item() / times.sum().item() ** 2
    assert expected == pytest.approx(sum(values) / 300, rel=0.15)
