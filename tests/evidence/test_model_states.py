"""Evidence does not depend on the state that a model is in, and leaves it in that state."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lit_decom import DecomCAM, capture, find_target_layer
from lit_decom.evidence import TargetLayerError
from tests.helpers.networks import (
    TARGETS,
    Counting,
    Drawing,
    NoGradBackbone,
    SmallCNN,
    assert_plain,
    noise_images,
    seeded,
)
from tests.helpers.unchanged import assert_unchanged, everything, half_trained


@pytest.mark.parametrize("mode", ["train", "no_grad", "inference", "autocast", "eval", "medium"])
def test_the_callers_modes_change_neither_the_evidence_nor_themselves(mode, request):
    network, images = seeded(SmallCNN()), noise_images()
    expected = capture(network, "stage2", images, TARGETS)
    contexts = {
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }
    if mode == "medium":
        request.getfixturevalue("precision_restored")
        torch.set_float32_matmul_precision("medium")
    network.train(mode != "eval")
    before = everything(network)
    with contexts.get(mode, torch.enable_grad)():
        evidence = capture(network, "stage2", images, TARGETS)
        decomposition = DecomCAM(n_components=3).decompose(evidence)
    assert_unchanged(network, before)
    for name in ("logits", "activations", "gradients"):
        found = getattr(evidence, name)
        assert torch.equal(found, getattr(expected, name))
        assert not found.is_inference()
        assert not found.requires_grad
    assert torch.equal(decomposition.scores, DecomCAM(n_components=3).decompose(expected).scores)


@pytest.mark.parametrize("network_class", [SmallCNN, Counting, Drawing])
def test_a_half_trained_network_is_as_before(network_class):
    network = half_trained(network_class)
    before = everything(network)
    evidence = capture(network, "stage2", noise_images(), TARGETS)
    DecomCAM(n_components=3).decompose(evidence)
    evidence.relogits(noise_images(4)[:, None])
    assert_unchanged(network, before)


def test_inference_tensors_as_images_targets_and_normalisation():
    network = seeded(SmallCNN())
    with torch.inference_mode():
        images, targets, mean, std = noise_images(), TARGETS.clone(), torch.zeros(3), torch.ones(3)
    for targets_given in (targets, "contrast"):
        evidence = capture(network, "stage2", images, targets_given, mean=mean, std=std)
        found = DecomCAM(n_components=3, integration="notebook").decompose(evidence)
        assert not evidence.images.is_inference()
        assert found.scores.isfinite().all()
    assert_plain(capture(network, "stage2", images, targets), network, "stage2", images.clone())


def test_a_network_made_under_inference_mode():
    images = noise_images()
    with torch.inference_mode():
        network = seeded(SmallCNN())
    evidence = capture(network, "stage2", images, TARGETS)
    expected = capture(seeded(SmallCNN()), "stage2", images, TARGETS)
    assert torch.equal(evidence.gradients, expected.gradients)
    assert torch.equal(
        DecomCAM(n_components=3).decompose(evidence).scores, DecomCAM(n_components=3).decompose(expected).scores
    )
    assert find_target_layer(network, images=images).name == "stage2"


def test_training_goes_on_after_a_capture_under_inference_mode():
    # A module that caches what it computes would keep an inference tensor that autograd refuses.
    class Caching(SmallCNN):
        def forward(self, images):
            if not hasattr(self, "scale"):
                self.scale = torch.full((12, 1, 1), 2.0) * 1
            return self.head((self.features(images) * self.scale).mean(dim=(2, 3)))

    network = seeded(Caching())
    with torch.inference_mode():
        DecomCAM(n_components=2).decompose(capture(network, "stage2", noise_images(), 0))
    network.train()(noise_images()).sum().backward()


def test_a_frozen_network_is_explained_like_any_other():
    network, images = seeded(SmallCNN()), noise_images()
    expected = capture(network, "stage2", images, TARGETS)
    network.requires_grad_(requires_grad=False)
    evidence = capture(network, "stage2", images, TARGETS)
    assert torch.equal(evidence.gradients, expected.gradients)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_a_backbone_run_without_recording_is_explained_like_any_other(layer):
    # The pooling behind the layer is in the block that does not record, too.
    network, images = seeded(NoGradBackbone()), noise_images()
    evidence = capture(network, layer, images, TARGETS)
    assert_plain(evidence, seeded(SmallCNN()), layer, images)
    assert find_target_layer(network, images=images).name == "stage2"
    assert torch.is_grad_enabled()


class Checkpointing(SmallCNN):
    """Recomputes its second stage in the backward pass, in eval mode as well, as a flag says."""

    def __init__(self, flag="grad_checkpointing"):
        super().__init__()
        self.flag = flag
        setattr(self, flag, True)

    def forward(self, images):
        features = self.stage1(images)
        recomputed = getattr(self, self.flag)
        features = checkpoint(self.stage2, features, use_reentrant=False) if recomputed else self.stage2(features)
        return self.head(features.mean(dim=(2, 3)))


@pytest.mark.parametrize("flag", ["grad_checkpointing", "gradient_checkpointing"])
@pytest.mark.parametrize("layer", ["stage1", "stage2.0"])
def test_checkpointing_by_a_flag_is_off_while_the_network_is_looked_at(flag, layer):
    network, images = seeded(Checkpointing(flag)), noise_images()
    assert_plain(capture(network, layer, images, TARGETS), seeded(SmallCNN()), layer, images)
    assert getattr(network, flag) is True


def test_checkpointing_behind_the_layer_does_no_harm_and_around_it_is_refused():
    network, images = seeded(Checkpointing("always")), noise_images()
    assert_plain(capture(network, "stage1", images, TARGETS), seeded(SmallCNN()), "stage1", images)
    with pytest.raises(TargetLayerError, match=r"'stage2\.0' not to be inside a part that is checkpointed"):
        capture(network, "stage2.0", images, TARGETS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_run_in_float32(dtype):
    network = seeded(SmallCNN()).to(dtype)
    # A buffer that is not part of a parameter's module is widened as well.
    widened = copy.deepcopy(network).float()
    images = noise_images()
    before = everything(network)
    evidence = capture(network, "stage2", images.to(dtype), TARGETS)
    assert {getattr(evidence, name).dtype for name in ("images", "logits", "activations", "gradients")} == {
        torch.float32
    }
    assert_plain(evidence, widened, "stage2", images.to(dtype).float())
    assert DecomCAM(n_components=3).decompose(evidence).scores.dtype == torch.float32
    assert_unchanged(network, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_float64_network_stays_in_float64(dtype):
    network, images = seeded(SmallCNN()).double(), noise_images()
    evidence = capture(network, "stage2", images.to(dtype), TARGETS)
    assert {getattr(evidence, name).dtype for name in ("logits", "activations", "gradients")} == {torch.float64}
    assert_plain(evidence, network, "stage2", images.double())
    found = DecomCAM(n_components=3).decompose(evidence)
    exact = DecomCAM(n_components=3).decompose(capture(network.float(), "stage2", images, TARGETS))
    torch.testing.assert_close(found.scores.float(), exact.scores, rtol=1e-4, atol=1e-5)


def test_a_single_float64_parameter_does_not_make_a_float64_network():
    network = seeded(SmallCNN())
    network.temperature = nn.Parameter(torch.ones((), dtype=torch.float64))
    assert capture(network, "stage2", noise_images(), 0).logits.dtype == torch.float32


def compiled_whole(network):
    return torch.compile(network, backend="eager")


def compiled_in_place(network):
    network.compile(backend="eager")
    return network


def compiled_forward(network):
    network.forward = torch.compile(network.forward, backend="eager")
    return network


def compiled_part(network):
    network.stage1 = torch.compile(network.stage1, backend="eager")
    network.stage2.compile(backend="eager")
    return network


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
@pytest.mark.parametrize("compiled", [compiled_whole, compiled_in_place, compiled_forward, compiled_part])
@pytest.mark.parametrize("warm", [True, False])
def test_compiled_networks_are_explained_like_any_other(compiled, warm):
    images = noise_images()
    expected = capture(seeded(SmallCNN()), "stage2", images, TARGETS)
    network = compiled(seeded(SmallCNN()))
    if warm:
        network(images)
        network.train()(images).sum().backward()
        network.eval()
        network.load_state_dict(compiled(seeded(SmallCNN())).state_dict())
    evidence = capture(network, "stage2", images, TARGETS)
    torch.testing.assert_close(evidence.gradients, expected.gradients)
    found = DecomCAM(n_components=3).decompose(evidence)
    torch.testing.assert_close(found.scores, DecomCAM(n_components=3).decompose(expected).scores)
    assert find_target_layer(network, images=images).name == "stage2"
    torch.testing.assert_close(network(images), expected.logits)
