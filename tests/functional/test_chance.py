import pytest
import torch

from lit_decom.functional.chance import center_maps, random_maps, random_orthogonal_basis


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
