import pytest
import torch

from lit_decom.functional.chance import blob_components, center_maps, random_maps, random_orthogonal_basis


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthogonal_maps(batch: int = 3, k: int = 4, h: int = 5, w: int = 6) -> torch.Tensor:
    noise = torch.randn(batch, h * w, k, generator=generator(9), dtype=torch.float64)
    scales = torch.tensor([8.0, 3.0, 1.0, 0.2][:k], dtype=torch.float64)
    return (torch.linalg.qr(noise).Q * scales).transpose(1, 2).reshape(batch, k, h, w).float()


def test_random_maps_do_not_depend_on_the_cut_into_batches():
    whole = random_maps((5, 16, 20), (4, 5), generator())
    source = generator()
    parts = [random_maps((n, 16, 20), (4, 5), source) for n in (2, 0, 3)]
    assert torch.equal(whole, torch.cat(parts))


def test_one_generator_per_image_makes_the_order_irrelevant():
    whole = random_maps((3, 8, 8), (2, 2), [generator(i) for i in range(3)])
    back = random_maps((3, 8, 8), (2, 2), [generator(i) for i in (2, 1, 0)])
    assert torch.equal(whole, back.flip(0))
    components = orthogonal_maps()
    turned = random_orthogonal_basis(components, [generator(i) for i in range(3)])
    assert torch.equal(turned[1:2], random_orthogonal_basis(components[1:2], [generator(1)]))
    with pytest.raises(ValueError, match=r"one generator per image \(3\), but got 2"):
        random_maps((3, 8, 8), (2, 2), [generator(), generator()])


def test_random_maps_are_as_smooth_as_their_grid():
    maps = random_maps((200, 32, 32), (4, 4), generator())
    assert maps.min() >= 0
    assert maps.max() > 0.9
    neighbours = torch.corrcoef(torch.stack([maps[:, :, :-1].flatten(), maps[:, :, 1:].flatten()]))[0, 1]
    far = torch.corrcoef(torch.stack([maps[:, :, :-16].flatten(), maps[:, :, 16:].flatten()]))[0, 1]
    assert neighbours > 0.95
    assert abs(far) < 0.1


def test_random_maps_put_as_much_energy_in_a_mask_as_its_area():
    maps = random_maps((2000, 16, 16), (4, 4), generator())
    share = maps[:, 2:9, 3:14].sum() / maps.sum()
    # ten standard errors of the share of 2000 random maps
    assert share.item() == pytest.approx(7 * 11 / 256, abs=0.01)


def test_chance_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    random_maps((2, 8, 8), (2, 2), generator())
    random_orthogonal_basis(orthogonal_maps(), generator())
    assert torch.equal(before, torch.get_rng_state())


def test_center_maps_peak_once_in_the_middle_and_fall_off_with_distance():
    maps = center_maps((2, 9, 15))
    assert torch.equal(maps[0], maps[1])
    assert maps[0].argmax().item() == 4 * 15 + 7
    assert (maps[0] == 1).sum() == 1
    torch.testing.assert_close(maps[0], maps[0].flip(0).flip(1))
    # one standard deviation from the middle of a side of 8, at sigma 1/4, is 2 pixels
    assert center_maps((1, 1, 8))[0, 0, 2].item() == pytest.approx(2.718281828**-0.5)
    assert center_maps((1, 8, 8))[0].argmax().item() == 4 * 8 + 4
    with pytest.raises(ValueError, match="Expected `sigma` to be positive, but got 0"):
        center_maps((1, 2, 2), sigma=0)


def test_a_random_basis_keeps_space_norms_and_orthogonality():
    components = orthogonal_maps()
    turned = random_orthogonal_basis(components, generator())
    old, new = components.flatten(2), turned.flatten(2)
    gram = new @ new.transpose(1, 2)
    # components of norm 8 at most, in float32: a unit in the last place of 64 is 8e-6
    torch.testing.assert_close(
        gram, torch.diag_embed(torch.tensor([64.0, 9.0, 1.0, 0.04])).expand(3, 4, 4), atol=1e-4, rtol=0
    )
    unit = old / old.norm(dim=2, keepdim=True)
    # entries of components of norm 8 at most, in float32
    torch.testing.assert_close(new @ unit.transpose(1, 2) @ unit, new, atol=1e-5, rtol=0)
    torch.testing.assert_close(new.square().sum(dim=(1, 2)), old.square().sum(dim=(1, 2)))
    assert (torch.cosine_similarity(old, new, dim=2).abs() < 0.999).all()


def test_random_directions_are_uniform():
    """The squared share of an old direction in a new one has mean 1/K, and its sign is even."""
    components = orthogonal_maps(1, 2).expand(3000, 2, 5, 6)
    turned = random_orthogonal_basis(components, generator())
    cosine = torch.cosine_similarity(turned[:, 0].flatten(1), components[:, 0].flatten(1), dim=1)
    # four standard errors of the mean of 3000 squared cosines, and three of their cosines
    assert cosine.square().mean().item() == pytest.approx(0.5, abs=0.03)
    assert cosine.mean().item() == pytest.approx(0, abs=0.04)


def test_components_that_do_not_exist_stay_out_of_the_rotation():
    components = orthogonal_maps()
    valid = torch.tensor([[True, True, False, False]]).expand(3, 4)
    turned = random_orthogonal_basis(components, generator(), valid)
    assert (turned[:, 2:] == 0).all()
    leak = turned[:, :2].flatten(2) @ components[:, 2:].flatten(2).transpose(1, 2)
    # products of components of norm 8 and 1, in float32
    torch.testing.assert_close(leak, torch.zeros(3, 2, 2), atol=1e-5, rtol=0)
    blank = components.clone()
    blank[:, 3] = 0
    assert (random_orthogonal_basis(blank, generator())[:, 3] == 0).all()
    assert (random_orthogonal_basis(blank, generator(), torch.ones(3, 4, dtype=torch.bool))[:, 3] == 0).all()


def test_one_bad_image_does_not_spoil_its_batch():
    components = orthogonal_maps()
    clean = random_orthogonal_basis(components, generator())
    components[1, 0, 2, 2] = torch.nan
    turned = random_orthogonal_basis(components, generator())
    assert turned[1].isnan().all()
    assert torch.equal(turned[[0, 2]], clean[[0, 2]])


def test_a_random_basis_does_not_depend_on_the_cut_into_batches():
    components = orthogonal_maps()
    source = generator()
    parts = [random_orthogonal_basis(components[s], source) for s in (slice(0, 2), slice(2, 2), slice(2, 3))]
    torch.testing.assert_close(torch.cat(parts), random_orthogonal_basis(components, generator()))


def test_a_frame_of_any_components_is_uniform_in_their_space():
    """Two maps at an angle of 25 degrees, and one beside them: no direction of their space is preferred."""
    angle = torch.tensor(25.0).deg2rad()
    oblique = torch.tensor([[1.0, 0, 0, 0], [angle.cos(), angle.sin(), 0, 0], [0, 0, 1.0, 0]])
    components = oblique.view(1, 3, 1, 4).expand(4000, 3, 1, 4)
    turned = random_orthogonal_basis(components, generator()).flatten(2)
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).expand(4000, 3, 3), atol=1e-5, rtol=0)
    assert (turned[:, :, 3].abs() < 1e-6).all(), "outside the space"
    for row in turned.unbind(dim=1):
        # of a uniform direction in three dimensions; four standard errors of 4000 draws
        torch.testing.assert_close(row[:, :3].square().mean(dim=0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
        torch.testing.assert_close(row[:, :3].pow(4).mean(dim=0), torch.full((3,), 1 / 5), atol=0.02, rtol=0)
        torch.testing.assert_close(row[:, :3].mean(dim=0), torch.zeros(3), atol=0.04, rtol=0)
        assert (row[:, 0] * row[:, 1]).mean().abs() < 0.02


def test_components_that_depend_on_one_another_are_turned_within_their_span():
    components = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [3.0, 3.0, 0]]).view(1, 3, 1, 3).expand(3000, 3, 1, 3)
    turned = random_orthogonal_basis(components, generator()).flatten(2)
    assert (turned[:, :, 2].abs() < 1e-5).all(), "outside the span"
    norms = torch.tensor([1.0, 2.0, 18**0.5]).expand(3000, 3)
    torch.testing.assert_close(turned.norm(dim=2), norms, atol=1e-5, rtol=0)
    shares = (turned[:, :, 0] / norms).square().mean(dim=0)
    # four standard errors of 3000 squared cosines in a plane
    torch.testing.assert_close(shares, torch.full((3,), 0.5), atol=0.03, rtol=0)


def clumps() -> torch.Tensor:
    """Three heaps of different weight, far from one another."""
    maps = torch.zeros(1, 12, 12)
    maps[0, 0:3, 0:3], maps[0, 0:2, 9:12], maps[0, 9:12, 4:7] = 3.0, 1.0, 2.0
    return maps


def test_blobs_are_the_heaps_of_the_map_heaviest_first():
    for seed in range(10):
        blobs = blob_components(clumps(), 3, generator(seed))
        assert [blob.nonzero().amin(dim=0).tolist() for blob in blobs[0]] == [[0, 0], [9, 4], [0, 9]]
        assert blobs[0].sum(dim=(1, 2)).tolist() == [27, 18, 6]


def test_blobs_cut_a_map_into_compact_pieces_that_add_up_to_it():
    maps = torch.randn(6, 14, 14, generator=generator(1))
    blobs = blob_components(maps, 8, generator())
    torch.testing.assert_close(blobs.sum(dim=1), maps.clamp(min=0))
    assert ((blobs > 0).sum(dim=1) <= 1).all(), "overlap"
    sums = blobs.sum(dim=(2, 3))
    assert (sums[:, :-1] >= sums[:, 1:]).all()
    places = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0)).double()
    flat = blobs.flatten(2).double()
    centres = flat @ places / flat.sum(dim=2, keepdim=True)
    distance = (places - centres[:, :, None]).square().sum(dim=3)
    nearest = distance.argmin(dim=1)
    own = flat.argmax(dim=1)
    # Lloyd's algorithm has come to rest: nearly every position lies in the blob whose centre is nearest
    assert (nearest == own)[maps.flatten(1) > 0].double().mean() > 0.97
    spread = (flat * distance).sum() / flat.sum()
    whole = maps.clamp(min=0).flatten(1).double()
    middle = whole @ places / whole.sum(dim=1, keepdim=True)
    unspread = (whole * (places - middle[:, None]).square().sum(dim=2)).sum() / whole.sum()
    assert spread < unspread / 4


def test_blobs_depend_on_their_image_and_its_generator_alone():
    maps = torch.rand(3, 6, 5, generator=generator(4))
    whole = blob_components(maps, 4, [generator(i) for i in range(3)])
    assert torch.equal(whole[1:2], blob_components(maps[1:2], 4, [generator(1)]))
    assert torch.equal(whole * 2, blob_components(maps * 2, 4, [generator(i) for i in range(3)]))
    before = torch.get_rng_state()
    maps[1, 2, 2] = torch.nan
    spoilt = blob_components(maps, 4, [generator(i) for i in range(3)])
    assert spoilt[1].isnan().all()
    assert torch.equal(spoilt[[0, 2]], whole[[0, 2]])
    assert torch.equal(before, torch.get_rng_state())


def test_a_map_with_fewer_positions_than_blobs_has_fewer_of_them():
    maps = torch.zeros(2, 4, 4)
    maps[0, 1, 1], maps[0, 3, 3] = 1.0, 2.0
    blobs = blob_components(maps, 3, generator())
    assert blobs[0].sum(dim=(1, 2)).tolist() == [2, 1, 0]
    assert (blobs[1] == 0).all()
    with pytest.raises(ValueError, match="Expected `k` to be at least 1, but got 0"):
        blob_components(maps, 0, generator())
