import numpy as np
import pytest
import torch
from sklearn.decomposition import non_negative_factorization

from lit_decom.functional import nmf
from lit_decom.functional.decomposition import decompose
from lit_decom.functional.factorisation import FACTORISERS, takes
from lit_decom.functional.nmf import decompose_non_negative, hals, purest_profiles


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def sparse(*shape, seed=0):
    """Channel maps as a network has them: most entries are 0."""
    return (rand(*shape, seed=seed) - 0.6).relu()


def mixture(n=2, channels=12, k=4, grid=(5, 6), seed=0):
    """Maps whose first ``k`` positions show one component each, and the profiles and patterns they are made of."""
    profiles = sparse(n, channels, k, seed=seed) + 0.05 * rand(n, channels, k, seed=seed + 1)
    profiles = profiles * 1.5 ** torch.arange(k)
    patterns = rand(n, k, grid[0] * grid[1], seed=seed + 2).double()
    patterns = 0.9 * patterns / patterns.sum(dim=1, keepdim=True)
    patterns[:, :, :k] = torch.eye(k, dtype=torch.double)
    return (profiles.double() @ patterns).reshape(n, channels, *grid), profiles, patterns.reshape(n, k, *grid)


def error_of(matrix, factor, other):
    return (matrix - other.mT @ factor).square().sum(dim=(1, 2))


def rebuilt(factors):
    return torch.einsum("bpk,bkhw->bphw", factors.loadings.double(), factors.components.double())


# ----- the purest positions, against their definition


def oracle_of_positions(matrix, k):
    """Again and again the position that is worst explained by those chosen before, by least squares."""
    chosen = []
    for _ in range(k):
        residual = matrix
        if chosen:
            known = matrix[:, chosen]
            residual = matrix - known @ np.linalg.lstsq(known, matrix, rcond=None)[0]
        chosen.append(int((residual**2).sum(axis=0).argmax()))
    return chosen


def cold(matrix, k):
    return purest_profiles(
        matrix, matrix.new_zeros(len(matrix), k, matrix.shape[1]), matrix.new_zeros(len(matrix), k, matrix.shape[2])
    )


def test_the_purest_positions_are_those_that_the_others_explain_worst():
    matrix = sparse(5, 9, 20).double()
    found = cold(matrix, 6)
    for image in range(5):
        expected = oracle_of_positions(matrix[image].numpy(), 6)
        assert torch.equal(found[image], matrix[image][:, expected].T)


def test_positions_that_show_a_single_component_are_found():
    maps, profiles, _ = mixture()
    found = cold(maps.flatten(2), 4)
    for image in range(2):
        mine, theirs = (sorted(rows.tolist()) for rows in (found[image], profiles[image].double().T))
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("error", [1e-7, -1e-7])
def test_of_equally_pure_positions_the_first_is_taken_and_rounding_has_no_say(error):
    matrix = torch.tensor([[[0.1, 1.0, 0.0], [0.1, 0.0, 1.0 + error]]], dtype=torch.double)
    assert cold(matrix, 1)[0, 0].tolist() == [1.0, 0.0]


def test_known_profiles_stay_and_missing_ones_are_taken_from_what_is_left_over():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()[None]
    known = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]).double()
    patterns = torch.tensor([[[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]]).double()
    assert purest_profiles(matrix, known, patterns)[0].tolist() == [[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]


def test_no_profile_is_made_of_rounding():
    matrix = (rand(1, 6, 2).double() @ rand(1, 2, 10, seed=1).double()).float().double()
    assert cold(matrix, 4)[0].any(dim=1).tolist() == [True, True, False, False]


# ----- sweeps, against their definition and against scikit-learn's


def oracle_of_hals(factor, other, matrix):
    """Each entry in turn at the non-negative least squares optimum given all others."""
    factor = factor.copy()
    for row in range(factor.shape[0]):
        for column in range(factor.shape[1]):
            rest = matrix[:, column] - sum(other[j] * factor[j, column] for j in range(len(factor)) if j != row)
            factor[row, column] = max(0.0, float(other[row] @ rest) / float(other[row] @ other[row]))
    return factor


def test_a_pass_sets_each_entry_to_its_optimum_given_all_others():
    matrix, factor, other = sparse(3, 7, 11).double(), rand(3, 4, 11).double(), sparse(3, 4, 7, seed=2).double() + 0.01
    found = hals(factor, other, matrix)
    for image in range(3):
        expected = oracle_of_hals(factor[image].numpy(), other[image].numpy(), matrix[image].numpy())
        np.testing.assert_allclose(found[image], expected, atol=1e-12)
    twice = hals(hals(factor, other, matrix), other, matrix)
    torch.testing.assert_close(hals(factor, other, matrix, n_passes=2), twice, rtol=0, atol=1e-12)


def test_a_row_whose_counterpart_is_blank_stays_as_it_is():
    factor, other = rand(1, 2, 5).double(), torch.stack([torch.zeros(3), torch.ones(3)]).double()[None]
    found = hals(factor, other, rand(1, 3, 5, seed=1).double())
    assert torch.equal(found[0, 0], factor[0, 0])
    assert not torch.equal(found[0, 1], factor[0, 1])


@pytest.mark.parametrize("sweeps", [1, 7])
def test_sweeps_are_those_of_scikit_learns_coordinate_descent(sweeps, monkeypatch):
    monkeypatch.setattr(nmf, "_SWEEPS", sweeps)
    monkeypatch.setattr(nmf, "_LEAST_GAIN", -1.0)
    matrix, k = sparse(3, 8, 15).double(), 4
    profiles, patterns = rand(3, k, 8, seed=1).double(), rand(3, k, 15, seed=2).double()
    mine = nmf._refined(matrix, profiles.clone(), patterns.clone())
    for image in range(3):
        theirs = non_negative_factorization(
            matrix[image].numpy(),
            W=profiles[image].mT.numpy().copy(),
            H=patterns[image].numpy().copy(),
            n_components=k,
            init="custom",
            tol=0,
            max_iter=sweeps,
        )
        np.testing.assert_allclose(mine[0][image].mT, theirs[0], atol=1e-10)
        np.testing.assert_allclose(mine[1][image], theirs[1], atol=1e-10)


def test_the_error_never_grows():
    matrix = sparse(4, 10, 20).double()
    profiles = cold(matrix, 5)
    patterns = hals(matrix.new_zeros(4, 5, 20), profiles, matrix)
    errors = [error_of(matrix, patterns, profiles)]
    for _ in range(30):
        profiles = hals(profiles, patterns, matrix.mT)
        errors.append(error_of(matrix, patterns, profiles))
        patterns = hals(patterns, profiles, matrix)
        errors.append(error_of(matrix, patterns, profiles))
    steps = torch.stack(errors).diff(dim=0)
    assert (steps <= 1e-12).all()
    assert (steps[0] < -1e-3).all()


def test_an_image_stops_by_itself_once_a_sweep_no_longer_pays(monkeypatch):
    seen = []
    monkeypatch.setattr(nmf, "hals", lambda factor, *rest: (seen.append(len(factor)), hals(factor, *rest))[1])
    easy, hard = mixture(1, k=2)[0].float(), sparse(1, 12, 5, 6)
    together = decompose_non_negative(torch.cat([easy, hard]), 2)
    counts = seen[1:]
    assert counts == sorted(counts, reverse=True)
    assert 1 in counts
    assert len(counts) <= 2 * 20
    for image, alone in enumerate((easy, hard)):
        expected = decompose_non_negative(alone, 2)
        # float64 throughout, rounded to float32 at the end
        torch.testing.assert_close(together.components[image], expected.components[0], rtol=0, atol=1e-6)


# ----- factors


def test_every_part_is_what_it_is_called():
    maps = sparse(3, 10, 4, 5)
    factors = decompose_non_negative(maps, 5)
    assert factors.valid.all()
    assert (factors.components >= 0).all()
    assert (factors.loadings >= 0).all()
    assert factors.components.dtype == torch.float32
    norms = factors.components.flatten(2).norm(dim=2)
    torch.testing.assert_close(factors.strengths, norms, rtol=1e-5, atol=0)
    assert (factors.strengths.diff(dim=1) <= 0).all()
    torch.testing.assert_close(factors.loadings.norm(dim=1), torch.ones(3, 5), rtol=1e-6, atol=0)
    torch.testing.assert_close(factors.energy, maps.square().sum(dim=(1, 2, 3)), rtol=1e-6, atol=0)


def test_each_component_removes_what_those_before_it_leave():
    maps = sparse(2, 10, 4, 5)
    factors = decompose_non_negative(maps, 5)
    for image in range(2):
        left = maps[image].double().numpy()
        for k in range(5):
            part = np.multiply.outer(factors.loadings[image, :, k].numpy(), factors.components[image, k].numpy())
            after = left - part
            # differences of sums of squares, each of numbers rounded to float32
            expected = pytest.approx((left**2).sum() - (after**2).sum(), abs=1e-6 * factors.energy[image].item())
            assert factors.removed[image, k].item() == expected
            left = after
        share = factors.removed[image].sum() / factors.energy[image]
        assert share.item() == pytest.approx(1 - (left**2).sum() / factors.energy[image].item(), abs=1e-5)


def test_with_as_many_components_it_explains_less_than_svd_and_hardly_less():
    maps = sparse(6, 12, 6, 6)
    best, found = (FACTORISERS[name](maps, 4) for name in ("svd", "nmf"))
    best, found = (factors.removed.sum(dim=1) / factors.energy for factors in (best, found))
    assert (found < best).all()
    assert (found > 0.85 * best).all()


def test_components_that_do_not_overlap_are_the_singular_vectors():
    maps = torch.zeros(1, 4, 3, 4)
    maps[0, :2, 0] = torch.outer(torch.tensor([2.0, 1.0]), torch.tensor([3.0, 1.0, 1.0, 2.0]))
    maps[0, 2:, 2] = torch.outer(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0, 2.0, 1.0]))
    found, expected = decompose_non_negative(maps, 2), decompose(maps, 2)
    torch.testing.assert_close(found.components, expected.components.abs(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.strengths, expected.strengths, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.removed, expected.removed, rtol=1e-5, atol=0)


def test_a_mixture_with_pure_positions_is_taken_apart():
    maps, profiles, patterns = mixture(3)
    factors = decompose_non_negative(maps, 4)
    scaled = patterns * profiles.double().norm(dim=1)[:, :, None, None]
    order = scaled.flatten(2).norm(dim=2).argsort(dim=1, descending=True)
    expected = scaled[torch.arange(3)[:, None], order]
    # it stops once a sweep explains less than 1e-5 of the energy, whose root is 3e-3
    torch.testing.assert_close(factors.components, expected, rtol=0, atol=0.02 * scaled.max().item())
    assert (factors.removed.sum(dim=1) / factors.energy > 1 - 3e-5).all()


def test_the_order_of_the_channels_has_no_say():
    maps, order = sparse(3, 10, 4, 5), torch.randperm(10, generator=torch.Generator().manual_seed(3))
    found, turned = decompose_non_negative(maps, 4), decompose_non_negative(maps[:, order], 4)
    # sums over channels in another order, in float64
    torch.testing.assert_close(turned.components, found.components, rtol=0, atol=1e-6)
    torch.testing.assert_close(turned.loadings, found.loadings[:, order], rtol=0, atol=1e-6)


def test_scaling_the_maps_scales_the_components_alone():
    maps = sparse(2, 8, 4, 4)
    one, other = decompose_non_negative(maps, 3), decompose_non_negative(maps * 2.0**-40, 3)
    torch.testing.assert_close(other.components * 2.0**40, one.components, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(other.loadings, one.loadings, rtol=0, atol=1e-6)
    assert torch.equal(one.valid, other.valid)


def test_where_maps_are_negative_nothing_explains_them():
    maps = sparse(1, 6, 3, 4)
    darker = maps.clone()
    darker[0, 4:] = -1.0
    found, expected = decompose_non_negative(darker, 2), decompose_non_negative(maps[:, :4], 2)
    # it stops earlier, since the energy is larger
    torch.testing.assert_close(found.removed.sum(), expected.removed.sum(), rtol=1e-2, atol=0)
    assert (found.components >= 0).all()
    assert not found.loadings[0, 4:].any()
    torch.testing.assert_close(found.energy, expected.energy + 2 * 12)
    assert not decompose_non_negative(-maps, 2).valid.any()


# ----- beginning from what was found before


def test_it_goes_on_from_where_it_ended():
    before = sparse(3, 10, 5, 5)
    found = decompose_non_negative(before, 4)
    order = torch.tensor([2, 0, 3, 1])
    again = decompose_non_negative(before, 4, start=100 * found.components[:, order])
    mine, theirs = (torch.nn.functional.normalize(each.components.flatten(2), dim=2) for each in (again, found))
    # each goes on in its place, however far 20 sweeps more still move it
    assert torch.equal((mine @ theirs.mT).argmax(dim=2), order.expand(3, 4))
    assert (again.removed.sum(dim=1) >= found.removed.sum(dim=1)).all()


def test_a_start_decides_among_equally_good_ones():
    # Three equal channels, each on at two of three positions: a component is a channel or, as well, what two share.
    maps = torch.tensor([[[[0.0, 1.0, 1.0]], [[1.0, 0.0, 1.0]], [[1.0, 1.0, 0.0]]]])
    start = torch.stack([maps[0], torch.eye(3)[:, None]])
    found = decompose_non_negative(maps.expand(2, -1, -1, -1), 3, start=start)
    torch.testing.assert_close(found.components / found.components.amax(dim=3, keepdim=True), start, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.removed.sum(dim=1), found.energy, rtol=1e-5, atol=0)


def test_only_an_image_that_goes_on_keeps_the_order():
    maps = sparse(2, 10, 5, 5)
    start = decompose_non_negative(maps, 3).components.flip(1)
    start[1] = 0.0
    found = decompose_non_negative(maps, 3, start=start)
    assert (found.strengths[1].diff() <= 0).all()
    assert (found.strengths[0].diff() > 0).any()


def test_a_start_that_lacks_components_is_filled_up_and_nothing_is_no_start():
    maps = sparse(2, 10, 5, 5)
    cold_found = decompose_non_negative(maps, 4)
    start = cold_found.components.clone()
    start[:, 1] = 0.0
    start[:, 2] = torch.nan
    warm = decompose_non_negative(maps, 4, start=start)
    assert warm.valid.all()
    assert (warm.removed.sum(dim=1) / warm.energy > 0.9 * cold_found.removed.sum(dim=1) / cold_found.energy).all()
    blank = decompose_non_negative(maps, 4, start=torch.zeros_like(start))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(blank, cold_found, strict=True))


def test_a_start_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"Expected `start` to have shape \(1, 2, 3, 3\), but got \(1, 3, 3, 3\)"):
        decompose_non_negative(sparse(1, 5, 3, 3), 2, start=torch.zeros(1, 3, 3, 3))


# ----- what every factoriser owes


every_factoriser = pytest.mark.parametrize("name", sorted(FACTORISERS))


@every_factoriser
def test_a_batch_is_its_images_one_by_one(name):
    maps = sparse(5, 9, 4, 4)
    together = FACTORISERS[name](maps, 4)
    for image in range(5):
        alone = FACTORISERS[name](maps[image : image + 1], 4)
        atol = 1e-6 * alone.strengths.max().item()
        torch.testing.assert_close(together.components[image].abs(), alone.components[0].abs(), rtol=0, atol=atol)


@every_factoriser
def test_the_same_maps_give_the_same_bits(name):
    maps = sparse(3, 9, 4, 4)
    first, second = FACTORISERS[name](maps, 4), FACTORISERS[name](maps.clone(), 4)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, second, strict=True))


@every_factoriser
def test_what_is_removed_adds_up_to_what_the_product_explains(name):
    maps = sparse(3, 9, 4, 4)
    factors = FACTORISERS[name](maps, 4)
    left = (maps - rebuilt(factors)).square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(factors.energy - factors.removed.sum(dim=1), left.float(), rtol=1e-4, atol=1e-5)


@every_factoriser
def test_blank_maps_have_no_component(name):
    factors = FACTORISERS[name](torch.zeros(2, 4, 3, 3), 3)
    assert not factors.valid.any()
    assert not any(part.any() for part in factors)
    assert all(part.isfinite().all() for part in factors)


@every_factoriser
def test_past_the_rank_there_is_no_component(name):
    maps = (rand(1, 7, 2) @ rand(1, 2, 12, seed=1)).reshape(1, 7, 3, 4)
    factors = FACTORISERS[name](maps, 5)
    assert factors.valid.tolist() == [[True, True, False, False, False]]
    for part in (factors.strengths, factors.removed, factors.components.flatten(2).mT, factors.loadings):
        assert not part[..., 2:].any()


@every_factoriser
@pytest.mark.parametrize("k", [0, -1, 5])
def test_more_components_than_positions_are_refused_with_the_bound(name, k):
    with pytest.raises(ValueError, match=rf"between 1 and 4 \(the smaller of 9 channels and 2 x 2 .*but got {k}\."):
        FACTORISERS[name](sparse(1, 9, 2, 2), k)


def test_what_a_factoriser_takes_is_read_from_its_arguments():
    assert takes("svd", "centred")
    assert not takes("svd", "start")
    assert takes("nmf", "start")
    assert not takes("nmf", "centred")
