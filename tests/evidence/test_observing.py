import random

import numpy as np
import pytest
import torch

from lit_decom import observing
from tests.helpers.networks import Counting, Drawing, SmallCNN, noise_images, seeded
from tests.helpers.unchanged import assert_unchanged, everything, half_trained


def test_inside_everything_is_as_an_observer_needs_it():
    network = half_trained()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), observing(network):
        assert not any(module.training for module in network.modules())
        assert all(parameter.grad is None for parameter in network.parameters())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("network_class", [SmallCNN, Counting, Drawing])
def test_afterwards_everything_is_as_before(network_class):
    network = half_trained(network_class)
    before = everything(network)
    with observing(network):
        network(noise_images(2)).sum().backward()
        network.train()
        for parameter in network.parameters():
            parameter.requires_grad_(requires_grad=False)
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(3)
        torch.manual_seed(3)
    assert_unchanged(network, before)


@pytest.mark.parametrize("network_class", [SmallCNN, Counting, Drawing])
def test_an_exception_inside_changes_nothing_either(network_class):
    network = half_trained(network_class)
    before = everything(network)
    with pytest.raises(RuntimeError), observing(network):
        network(noise_images(2)[:, :2] + torch.rand(()))
    assert_unchanged(network, before)


def test_it_can_be_entered_inside_itself():
    network = half_trained(Counting)
    before = everything(network)
    with observing(network):
        with observing(network):
            network(noise_images(2))
        assert not any(module.training for module in network.modules())
        assert network.in_place == 0
        network(noise_images(2))
        assert network.in_place == 1
    assert_unchanged(network, before)


def test_a_grad_made_before_is_the_same_object_with_the_same_content():
    network = half_trained()
    held = network.head.weight.grad
    with observing(network):
        network(noise_images(2)).sum().backward()
        assert network.head.weight.grad is not held
    assert network.head.weight.grad is held
    assert torch.equal(held, torch.full_like(held, 0.5))


def test_gradient_and_inference_modes_are_as_before():
    network = seeded(SmallCNN())
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            with observing(network):
                pass
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


@pytest.mark.usefixtures("precision_restored")
@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_matrix_products_are_exact_inside_and_as_before_outside(precision):
    torch.set_float32_matmul_precision(precision)
    mkldnn = getattr(torch.backends.mkldnn, "matmul", None)  # from torch 2.9 on
    flag = getattr(mkldnn, "fp32_precision", None)
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    with observing(seeded(SmallCNN())):
        assert getattr(mkldnn, "fp32_precision", "ieee") == "ieee"
        torch.testing.assert_close((a @ a).double(), a.double() @ a.double(), rtol=0, atol=5e-5)
    assert torch.get_float32_matmul_precision() == precision
    assert getattr(mkldnn, "fp32_precision", None) == flag
