import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from lit_decom.functional.alignment import (
    assign_components,
    component_similarity,
    invert_assignment,
    match_components,
    rate_assignment,
    usable_components,
)


def orthonormal(batch, k, dim, generator):
    """Rows ``(batch, k, dim)``, orthonormal within an image."""
    return torch.linalg.qr(torch.randn(batch, dim, k, generator=generator, dtype=torch.float64)).Q.mT


def planted(seed, *, batch=4, k=6, grid=(5, 5), n_channels=40, p=12):
    """Two decompositions of the same components: other order, other signs, other selected channels, other scales."""
    generator = torch.Generator().manual_seed(seed)
    patterns = orthonormal(batch, k, grid[0] * grid[1], generator).reshape(batch, k, *grid)
    loadings = orthonormal(batch, k, p, generator).mT
    order = torch.stack([torch.randperm(k, generator=generator) for _ in range(batch)])
    signs = torch.where(torch.rand(batch, k, generator=generator) < 0.5, -1.0, 1.0).double()
    selected = torch.stack([torch.randperm(n_channels, generator=generator) for _ in range(batch)])
    channels, extra = selected[:, :p], selected[:, p : p + 3]
    mixed = torch.stack([torch.randperm(p + 3, generator=generator) for _ in range(batch)])

    # Old component i is new component `where[i]`, times `signs[i]`.
    where = order.argsort(1)
    rows = torch.arange(batch)[:, None]
    new_patterns = (patterns * signs[..., None, None])[rows, order] * torch.linspace(9, 1, k).view(1, k, 1, 1)
    new_loadings = (loadings * signs[:, None, :]).mT[rows, order].mT
    new_loadings = F.pad(new_loadings, (0, 0, 0, 3))[rows, mixed]
    new_channels = torch.cat((channels, extra), 1)[rows, mixed]
    old = {"loadings": loadings, "channels": channels}
    new = {"new_loadings": new_loadings, "new_channels": new_channels}
    return patterns, new_patterns, {**old, **new}, where, signs


@pytest.mark.parametrize("seed", range(5))
def test_planted_permutation_and_flips_are_recovered_exactly(seed):
    patterns, new_patterns, sides, where, signs = planted(seed)
    match = match_components(patterns.float(), new_patterns.float(), **sides)
    assert torch.equal(match.assignment, where)
    assert torch.equal(match.signs, signs.long())
    torch.testing.assert_close(match.similarity, torch.ones_like(match.similarity))
    # similarity less that of the best rival, which float32 patterns leave at 1e-7 instead of 0
    torch.testing.assert_close(match.confidence, torch.ones_like(match.confidence), atol=1e-5, rtol=0)


def test_vanished_and_new_components_stay_without_partner():
    patterns, new_patterns, sides, where, _ = planted(1)
    keep_old = torch.ones(4, 6, dtype=torch.bool)
    keep_new = torch.ones(4, 6, dtype=torch.bool)
    keep_old[0, 2] = keep_old[3, 5] = False
    keep_new[1, 0] = keep_new[3, 4] = False
    match = match_components(patterns, new_patterns, **sides, valid=keep_old, new_valid=keep_new)
    expected = torch.where(keep_old & keep_new.gather(1, where), where, -1)
    assert torch.equal(match.assignment, expected)
    lost = expected < 0
    assert torch.equal(match.signs == 0, lost)
    assert torch.equal(match.similarity.isnan(), lost)
    assert torch.equal(match.confidence.isnan(), lost)


def best_total(table, threshold):
    """Largest sum over all partial assignments, by trying every permutation of a padded table."""
    k, n = len(table), len(table[0]) if table else 0
    size = max(k, n)
    value = [[0.0] * size for _ in range(size)]
    for i in range(k):
        for j in range(n):
            if table[i][j] >= threshold:
                value[i][j] = table[i][j]
    return max(sum(value[i][j] for i, j in enumerate(order)) for order in permutations(range(size)))


@pytest.mark.parametrize("seed", range(30))
def test_assignment_is_the_best_of_all_permutations(seed):
    generator = torch.Generator().manual_seed(seed)
    k, n = (int(torch.randint(1, 6, (), generator=generator)) for _ in range(2))
    cosines = torch.rand(2, k, n, generator=generator, dtype=torch.float64) * 2 - 1
    valid = torch.rand(2, k, generator=generator) < 0.8
    new_valid = torch.rand(2, n, generator=generator) < 0.8
    threshold = float(torch.rand((), generator=generator)) * 0.7 + 0.01
    match = assign_components(cosines, valid, new_valid, min_similarity=threshold)
    for image in range(2):
        possible = valid[image][:, None] & new_valid[image]
        table = torch.where(possible, cosines[image].abs(), 0.0).tolist()
        partners = match.assignment[image].tolist()
        matched = [(i, j) for i, j in enumerate(partners) if j >= 0]
        assert len({j for _, j in matched}) == len(matched)
        assert all(possible[i, j] and table[i][j] >= threshold for i, j in matched)
        # the same float64 numbers, added in another order
        assert math.isclose(sum(table[i][j] for i, j in matched), best_total(table, threshold), abs_tol=1e-12)
        for i, j in matched:
            rivals = [table[i][m] for m in range(n) if m != j] + [table[m][j] for m in range(k) if m != i]
            assert math.isclose(match.similarity[image, i], table[i][j])
            expected = max(0.0, table[i][j] - max(rivals, default=0.0))
            assert math.isclose(match.confidence[image, i], expected, abs_tol=1e-12)
            assert match.signs[image, i] == (-1 if cosines[image, i, j] < 0 else 1)


def test_similarity_is_the_weighted_mean_under_one_common_sign():
    pattern = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    new_pattern = torch.tensor([-0.6, 0.8]).reshape(1, 1, 1, 2)
    loading = torch.tensor([1.0, 0.0]).reshape(1, 2, 1)
    weights = {"spatial_weight": 3.0, "channel_weight": 1.0}
    for sign, expected in ((-1.0, -(3 * 0.6 + 1) / 4), (1.0, (-3 * 0.6 + 1) / 4)):
        cosine = component_similarity(pattern, new_pattern, loadings=loading, new_loadings=sign * loading, **weights)
        torch.testing.assert_close(cosine, torch.tensor([[[expected]]], dtype=torch.float64))


def test_same_region_with_opposite_evidence_is_another_component():
    pattern, loading = torch.ones(1, 1, 2, 2), torch.ones(1, 3, 1)
    match = match_components(pattern, pattern, loadings=loading, new_loadings=-loading)
    assert match.assignment.tolist() == [[-1]]
    both = match_components(-pattern, pattern, loadings=loading, new_loadings=-loading)
    assert both.assignment.tolist() == [[0]]
    assert both.signs.tolist() == [[-1]]


def test_loadings_are_compared_on_the_full_channel_axis():
    pattern = torch.ones(1, 1, 1, 1)
    cosine = component_similarity(
        pattern,
        pattern,
        loadings=torch.tensor([[[0.6], [0.8]]]),
        channels=torch.tensor([[3, 7]]),
        new_loadings=torch.tensor([[[1.0], [0.0], [5.0]]]),
        new_channels=torch.tensor([[7, 9, -1]]),
        spatial_weight=0.0,
    )
    torch.testing.assert_close(cosine, torch.tensor([[[0.8]]], dtype=torch.float64))


def test_loadings_without_any_channel_resemble_nothing():
    pattern, nothing = torch.ones(1, 1, 1, 1), torch.zeros(1, 0, 1)
    sides = {"loadings": nothing, "new_loadings": nothing, "channels": nothing[..., 0].long()}
    cosine = component_similarity(pattern, pattern, **sides, new_channels=nothing[..., 0].long())
    assert cosine.item() == pytest.approx(0.5), "the patterns' half alone"


def test_rows_are_the_channels_where_none_are_given():
    patterns, new_patterns, sides, _, _ = planted(2)
    rows = torch.arange(40).expand(4, 40)
    full = torch.zeros(4, 40, 6, dtype=torch.float64).scatter(
        1, sides["channels"][..., None].expand(-1, -1, 6), sides["loadings"]
    )
    named = component_similarity(patterns, new_patterns, **sides)
    unnamed = component_similarity(patterns, new_patterns, **{**sides, "loadings": full, "channels": None})
    torch.testing.assert_close(named, unnamed)
    again = component_similarity(patterns, new_patterns, **{**sides, "loadings": full, "channels": rows})
    torch.testing.assert_close(named, again)


def test_channel_weight_zero_equals_patterns_alone():
    patterns, new_patterns, sides, _, _ = planted(3)
    noise = torch.randn(sides["new_loadings"].shape, generator=torch.Generator().manual_seed(0))
    sides = {**sides, "new_loadings": noise.double()}
    torch.testing.assert_close(
        component_similarity(patterns, new_patterns, **sides, channel_weight=0.0),
        component_similarity(patterns, new_patterns),
    )


@pytest.mark.parametrize("degrees", [0, 10, 30, 44, 45, 46, 80])
def test_confidence_of_a_rotated_pair_vanishes_at_45_degrees(degrees):
    angle = math.radians(degrees)
    generator = torch.Generator().manual_seed(0)
    patterns = orthonormal(1, 2, 9, generator)
    loadings = orthonormal(1, 2, 8, generator)
    rotation = torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64
    )
    match = match_components(patterns, rotation @ patterns, loadings=loadings.mT, new_loadings=(rotation @ loadings).mT)
    near, far = sorted((abs(math.cos(angle)), abs(math.sin(angle))))[::-1]
    torch.testing.assert_close(match.similarity, torch.full((1, 2), near, dtype=torch.float64))
    torch.testing.assert_close(match.confidence, torch.full((1, 2), near - far, dtype=torch.float64))


def test_equal_singular_values_give_low_confidence_after_a_tiny_change_of_the_matrix():
    generator = torch.Generator().manual_seed(1)
    u, v = orthonormal(1, 3, 10, generator)[0], orthonormal(1, 3, 9, generator)[0]
    values = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    matrix = u.T @ torch.diag(values) @ v
    # This perturbation is diagonal at 45 degrees within the plane of the two equal components.
    change = 1e-4 * (u[1:2].T @ v[2:3] + u[2:3].T @ v[1:2])
    match = match_components(v[None], torch.linalg.svd(matrix + change).Vh[None, :3])
    assert match.assignment[0, 0] == 0
    assert match.confidence[0, 0] > 0.999
    assert match.confidence[0, 1:].max() < 1e-3
    assert match.similarity[0, 1:].min() > 0.7


def test_random_decompositions_give_low_confidence():
    generator = torch.Generator().manual_seed(0)
    old, new = (orthonormal(50, 10, 49, generator) for _ in range(2))
    u, w = (orthonormal(50, 10, 100, generator).mT for _ in range(2))
    for sides in ({}, {"loadings": u, "new_loadings": w}):
        forced = match_components(old, new, **sides, min_similarity=0.0)
        assert (forced.assignment >= 0).all()
        assert forced.confidence.mean() < 0.1
        assert forced.confidence.max() < 0.4
        assert (match_components(old, new, **sides).assignment >= 0).double().mean() < 0.03


def test_one_bad_image_never_spoils_its_batch():
    patterns, new_patterns, sides, _, _ = planted(4)
    clean = match_components(patterns, new_patterns, **sides)
    patterns, new_patterns, loadings = patterns.clone(), new_patterns.clone(), sides["loadings"].clone()
    patterns[1] = torch.nan
    new_patterns[2, 3] = torch.inf
    loadings[3, 0, 5] = torch.nan
    dirty = match_components(patterns, new_patterns, **{**sides, "loadings": loadings})
    assert (dirty.assignment[1] == -1).all()
    assert not (dirty.assignment[2] == 3).any()
    assert (dirty.assignment[2] >= 0).sum() == 5
    assert dirty.assignment[3, 5] == -1
    for field in ("assignment", "signs", "similarity", "confidence"):
        assert torch.equal(getattr(dirty, field)[0], getattr(clean, field)[0])
        torch.testing.assert_close(getattr(dirty, field)[3, :5], getattr(clean, field)[3, :5])


def test_padding_is_neither_a_partner_nor_a_rival():
    pattern = torch.eye(3).reshape(1, 3, 1, 3)
    twins = pattern[:, [0, 0, 1]]
    rivalled = match_components(pattern, twins)
    assert rivalled.confidence[0, 0] == 0
    alone = match_components(pattern, twins, new_valid=torch.tensor([[False, True, True]]))
    assert alone.assignment.tolist() == [[1, 2, -1]]
    assert alone.confidence[0, 0] == 1


def test_matching_backwards_is_the_inverse():
    generator = torch.Generator().manual_seed(5)
    old = orthonormal(8, 5, 12, generator)
    new = old[:, torch.randperm(5, generator=generator)][:, :4] + 0.15 * torch.randn(8, 4, 12, generator=generator)
    there, back = match_components(old, new), match_components(new, old)
    assert (there.assignment >= 0).sum() > 20
    assert torch.equal(invert_assignment(there.assignment, 4), back.assignment)
    rows = (there.assignment >= 0).nonzero(as_tuple=True)
    torch.testing.assert_close(there.confidence[rows], back.confidence[rows[0], there.assignment[rows]])


def test_batch_equals_single_images():
    patterns, new_patterns, sides, _, _ = planted(6)
    patterns = patterns + 0.2 * torch.randn(patterns.shape, generator=torch.Generator().manual_seed(0))
    whole = match_components(patterns, new_patterns, **sides)
    for image in range(4):
        part = slice(image, image + 1)
        single = match_components(patterns[part], new_patterns[part], **{n: s[part] for n, s in sides.items()})
        assert torch.equal(single.assignment[0], whole.assignment[image])
        torch.testing.assert_close(single.confidence[0], whole.confidence[image])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    patterns, new_patterns, sides, where, _ = planted(7)
    match = match_components((patterns * scale).float(), new_patterns.float(), **sides)
    assert torch.equal(match.assignment, where)
    torch.testing.assert_close(match.similarity, torch.ones_like(match.similarity))


def test_a_blank_component_is_not_matched():
    patterns = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    assert match_components(patterns, patterns).assignment.tolist() == [[-1, 1]]


def test_sides_without_components_match_nothing():
    nothing, something = torch.zeros(2, 0, 3, 3), torch.ones(2, 1, 3, 3)
    assert match_components(nothing, something).assignment.shape == (2, 0)
    match = match_components(something, nothing)
    assert match.assignment.tolist() == [[-1], [-1]]
    assert match.similarity.isnan().all()


def test_threshold_is_inclusive():
    cosines, everyone = torch.tensor([[[0.5]]]), torch.ones(1, 1, dtype=torch.bool)
    assert assign_components(cosines, everyone, everyone, min_similarity=0.5).assignment.item() == 0
    assert assign_components(cosines, everyone, everyone, min_similarity=0.51).assignment.item() == -1


def test_an_alternative_better_than_the_chosen_pair_leaves_no_confidence():
    match = rate_assignment(torch.tensor([[[0.6, 0.9], [0.0, 0.7]]]), torch.tensor([[0, 1]]))
    assert match.confidence.tolist() == [[0.0, 0.0]]


def test_inputs_are_not_modified():
    patterns, new_patterns, sides, _, _ = planted(8)
    everything = {"a": patterns, "b": new_patterns, **sides}
    before = {name: tensor.clone() for name, tensor in everything.items()}
    match_components(patterns, new_patterns, **sides)
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_similarity": 1.5}, "`min_similarity` to be between 0 and 1, but got 1.5"),
        ({"spatial_weight": -1.0}, "`spatial_weight` to be non-negative and finite, but got -1.0"),
        ({"channel_weight": float("nan")}, "`channel_weight` to be non-negative and finite, but got nan"),
        ({"spatial_weight": 0.0, "channel_weight": 0.0}, "to be above 0, but got 0.0 and 0.0"),
        ({"new_loadings": None}, "`loadings` and `new_loadings` to be given together"),
        ({"channels": torch.zeros(4, 5, dtype=torch.long)}, r"`channels` to have shape \(4, 12\), but got \(4, 5\)"),
        ({"valid": torch.ones(4, 5, dtype=torch.bool)}, r"`valid` to have shape \(4, 6\), but got \(4, 5\)"),
        ({"new_patterns": torch.zeros(4, 6, 4, 4)}, r"same images and grid, but got \(4, 6, 5, 5\) and \(4, 6, 4, 4\)"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    patterns, new_patterns, sides, _, _ = planted(0)
    arguments = {"patterns": patterns, "new_patterns": new_patterns, **sides, **change}
    with pytest.raises(ValueError, match=message):
        match_components(**arguments)


def test_loadings_of_another_decomposition_are_refused():
    with pytest.raises(ValueError, match=r"`loadings` to have shape \(2, P, 3\), but got \(2, 7, 4\)"):
        usable_components(torch.zeros(2, 3, 1, 1), torch.zeros(2, 7, 4))
    with pytest.raises(ValueError, match=r"`cosines` to have shape \(1, 2, 3\), but got \(1, 3, 2\)"):
        assign_components(torch.zeros(1, 3, 2), torch.ones(1, 2) > 0, torch.ones(1, 3) > 0)


def test_patterns_alone_need_a_spatial_weight():
    with pytest.raises(ValueError, match=r"but got 0\.0 and 1\.0 without loadings\.$"):
        match_components(torch.ones(1, 1, 1), torch.ones(1, 1, 1), spatial_weight=0.0)
