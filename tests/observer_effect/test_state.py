"""Networks that write into what they are given, and what is found of networks that are looked at in a copy."""

import math

import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, Probe, Scoring, capture, find_target_layer
from lit_decom.callbacks.eight_bit import EightBit
from lit_decom.evidence import differentiable_evidence, isolated, observing
from lit_decom.explainer import Explainer
from lit_decom.observer import Observer
from tests.helpers.modules import Spots, Tiny, seed_all, tiny
from tests.observer_effect.settings.unusual_parts import Checkpointed, Scripted


class Grey(nn.Module):
    """Normalises grey images, in place or not, and makes a feature map of them."""

    def __init__(self, *, in_place: bool, channels: int = 1) -> None:
        super().__init__()
        seed_all(0)
        self.in_place = in_place
        self.second = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=4, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.sub_(0.4).mul_(3.0) if self.in_place else images.sub(0.4).mul(3.0)
        return self.head(self.second(images).mean(dim=(2, 3)))


def shown(channels: int) -> Probe:
    spots = Spots(8, seed=1)
    masks = torch.zeros(8, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    return Probe.from_tensors(spots.images[:, :channels], torch.tensor(spots.targets), masks=masks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_forward_that_normalises_in_place_is_scored_like_one_that_does_not(channels, dtype):
    found = {}
    for in_place in (False, True):
        images = shown(channels)
        observer = Observer(Explainer(DecomCAM(n_components=3), target_layer="second"), Scoring("default"))
        network = Grey(in_place=in_place, channels=channels).to(dtype)
        observer.prepare(network, images)
        snapshot = observer.observe(network, epoch=0, step=0)
        assert images.digest == shown(channels).digest
        found[in_place] = {
            key: value
            for key, value in snapshot.numbers.items()
            if not key.startswith("seconds") and not math.isnan(value)
        }
    assert len(found[True]) > 20
    assert found[True] == found[False]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_a_forward_that_normalises_in_place_is_given_is_left_as_it_was(channels):
    network, images = Grey(in_place=True, channels=channels), shown(channels).images
    labels = torch.arange(8) % 4
    for look in (
        lambda given: capture(network, "second", given, labels),
        lambda given: capture(network, "second", given, labels).again(given),
        lambda given: find_target_layer(network, images=given),
        lambda given: differentiable_evidence(network, "second", given, labels),
    ):
        given = images.clone()
        look(given)
        assert torch.equal(given, images)
    eight = (images * 255).to(torch.uint8)
    given = eight.clone()
    EightBit().unpacking(Halving(), None)((given, labels))
    assert torch.equal(given, eight)


class Halving(nn.Module):
    """Writes into images of 8 bits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.clamp_(max=200).float().mean(dim=(2, 3))


@pytest.mark.parametrize(
    "other",
    [
        lambda: tiny(Scripted),
        lambda: tiny(Scripted, trace=True),
        lambda: tiny(Checkpointed, reentrant=True),
        lambda: tiny(Checkpointed, reentrant=True, whole=True),
    ],
    ids=["scripted", "traced", "checkpointed behind the layer", "checkpointed around the layer"],
)
def test_unusual_parts_are_explained_like_plain_ones(other):
    """The same weights, the same evidence, whatever runs them."""
    images, found = Spots(5).images, []
    for network in (tiny(Tiny), other()):
        evidence = capture(network, "second", images, "predicted")
        found.append((evidence.logits, evidence.gradients, DecomCAM(n_components=3).decompose(evidence).cam))
    for plain, unusual in zip(*found, strict=True):
        torch.testing.assert_close(unusual, plain, rtol=1e-5, atol=1e-6)
    assert find_target_layer(other(), images=images).name == find_target_layer(tiny(Tiny), images=images).name


@pytest.mark.parametrize(("trace", "layer"), [(False, "first"), (False, "first.0"), (True, "first"), (True, "first.0")])
def test_a_layer_that_is_torchscript_is_refused_with_the_true_reason(trace, layer):
    network = tiny(Scripted, trace=trace)
    with pytest.raises(ValueError, match=f"`target_layer` '{layer}' to tell .*, but it is TorchScript, which runs no"):
        capture(network, layer, Spots(2).images, 1)


def test_a_copy_is_another_network_with_the_same_answers_and_a_result_of_training_is_none_of_its_business():
    network, images = tiny(), Spots(4).images
    network.last = network(images)  # part of a graph
    with isolated(network, "copy") as other, observing(network), observing(other):
        assert torch.equal(other(images), network(images))
        assert not {id(tensor) for tensor in other.parameters()} & {id(tensor) for tensor in network.parameters()}
        assert torch.equal(other.last, network.last)
        assert other.last.grad_fn is None
    with isolated(network, "in_place") as same:
        assert same is network


def test_a_network_that_cannot_be_copied_is_refused_by_name():
    network = tiny()
    network.stream = (value for value in range(3))
    with pytest.raises(ValueError, match="Expected Tiny to be one that can be copied"), isolated(network, "copy"):
        pass
