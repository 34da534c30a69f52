"""Maps on live weights: their values are those of a capture, and a loss of them reaches the weights."""

import pytest
import torch
from torch import nn

from lit_decom import METHODS, capture
from lit_decom.evidence import TargetLayerError, differentiable_evidence, differentiable_map
from lit_decom.methods import DecomCAM, GradCAM
from tests.helpers.networks import (
    Answering,
    ChannelsLast,
    InPlaceAfter,
    SmallCNN,
    Twice,
    noise_images,
    seeded,
    transformer,
)

GRADIENT_METHODS = ("grad_cam", "grad_cam_pp", "x_grad_cam", "hi_res_cam", "layer_cam")
TARGETS = torch.tensor([3, 0, 4, 1])


def loss_of(network, method, images, *, weigh, layer="stage2"):
    return (differentiable_map(network, layer, images, TARGETS, method) * weigh).sum()


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (SmallCNN, "stage1"),
        (SmallCNN, "stage2"),
        (ChannelsLast, "block"),
        (InPlaceAfter, "layer"),
        (lambda: transformer(prefix=1), "blocks.1"),
        (lambda: Answering(wrap=lambda logits: {"logits": logits}, wrap_layer=lambda maps: (maps, "more")), "layer"),
    ],
)
def test_values_are_those_of_the_capture(name, make, layer):
    # In float64, since sums over channels of both signs may leave nothing but rounding.
    network, images, method = seeded(make()).double(), noise_images().double(), METHODS[name]()
    evidence = capture(network, layer, images, TARGETS)
    expected = method(evidence)
    found = differentiable_map(network, layer, images, TARGETS, method)
    assert found.requires_grad
    summed = (evidence.gradients * evidence.activations).abs().sum(dim=1).max().item()
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-10 * max(summed, expected.max().item()))
    assert expected.any()


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_the_gradient_at_the_weights_is_that_of_finite_differences(name):
    network, images = seeded(SmallCNN()).double(), noise_images().double()
    generator = torch.Generator().manual_seed(5)
    weigh = torch.rand(4, 8, 8, generator=generator, dtype=torch.float64)
    loss_of(network, METHODS[name](), images, weigh=weigh).backward()
    for parameter in (network.stage1[0].weight, network.stage2[0].weight, network.stage2[1].bias, network.head.weight):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(loss_of(network, METHODS[name](), images, weigh=weigh).item())
            with torch.no_grad():
                parameter.sub_(step * direction)
        slope = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-6)
        assert abs(slope) > 1e-3


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_dead_channels_leave_no_nan_in_the_gradient(name):
    network = seeded(SmallCNN())
    with torch.no_grad():
        network.stage2[1].bias[:4] = -100.0
    differentiable_map(network, "stage2", noise_images(), TARGETS, METHODS[name]()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)
    assert network.stage1[0].weight.grad.any()


def test_a_loss_of_maps_moves_them_where_it_asks():
    network, images = seeded(SmallCNN()).train(), noise_images()
    network.dropout.p = 0.0
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    shares = []
    for _ in range(20):
        evidence = differentiable_evidence(network, "stage2", images, TARGETS)
        maps = GradCAM()(evidence)
        share = (maps * left).sum() / maps.sum().clamp(min=1e-6)
        loss = nn.functional.cross_entropy(evidence.logits, TARGETS) - share
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(share.item())
    assert shares[-1] > shares[0] + 0.2


def test_the_model_is_as_it_trains_and_keeps_no_hook():
    network = seeded(SmallCNN()).train()
    before = network.stage1[1].running_mean.clone()
    maps = differentiable_map(network, "stage2", noise_images(), TARGETS, GradCAM())
    assert network.training
    assert not torch.equal(network.stage1[1].running_mean, before), "a forward pass like any other"
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    maps.sum().backward()
    assert network.stage1[0].weight.grad.any()


def test_a_frozen_backbone_gets_no_gradient_and_the_head_does():
    network = seeded(SmallCNN())
    for parameter in [*network.stage1.parameters(), *network.stage2.parameters()]:
        parameter.requires_grad_(requires_grad=False)
    differentiable_map(network, "stage2", noise_images(), TARGETS, GradCAM()).sum().backward()
    assert network.head.weight.grad.any()
    assert network.stage2[0].weight.grad is None


def test_a_method_that_asks_the_model_again_is_refused():
    with pytest.raises(ValueError, match=r"`method` to keep the graph .* DecomCAM\(n_components=3"):
        differentiable_map(seeded(SmallCNN()), "stage2", noise_images(), TARGETS, DecomCAM(n_components=3))


def test_it_says_what_is_missing():
    network, images = seeded(SmallCNN()), noise_images()
    with torch.no_grad(), pytest.raises(RuntimeError, match="gradients to be on"):
        differentiable_map(network, "stage2", images, TARGETS, GradCAM())
    with pytest.raises(TargetLayerError, match="stage3"):
        differentiable_map(network, "stage3", images, TARGETS, GradCAM())
    with pytest.raises(TargetLayerError, match="to depend on `target_layer` 'aside'"):
        differentiable_map(seeded(Twice()), "aside", images, TARGETS, GradCAM())
    with pytest.raises(TargetLayerError, match="ran 2 times"):
        differentiable_map(seeded(Twice()), "shared", images, TARGETS, GradCAM())
