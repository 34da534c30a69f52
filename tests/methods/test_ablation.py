"""Ablation-CAM: by brute force, on a linear head, and against two other packages."""

import captum.attr
import numpy as np
import pytest
import torch

from lit_decom import capture
from lit_decom.methods import AblationCAM
from tests.helpers.networks import Flattening, SmallCNN, golden, noise_images, seeded, transformer

TARGETS = torch.tensor([1, 0, 4])


def without(network, layer, image, channel):
    """Logits where one channel of the layer is 0, by a plain hook."""

    def ablate(_module, _args, output):
        output = output.clone()
        output[:, channel] = 0
        return output

    handle = network.get_submodule(layer).register_forward_hook(ablate)
    with torch.no_grad():
        logits = network(image[None])[0].double()
    handle.remove()
    return logits


@pytest.mark.parametrize(
    ("network", "layer"), [(SmallCNN(), "stage2"), (SmallCNN(), "stage1"), (Flattening(), "stage2")]
)
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_weights_by_brute_force(network, layer, chunk):
    network, images = seeded(network), noise_images(3)
    evidence = capture(network, layer, images, TARGETS, chunk_size=chunk)
    found = AblationCAM().weights(evidence)
    for image in range(3):
        score = evidence.logits[image, TARGETS[image]].double()
        lost = [
            score - without(network, layer, images[image], channel)[TARGETS[image]] for channel in range(found.shape[1])
        ]
        # differences of scores in float32
        torch.testing.assert_close(found[image].double(), torch.stack(lost) / score.abs(), rtol=1e-4, atol=2e-6)


def test_on_a_linear_head_a_weight_is_that_of_the_head():
    network = seeded(SmallCNN())
    evidence = capture(network, "stage2", noise_images(3), TARGETS)
    score = evidence.logits[torch.arange(3), TARGETS].abs()
    lost = AblationCAM().weights(evidence) * score[:, None]
    head = network.head.weight[TARGETS].detach()
    # What is lost without a channel is its mean times its weight in the head.
    torch.testing.assert_close(lost, head * evidence.activations.mean(dim=(2, 3)), rtol=1e-4, atol=2e-6)


def test_the_map_is_the_rectified_sum_of_weighted_channels():
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(3), TARGETS)
    weights = AblationCAM().weights(evidence)
    for image in range(3):
        terms = [weight * channel for weight, channel in zip(weights[image], evidence.activations[image], strict=True)]
        torch.testing.assert_close(AblationCAM()(evidence)[image], sum(terms).clamp(min=0), rtol=1e-5, atol=1e-6)


def test_a_channel_that_is_zero_has_no_weight():
    network = seeded(SmallCNN())
    with torch.no_grad():
        network.stage2[1].bias[4] = -100
    weights = AblationCAM().weights(capture(network, "stage2", noise_images(3), TARGETS))
    assert not weights[:, 4].any()
    assert (weights[:, :4] != 0).all()


def test_a_negative_score_does_not_turn_the_map_around():
    network, images = seeded(SmallCNN()), noise_images(3)
    before = AblationCAM()(capture(network, "stage2", images, TARGETS))
    with torch.no_grad():
        network.head.bias -= 10
    lowered = capture(network, "stage2", images, TARGETS)
    assert (lowered.logits < 0).all()
    after = AblationCAM()(lowered)
    shape = before / before.amax(dim=(1, 2), keepdim=True)
    # ten times the score, and so its rounding
    torch.testing.assert_close(after / after.amax(dim=(1, 2), keepdim=True), shape, rtol=0, atol=1e-3)


def test_a_score_of_zero_leaves_what_is_lost():
    network = seeded(SmallCNN())
    evidence = capture(network, "stage2", noise_images(3), lambda logits, _rows: 0 * logits[:, 0])
    assert not AblationCAM()(evidence).any()


def test_what_is_lost_agrees_with_captum():
    network, vectors = golden()
    evidence = capture(network, "relu3", vectors.images, vectors.targets)
    channels = evidence.activations.shape[1]
    ablation = captum.attr.LayerFeatureAblation(network, network.relu3)
    mask = torch.arange(channels)[None, :, None, None].expand(1, channels, *evidence.activations.shape[2:])
    lost = ablation.attribute(vectors.images, target=vectors.targets, layer_mask=mask)[:, :, 0, 0]
    score = evidence.logits.gather(1, vectors.targets[:, None])
    torch.testing.assert_close(AblationCAM().weights(evidence) * score.abs(), lost.detach(), rtol=1e-4, atol=2e-6)


def test_it_agrees_with_pytorch_grad_cam_where_the_score_is_positive():
    peer = pytest.importorskip("pytorch_grad_cam", exc_type=ImportError)
    network, images = seeded(SmallCNN()), noise_images(3)
    evidence = capture(network, "stage2", images, TARGETS)
    score = evidence.logits[torch.arange(3), TARGETS]
    explainer = peer.AblationCAM(network, [network.stage2])
    classes = [lambda logits, target=int(target): logits[target] for target in TARGETS]
    weights = explainer.get_cam_weights(images, network.stage2, classes, evidence.activations.numpy(), None)
    explainer.activations_and_grads.release()
    # It divides by the score itself, which turns the map around where that is negative.
    found = AblationCAM().weights(evidence) * score.sign()[:, None]
    assert (score > 0).any()
    assert (score < 0).any()
    np.testing.assert_allclose(found, weights, rtol=1e-4, atol=2e-6)


def test_it_explains_tokens_and_leaves_those_without_a_position():
    network, images = transformer(prefix=2), noise_images(2)
    evidence = capture(network, "blocks.1", images, 1, chunk_size=3)

    def ablate(_module, _args, output):
        output = output.clone()
        output[:, 2:, 7] = 0
        return output

    handle = network.blocks[1].register_forward_hook(ablate)
    with torch.no_grad():
        lost = evidence.logits[:, 1] - network(images)[:, 1]
    handle.remove()
    found = AblationCAM().weights(evidence)[:, 7] * evidence.logits[:, 1].abs()
    torch.testing.assert_close(found, lost, rtol=1e-4, atol=2e-6)
    assert AblationCAM()(evidence).shape == (2, 8, 8)
