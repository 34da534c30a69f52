"""Conceptors against their algebra: limits of the aperture, De Morgan, and what AND and OR are of correlations."""

import pytest
import torch
from torch.testing import assert_close

from lit_decom.functional.conceptors import adapt_aperture, conceptor, conjunction, disjunction, negation

A = 3.0


def correlation(seed, n=6, rank=6, batch=()):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(*batch, n, rank, generator=generator, dtype=torch.float64)
    return vectors @ vectors.mT / rank


def projection(*columns):
    basis = torch.linalg.qr(torch.stack(columns, dim=1).double())[0]
    return basis @ basis.T


FULL, LOW = correlation(0), correlation(1, rank=3)


@pytest.mark.parametrize("r", [FULL, LOW], ids=["full", "low rank"])
def test_it_is_its_definition_and_its_eigenvalues_are_between_0_and_1(r):
    found = conceptor(r, A)
    assert_close(found, r @ torch.linalg.inv(r + A**-2 * torch.eye(6)))
    values = torch.linalg.eigvalsh(found)
    assert values.min() > -1e-12
    assert values.max() < 1


def test_it_minimises_the_loss_that_defines_it():
    # |X - C X|^2 / n + a^-2 |C|^2: its gradient is 0.
    c = conceptor(LOW, A).requires_grad_()
    loss = torch.trace((torch.eye(6) - c) @ LOW @ (torch.eye(6) - c).T) + A**-2 * c.square().sum()
    assert torch.autograd.grad(loss, c)[0].abs().max() < 1e-10


def test_limits_of_the_aperture():
    assert conceptor(LOW, 1e-6).abs().max() < 1e-10
    vectors = torch.linalg.eigh(LOW)[1][:, 3:]
    assert_close(conceptor(LOW, 1e4), vectors @ vectors.T, rtol=0, atol=1e-6)
    assert_close(conceptor(FULL, 1e5), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)
    assert not conceptor(torch.zeros(3, 3, dtype=torch.float64), A).any()


@pytest.mark.parametrize("r", [FULL, LOW], ids=["full", "low rank"])
@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_adapting_the_aperture_is_making_it_anew(r, factor):
    assert_close(adapt_aperture(conceptor(r, A), factor), conceptor(r, factor * A))


@pytest.mark.parametrize("factor", [0.2, 7.0])
def test_not_turns_the_aperture_round(factor):
    c = conceptor(FULL, A)
    assert_close(negation(adapt_aperture(c, factor)), adapt_aperture(negation(c), 1 / factor))
    assert torch.allclose(negation(negation(c)), c)


def test_or_is_the_conceptor_of_the_sum():
    assert_close(disjunction(conceptor(FULL, A), conceptor(correlation(2), A)), conceptor(FULL + correlation(2), A))
    low, other = LOW, correlation(5, rank=2)
    assert_close(disjunction(conceptor(low, A), conceptor(other, A)), conceptor(low + other, A))


def test_and_is_the_conceptor_of_the_parallel_sum():
    other = correlation(2)
    parallel = torch.linalg.inv(torch.linalg.inv(FULL) + torch.linalg.inv(other))
    assert_close(conjunction(conceptor(FULL, A), conceptor(other, A)), conceptor(parallel, A))


@pytest.mark.parametrize("r", [FULL, LOW], ids=["full", "low rank"])
def test_and_with_itself_halves_the_correlation_and_or_doubles_it(r):
    c = conceptor(r, A)
    assert_close(conjunction(c, c), adapt_aperture(c, 0.5**0.5))
    assert_close(disjunction(c, c), adapt_aperture(c, 2**0.5))


def test_de_morgan_and_the_order_of_two():
    one, other = conceptor(FULL, A), conceptor(LOW, A)
    assert_close(negation(conjunction(one, other)), disjunction(negation(one), negation(other)))
    assert_close(negation(disjunction(one, other)), conjunction(negation(one), negation(other)))
    assert_close(conjunction(one, other), conjunction(other, one))
    # What lies in both lies in each.
    assert torch.linalg.eigvalsh(one - conjunction(one, other)).min() > -1e-10
    assert torch.linalg.eigvalsh(disjunction(one, other) - one).min() > -1e-10


def test_everything_and_nothing():
    c, everything = conceptor(LOW, A), torch.eye(6, dtype=torch.float64)
    nothing = torch.zeros_like(everything)
    assert_close(conjunction(c, everything), c)
    assert_close(disjunction(c, nothing), c)
    assert not conjunction(c, nothing).any()
    assert_close(disjunction(c, everything), everything)


def test_of_projections_and_is_the_intersection_and_or_the_span():
    x, y, z = torch.eye(4)[:3]
    plane, other = projection(x, y), projection(y, z)
    assert_close(conjunction(plane, other), projection(y), rtol=0, atol=1e-12)
    assert_close(disjunction(plane, other), projection(x, y, z), rtol=0, atol=1e-12)
    slanted = projection(x, y + z)
    assert_close(conjunction(plane, slanted), projection(x), rtol=0, atol=1e-12)
    assert conjunction(projection(x), projection(y + 0.01 * x)).abs().max() < 1e-12, "near is not the same"


def test_a_low_rank_and_keeps_to_the_intersection_of_the_ranges():
    shared = torch.randn(6, 1, generator=torch.Generator().manual_seed(3)).double()
    others = torch.randn(6, 2, generator=torch.Generator().manual_seed(4)).double()
    one = torch.cat([shared, others[:, :1]], dim=1)
    two = torch.cat([shared, others[:, 1:]], dim=1)
    found = conjunction(conceptor(one @ one.T, A), conceptor(two @ two.T, A))
    unit = shared / shared.norm()
    assert torch.linalg.matrix_rank(found, atol=1e-9) == 1
    # The limit that the formula comes from: inverses of conceptors that are lifted off 0 by next to nothing.
    lifted = [(1 - 1e-5) * conceptor(r @ r.T, A) + 1e-5 * torch.eye(6) for r in (one, two)]
    limit = torch.linalg.inv(torch.linalg.inv(lifted[0]) + torch.linalg.inv(lifted[1]) - torch.eye(6))
    assert_close(unit.T @ found @ unit, unit.T @ limit @ unit, rtol=1e-2, atol=0)


def test_a_batch_is_its_matrices_one_by_one():
    ones, others = correlation(0, rank=4, batch=(2, 3)), correlation(9, rank=5, batch=(2, 3))
    ones[1, 2] = 0
    for function in (conjunction, disjunction):
        together = function(conceptor(ones, A), conceptor(others, A))
        for at in [(0, 0), (0, 2), (1, 1), (1, 2)]:
            assert_close(together[at], function(conceptor(ones[at], A), conceptor(others[at], A)))


@pytest.mark.parametrize("aperture", [0.0, -1.0, float("nan")])
def test_an_aperture_is_positive(aperture):
    with pytest.raises(ValueError, match="`aperture` to be positive"):
        conceptor(FULL, aperture)
    with pytest.raises(ValueError, match="`aperture` to be positive"):
        adapt_aperture(FULL, aperture)
