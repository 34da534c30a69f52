"""Cuts: the graph against a plain test by hooks on every submodule, and what is drawn for the search."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from benchmarks.layers import passing_by
from lit_decom.evidence.candidates import find_candidates
from lit_decom.evidence.cut import Exchange, are_cuts, redrawn
from lit_decom.evidence.layers import resolve_layer
from lit_decom.evidence.network import Network
from lit_decom.evidence.observing import observing
from lit_decom.models.small_resnet import SmallResNet
from tests.helpers.modules import SHARING, tiny
from tests.helpers.networks import SmallCNN, noise_images, seeded, transformer
from tests.helpers.unchanged import assert_unchanged, everything, half_trained


class Split(SmallCNN):
    """Runs half of the channels through a convolution and puts both halves together, as ShuffleNet does, in place."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.left = nn.Identity()
        self.joined = nn.ReLU(inplace=True)

    def forward(self, images):
        features = self.stage1(images)
        left, right = features.chunk(2, dim=1)
        features = self.joined(torch.cat([self.left(left), self.branch(right)], dim=1))
        features[:, 0] += 1
        return self.head(self.stage2(features).mean(dim=(2, 3)))


class Towers(SmallCNN):
    """Two towers that see the image each for itself; the second counts for little."""

    def __init__(self, weight=0.2):
        super().__init__()
        self.other, self.weight = SmallCNN(), weight

    def forward(self, images):
        return super().forward(images) + self.weight * self.other(images)


NETWORKS = {
    "plain": SmallCNN,
    "residual": lambda: SmallResNet(5),
    "split": Split,
    "towers": Towers,
    "transformer": lambda: transformer(prefix=0),
    "class token": lambda: transformer(prefix=1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_names_the_layers_that_hold_all_that_passes(name):
    network, images = seeded(NETWORKS[name]()), noise_images(2)
    noted = {}

    def note(name, output):
        first = output[0] if isinstance(output, tuple) else output
        noted.setdefault(name, []).append(get_gradient_edge(first))

    for submodule, module in network.named_modules():
        module.register_forward_hook(lambda _m, _a, output, name=submodule: note(name, output))
    image = images[:1].clone().requires_grad_()
    logits = network(image)
    edges = {submodule: seen[0] for submodule, seen in noted.items() if len(seen) == 1}
    found = are_cuts(logits, image, list(edges.values()))
    for module in network.modules():
        module._forward_hooks.clear()
    expected = [passing_by(network, submodule, images) < 1e-4 for submodule in edges]
    assert found == expected
    assert len(set(found)) == 1 + (name not in ("plain",))


def test_what_is_drawn_depends_on_no_weight():
    def logits(network):
        with torch.no_grad(), redrawn(network):
            return network(noise_images())

    trained, broken = SmallCNN().eval(), SmallCNN().eval()
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
        broken.stage1[1].running_var.zero_()
    assert torch.equal(logits(trained), logits(broken))
    assert logits(trained).std(dim=0).min() > 0.01


@pytest.mark.parametrize("network_class", SHARING)
def test_what_is_shared_is_drawn_once_and_given_back(network_class):
    network = tiny(network_class).eval()
    before = everything(network)
    own = [(module, name, held) for module in network.modules() for name, held in module._parameters.items()]
    with redrawn(network):
        drawn = [module._parameters[name] for module, name, _ in own]
        assert not any(one is held for one, (_, _, held) in zip(drawn, own, strict=True) if held is not None)
        for row, (one, (_, _, held)) in enumerate(zip(drawn, own, strict=True)):
            assert [other is one for other in drawn[row:]] == [other is held for _, _, other in own[row:]]
    assert_unchanged(network, before)


def test_drawing_leaves_a_half_trained_network_and_all_random_states_alone():
    network = half_trained()
    before = everything(network)
    with redrawn(network):
        pass
    assert_unchanged(network, before)


def passage(network, name, images):
    with observing(network):
        run = Network(network, None, channels_last=False)
        candidates, logits = find_candidates(run, images[:1])
        layer = resolve_layer(network, name)
        to_map = next((c.to_map for c in candidates if c.layer.name == name), lambda o: layer.to_map(o, images[:1]))
        return Exchange.between(run, images, logits, [layer.module]).passage(layer.module, to_map)


@pytest.mark.parametrize("layer", ["stage1", "stage2", "stage1.0"])
def test_all_passes_through_the_stages_of_a_chain(layer):
    found = passage(seeded(SmallCNN()), layer, noise_images(2))
    assert found.is_cut
    assert found.beside == pytest.approx(0, abs=1e-4)
    assert found.positions == pytest.approx(1, abs=1e-4)


def test_the_share_of_a_tower_is_what_the_other_one_adds():
    network, images = seeded(Towers()), noise_images(2)
    found = passage(network, "stage2", images)
    with torch.no_grad():
        whole = network(images)
        other = 0.2 * network.other(images)
    expected = (other[1] - other[0]).norm() / (whole[1] - whole[0]).norm()
    assert found.matters
    assert not found.is_cut
    assert found.beside == pytest.approx(expected.item(), rel=1e-4)


def test_patches_that_reach_no_logit_do_not_matter():
    network, images = transformer(prefix=1), noise_images(2)
    assert not passage(network, "blocks.2", images).matters
    found = passage(network, "blocks.1", images)
    assert found.is_cut
    # The class token carries what it has gathered before.
    assert 0.001 < found.positions < 0.9
