import pytest
import torch
from torch.testing import assert_close

from lit_decom.functional.decision_factors import (
    DecisionFactors,
    decision_factors,
    factor_scores,
    factor_support,
    factors_from_products,
    least_supporting_factor,
)
from lit_decom.functional.principal_logits import principal_logits

FLOAT64 = {"rtol": 1e-7, "atol": 1e-9}


def randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_case(n=80, classes=6, channels=10, seed=0):
    """A linear head on mean activations: logits, the head's weight, the activations."""
    pooled, head = randn(seed, n, channels), randn(seed + 1, classes, channels) ** 3
    return pooled @ head.T + randn(seed + 2, classes), head, pooled


def nearly_linear_case(seed=0):
    """Logits that the layer's first order does not explain alone."""
    logits, head, pooled = linear_case(seed=seed)
    return logits + 0.3 * randn(seed + 5, *logits.shape), head, pooled


def centred(logits):
    varying = logits.double() - logits.double().mean(1, keepdim=True)
    return varying - varying.mean(0)


def test_with_a_linear_head_the_scores_are_activations_and_the_codes_are_weights():
    logits, head, pooled = linear_case()
    found = decision_factors(logits, head, pooled, min_r2=1.0)
    weights = head - head.mean(0)
    assert found.codes.shape == (6, 5), "six classes differ in five ways"
    assert_close(found.directions.T @ found.directions, torch.eye(5, dtype=torch.float64), **FLOAT64)
    assert_close(found.directions @ (found.directions.T @ weights.T), weights.T, **FLOAT64)
    assert_close(found.codes, weights @ found.directions, **FLOAT64)
    assert_close(found.scores, (pooled - pooled.mean(0)) @ found.directions, **FLOAT64)
    assert_close(found.scores @ found.codes.T, centred(logits), **FLOAT64)
    assert_close(found.r2, torch.tensor(1.0, dtype=torch.float64))
    assert_close(found.layer_r2, torch.tensor(1.0, dtype=torch.float64))
    assert found.agreement == 1
    assert found.random_r2 < 0.9


@pytest.mark.parametrize("case", [linear_case(), nearly_linear_case(), linear_case(n=20, classes=40, channels=60)])
def test_against_the_definition_in_loops(case):
    logits, jacobian, pooled = case
    found = decision_factors(logits, jacobian, pooled)
    z = centred(logits)
    _, values, right = torch.linalg.svd(z, full_matrices=False)
    told = [float(values[:k].square().sum() / values.square().sum()) for k in range(len(values) + 1)]
    k = min(12, next(k for k, share in enumerate(told) if share >= 0.97))
    assert found.codes.shape[1] == k
    principal = right[:k].T
    products = principal.T @ jacobian
    u, s, vt = torch.linalg.svd(products, full_matrices=False)
    turned = vt @ found.directions
    assert_close(turned.T @ turned, torch.eye(k, dtype=torch.float64), **FLOAT64)
    assert_close(found.codes, principal @ u @ torch.diag(s) @ turned, **FLOAT64)
    readout = principal @ u @ torch.diag(1 / s) @ turned
    for image in range(len(logits)):
        for j in range(k):
            expected = sum(float(readout[n, j] * z[image, n]) for n in range(logits.shape[1]))
            assert abs(float(found.scores[image, j]) - expected) < 1e-8 * float(found.scores.abs().max())
    norms = found.codes.norm(dim=0)
    assert (norms[:-1] >= norms[1:]).all()
    assert (found.codes.gather(0, found.codes.abs().argmax(0)[None]) > 0).all()
    assert abs(float(found.r2) - told[k]) < 1e-9


def test_shares_and_agreement_in_loops():
    logits, jacobian, pooled = nearly_linear_case()
    found = decision_factors(logits, jacobian, pooled, max_factors=2)
    z = logits - logits.mean(1, keepdim=True)
    variance = sum(float(z[:, n].var(correction=0)) for n in range(6))
    for j in range(2):
        covariance = 0.0
        for n in range(6):
            part = found.codes[n, j] * found.scores[:, j]
            covariance += float(((part - part.mean()) * (z[:, n] - z[:, n].mean())).mean())
        assert abs(float(found.shares[j]) - covariance / variance) < 1e-9
    assert_close(found.shares.sum(), found.r2, **FLOAT64)
    same = 0
    for image in range(len(logits)):
        rebuilt = [float(z[:, n].mean() + found.codes[n] @ found.scores[image]) for n in range(6)]
        same += rebuilt.index(max(rebuilt)) == int(logits[image].argmax())
    assert abs(float(found.agreement) - same / len(logits)) < 1e-12
    assert same < len(logits), "two factors cannot do what five did"


def test_what_the_layer_predicts_leaves_each_image_out():
    logits, jacobian, pooled = nearly_linear_case()
    pooled = pooled[:16]
    found = decision_factors(logits[:16], jacobian, pooled, max_factors=3)
    told, projected = found.scores @ found.codes.T, pooled @ found.directions
    error = scale = 0.0
    for image in range(16):
        rest = [other for other in range(16) if other != image]
        design = torch.cat((torch.ones(15, 1, dtype=torch.float64), projected[rest]), dim=1)
        weights = torch.linalg.lstsq(design, told[rest]).solution
        guess = torch.cat((torch.ones(1, dtype=torch.float64), projected[image])) @ weights
        error += float((told[image] - guess).square().sum())
        scale += float((told[image] - told[rest].mean(0)).square().sum())
    assert_close(found.layer_r2, torch.tensor(1 - error / scale, dtype=torch.float64), **FLOAT64)
    assert found.layer_r2 > found.random_r2 + 0.2


def test_a_shift_that_all_logits_share_changes_nothing():
    logits, head, pooled = nearly_linear_case()
    shifted = logits + 100 * randn(9, len(logits), 1)
    leaning = head + randn(10, 1, 10)
    assert_same(decision_factors(shifted, leaning, pooled), decision_factors(logits, head, pooled), atol=1e-9)


def test_the_order_of_classes_does_not_matter():
    logits, head, pooled = nearly_linear_case()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found, other = (
        decision_factors(logits, head, pooled),
        decision_factors(logits[:, order], head[order], pooled),
    )
    assert_close(other.codes, found.codes[order], **FLOAT64)
    assert_close(other.scores, found.scores, **FLOAT64)
    assert_close(other.directions, found.directions, **FLOAT64)


def assert_same(found, expected, atol):
    for name in ("codes", "directions", "scores", "shares", "r2"):
        assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=atol)


def even_case(classes):
    """Every class has a channel of its own: all singular values are equal."""
    pooled = torch.eye(classes, dtype=torch.float64).repeat(4, 1)
    return 3 * pooled, 3 * torch.eye(classes, dtype=torch.float64), pooled


def test_equal_singular_values_leave_nothing_to_chance():
    logits, head, pooled = even_case(5)
    found = decision_factors(logits, head, pooled)
    # Noise far below the spread turns every basis of equal singular values, and must not turn the factors.
    for seed in range(4):
        again = decision_factors(logits + 1e-11 * randn(seed, *logits.shape), head, pooled)
        assert_same(again, found, atol=1e-8)
    assert found.codes.shape == (5, 4)
    assert_close(found.r2, torch.tensor(1.0, dtype=torch.float64))
    assert "rotation_not_identified" in found.states


def test_more_equal_directions_than_may_be_taken_are_taken_in_order_and_said():
    logits, head, pooled = even_case(8)
    found = decision_factors(logits, head, pooled, max_factors=3)
    again = decision_factors(logits + 1e-11 * randn(0, *logits.shape), head, pooled, max_factors=3)
    assert found.codes.shape == (8, 3)
    assert_same(again, found, atol=1e-8)
    assert "subspace_not_identified" in found.states
    assert "subspace_not_identified" not in decision_factors(logits, head, pooled, max_factors=7).states


def test_equal_factors_come_by_channel_and_equal_classes_decide_the_sign():
    # Two contrasts of classes that share nothing: the lower class of each pair is the positive one.
    head = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    pooled = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    found = decision_factors(pooled @ head.T, head, pooled)
    expected = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert_close(found.codes, expected, **FLOAT64)
    assert_close(found.directions, torch.eye(2, dtype=torch.float64), **FLOAT64)
    # The search for axes begins at the strongest channel, here the last; the order is that of the channels even so.
    turn = torch.tensor([[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = decision_factors(pooled @ head.T, head @ turn.T, pooled @ turn.T)
    assert_close(found.directions, turn, **FLOAT64)


def test_many_classes_need_products_alone():
    logits, head, pooled = linear_case(n=70, classes=300, channels=40)
    principal = principal_logits(logits)
    products = torch.stack([(weights @ head) for weights in principal.directions.T])
    assert_same(
        factors_from_products(logits, principal, products, pooled), decision_factors(logits, head, pooled), atol=1e-9
    )


def test_scores_of_other_images():
    logits, head, pooled = linear_case()
    found = decision_factors(logits[:60], head, pooled[:60], min_r2=1.0)
    expected = (pooled[60:] - pooled[:60].mean(0)) @ found.directions
    assert_close(factor_scores(logits[60:], found), expected, **FLOAT64)
    broken = logits[60:].clone()
    broken[1, 2] = torch.inf
    assert factor_scores(broken, found).isnan().all(dim=1).nonzero().flatten().tolist() == [1]


def test_an_image_that_is_not_finite_spoils_no_other():
    logits, head, pooled = nearly_linear_case()
    found = decision_factors(logits, head, pooled)
    spoiled, holes = torch.cat((logits, logits[:2])), torch.cat((pooled, pooled[:2]))
    spoiled[-2, 0] = torch.nan
    spoiled[-1] = torch.inf
    again = decision_factors(spoiled, head, holes)
    assert again.scores[-2:].isnan().all()
    assert_close(again.scores[:-2], found.scores, **FLOAT64)
    assert_close(again.layer_r2, found.layer_r2, **FLOAT64)
    assert (again.agreement, again.states) == (found.agreement, found.states)


def test_states_that_are_no_result():
    logits, head, pooled = linear_case()
    assert "untrained" in decision_factors(logits + 100 * torch.arange(6), head, pooled).states
    assert "untrained" not in decision_factors(logits - logits.mean(0), head, pooled).states
    two = decision_factors(logits[:, :2], head[:2], pooled)
    assert (two.codes.shape[1], two.states) == (1, ("two_classes",))
    for gradient, activations in ((0 * head, pooled), (head, 0 * pooled), (1e-9 * head, pooled)):
        dead = decision_factors(logits, gradient, activations)
        assert (dead.codes.shape, dead.scores.shape) == ((6, 0), (80, 0))
        assert "dead_layer" in dead.states
        assert dead.r2 == 0
    constant = decision_factors(torch.ones(80, 6), head, pooled)
    alone = decision_factors(logits[:, :1], head[:1], pooled)
    assert (constant.codes.shape, alone.codes.shape) == ((6, 0), (1, 0))
    assert "no_variation" in constant.states
    assert "no_variation" in alone.states


def test_what_the_answers_hang_on_may_have_little_of_the_variance():
    """Three attributes, the weakest with a twentieth of the variance, and half of the answers."""
    weights = torch.tensor([0.77, 0.6, 0.22], dtype=torch.float64)
    attributes = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0], dtype=torch.float64)])
    jacobian = attributes * weights
    logits = attributes @ jacobian.T
    found = decision_factors(logits, jacobian, attributes)
    assert found.codes.shape[1] == 3
    assert found.agreement == 1
    without = decision_factors(logits, jacobian, attributes, min_r2=0.95)
    assert without.agreement <= 0.5


def test_one_factor_where_one_direction_dominates():
    pooled = randn(0, 80, 3) * torch.tensor([10.0, 1.0, 1.0], dtype=torch.float64)
    head = torch.eye(3, dtype=torch.float64)
    assert decision_factors(pooled @ head.T, head, pooled).codes.shape[1] == 1


def test_a_direction_that_the_layer_does_not_reach_is_no_factor():
    logits, head, pooled = linear_case()
    blind = head.clone()
    blind[0] = blind[1:].mean(0)
    found = decision_factors(pooled @ blind.T, blind, pooled, min_r2=1.0)
    assert found.codes.shape[1] == 4
    # The logits still vary there, and the layer's gradients say nothing about it.
    found = decision_factors(logits, blind, pooled, min_r2=1.0)
    assert found.codes.shape[1] == 4
    assert 0 < found.r2 < 1
    assert_close(found.shares.sum(), found.r2, **FLOAT64)


def test_the_factor_that_supports_least():
    logits, head, pooled = linear_case()
    found = decision_factors(logits, head, pooled)
    labels = torch.arange(80) % 6
    support = factor_support(found.codes, found.scores, labels)
    least = least_supporting_factor(found.codes, found.scores, labels)
    for image in range(80):
        products = [float(found.codes[labels[image], j] * found.scores[image, j]) for j in range(found.codes.shape[1])]
        assert support[image].tolist() == products
        assert least[image] == products.index(min(products))
    unknown = found.scores.clone()
    unknown[3] = torch.nan
    assert least_supporting_factor(found.codes, unknown, labels)[3] == -1
    assert least_supporting_factor(found.codes[:, :0], found.scores[:, :0], labels).tolist() == [-1] * 80


def test_factors_are_restored_from_their_fields():
    found = decision_factors(*linear_case())
    again = DecisionFactors(**vars(found))
    assert again.states == found.states
    assert torch.equal(again.codes, found.codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(80)}, "Expected `logits`"),
        ({"jacobian": torch.zeros(5, 10)}, "Expected `jacobian`"),
        ({"jacobian": torch.full((6, 10), torch.nan)}, "Expected `products`"),
        ({"pooled": torch.zeros(80, 9)}, "Expected `pooled`"),
        ({"min_r2": 0.0}, "Expected `min_r2`"),
        ({"max_factors": 0}, "Expected `max_components`"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    logits, head, pooled = linear_case()
    with pytest.raises(ValueError, match=message):
        decision_factors(**({"logits": logits, "jacobian": head, "pooled": pooled} | change))
