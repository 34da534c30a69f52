"""What every registered method owes its caller."""

import dataclasses
from typing import Any

import pytest
import torch

from lit_decom import CAM, METHODS, capture
from lit_decom.evidence import ForwardError
from lit_decom.functional.factorisation import FACTORISERS
from lit_decom.methods import AblationCAM, DecomCAM, OptiCAM, register
from tests.helpers.networks import CALLS, Faulty, SmallCNN, noise_images, seeded
from tests.helpers.rounding import map_tolerance

# Hyperparameters for a layer of twelve channels.
SETTINGS: dict[str, dict[str, Any]] = {"decom_cam": {"n_components": 4}} | {
    f"decom_cam {name}": {"n_components": 4, "decomposition": name} for name in FACTORISERS
}
SETTINGS |= {
    "score_cam softmax": {"weighting": "softmax", "top_k": 4},
    "opti_cam": {"max_iterations": 10},
    "opti_cam difference": {"max_iterations": 10, "loss": "difference"},
}
# The same map whatever the evidence is, as long as it is finite.
BLIND = {"center_cam", "fake_cam"}
every_method = pytest.mark.parametrize("name", sorted({*METHODS, *SETTINGS}))


def make(name):
    return METHODS[name.split()[0]](**SETTINGS.get(name, {}))


def evidence_of(images=None, network=None, targets="predicted"):
    return capture(network or seeded(SmallCNN()), "stage2", noise_images(3) if images is None else images, targets)


def tolerance_of(method, evidence):
    """What float32 loses when sums are taken in another order, per image: a hundred units in the last place."""
    if isinstance(method, DecomCAM):
        return map_tolerance(method.decompose(evidence), method, score_error=2e-6, map_error=1e-5)
    if isinstance(method, OptiCAM):
        # Adam divides each gradient by its own size, and each step begins where the last one ended.
        return 1e-4 * method(evidence).amax(dim=(1, 2))
    if isinstance(method, AblationCAM):
        # A weight is the difference of two scores, over one of them.
        return 1e-5 * evidence.activations.abs().sum(dim=1).amax(dim=(1, 2))
    return 1e-5 * method(evidence).amax(dim=(1, 2))


def assert_same_maps(found, expected, tolerance):
    assert ((found - expected).abs() <= tolerance[:, None, None]).all()


def hooks_of(network):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [getattr(module, kind) for module in network.modules() for kind in kinds if getattr(module, kind)]


def test_what_is_registered():
    assert {"decom_cam", "grad_cam", "grad_cam_pp", "x_grad_cam", "hi_res_cam", "layer_cam"} <= set(METHODS)
    assert {"eigen_cam", "eigen_grad_cam"} <= set(METHODS)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match=r"Expected `name` to be new, but 'grad_cam' is GradCAM"):
        register("grad_cam")(METHODS["layer_cam"])
    assert METHODS["grad_cam"].__name__ == "GradCAM"


@every_method
def test_it_is_a_frozen_dataclass_with_a_short_repr(name):
    method = make(name)
    assert isinstance(method, CAM)
    assert type(method).__dataclass_params__.frozen
    assert repr(method).startswith(type(method).__name__ + "(")
    assert method == make(name)
    assert hash(method) == hash(make(name))


@every_method
def test_maps_have_the_grids_shape_and_are_not_negative(name):
    maps = make(name)(evidence_of())
    assert maps.shape == (3, 8, 8)
    assert maps.dtype == torch.float32
    assert (maps >= 0).all()
    assert not maps.requires_grad
    assert (maps.flatten(1).amax(dim=1) > 0).all()


@every_method
@pytest.mark.parametrize("field", ["activations", "gradients", "both"])
def test_zero_evidence_gives_zero_maps_and_no_nan(name, field):
    evidence = evidence_of()
    fields = ["activations", "gradients"] if field == "both" else [field]
    blank = dataclasses.replace(evidence, **{f: torch.zeros_like(getattr(evidence, f)) for f in fields})
    maps = make(name)(blank)
    assert maps.isfinite().all()
    if "activations" in fields and name not in BLIND:
        assert not maps.any()


@every_method
def test_negative_evidence_alone_leaves_no_nan(name):
    evidence = evidence_of()
    against = dataclasses.replace(evidence, gradients=-evidence.gradients.abs())
    maps = make(name)(against)
    assert maps.isfinite().all()
    assert (maps >= 0).all()


@every_method
@pytest.mark.parametrize("field", ["activations", "gradients"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_number_spoils_its_whole_map_and_no_other(name, field, bad):
    evidence = evidence_of()
    spoilt = getattr(evidence, field).clone()
    spoilt[1, 2, 3, 4] = bad
    method = make(name)
    clean, found = method(evidence), method(dataclasses.replace(evidence, **{field: spoilt}))
    assert found[1].isnan().all()
    assert_same_maps(found[[0, 2]], clean[[0, 2]], tolerance_of(method, evidence)[[0, 2]])


@every_method
def test_a_nan_image_spoils_its_whole_map_and_no_other(name):
    images, method = noise_images(3), make(name)
    evidence = evidence_of(images.clone())
    clean = method(evidence)
    images[1, 0, 0, 0] = torch.nan
    found = method(evidence_of(images))
    assert found[1].isnan().all()
    assert_same_maps(found[[0, 2]], clean[[0, 2]], tolerance_of(method, evidence)[[0, 2]])


@every_method
def test_a_batch_is_its_images_one_by_one(name):
    images, method = noise_images(3), make(name)
    evidence = evidence_of(images)
    together = method(evidence)
    alone = torch.cat([method(evidence_of(images[row : row + 1])) for row in range(3)])
    assert_same_maps(alone, together, tolerance_of(method, evidence))


@every_method
def test_autocast_around_it_changes_nothing(name):
    evidence = evidence_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make(name)(evidence)
    assert torch.equal(found, make(name)(evidence))


@every_method
def test_it_touches_neither_grad_nor_hooks_nor_the_evidence(name):
    network = seeded(SmallCNN())
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    evidence = evidence_of(network=network)
    before = {f: getattr(evidence, f).clone() for f in ("images", "activations", "gradients", "logits", "targets")}
    make(name)(evidence)
    assert all(torch.equal(parameter.grad, torch.full_like(parameter, 3.0)) for parameter in network.parameters())
    assert not hooks_of(network)
    assert all(torch.equal(getattr(evidence, f), value) for f, value in before.items())


@every_method
@pytest.mark.parametrize("at", [1, 2, 3])
def test_no_hook_is_left_when_the_network_fails(name, at):
    network = Faulty(at)
    network.load_state_dict(seeded(SmallCNN()).state_dict())
    network.train()
    try:
        make(name)(evidence_of(network=network))
    except (OSError, ForwardError) as error:
        # At the first call, the error that says how a network can be asked is its cause's.
        assert str(error.__cause__ or error) == "the network failed"  # noqa: PT017 -- not all run it again and fail
    else:
        assert CALLS[network] < at
    assert not hooks_of(network)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
