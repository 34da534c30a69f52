"""Opti-CAM: against a plain optimisation of one image after another, and by what it claims."""

import dataclasses

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from lit_decom import capture
from lit_decom.functional.faithfulness import average_drop, average_gain
from lit_decom.functional.image import upsample
from lit_decom.isolation import isolated_random_state
from lit_decom.methods import GradCAM, OptiCAM
from lit_decom.metrics.masking import Masking
from lit_decom.models.small_resnet import SmallResNet
from tests.helpers.networks import NoGradBackbone, SmallCNN, noise_images, plain_evidence, seeded, transformer

TARGETS = torch.tensor([1, 0, 4])
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def evidence_of(targets=TARGETS, network=None, **options):
    return capture(network or seeded(SmallCNN()), "stage2", noise_images(3), targets, **options)


def seen_through(image, channels, u, black):
    shown = (u.softmax(0)[:, None, None] * channels.relu()).sum(0)
    mask = F.interpolate(shown[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    mask = (mask - mask.min()) / (mask.max() - mask.min())
    return (image - black[:, None, None]) * mask + black[:, None, None]


def optimised(network, image, channels, target, *, steps, loss="mask", black=None, learning_rate=0.1):
    """Adam by its equations, on the weights of one image; the masks that come of them, and the losses on the way."""
    black = torch.zeros(3) if black is None else black
    u = torch.full((len(channels),), 0.5)
    first, second, losses = torch.zeros_like(u), torch.zeros_like(u), []
    score = network(image[None])[0, target].detach()
    for step in range(1, steps + 1):
        u = u.detach().requires_grad_()
        masked = network(seen_through(image, channels, u, black)[None])[0, target]
        found = -masked if loss == "mask" else (score - masked).abs()
        losses.append(found.item())
        (gradient,) = torch.autograd.grad(found, u)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        u = u - learning_rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return u.detach().softmax(0), losses


@pytest.mark.parametrize("loss", ["mask", "difference"])
@pytest.mark.parametrize("space", ["input", "unit"])
@pytest.mark.parametrize("chunk", [2, 100])
def test_weights_are_those_of_a_plain_optimisation(loss, space, chunk):
    network, images = seeded(SmallCNN()), noise_images(3)
    _, activations, _ = plain_evidence(network, "stage2", images, TARGETS)
    evidence = evidence_of(mean=MEAN, std=STD, chunk_size=chunk)
    found = OptiCAM(loss, space, max_iterations=8).weights(evidence)
    black = -MEAN / STD if space == "unit" else None
    for image in range(3):
        options = {"steps": 8, "loss": loss, "black": black}
        expected, losses = optimised(network, images[image], activations[image], TARGETS[image], **options)
        # Adam divides each gradient by its own size, small ones with their rounding.
        torch.testing.assert_close(found[image], expected, rtol=1e-3, atol=0)
        assert losses[-1] < losses[0]


def test_the_map_is_the_weighted_sum_of_rectified_channels():
    evidence = evidence_of()
    evidence = dataclasses.replace(evidence, activations=evidence.activations - 0.2)
    method = OptiCAM(max_iterations=3)
    weights, maps = method.weights(evidence), method(evidence)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    for image in range(3):
        channels = evidence.activations[image].clamp(min=0)
        expected = sum(weight * channel for weight, channel in zip(weights[image], channels, strict=True))
        torch.testing.assert_close(maps[image], expected)


def counting(evidence):
    """The evidence, and how many images its network has been asked about."""
    asked = []

    class Network:
        def __call__(self, images):
            asked.append(len(images))
            return evidence.network(images)

        def __getattr__(self, name):
            return getattr(evidence.network, name)

    return dataclasses.replace(evidence, network=Network()), asked


def test_an_image_that_no_longer_changes_takes_no_further_part():
    evidence = evidence_of()
    activations = evidence.activations.clone()
    # One channel that is somewhere: whatever its weight, the mask is the same.
    activations[1, 1:] = 0
    evidence, asked = counting(dataclasses.replace(evidence, activations=activations))
    found = OptiCAM(max_iterations=6, tolerance=1e-6).weights(evidence)
    assert asked == [3, 3, 2, 2, 2, 2]
    alone = evidence_of()
    others = OptiCAM(max_iterations=6, tolerance=1e-6).weights(alone)
    torch.testing.assert_close(found[[0, 2]], others[[0, 2]], rtol=1e-4, atol=0)


def test_after_all_iterations_a_batch_scores_as_its_images_one_by_one():
    evidence, images, size = evidence_of(), noise_images(3), (32, 32)
    network, method = seeded(SmallCNN()), OptiCAM()
    singly = [capture(network, "stage2", images[row : row + 1], TARGETS[row : row + 1]) for row in range(3)]

    def score_through(maps):
        return evidence.score(Masking().forward(evidence, upsample(maps, size, "bilinear")), torch.arange(3))

    together, alone = score_through(method(evidence)), score_through(torch.cat([method(one) for one in singly]))
    gain = together - score_through(evidence.activations.mean(dim=1))
    # Rounding grows over a hundred steps, so the maps differ, but no further than that they serve as well.
    assert (gain > 0.01).all()
    assert ((together - alone).abs() < 0.1 * gain).all()


def test_an_image_whose_evidence_is_not_finite_is_not_asked_about():
    evidence = evidence_of()
    activations = evidence.activations.clone()
    activations[2, 0, 0, 0] = torch.nan
    evidence, asked = counting(dataclasses.replace(evidence, activations=activations))
    assert OptiCAM(max_iterations=2)(evidence)[2].isnan().all()
    assert asked == [2, 2]


@pytest.mark.parametrize("targets", ["contrast", lambda logits, rows: logits[:, 0] - 0.1 * rows * logits[:, 1]])
def test_it_raises_the_target_score_whatever_it_is(targets):
    evidence = evidence_of(targets)
    size = tuple(evidence.images.shape[2:])

    def score_through(maps):
        return evidence.score(Masking().forward(evidence, upsample(maps, size, "bilinear")), torch.arange(3))

    found = score_through(OptiCAM(max_iterations=40)(evidence))
    assert (found > score_through(evidence.activations.relu().mean(dim=1))).all()


def test_it_explains_labels_that_are_independent():
    evidence = evidence_of("predicted", asked=torch.tensor([4, 0, 2]))
    assert OptiCAM(max_iterations=3)(evidence).isfinite().all()


def test_it_explains_tokens():
    evidence = capture(transformer(prefix=1), "blocks.1", noise_images(), "predicted")
    maps = OptiCAM(max_iterations=3)(evidence)
    assert maps.shape == (4, 8, 8)
    assert (maps >= 0).all()


def test_a_backbone_that_records_nothing_is_differentiated_all_the_same():
    plain, quiet = seeded(SmallCNN()), seeded(NoGradBackbone())
    method = OptiCAM(max_iterations=3)
    torch.testing.assert_close(method(evidence_of(network=quiet)), method(evidence_of(network=plain)))


def test_a_score_that_does_not_depend_on_the_image_smoothly_is_refused():
    class Rounding(SmallCNN):
        def forward(self, images):
            return super().forward(images.detach())

    with pytest.raises(ValueError, match="differentiable with regard to the images"):
        OptiCAM()(evidence_of(network=seeded(Rounding())))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "norm"}, "`loss` to be one of 'mask', 'difference', but got 'norm'"),
        ({"mask_space": "output"}, "`mask_space` to be one of 'input', 'unit', but got 'output'"),
        ({"max_iterations": 0}, "`max_iterations` to be at least 1, but got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` to be positive, but got 0.0"),
        ({"tolerance": -1.0}, "`tolerance` not to be negative, but got -1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        OptiCAM(**options)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="`mean` and `std` for `mask_space='unit'`"):
        OptiCAM(mask_space="unit")(evidence_of())


def digits():
    """Scanned digits ``(n, 3, 32, 32)``, centred and scaled, and their classes."""
    scans = load_digits()
    images = torch.tensor(scans.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 16
    return (F.interpolate(images, size=32, mode="bilinear") - 0.5) / 0.25, torch.tensor(scans.target)


def trained(images, targets):
    with isolated_random_state(0):
        network = SmallResNet(10, width=16)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(5):
            for part in torch.randperm(len(images)).split(50):
                optimizer.zero_grad()
                F.cross_entropy(network(images[part]), targets[part]).backward()
                optimizer.step()
    return network.eval()


@pytest.mark.slow
def test_a_trained_networks_confidence_rises_most_through_it():
    """The paper's own claim, in its own convention: a higher average gain than Grad-CAM's, and a lower average drop."""
    images, targets = digits()
    network, half = trained(images[:1500], targets[:1500]), torch.full((3,), 0.5)
    evidence = capture(network, "layer2", images[1500:1564], "predicted", mean=half, std=half / 2)
    assert (evidence.logits.argmax(1) == targets[1500:1564]).float().mean() > 0.85

    def through(maps):
        return Masking("unit").forward(evidence, upsample(maps, (32, 32), "bilinear"))

    ours, theirs = (through(method(evidence)) for method in (OptiCAM(mask_space="unit"), GradCAM()))
    gain, drop = (
        [change(evidence.logits, masked).nanmean() for masked in (ours, theirs)]
        for change in (average_gain, average_drop)
    )
    assert gain[0] > gain[1] + 0.1
    assert drop[0] < drop[1] - 0.1
