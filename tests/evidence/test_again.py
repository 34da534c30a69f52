"""Altered versions of the same images, explained in the same way as the images themselves."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, capture
from lit_decom.evidence import TargetLayerError
from tests.helpers.networks import Answering, NoGradBackbone, SmallCNN, noise_images, seeded, transformer
from tests.helpers.unchanged import assert_unchanged, everything, half_trained

LABELS = torch.tensor([0, 3, 1, 4])


def altered():
    """Versions of the same images in which the network prefers other classes."""
    return -noise_images().flip(3)


def undecided():
    """A network that prefers no class for all images alike."""
    network = seeded(SmallCNN())
    with torch.no_grad():
        network.head.bias -= network(torch.cat([noise_images(), altered()])).mean(dim=0)
    return network


def plain_scores(network, layer, images, score):
    """Logits, activations and gradients of each image's own score, one image at a time, without our code."""
    rows = []
    for row, image in enumerate(images):
        kept = {}
        handle = network.get_submodule(layer).register_forward_hook(lambda _m, _a, out, kept=kept: kept.update(out=out))
        logits = network(image[None])
        handle.remove()
        logits = logits["scores"] if isinstance(logits, dict) else logits
        (gradient,) = torch.autograd.grad(score(logits[0], row), kept["out"])
        rows.append((logits.detach()[0], kept["out"].detach()[0], gradient[0]))
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def assert_plain(evidence, expected):
    for name, tensor in zip(("logits", "activations", "gradients"), expected, strict=True):
        torch.testing.assert_close(getattr(evidence, name), tensor, rtol=1e-4, atol=1e-6)
    assert evidence.gradients.abs().amax(dim=(1, 2, 3)).min() > 1e-5


def test_a_class_stays_the_class():
    network = seeded(SmallCNN())
    again = capture(network, "stage2", noise_images(), LABELS).again(altered())
    assert torch.equal(again.targets, LABELS)
    assert torch.equal(again.images, altered())
    assert_plain(again, plain_scores(network, "stage2", altered(), lambda out, row: out[LABELS[row]]))


def test_the_predicted_class_stays_that_of_the_unaltered_image():
    network = undecided()
    first = capture(network, "stage2", noise_images(), "predicted")
    again = first.again(altered())
    chosen = network(noise_images()).argmax(dim=1)
    assert torch.equal(again.targets, chosen)
    assert (network(altered()).argmax(dim=1) != chosen).any()
    assert_plain(again, plain_scores(network, "stage2", altered(), lambda out, row: out[chosen[row]]))


def test_a_contrast_stays_the_pair_of_the_unaltered_image():
    network = undecided()
    again = capture(network, "stage2", noise_images(), "contrast").again(altered())
    pair = network(noise_images()).topk(2, dim=1).indices
    assert (network(altered()).topk(2, dim=1).indices != pair).any(dim=1).sum() >= 3
    assert torch.equal(again.targets, pair[:, 0])
    assert_plain(
        again, plain_scores(network, "stage2", altered(), lambda out, row: out[pair[row, 0]] - out[pair[row, 1]])
    )
    # What was captured again can be captured again.
    assert torch.equal(again.again(altered()).gradients, again.gradients)


def test_a_callable_gets_the_same_rows():
    network, factors = seeded(SmallCNN()), torch.tensor([1.0, -2.0, 3.0, 0.5])
    first = capture(network, "stage2", noise_images(), lambda out, rows: factors[rows] * out[:, 2].square())
    again = first.again(altered())
    assert again.targets.tolist() == [-1] * 4
    assert_plain(again, plain_scores(network, "stage2", altered(), lambda out, row: factors[row] * out[2].square()))
    rows = torch.tensor([2, 2, 0])
    assert torch.equal(again.score(first.logits[rows], rows), factors[rows] * first.logits[rows, 2].square())


@pytest.mark.parametrize("targets", ["predicted", "contrast", 2, LABELS])
def test_the_logits_are_read_as_before(targets):
    network = seeded(Answering(wrap=lambda logits: {"scores": logits}))
    plain = capture(seeded(SmallCNN()), "stage2", noise_images(), targets).again(altered())
    first = capture(network, "layer", noise_images(), targets, forward=lambda model, images: model(images)["scores"])
    again = first.again(altered())
    assert torch.equal(again.gradients, plain.gradients)
    torch.testing.assert_close(again.relogits(altered()[:, None])[:, 0], again.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", ["predicted", "contrast", 2, LABELS])
def test_the_unaltered_images_give_the_same_evidence(targets):
    network = transformer()
    first = capture(network, "blocks.1", noise_images(), targets, mean=torch.rand(3), std=torch.rand(3), chunk_size=3)
    again = first.again(noise_images())
    for name in ("images", "targets", "logits", "activations", "gradients"):
        assert torch.equal(getattr(again, name), getattr(first, name))
    assert (again.mean, again.std, again.chunk_size) == (first.mean, first.std, 3)
    assert again.layer is first.layer
    found, expected = (DecomCAM(n_components=2).decompose(evidence) for evidence in (again, first))
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("targets", ["predicted", "contrast", 2, LABELS.flip(0)])
def test_other_targets_are_those_of_a_new_capture(targets):
    network = seeded(SmallCNN())
    again = capture(network, "stage2", noise_images(), LABELS).again(altered(), targets)
    new = capture(network, "stage2", altered(), targets)
    assert torch.equal(again.targets, new.targets)
    assert torch.equal(again.gradients, new.gradients)
    assert torch.equal(again.score(new.logits, torch.arange(4)), new.score(new.logits, torch.arange(4)))


def test_the_model_is_as_before():
    network = half_trained()
    first = capture(network, "stage2", noise_images(), "contrast")
    before = everything(network)
    with torch.inference_mode():
        again = first.again(altered())
    assert_unchanged(network, before)
    assert not again.images.is_inference()
    assert not again.logits.requires_grad


def test_what_a_backbone_does_not_record_is_recorded_again():
    again = capture(seeded(NoGradBackbone()), "stage2", noise_images(), LABELS).again(altered())
    assert torch.equal(again.gradients, capture(seeded(SmallCNN()), "stage2", altered(), LABELS).gradients)


def test_a_float64_network_stays_in_float64():
    network = seeded(SmallCNN()).double()
    again = capture(network, "stage2", noise_images(), LABELS).again(altered())
    assert {again.images.dtype, again.gradients.dtype} == {torch.float64}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise_images(3), r"`images` to be 4 altered ones, one for each image, but got 3"),
        (noise_images()[0], r"`images` to be \(B, 3, H, W\) with B >= 1, but got \(3, 32, 32\)"),
        (torch.zeros(4, 3, 32, 32, dtype=torch.long), "floating point, but got torch.int64"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        capture(seeded(SmallCNN()), "stage2", noise_images(), 0).again(images)


def test_targets_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match="`targets` to be between 0 and 4, but got 7 to 7"):
        capture(seeded(SmallCNN()), "stage2", noise_images(), 0).again(altered(), 7)


def test_a_model_that_was_trained_on_is_refused():
    network = seeded(SmallCNN())
    first = capture(network, "stage2", noise_images(), 0)
    with torch.no_grad():
        network.head.weight += 1
    with pytest.raises(RuntimeError, match="weights to be those of the capture, but they have changed"):
        first.again(altered())


def test_a_score_that_no_longer_depends_on_the_layer_is_refused():
    first = capture(seeded(SmallCNN()), "stage2", noise_images(), 0)
    with pytest.raises(TargetLayerError, match="target score to depend on `target_layer` 'stage2'"):
        replace(first, score=lambda logits, rows: logits.detach()[:, 0]).again(altered())


def test_a_layer_that_ran_once_must_run_once_again():
    class Skipping(SmallCNN):
        def forward(self, images):
            features = self.stage1(images)
            features = (
                self.stage2(features) if images.mean() < 1 else nn.functional.conv2d(features, features[:12, :, :1, :1])
            )
            return self.head(features.mean(dim=(2, 3)))

    first = capture(seeded(Skipping()), "stage2", noise_images(12), 0)
    with pytest.raises(TargetLayerError, match="'stage2' to run once in a forward pass, but it ran 0 times"):
        first.again(noise_images(12) + 5)
