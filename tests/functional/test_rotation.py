from itertools import combinations, permutations

import pytest
import torch
from torch.testing import assert_close

from lit_decom.functional.rotation import pivoted_start, varimax, varimax_criterion


def orthonormal(matrix):
    return torch.linalg.qr(matrix.double()).Q


def random_rotations(seed, n, k):
    noise = torch.randn(n, k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(noise).Q


def simplex(n):
    """The differences of n classes that each have their own channel."""
    return torch.linalg.svd(torch.eye(n, dtype=torch.float64) - 1 / n).Vh[: n - 1].T


def circulant(n, k):
    angles = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    waves = [wave(angles * frequency) for frequency in range(1, k) for wave in (torch.cos, torch.sin)]
    return orthonormal(torch.stack(waves[:k], dim=1))


def axis_aligned(n, k):
    return torch.eye(n, dtype=torch.float64)[:, :k] @ random_rotations(3, 1, k)[0]


def heavy_tailed(n, k):
    return orthonormal(torch.randn(n, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3)


CASES = {
    "simplex": simplex(8),
    "circulant": circulant(11, 4),
    "axis_aligned": axis_aligned(20, 5),
    "heavy_tailed": heavy_tailed(64, 6),
}


def criterion_in_loops(rows):
    """Kaiser's raw varimax criterion, column by column."""
    total = 0.0
    for column in rows.T.tolist():
        squares = [value**2 for value in column]
        mean = sum(squares) / len(squares)
        total += sum((square - mean) ** 2 for square in squares) / len(squares)
    return total


def plane_by_plane(directions, rotation, sweeps=15):
    """Another way uphill: every plane in turn to its best angle in closed form (Kaiser 1958, equations 16 to 19)."""
    rotated = directions @ rotation
    for _ in range(sweeps):
        for first, second in combinations(range(rotated.shape[1]), 2):
            x, y = rotated[:, first].clone(), rotated[:, second].clone()
            u, v = x * x - y * y, 2 * x * y
            sine = 2 * ((u * v).mean() - u.mean() * v.mean())
            cosine = (u * u - v * v).mean() - (u.mean() ** 2 - v.mean() ** 2)
            angle = torch.atan2(sine, cosine) / 4
            rotated[:, first] = x * angle.cos() + y * angle.sin()
            rotated[:, second] = y * angle.cos() - x * angle.sin()
    return criterion_in_loops(rotated)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_random_start_leads_to_a_larger_criterion(case):
    rotation = varimax(case).matrix
    assert_close(rotation.T @ rotation, torch.eye(case.shape[1], dtype=torch.float64))
    reached = criterion_in_loops(case @ rotation)
    best = max(plane_by_plane(case, start) for start in random_rotations(0, 6, case.shape[1]))
    assert reached > best * (1 - 1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_axes_depend_on_the_subspace_and_not_on_its_basis(case):
    rotated = case @ varimax(case).matrix
    for turn in random_rotations(1, 8, case.shape[1]):
        other = case @ turn
        # The climb ends within 1e-12 of its end a step, and slows down where the maximum is flat.
        assert_close(other @ varimax(other).matrix, rotated, rtol=0, atol=1e-8)


def test_the_criterion_is_kaisers():
    loadings = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(float(varimax_criterion(loadings)) - criterion_in_loops(loadings)) < 1e-12


def test_directions_on_one_channel_each_are_found():
    case = CASES["axis_aligned"]
    found = (case @ varimax(case).matrix).abs()
    assert any(
        torch.allclose(found[:5, list(order)], torch.eye(5, dtype=torch.float64)) for order in permutations(range(5))
    )


@pytest.mark.parametrize(
    ("case", "identified"),
    [
        (CASES["axis_aligned"], True),
        (CASES["heavy_tailed"], True),
        (CASES["simplex"], False),
        (CASES["circulant"], False),
    ],
)
def test_the_margin_tells_whether_other_axes_are_as_good(case, identified):
    margin = varimax(case).margin
    assert 0 <= margin <= 1
    assert (margin > 0.01) == identified


def test_a_plane_without_any_better_angle_has_no_margin():
    # Eight channels at equal angles: the sum of fourth powers is the same in every direction.
    assert varimax(circulant(8, 2)).margin < 1e-6


def test_one_direction_has_nothing_to_turn():
    found = varimax(torch.tensor([[0.6], [0.8]]))
    assert (found.matrix.abs().item(), found.margin) == (1.0, 1.0)


def test_the_start_puts_the_strongest_channels_on_axes_and_takes_the_lowest_among_equals():
    case = heavy_tailed(12, 3)
    started = case @ pivoted_start(case)
    strongest = int(case.square().sum(1).argmax())
    assert_close(started[strongest, 1:], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    equal = orthonormal(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
    # Rounding must not decide: a channel that is stronger by less than that comes no earlier.
    nearly = orthonormal(equal * torch.tensor([1.0, 1.0, 1.0, 1.0 + 1e-13], dtype=torch.float64)[:, None])
    for basis in (equal, nearly):
        started = basis @ pivoted_start(basis)
        assert_close(started[0], torch.tensor([0.5**0.5, 0.0], dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("wrong", [torch.ones(3, 2), torch.full((3, 2), torch.nan), torch.eye(2)[None]])
def test_columns_that_are_not_orthonormal_are_refused(wrong):
    with pytest.raises(ValueError, match="Expected `directions` to be"):
        varimax(wrong)
