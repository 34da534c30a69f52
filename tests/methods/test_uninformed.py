"""Baselines that do not know what is explained, and which scores take them for an explanation."""

import inspect
import random

import numpy as np
import pytest
import torch
from pytorch_grad_cam import RandomCAM as PeerRandomCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional as F

from lit_decom import METHODS, capture, metrics
from lit_decom.data.digits import Digits
from lit_decom.functional.image import upsample
from lit_decom.methods import CenterCAM, FakeCAM, RandomCAM
from lit_decom.metrics import faithfulness, insertion_deletion, road
from tests.helpers.networks import Flattening, SmallCNN, noise_images, seeded


def evidence_of(images, network=None, targets="predicted"):
    return capture(network or seeded(SmallCNN()), "stage2", images, targets)


# ----- what they are


def test_random_weights_are_those_of_the_peer_but_for_the_generator(monkeypatch):
    images, network = noise_images(2), seeded(SmallCNN())
    evidence = evidence_of(images, network, torch.tensor([1, 2]))
    found = RandomCAM()(evidence)
    generators = [RandomCAM()._generator(image) for image in images]
    weights = np.stack([2 * torch.rand(12, generator=generator).numpy() - 1 for generator in generators])
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: weights if size == (2, 12) else None)
    peer = PeerRandomCAM(network, [network.stage2])
    # The raw map of the layer, before the peer resizes it.
    peer.forward(images, [ClassifierOutputTarget(1), ClassifierOutputTarget(2)])
    activations, gradients = peer.activations_and_grads.activations[0], peer.activations_and_grads.gradients[0]
    raw = peer.get_cam_image(
        images, network.stage2, [None, None], activations.numpy(), gradients.numpy(), eigen_smooth=False
    )
    peer.activations_and_grads.release()
    torch.testing.assert_close(
        found, torch.from_numpy(np.maximum(raw, 0)).float(), rtol=0, atol=1e-5 * float(raw.max())
    )


def test_random_weights_are_uniform_between_minus_one_and_one():
    generators = [RandomCAM(seed=seed)._generator(torch.zeros(3, 2, 2)) for seed in range(400)]
    drawn = torch.stack([2 * torch.rand(10, generator=generator) - 1 for generator in generators]).flatten()
    # four standard errors of the mean and of the variance of 4000 uniform numbers
    assert abs(drawn.mean()) < 4 * 3**-0.5 / 4000**0.5
    assert abs(drawn.var() - 1 / 3) < 4 * (4 / 45) ** 0.5 / 4000**0.5
    assert drawn.unique().numel() > 3900


def test_the_image_and_the_seed_decide_alone():
    images = noise_images(3)
    found = RandomCAM()(evidence_of(images))
    assert torch.equal(RandomCAM()(evidence_of(images.flip(0))).flip(0), found)
    assert torch.equal(RandomCAM()(evidence_of(images, targets=0)), found), "the target does not matter"
    assert not torch.allclose(RandomCAM(seed=1)(evidence_of(images)), found)
    twins = RandomCAM()(evidence_of(torch.cat([images[:1], images[:1]])))
    assert torch.equal(twins[0], twins[1])


@pytest.mark.parametrize("method", [RandomCAM(), CenterCAM(), FakeCAM()])
def test_no_global_random_state_is_touched(method):
    evidence = evidence_of(noise_images(2))
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    method(evidence)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_centre_is_the_middle_of_the_image():
    (found,) = CenterCAM()(evidence_of(noise_images(1)))
    assert torch.equal(found, found.flip(0))
    assert torch.equal(found, found.flip(1))
    rows, columns = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    resized = upsample(found, (32, 32))
    assert ((resized * rows).sum() / resized.sum()).item() == pytest.approx(16, abs=1e-3)
    assert ((resized * columns).sum() / resized.sum()).item() == pytest.approx(16, abs=1e-3)
    # One standard deviation of two positions from the middle, between them.
    assert found[3, 3].item() == pytest.approx(np.exp(-((0.5 / 2) ** 2)), rel=1e-6)
    assert found[0, 3].item() == pytest.approx(np.exp(-((3.5 / 2) ** 2 + (0.5 / 2) ** 2) / 2), rel=1e-6)


def test_a_centre_without_width_is_refused():
    with pytest.raises(ValueError, match=r"`sigma` to be positive, but got 0"):
        CenterCAM(sigma=0)


def test_fake_cam_hides_one_position():
    (found,) = FakeCAM()(evidence_of(noise_images(1)))
    assert found[0, 0] == 0
    assert found.sum() == 63


# ----- which scores they win


@pytest.fixture(scope="module")
def trained():
    """Evidence for 70 digits of a network that was trained on others, parts of which were hidden."""
    data = Digits(torch.arange(670), image_size=32, annotations=False)
    images = torch.stack([data[index][0].as_subclass(torch.Tensor) for index in range(670)]).float() / 127.5 - 1
    network = seeded(Flattening10()).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for batch in torch.randperm(600, generator=generator).split(50):
            hidden = (torch.rand(len(batch), 1, 8, 8, generator=generator) < 0.3).float()
            shown = 1 - F.interpolate(hidden, size=(32, 32), mode="bilinear")
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch] * shown), data.targets[batch]).backward()
            optimizer.step()
    normalisation = torch.full((3,), 0.5)
    evidence = capture(network, "stage2", images[600:], "predicted", mean=normalisation, std=normalisation)
    assert (evidence.logits.argmax(dim=1) == data.targets[600:]).float().mean() > 0.8
    return evidence


class Flattening10(Flattening):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12 * 64, 10)


def published_fake_cam(evidence):
    """FakeCAM where it was published: at the resolution of the image."""
    maps = torch.ones_like(evidence.images[:, 0])
    maps[:, 0, 0] = 0
    return maps


def value_of(kind, method, evidence):
    """The score of a method, the larger the better, with settings that are quick on images of 32 x 32."""
    settings = {"n_steps": 16, "scale_to_image": True, "percentages": (50,)}
    takes = inspect.signature(kind.__init__).parameters
    metric = kind(**{name: value for name, value in settings.items() if name in takes})

    def explain(found):
        return upsample(method(found), (32, 32)).clamp(min=0)

    known = {"maps": explain(evidence), "capture": evidence, "logits": evidence.logits, "explain": explain}
    metric.update(**{name: known[name] for name in inspect.signature(kind.update).parameters if name in known})
    return metric.compute().item() * (1 if metric.higher_is_better else -1)


FAITHFULNESS = sorted(
    (
        kind
        for name in metrics.__all__
        if isinstance(kind := getattr(metrics, name), type)
        and kind.__module__ in {module.__name__ for module in (faithfulness, insertion_deletion, road)}
    ),
    key=lambda kind: kind.__name__,
)
INFORMED = ("grad_cam", "grad_cam_pp", "x_grad_cam", "hi_res_cam", "layer_cam")


def test_every_score_of_faithfulness_is_asked():
    assert {kind.__name__ for kind in FAITHFULNESS} >= {"AverageDrop", "AverageGain", "ADCC", "ROAD", "InsertionAUC"}


def wins(fake, kind, evidence):
    """Whether it beats every method that knows the target."""
    return value_of(kind, fake, evidence) > max(value_of(kind, METHODS[name](), evidence) for name in INFORMED)


@pytest.mark.parametrize("kind", FAITHFULNESS, ids=lambda kind: kind.__name__)
def test_a_score_that_fake_cam_wins_says_so(kind, trained):
    assert wins(published_fake_cam, kind, trained) == ("FakeCAM" in kind.__doc__)


def test_from_the_grid_fake_cam_wins_those_that_ask_how_little_is_hidden(trained):
    # Resized, its corner is a 64th of these images, which costs the increase, for which a pixel is enough.
    asked = [kind for kind in FAITHFULNESS if kind.__module__ == faithfulness.__name__]
    assert [kind.__name__ for kind in asked if wins(FakeCAM(), kind, trained)] == ["AverageDrop", "Coherency"]
