"""Altered images run through the network of a capture."""

import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, capture
from tests.helpers.networks import (
    TARGETS,
    Faulty,
    SmallCNN,
    assert_plain,
    noise_images,
    seeded,
)
from tests.helpers.unchanged import assert_unchanged, everything


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_rescoring_is_a_forward_pass_whatever_the_chunk(chunk_size):
    network, images = seeded(SmallCNN()), noise_images()
    evidence = capture(network, "stage2", images, 0, chunk_size=chunk_size)
    altered = torch.stack([images, images.flip(3), 0 * images], dim=1)
    expected = torch.stack([network(altered[:, version]) for version in range(3)], dim=1).detach()
    found = evidence.relogits(altered)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad
    seen = []

    def alter(part):
        seen.append(part)
        return images[rows[part]]

    rows = torch.tensor([2, 0, 1, 2, 2])
    torch.testing.assert_close(evidence.rescore(rows, alter), expected[rows, 0], rtol=1e-5, atol=1e-6)
    assert [part.start for part in seen] == list(range(0, 5, chunk_size))


def test_rescoring_nothing_gives_nothing():
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(), 0)
    assert evidence.rescore(torch.empty(0, dtype=torch.long), lambda part: None).shape == (0, 5)


def test_rescoring_has_no_hook_of_ours_and_no_gradient():
    network, images = seeded(SmallCNN()), noise_images()
    evidence = capture(network, "stage2", images, 0)
    hooks = []

    def alter(part):
        hooks.append([len(module._forward_hooks) for module in network.modules()])
        hooks.append(torch.is_grad_enabled())
        return images[part]

    evidence.rescore(torch.arange(4), alter)
    assert not any(hooks[0])
    assert hooks[1] is False


@pytest.mark.parametrize("change", ["step", "load"])
def test_evidence_of_weights_that_have_changed_since_is_refused(change):
    network = seeded(SmallCNN())
    evidence = capture(network, "stage2", noise_images(), 0)
    if change == "step":
        network(noise_images()).sum().backward()
        torch.optim.SGD(network.parameters(), lr=0.1).step()
    else:
        network.load_state_dict(seeded(SmallCNN(), 7).state_dict())
    with pytest.raises(RuntimeError, match="weights to be those of the capture, but they have changed"):
        DecomCAM(n_components=2).decompose(evidence)


def test_a_failure_while_rescoring_leaves_the_network_as_before():
    network = Faulty(at=3)
    network.load_state_dict(seeded(SmallCNN()).state_dict())
    network.train()
    evidence = capture(network, "stage2", noise_images(), 0, chunk_size=2)
    before = everything(network)
    with pytest.raises(OSError, match="the network failed"):
        evidence.relogits(noise_images()[:, None])
    assert_unchanged(network, before)


def test_a_wrapped_network_is_unwrapped():
    network, images = seeded(SmallCNN()), noise_images()
    evidence = capture(nn.DataParallel(network), "stage2", images, TARGETS)
    assert_plain(evidence, network, "stage2", images)


def test_weights_shared_by_two_modules():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, 2, 1)
            self.second = nn.Conv2d(3, 3, 3, 2, 1)
            self.second.weight = self.first.weight
            self.head = nn.Linear(3, 5)

        def forward(self, images):
            return self.head(self.second(self.first(images).relu()).mean(dim=(2, 3)))

    network, images = seeded(Tied()), noise_images()
    assert_plain(capture(network, "first", images, TARGETS), network, "first", images)


def test_parametrized_weights():
    network, images = seeded(SmallCNN()), noise_images()
    nn.utils.parametrizations.weight_norm(network.stage2[0])
    assert_plain(capture(network, "stage2", images, TARGETS), network, "stage2", images)
