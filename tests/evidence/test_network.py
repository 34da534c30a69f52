"""A network run with other tensors in its places gets its own objects back, whatever shares them and whatever fails."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lit_decom import DecomCAM, capture, find_target_layer, observing
from lit_decom.evidence import ForwardError
from lit_decom.evidence.network import Network
from lit_decom.evidence.substitution import slots, substituted
from tests.helpers.modules import SHARING, Spots, tiny
from tests.helpers.networks import TARGETS, Counting, SmallCNN, assert_plain, noise_images, seeded
from tests.helpers.unchanged import assert_unchanged, everything


def places(model):
    return [(module, name, tensor) for module in model.modules() for name, tensor in module._parameters.items()]


def assert_same_places(model, before):
    after = places(model)
    assert len(after) == len(before)
    for (module, name, tensor), (held_by, held_as, held) in zip(after, before, strict=True):
        assert module is held_by
        assert name == held_as
        assert tensor is held


def sharing(network_class):
    """A network, its images, and a layer of it."""
    network = tiny(network_class).eval()
    return network, Spots(4).images, "second"


@pytest.mark.parametrize("network_class", SHARING)
def test_shared_modules_and_weights_are_explained_and_left_alone(network_class):
    network, images, layer = sharing(network_class)
    before, everything_before = places(network), everything(network)
    evidence = capture(network, layer, images, "predicted")
    DecomCAM(n_components=2).decompose(evidence)
    find_target_layer(network, images=images)
    assert_same_places(network, before)
    assert_unchanged(network, everything_before)
    assert_plain(evidence, network, layer, images, targets=evidence.targets)
    # Training goes on: every parameter gets its gradient.
    network.train()(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("network_class", SHARING)
def test_inside_every_place_has_its_replacement_and_what_was_one_is_one(network_class, dtype):
    network, _, _ = sharing(network_class)
    own = places(network)
    with Network(network, None, channels_last=True).weights_in_place(dtype):
        inside = places(network)
        assert not any(tensor is held for (*_, tensor), (*_, held) in zip(inside, own, strict=True) if held is not None)
        assert not any(tensor.requires_grad for *_, tensor in inside if tensor is not None)
    assert_same_places(network, own)
    mine, theirs = ([tensor for *_, tensor in held] for held in (inside, own))
    for row, (one, own_one) in enumerate(zip(mine, theirs, strict=True)):
        assert [other is one for other in mine[row:]] == [other is own_one for other in theirs[row:]]


@pytest.mark.parametrize("network_class", SHARING)
def test_a_forward_that_fails_leaves_the_same_objects(network_class):
    network, images, layer = sharing(network_class)
    before = places(network)
    handle = network.head.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(OSError("broken")))
    for _ in range(2):
        with pytest.raises(ForwardError, match="broken"):
            capture(network, layer, images, 0)
    handle.remove()
    assert_same_places(network, before)
    assert_plain(capture(network, layer, images, TARGETS % 4), network, layer, images, targets=TARGETS % 4)


def test_a_place_filled_in_the_forward_is_put_back():
    class Assigning(SmallCNN):
        def forward(self, images):
            logits = super().forward(images)
            self.head.weight = nn.Parameter(self.head.weight.detach() + 1)
            self.head.register_parameter("extra", nn.Parameter(torch.zeros(1)))
            return logits

    network = seeded(Assigning())
    before = places(network)
    first, second = (capture(network, "stage2", noise_images(), 0) for _ in range(2))
    assert_same_places(network, before)
    assert torch.equal(first.logits, second.logits)


def test_networks_may_be_run_inside_one_another():
    network, images, layer = sharing(SHARING[0])
    before = places(network)
    outer, inner = (Network(network, None, channels_last=True) for _ in range(2))
    with observing(network), torch.no_grad():
        expected = inner(images)
        with outer.weights_in_place(), observing(network):
            # One made inside sees what stands there.
            torch.testing.assert_close(Network(network, None, channels_last=True)(images), expected)
        with observing(network):
            assert torch.equal(inner(images), expected)
            nested = capture(network, layer, images, 0)
        assert torch.equal(outer(images), expected)
    assert torch.equal(nested.logits, expected)
    assert_same_places(network, before)


def test_a_block_may_be_substituted_twice():
    module = nn.Linear(2, 2)
    own = module.weight
    slot = next(slot for slot, tensor in slots(module, "_parameters") if tensor is own)
    with substituted([(slot, torch.ones(2, 2))]):
        with substituted([(slot, torch.zeros(2, 2))]):
            assert not module.weight.any()
        assert module.weight.all()
    assert module.weight is own
    assert list(module._parameters) == ["weight", "bias"]


def test_a_weight_that_another_kind_of_module_shares_is_not_rounded():
    class Embedding(SmallCNN):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 12)
            self.table.weight = self.head.weight
            self.alone = nn.Linear(2, 2)

    network = seeded(Embedding())
    with Network(network, None, channels_last=True).weights_in_place("bfloat16"):
        assert network.table.weight is network.head.weight
        assert network.table.weight.dtype == torch.float32
        assert network.alone.weight.dtype == torch.bfloat16


# ----- the images


class InPlace(SmallCNN):
    """Normalises its input in place."""

    def forward(self, images):
        return super().forward(images.sub_(0.3).div_(2))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_forward_may_normalise_in_place(memory_format, dtype):
    network, images = seeded(InPlace()).to(dtype), noise_images().to(dtype).contiguous(memory_format=memory_format)
    given, normalised = images.clone(), (images - 0.3) / 2
    evidence = capture(network, "stage2", images, TARGETS)
    assert torch.equal(images, given)
    assert torch.equal(evidence.images, given)
    assert_plain(evidence, seeded(SmallCNN()).to(dtype), "stage2", normalised)
    again = evidence.again(images)
    torch.testing.assert_close(evidence.relogits(images[:, None])[:, 0], again.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(again.gradients, evidence.gradients)
    assert torch.equal(images, given)
    assert find_target_layer(network, images=images).name == "stage2"
    assert torch.equal(images, given)


# ----- what has changed since


def replace_parameter(network):
    network.head.weight = nn.Parameter(network.head.weight.detach().clone())


def replace_data(network):
    network.head.weight.data = network.head.weight.data + 1


def write(network):
    with torch.no_grad():
        network.head.weight += 1


@pytest.mark.parametrize("change", [replace_parameter, replace_data, write])
def test_a_network_whose_weights_are_no_longer_the_same_is_refused(change):
    network = seeded(SmallCNN())
    run = Network(network, None, channels_last=True)
    run(noise_images())
    change(network)
    with pytest.raises(RuntimeError, match="they have changed since then"):
        run(noise_images())


# ----- half precision


def test_a_buffer_widened_for_a_forward_starts_from_the_models_each_time():
    class Scaled(Counting):
        def forward(self, images):
            return super().forward(images) + self.in_place

    network = seeded(Scaled()).bfloat16()
    evidence = capture(network, "stage2", noise_images(), 0, chunk_size=1)
    expected = copy.deepcopy(network).float()(noise_images())
    torch.testing.assert_close(evidence.logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(evidence.relogits(noise_images()[:, None])[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert network.in_place == 0


def test_a_checkpointed_part_behind_the_layer_runs_again_with_the_same_weights():
    class Checkpointed(SmallCNN):
        def forward(self, images):
            features = checkpoint(self.stage2, self.stage1(images), use_reentrant=False)
            return self.head(features.mean(dim=(2, 3)))

    network = seeded(Checkpointed()).bfloat16()
    expected = capture(seeded(SmallCNN()).bfloat16(), "stage1", noise_images(), TARGETS)
    evidence = capture(network, "stage1", noise_images(), TARGETS)
    torch.testing.assert_close(evidence.gradients, expected.gradients)


# ----- what computes its weights


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
    ids=lambda wrap: f"{wrap.__module__}.{wrap.__name__}",
)
def test_weights_computed_from_others_are_left_alone_and_train_on(wrap):
    network, twin = prepared(wrap), prepared(wrap)
    before = everything(network)
    evidence = capture(network, "stage2", noise_images(), TARGETS)
    DecomCAM(n_components=2).decompose(evidence)
    assert_unchanged(network, before)
    assert_plain(evidence, prepared(wrap), "stage2", noise_images())
    for model in (network, twin):
        torch.manual_seed(0)
        model.train()(noise_images()).square().sum().backward()
    for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, other.grad)


def prepared(wrap):
    """A network with a wrapped convolution; forward passes in training mode give spectral norms their vectors."""
    torch.manual_seed(0)
    network = seeded(SmallCNN()).train()
    wrap(network.stage2[0])
    with torch.no_grad():
        for _ in range(20):
            network(noise_images())
    return network.eval()
