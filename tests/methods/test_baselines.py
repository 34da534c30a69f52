"""Baselines by hand, against another library, and on a network whose maps are known on paper."""

import captum.attr
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

from lit_decom import METHODS, capture
from lit_decom.functional.cam import channel_weights, weighted_map
from lit_decom.functional.decomposition import decompose
from tests.helpers.networks import (
    Flattening,
    Patches,
    SmallCNN,
    golden,
    noise_images,
    plain_evidence,
    seeded,
    transformer,
)

PICTURE = torch.zeros(1, 3, 8, 8)
PICTURE[0, 0, 0:2, 0:2] = 1.0
PICTURE[0, 1, 2:4, 4:8] = 0.5
PICTURE[0, 2, 6:8, 0:2] = 1.0
HEAD = [[2.0, 1.0, -3.0], [0.0, 0.0, 0.0]]


def one_hot(**at):
    grid = torch.zeros(4, 4)
    for name, value in at.items():
        grid[int(name[1]), int(name[2])] = value
    return grid


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The gradient of a channel is its weight in the head over 16 positions, everywhere the same.
        ("grad_cam", one_hot(p00=2 / 16, p12=0.5 / 16, p13=0.5 / 16)),
        ("hi_res_cam", one_hot(p00=2 / 16, p12=0.5 / 16, p13=0.5 / 16)),
        ("layer_cam", one_hot(p00=2 / 16, p12=0.5 / 16, p13=0.5 / 16)),
        ("x_grad_cam", one_hot(p00=2 / 16, p12=0.5 / 16, p13=0.5 / 16)),
        # Sixteen positions of g^3 / (2 g^2 + sum(a) g^3) = g / (2 + g) for sum(a) = 1.
        ("grad_cam_pp", one_hot(p00=16 * 0.125 / 2.125, p12=8 * 0.0625 / 2.0625, p13=8 * 0.0625 / 2.0625)),
    ],
)
def test_maps_known_on_paper(name, expected):
    found = METHODS[name]()(capture(Patches(HEAD), "colours", PICTURE, 0))
    torch.testing.assert_close(found[0], expected)


def test_eigen_grad_cam_is_blank_where_the_leading_pattern_speaks_against_the_target():
    # Blue has the largest weight, a negative one: with the sign of the evidence nothing of its pattern is left.
    assert not METHODS["eigen_grad_cam"]()(capture(Patches(HEAD), "colours", PICTURE, 0)).any()


def test_eigen_cam_is_the_leading_pattern_whatever_the_target():
    picture = PICTURE.clone()
    picture[0, 2] *= 3
    for target in (0, 1):
        found = METHODS["eigen_cam"]()(capture(Patches(HEAD), "colours", picture, target))
        torch.testing.assert_close(found[0], one_hot(p30=3.0))


@pytest.mark.parametrize("name", ["eigen_cam", "eigen_grad_cam"])
def test_eigen_methods_are_the_leading_right_singular_vector(name):
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(), "predicted")
    maps = evidence.activations if name == "eigen_cam" else evidence.activations * evidence.gradients
    found = METHODS[name]()(evidence)
    for image in range(4):
        left, values, right = np.linalg.svd(maps[image].flatten(1).double().numpy(), full_matrices=False)
        expected = np.maximum(np.sign(left[:, 0].sum()) * values[0] * right[0], 0)
        # rounding of the result to float32: the decomposition itself is in float64
        np.testing.assert_allclose(found[image].flatten(), expected, rtol=0, atol=1e-5 * values[0])


@pytest.mark.parametrize("name", ["grad_cam", "hi_res_cam", "layer_cam", "x_grad_cam", "grad_cam_pp"])
def test_gradient_methods_are_their_formula_position_by_position(name):
    network, images = seeded(SmallCNN()), noise_images()
    found = METHODS[name]()(capture(network, "stage2", images, 1))
    _, activations, gradients = plain_evidence(network, "stage2", images, [1] * 4)
    for a, g, cam in zip(activations.double().numpy(), gradients.double().numpy(), found, strict=True):
        if name == "hi_res_cam":
            terms = g * a
        elif name == "layer_cam":
            terms = np.maximum(g, 0) * a
        else:
            if name == "grad_cam":
                w = g.mean(axis=(1, 2))
            elif name == "x_grad_cam":
                mass = a.sum(axis=(1, 2))
                w = np.divide((g * a).sum(axis=(1, 2)), mass, out=np.zeros_like(mass), where=mass != 0)
            else:
                below = 2 * g**2 + a.sum(axis=(1, 2), keepdims=True) * g**3
                w = (np.maximum(g, 0) * np.divide(g**2, below, out=np.zeros_like(g), where=below != 0)).sum(axis=(1, 2))
            terms = np.stack([weight * channel for weight, channel in zip(w, a, strict=True)])
        total, summed = terms.sum(axis=0), np.abs(terms).sum(axis=0)
        # a sum over channels of both signs: rounded relative to what is summed, not to what is left of it
        np.testing.assert_allclose(cam, np.maximum(total, 0), rtol=0, atol=1e-5 * summed.max())


@pytest.mark.parametrize("which", ["golden", "small"])
def test_class_weighted_channel_maps_agree_with_captum(which):
    if which == "golden":
        network, vectors = golden()
        layer, images, targets = "relu3", vectors.images, vectors.targets
    else:
        network, layer, images, targets = seeded(SmallCNN()), "stage1", noise_images(), torch.tensor([3, 0, 4, 1])
    evidence = capture(network, layer, images, targets)
    weights = channel_weights(evidence.activations, evidence.gradients, "mean")
    layer_grad_cam = captum.attr.LayerGradCam(network, network.get_submodule(layer))
    expected = layer_grad_cam.attribute(
        images.clone(), target=targets, attr_dim_summation=False, relu_attributions=False
    )
    found = evidence.activations * weights[:, :, None, None]
    # two passes over the network, each of which may take its sums in an order of its own
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5 * expected.abs().max().item())
    summed = layer_grad_cam.attribute(images.clone(), target=targets, relu_attributions=True)
    # the sum over channels of both signs is smaller than what it sums
    atol = 1e-5 * found.abs().sum(dim=1).max().item()
    torch.testing.assert_close(METHODS["grad_cam"]()(evidence), summed[:, 0].detach(), rtol=0, atol=atol)


PEERS = {"grad_cam": "GradCAM", "grad_cam_pp": "GradCAMPlusPlus", "x_grad_cam": "XGradCAM"}
PEERS |= {"hi_res_cam": "HiResCAM", "layer_cam": "LayerCAM"}


def correlations(found, expected):
    pairs = zip(found.flatten(1).double().numpy(), np.asarray(expected).reshape(len(found), -1), strict=True)
    return [np.corrcoef(one, other)[0, 1] for one, other in pairs]


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("make", [SmallCNN, Flattening])
def test_gradient_methods_agree_with_pytorch_grad_cam(name, make):
    network, images, targets = seeded(make()), noise_images(), [3, 0, 4, 1]
    peer = getattr(pytorch_grad_cam, PEERS[name])(network, [network.stage2])
    peer.forward(images, [ClassifierOutputTarget(target) for target in targets])
    kept = peer.activations_and_grads
    activations, gradients = kept.activations[0].numpy(), kept.gradients[0].numpy()
    kept.release()
    expected = peer.get_cam_image(images, network.stage2, targets, activations, gradients, eigen_smooth=False)
    found = METHODS[name]()(capture(network, "stage2", images, torch.tensor(targets)))
    assert min(correlations(found, np.maximum(expected, 0))) >= 0.999


@pytest.mark.parametrize(
    ("name", "peer"), [("grad_cam", "GradCAM"), ("x_grad_cam", "XGradCAM"), ("layer_cam", "LayerCAM")]
)
def test_gradient_methods_agree_with_torchcam(name, peer):
    network, vectors = golden()
    targets = vectors.targets.tolist()
    with getattr(torchcam.methods, peer)(network, "relu3") as extractor:
        (expected,) = extractor(targets, network(vectors.images.clone()))
    found = METHODS[name]()(capture(network, "relu3", vectors.images, vectors.targets))
    assert min(correlations(found, expected.detach())) >= 0.999


def test_torchcams_grad_cam_pp_is_that_of_cubed_gradients():
    # It divides a copy, since a mask selects one: what should be weighted by g^2 / (2 g^2 + ...) is weighted by g^2.
    network, vectors = golden()
    with torchcam.methods.GradCAMpp(network, "relu3") as extractor:
        (expected,) = extractor(vectors.targets.tolist(), network(vectors.images.clone()))
    evidence = capture(network, "relu3", vectors.images, vectors.targets)
    cubed = weighted_map(evidence.activations, evidence.gradients.relu().pow(3).sum(dim=(2, 3)))
    assert min(correlations(cubed, expected.detach())) >= 0.999
    assert min(correlations(METHODS["grad_cam_pp"]()(evidence), expected.detach())) < 0.9


@pytest.mark.parametrize("name", ["eigen_cam", "eigen_grad_cam"])
def test_eigen_methods_of_pytorch_grad_cam_take_means_out_and_leave_signs_open(name):
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(), "predicted")
    maps = evidence.activations if name == "eigen_cam" else evidence.activations * evidence.gradients
    expected = get_2d_projection(maps.numpy().copy())
    centred = decompose(maps, 1, centred=True).components[:, 0]
    assert min(map(abs, correlations(centred, expected))) >= 0.999
    assert max(map(abs, correlations(METHODS[name]()(evidence), expected))) < 0.99


def test_with_pooling_and_a_linear_head_gradient_times_activation_sums_to_the_logit_less_its_bias():
    network, images, targets = seeded(SmallCNN()), noise_images(), torch.tensor([3, 0, 4, 1])
    evidence = capture(network, "stage2", images, targets)
    terms = evidence.gradients * evidence.activations
    expected = evidence.logits[torch.arange(4), targets] - network.head.bias.detach()[targets]
    atol = 1e-5 * terms.abs().sum(dim=(1, 2, 3)).max().item()
    torch.testing.assert_close(terms.sum(dim=(1, 2, 3)), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["hi_res_cam", "layer_cam"])
def test_what_the_network_does_not_read_is_exactly_zero(name):
    # The dead zone of "CAM-based methods can see through walls" (arXiv 2404.01964): a head without weights there.
    network = seeded(Flattening())
    with torch.no_grad():
        network.head.weight.view(5, 12, 8, 8)[:, :, 4:] = 0
    evidence = capture(network, "stage2", noise_images(), "predicted")
    assert evidence.activations[:, :, 4:].any()
    found = METHODS[name]()(evidence)
    assert found[:, :4].flatten(1).any(dim=1).all()
    assert not found[:, 4:].any()
    assert METHODS["grad_cam_pp"]()(evidence)[:, 4:].any(), "one weight for a whole channel does see it"


def test_baselines_explain_tokens():
    evidence = capture(transformer(prefix=1), "blocks.1", noise_images(), "predicted")
    for method in METHODS.values():
        options = {"n_components": 3} if method.__name__ == "DecomCAM" else {}
        assert method(**options)(evidence).shape == (4, 8, 8)
