import io
import math
from itertools import permutations

import pytest
import torch

from lit_decom.functional.alignment import match_components
from lit_decom.functional.shared_basis import (
    SharedBasis,
    basis_from_gram,
    basis_from_maps,
    channel_gram,
    exemplars,
    project,
)


def random_maps(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def planted(seed, n_images=6, n_channels=12, grid=(4, 4), energies=(9.0, 4.0, 1.0)):
    """Maps of three channel directions that every image shares, with its own spatial pattern for each."""
    generator = torch.Generator().manual_seed(seed)
    k, positions = len(energies), grid[0] * grid[1]
    directions = torch.linalg.qr(torch.randn(n_channels, k, generator=generator, dtype=torch.float64)).Q
    directions = directions * directions.sum(0).sign()
    patterns = torch.linalg.qr(torch.randn(n_images, positions, k, generator=generator, dtype=torch.float64)).Q
    scales = torch.tensor(energies, dtype=torch.float64).sqrt()
    components = patterns.mT * scales[:, None]
    maps = (directions @ components).reshape(n_images, n_channels, *grid)
    return maps, directions, components.reshape(n_images, k, *grid)


@pytest.mark.parametrize("build", [basis_from_maps, lambda maps, k: basis_from_gram(channel_gram(maps), k)])
def test_planted_directions_are_found_in_every_image(build):
    maps, directions, components = planted(0)
    basis = build(maps, 3)
    torch.testing.assert_close(basis.directions, directions)
    torch.testing.assert_close(basis.explained_energy, torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64) / 14)
    seen = project(maps, basis)
    torch.testing.assert_close(seen.components, components)
    torch.testing.assert_close(seen.explained_energy, basis.explained_energy.expand(6, 3))
    torch.testing.assert_close(seen.total, torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 20, 2, 2), (5, 8, 4, 4)])
def test_basis_is_the_singular_value_decomposition_of_all_maps_side_by_side(shape):
    maps = random_maps(1, *shape)
    matrix = maps.double().movedim(1, 0).flatten(1)
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    basis = basis_from_maps(maps, 5, weighting="energy")
    torch.testing.assert_close(basis.energies, values[:5].square())
    torch.testing.assert_close(basis.total_energy, matrix.square().sum())
    torch.testing.assert_close(basis.directions, left[:, :5] * left[:, :5].sum(0).sign())


def test_both_gram_matrices_give_the_same_basis():
    maps = random_maps(2, 4, 30, 2, 3)
    small, large = basis_from_maps(maps, 8), basis_from_gram(channel_gram(maps), 8)
    for field in ("directions", "energies", "total_energy"):
        torch.testing.assert_close(getattr(small, field), getattr(large, field))
    assert torch.equal(small.valid, large.valid)


def test_weak_directions_stay_orthogonal():
    maps, _, _ = planted(15, n_images=1, n_channels=20, energies=(1.0, 3e-11, 2e-11, 1e-11))
    basis = basis_from_maps(maps, 4)
    assert basis.valid.all()
    gram = basis.directions.T @ basis.directions
    # unit vectors in float64
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighting", ["equal", "energy"])
def test_grams_of_batches_add_up(weighting):
    maps = random_maps(3, 7, 6, 3, 3)
    parts = sum(channel_gram(part, weighting=weighting) for part in maps.split(3))
    # float64 sums of order one to a hundred, in another order
    torch.testing.assert_close(parts, channel_gram(maps, weighting=weighting), rtol=1e-12, atol=1e-12)


def test_equal_weighting_lets_no_image_speak_for_the_others():
    maps = random_maps(4, 5, 6, 3, 3, dtype=torch.float64)
    loud = maps.clone()
    loud[0] *= 1000
    calm = channel_gram(maps)
    torch.testing.assert_close(channel_gram(loud), calm)
    assert math.isclose(calm.trace(), 5)
    own = basis_from_maps(maps[:1], 1, weighting="energy").directions
    # the other images are left with a millionth of the energy, over the gap to the second direction
    torch.testing.assert_close(basis_from_maps(loud, 1, weighting="energy").directions, own, atol=1e-4, rtol=0)
    assert (basis_from_maps(loud, 1).directions - own).abs().max() > 0.05


def test_positive_part_of_a_component_adds_to_the_class_map():
    maps = random_maps(5, 3, 5, 4, 4, dtype=torch.float64)
    basis = basis_from_maps(maps, 5)
    sums = basis.directions.sum(0)
    assert (sums >= 0).all()
    seen = project(maps, basis)
    torch.testing.assert_close(torch.einsum("k,bkhw->bhw", sums, seen.components), maps.sum(1))


@pytest.mark.parametrize("order", list(permutations([0.1, 0.5, -0.5, -0.1])))
def test_a_direction_without_net_evidence_has_a_positive_first_largest_entry(order):
    direction = torch.tensor(order, dtype=torch.float64)
    basis = basis_from_gram(torch.outer(direction, direction), 1)
    sign = 1 if order.index(0.5) < order.index(-0.5) else -1
    torch.testing.assert_close(basis.directions[:, 0], sign * direction / math.sqrt(0.52))


@pytest.mark.parametrize("shape", [(2, 9, 1, 2), (2, 9, 4, 4)])
def test_directions_beyond_the_rank_are_marked_and_blank(shape):
    maps = random_maps(6, *shape)[:, :3].repeat(1, 3, 1, 1)
    basis = basis_from_maps(maps, 7)
    assert basis.valid.tolist() == [True] * 3 + [False] * 4
    assert (basis.directions[:, 3:] == 0).all()
    kept = basis.directions[:, :3]
    torch.testing.assert_close(kept.T @ kept, torch.eye(3, dtype=torch.float64))
    seen = project(maps, basis)
    assert seen.explained_energy[:, 3:].isnan().all()
    torch.testing.assert_close(seen.total, torch.ones(2, dtype=torch.float64))


def test_one_bad_image_never_spoils_the_basis_or_the_others():
    maps = random_maps(7, 4, 6, 3, 3)
    bad = maps.clone()
    bad[2, 0, 0, 0] = torch.nan
    rest = maps[[0, 1, 3]]
    assert torch.equal(channel_gram(bad), channel_gram(rest))
    basis = basis_from_maps(bad, 3)
    assert torch.equal(basis.directions, basis_from_maps(rest, 3).directions)
    seen, clean = project(bad, basis), project(maps, basis)
    assert seen.components[2].isnan().all()
    assert seen.explained_energy[2].isnan().all()
    assert seen.total[2].isnan()
    torch.testing.assert_close(seen.components[[0, 1, 3]], clean.components[[0, 1, 3]])
    torch.testing.assert_close(seen.total[[0, 1, 3]], clean.total[[0, 1, 3]])


@pytest.mark.parametrize("maps", [torch.zeros(3, 4, 2, 2), torch.full((3, 4, 2, 2), torch.nan)])
@pytest.mark.parametrize("build", [basis_from_maps, lambda maps, k: basis_from_gram(channel_gram(maps), k)])
def test_a_probe_without_evidence_has_no_valid_component(build, maps):
    basis = build(maps, 2)
    assert not basis.valid.any()
    assert basis.explained_energy.isnan().all()
    assert (basis.directions == 0).all()


def test_blank_image_has_no_explained_energy():
    maps = random_maps(8, 2, 4, 2, 2)
    maps[1] = 0
    seen = project(maps, basis_from_maps(maps, 4))
    assert (seen.components[1] == 0).all()
    assert seen.explained_energy[1].isnan().all()
    assert math.isclose(seen.total[0], 1.0)


def test_frozen_basis_shows_how_far_the_network_drifted():
    maps, directions, components = planted(9, energies=(4.0,))
    reference = basis_from_maps(maps, 1)
    stranger = random_maps(90, 12, dtype=torch.float64)
    stranger = stranger - directions[:, 0] * (stranger @ directions[:, 0])
    angle = math.radians(30)
    turned = math.cos(angle) * directions[:, 0] + math.sin(angle) * stranger / stranger.norm()
    later = turned[:, None, None] * components
    torch.testing.assert_close(project(later, reference).total, torch.full((6,), 0.75, dtype=torch.float64))


def test_components_are_matched_over_epochs_by_their_directions():
    before, directions, _ = planted(10)
    later_components = planted(11, energies=(1.0, 9.0, 4.0))[2]
    later = torch.einsum("ck,bkhw->bchw", directions, later_components)
    old, new = basis_from_maps(before, 3), basis_from_maps(later, 3)
    match = match_components(old.patterns, new.patterns, valid=old.valid[None], new_valid=new.valid[None])
    assert match.assignment.tolist() == [[2, 0, 1]]
    assert match.signs.tolist() == [[1, 1, 1]]
    torch.testing.assert_close(match.confidence, torch.ones(1, 3, dtype=torch.float64))


def test_basis_survives_a_checkpoint():
    basis = basis_from_maps(random_maps(12, 3, 6, 3, 3), 3)
    buffer = io.BytesIO()
    torch.save(dict(vars(basis)), buffer)
    buffer.seek(0)
    restored = SharedBasis(**torch.load(buffer, weights_only=True))
    assert all(torch.equal(value, getattr(restored, name)) for name, value in vars(basis).items())


def test_projection_keeps_dtype_and_batch_equals_singles():
    maps = random_maps(13, 4, 6, 3, 3)
    basis = basis_from_maps(maps, 3)
    whole = project(maps, basis)
    assert whole.components.dtype == torch.float32
    singles = torch.cat([project(image[None], basis).components for image in maps])
    torch.testing.assert_close(whole.components, singles)


def test_exemplars_agree_with_a_slow_search():
    components = random_maps(14, 7, 3, 4, 5) - 1.0
    found = exemplars(components, 4, (64, 80), extent=3)
    for k in range(3):
        peaks = []
        for image in range(7):
            cells = [(float(components[image, k, r, c]), r, c) for r in range(4) for c in range(5)]
            value, row, column = max(cells)
            peaks.append((value, image, row, column))
        peaks = [peak for peak in sorted(peaks, reverse=True) if peak[0] > 0][:4]
        missing = [-1] * (4 - len(peaks))
        assert found.images[k].tolist() == [peak[1] for peak in peaks] + missing
        assert found.positions[k, : len(peaks)].tolist() == [list(peak[2:]) for peak in peaks]
        assert found.values[k, : len(peaks)].tolist() == [peak[0] for peak in peaks]
        assert found.values[k, len(peaks) :].isnan().all()
    boxes = found.boxes[found.images >= 0]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 80).all()
    assert (boxes[:, 3] <= 64).all()
    assert (boxes[:, 2:] - boxes[:, :2] == 48).all()


@pytest.mark.parametrize(
    ("row", "column", "box"),
    [
        (1, 2, [16, 0, 64, 24]),  # in the middle: centred on pixel 40 of 64 across, 12 of 32 down
        (0, 0, [0, 0, 48, 24]),  # shifted, not cut, at the corner
        (3, 3, [16, 8, 64, 32]),
    ],
)
def test_crop_boxes_on_paper(row, column, box):
    components = torch.zeros(1, 1, 4, 4)
    components[0, 0, row, column] = 1
    assert exemplars(components, 1, (32, 64), extent=3).boxes.tolist() == [[box]]


def test_crop_is_never_larger_than_the_image():
    components = torch.ones(1, 1, 2, 2)
    assert exemplars(components, 1, (10, 20), extent=9).boxes.tolist() == [[[0, 0, 20, 10]]]


def test_an_image_is_an_exemplar_once_and_only_where_it_fires():
    components = torch.zeros(4, 1, 2, 2)
    components[0, 0] = torch.tensor([[5.0, 4.0], [3.0, 5.0]])
    components[1, 0] = -9.0
    components[2, 0, 1, 1] = 5.0
    components[3, 0] = torch.nan
    found = exemplars(components, 6, (8, 8))
    assert found.images.tolist() == [[0, 2, -1, -1, -1, -1]]
    assert found.positions[0, :2].tolist() == [[0, 0], [1, 1]]
    for field in (found.positions, found.boxes):
        assert (field[0, 2:] == -1).all()
    assert found.values[0, :2].tolist() == [5.0, 5.0]
    assert found.values[0, 2:].isnan().all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`maps` to have shape \(B, C, h, w\), but got \(2, 3\)"):
        channel_gram(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`weighting` to be 'equal' or 'energy', but got 'loud'"):
        channel_gram(torch.zeros(1, 2, 2, 2), weighting="loud")
    with pytest.raises(ValueError, match="square matrix of finite values"):
        basis_from_gram(torch.full((2, 2), torch.nan), 1)
    for build in (lambda: basis_from_gram(torch.eye(3), 4), lambda: basis_from_maps(torch.ones(1, 3, 1, 1), 4)):
        with pytest.raises(ValueError, match=r"`n_components` to be between 1 and 3 \(the channels\), but got 4"):
            build()
    basis = basis_from_gram(torch.eye(3), 1)
    with pytest.raises(ValueError, match="the basis's 3 channels, but got 2"):
        project(torch.zeros(1, 2, 2, 2), basis)
    with pytest.raises(ValueError, match=r"`components` to have shape \(B, K, h, w\)"):
        exemplars(torch.zeros(2, 3), 1, (8, 8))
    with pytest.raises(ValueError, match="`n` to be at least 1, but got 0"):
        exemplars(torch.zeros(1, 1, 2, 2), 0, (8, 8))
    with pytest.raises(ValueError, match="`extent` to be positive"):
        exemplars(torch.zeros(1, 1, 2, 2), 1, (8, 8), extent=0)


def test_every_direction_without_a_sum_follows_its_own_largest_entry():
    from lit_decom.functional.shared_basis import _orient

    directions = torch.tensor([[0.1, -0.5, 0.5, -0.1], [1.0, 0.0, 0.0, 0.0], [0.0, -0.6, -0.8, 0.0]]).double().T
    expected = directions * torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(_orient(directions), expected)
