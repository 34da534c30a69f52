"""Score-CAM and its kin: weights by brute force, and against two other packages."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lit_decom import capture
from lit_decom.functional.labels import logits_of_label
from lit_decom.methods import GradCAM, ScoreCAM, ScoreCAMPP
from tests.helpers.networks import SmallCNN, golden, noise_images, plain_evidence, seeded, transformer

TARGETS = torch.tensor([1, 0, 4])
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def evidence_of(targets=TARGETS, **options):
    return capture(seeded(SmallCNN()), "stage2", noise_images(3), targets, **options)


def masked_logits(network, image, channel, *, gate="stretch", black=None):
    """One channel, one image, one forward pass."""
    mask = F.interpolate(channel[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    mask = torch.tanh(mask) if gate == "tanh" else (mask - mask.min()) / (mask.max() - mask.min())
    black = torch.zeros(3) if black is None else black
    seen = (image - black[:, None, None]) * mask + black[:, None, None]
    with torch.no_grad():
        return network(seen[None])[0].double()


def all_masked_logits(network, layer, images, **options):
    _, activations, _ = plain_evidence(network, layer, images, [0] * len(images))
    return torch.stack(
        [
            torch.stack([masked_logits(network, image, channel, **options) for channel in channels])
            for image, channels in zip(images, activations, strict=True)
        ]
    )


def test_weights_by_brute_force():
    network, images = seeded(SmallCNN()), noise_images(3)
    logits = all_masked_logits(network, "stage2", images)
    evidence = evidence_of(chunk_size=5)
    rows = torch.arange(3)
    torch.testing.assert_close(
        ScoreCAM().weights(evidence).double(), logits.softmax(2)[rows, :, TARGETS], rtol=1e-5, atol=0
    )
    expected = logits[rows, :, TARGETS].softmax(1)
    torch.testing.assert_close(ScoreCAM("softmax").weights(evidence).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", [ScoreCAM(), ScoreCAM("softmax"), ScoreCAMPP()])
def test_the_map_is_the_rectified_sum_of_weighted_channels(method):
    evidence = evidence_of()
    weights = method.weights(evidence).double()
    for image in range(3):
        channels = evidence.activations[image].double()
        channels = channels.tanh() if isinstance(method, ScoreCAMPP) else channels
        expected = sum(weight * channel for weight, channel in zip(weights[image], channels, strict=True))
        torch.testing.assert_close(method(evidence)[image].double(), expected.clamp(min=0), rtol=1e-5, atol=1e-7)


def test_the_gated_method_by_brute_force():
    network, images = seeded(SmallCNN()), noise_images(3)
    logits = all_masked_logits(network, "stage2", images, gate="tanh")
    expected = logits.softmax(2)[torch.arange(3), :, TARGETS]
    torch.testing.assert_close(ScoreCAMPP().weights(evidence_of()).double(), expected, rtol=1e-5, atol=0)


def test_negative_activations_show_nothing_through_a_gate():
    evidence = evidence_of()
    turned = dataclasses.replace(evidence, activations=-evidence.activations - 0.1)
    blank = evidence.network(torch.zeros_like(evidence.images)).softmax(1)[torch.arange(3), TARGETS]
    torch.testing.assert_close(
        ScoreCAMPP().weights(turned), blank[:, None].expand(3, 12).detach(), rtol=1e-5, atol=1e-7
    )


def test_masked_before_normalisation_what_is_hidden_is_black():
    network, images = seeded(SmallCNN()), noise_images(3)
    logits = all_masked_logits(network, "stage2", images, black=-MEAN / STD)
    evidence = evidence_of(mean=MEAN, std=STD)
    found = ScoreCAM(mask_space="unit").weights(evidence).double()
    torch.testing.assert_close(found, logits.softmax(2)[torch.arange(3), :, TARGETS], rtol=1e-5, atol=0)
    assert (found - ScoreCAM().weights(evidence)).abs().max() > 1e-2


@pytest.mark.parametrize("weighting", ["probability", "softmax"])
def test_channels_that_were_not_chosen_have_no_weight(weighting):
    evidence = evidence_of()
    every, some = (ScoreCAM(weighting, top_k).weights(evidence) for top_k in (None, 4))
    for image in range(3):
        best = evidence.gradients[image].mean(dim=(1, 2)).topk(4).indices
        others = sorted(set(range(12)) - set(best.tolist()))
        assert not some[image, others].any()
        share = every[image, best].sum() if weighting == "softmax" else 1.0
        torch.testing.assert_close(some[image, best], every[image, best] / share, rtol=1e-5, atol=0)
    if weighting == "softmax":
        torch.testing.assert_close(some.sum(1), torch.ones(3))


def test_more_channels_than_there_are_means_all():
    evidence = evidence_of()
    assert torch.equal(ScoreCAM(top_k=100)(evidence), ScoreCAM()(evidence))


@pytest.mark.parametrize("method", [ScoreCAM(), ScoreCAM("softmax")])
def test_a_constant_channel_takes_no_forward_pass_and_has_no_weight(method):
    evidence = evidence_of()
    activations = evidence.activations.clone()
    activations[0, 3], activations[1] = 2.0, 0.0
    asked = []

    def network(images, dtype):
        asked.append(len(images))
        return evidence.network(images, dtype)

    weights = method.weights(dataclasses.replace(evidence, activations=activations, network=network))
    assert sum(asked) == 11 + 12
    assert weights[0, 3] == 0
    assert not weights[1].any()
    kept = [channel for channel in range(12) if channel != 3]
    others = method.weights(evidence)
    share = others[0, kept].sum() if method.weighting == "softmax" else 1.0
    torch.testing.assert_close(weights[0, kept], others[0, kept] / share, rtol=1e-5, atol=0)
    torch.testing.assert_close(weights[2], others[2], rtol=1e-5, atol=0)


def test_a_contrast_is_the_difference_of_probabilities():
    evidence = evidence_of("contrast")
    first, second = evidence.logits.topk(2, dim=1).indices.unbind(1)
    logits = all_masked_logits(seeded(SmallCNN()), "stage2", noise_images(3)).softmax(2)
    rows = torch.arange(3)
    expected = logits[rows, :, first] - logits[rows, :, second]
    torch.testing.assert_close(ScoreCAM().weights(evidence).double(), expected, rtol=1e-4, atol=1e-6)


def test_a_callable_is_its_own_score():
    def score(logits, rows):
        return logits[:, 0] - 0.1 * rows * logits[:, 2].square()

    evidence = evidence_of(score)
    logits = all_masked_logits(seeded(SmallCNN()), "stage2", noise_images(3)).flatten(0, 1)
    expected = score(logits, torch.arange(3).repeat_interleave(12)).view(3, 12)
    torch.testing.assert_close(ScoreCAM().weights(evidence).double(), expected, rtol=1e-4, atol=1e-6)


def test_of_independent_labels_it_is_the_probability_of_the_one_asked_about():
    asked = torch.tensor([4, 0, 2])
    evidence = evidence_of("predicted", asked=asked)
    logits = all_masked_logits(seeded(SmallCNN()), "stage2", noise_images(3))
    for image in range(3):
        there = logits_of_label(evidence.network(evidence.images), asked)[image].argmax() < 5
        probability = torch.sigmoid(logits[image, :, asked[image]])
        expected = probability if there else 1 - probability
        found = ScoreCAM().weights(evidence)[image].double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def by_pytorch_grad_cam(network, layer, images, targets, activations):
    """Weights ``(B, C)`` and maps ``(B, H, W)`` of the other package."""
    peer = pytest.importorskip("pytorch_grad_cam", exc_type=ImportError)
    explainer = peer.ScoreCAM(network, [network.get_submodule(layer)])
    classes = [lambda logits, target=int(target): logits[target] for target in targets]
    weights = explainer.get_cam_weights(images, None, classes, activations.numpy(), None)
    maps = explainer(input_tensor=images, targets=classes)
    explainer.activations_and_grads.release()
    return torch.from_numpy(weights), maps


def correlations(maps, others):
    pairs = zip(maps.flatten(1).numpy(), others.reshape(len(others), -1), strict=True)
    return [np.corrcoef(one, other)[0, 1] for one, other in pairs]


@pytest.fixture
def subject(request):
    if request.param == "golden":
        network, vectors = golden()
        return network, "relu3", vectors.images, vectors.targets
    return seeded(SmallCNN()), "stage2", noise_images(3), TARGETS


@pytest.mark.parametrize("subject", ["golden", "small"], indirect=True)
def test_it_agrees_with_pytorch_grad_cam(subject, monkeypatch):
    network, layer, images, targets = subject
    evidence = capture(network, layer, images, targets)
    activations = evidence.activations
    mine = ScoreCAM("softmax")
    _, others = by_pytorch_grad_cam(network, layer, images, targets, activations)
    shown = F.interpolate(mine(evidence)[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
    assert min(correlations(shown, others)) > 0.999
    # The only difference: it resizes its masks such that corners meet corners, which the released code does not.
    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", lambda size: torch.nn.Upsample(size, mode="bilinear"))
    weights, _ = by_pytorch_grad_cam(network, layer, images, targets, activations)
    torch.testing.assert_close(mine.weights(evidence), weights, rtol=1e-5, atol=0)


@pytest.mark.parametrize("subject", ["golden", "small"], indirect=True)
def test_it_agrees_with_torchcam_but_for_where_masks_are_stretched(subject):
    network, layer, images, targets = subject
    evidence = capture(network, layer, images, targets)
    # It stretches the small maps, and resizes them afterwards: a mask need not reach 1 any more.
    peer = pytest.importorskip("torchcam.methods", exc_type=ImportError)
    with peer.ScoreCAM(network, layer, input_shape=tuple(images.shape[1:])) as explainer:
        scores = network(images)
        (others,) = explainer(targets.tolist(), scores)
    assert min(correlations(ScoreCAM("softmax")(evidence), others.numpy())) > 0.999


def test_it_explains_tokens():
    evidence = capture(transformer(prefix=1), "blocks.1", noise_images(), "predicted")
    for method in (ScoreCAM(), ScoreCAM("softmax", top_k=5), ScoreCAMPP()):
        maps = method(evidence)
        assert maps.shape == (4, 8, 8)
        assert maps.isfinite().all()


def test_it_is_another_map_than_grad_cam():
    evidence = evidence_of()
    assert min(correlations(ScoreCAM()(evidence), GradCAM()(evidence).numpy())) < 0.999


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weighting": "mean"}, "`weighting` to be one of 'probability', 'softmax', but got 'mean'"),
        ({"top_k": 0}, "`top_k` to be at least 1, but got 0"),
        ({"mask_space": "output"}, "`mask_space` to be one of 'input', 'unit', but got 'output'"),
        ({"score_dtype": "float16"}, "`score_dtype` to be one of 'float32', 'bfloat16', but got 'float16'"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ScoreCAM(**options)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="`mean` and `std` for `mask_space='unit'`"):
        ScoreCAM(mask_space="unit")(evidence_of())


def test_half_precision_forwards_keep_the_ranking_of_the_weights():
    evidence = evidence_of()
    exact, rounded = (ScoreCAM(score_dtype=dtype).weights(evidence) for dtype in ("float32", "bfloat16"))
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0)
