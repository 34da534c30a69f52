"""Scores from altered activations: the same as by exchanging a layer's output in a pass of the whole network."""

import pytest
import torch
from torch import nn

from lit_decom import capture
from lit_decom.functional.labels import logits_of_label
from tests.helpers.networks import (
    CALLS,
    Answering,
    ChannelsLast,
    Faulty,
    InPlaceAfter,
    NoGradBackbone,
    Pair,
    SmallCNN,
    noise_images,
    seeded,
    transformer,
)


class Residual(SmallCNN):
    """One ReLU for several places, as in torchvision, and in-place operations between submodules."""

    def __init__(self):
        super().__init__()
        self.mix, self.conv1, self.conv2 = (nn.Conv2d(12, 12, 3, 1, 1) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)
        self.stage1[2] = self.relu
        self.stage1.register_forward_hook(self.count)

    def count(self, *_):
        CALLS[self] += 1

    def features(self, images):
        before = self.mix(self.relu(self.stage2(self.stage1(images)) - 0.1))
        before += 0.5
        after = self.conv2(self.relu(self.conv1(before)))
        after += before
        return self.relu(after)


class Talking(SmallCNN):
    """Its first stage leaves something behind that the head uses up."""

    class Stage(nn.Module):
        def __init__(self, owner):
            super().__init__()
            self.inner, self.left = owner, []

        def forward(self, images):
            self.left.append(images.mean(dim=(1, 2, 3)) + 1)
            return self.inner(images)

    def __init__(self):
        super().__init__()
        self.stage1 = self.Stage(self.stage1)

    def forward(self, images):
        logits = super().forward(images)
        left = self.stage1.left
        return logits * left.pop()[:, None] if left else logits


def exchanged(network, layer, images, rows, altered, *, arrange=lambda maps, _output: maps):
    """Logits by a plain hook on the layer, one altered map at a time."""
    logits = []
    for row, maps in zip(rows.tolist(), altered, strict=True):

        def exchange(_module, _args, output, maps=maps):
            if isinstance(output, tuple):
                return (arrange(maps[None], output[0]), *output[1:])
            return arrange(maps[None], output)

        handle = network.get_submodule(layer).register_forward_hook(exchange)
        with torch.no_grad():
            logits.append(network(images[row : row + 1]))
        handle.remove()
    return torch.cat(logits)


def altered_activations(evidence, rows, seed=3):
    maps = evidence.activations[rows]
    return maps * torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed))


ROWS = torch.tensor([0, 0, 0, 0, 0, 2, 2, 2, 1])


def tokens_first(maps, output):
    """Maps as tokens ``(B, T, C)``, those that stand in front as they are."""
    patches = maps.flatten(2).mT
    return torch.cat([output[:, : output.shape[1] - patches.shape[1]], patches], dim=1)


def sequence_first(maps, output):
    return tokens_first(maps, output.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
@pytest.mark.parametrize(
    ("network", "layer", "arrange"),
    [
        (SmallCNN(), "stage2", None),
        (SmallCNN(), "stage2.0", None),
        (SmallCNN(), "stage1", None),
        (Residual(), "conv1", None),
        (Residual(), "conv2", None),
        (Residual(), "stage2", None),
        (InPlaceAfter(), "layer", None),
        (NoGradBackbone(), "stage1", None),
        (ChannelsLast(), "block", lambda maps, _output: maps.permute(0, 2, 3, 1)),
        (Answering(wrap_layer=lambda features: (features, None)), "layer", None),
        (Answering(wrap_layer=lambda features: Pair(features, "none")), "layer", None),
        (transformer(prefix=2), "blocks.1", tokens_first),
        (transformer(prefix=1, sequence_first=True), "blocks.1", sequence_first),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_logits_are_those_of_a_hook_that_exchanges_the_output(network, layer, arrange, chunk):
    network, images = seeded(network), noise_images(3)
    evidence = capture(network, layer, images, 1, chunk_size=chunk)
    altered = altered_activations(evidence, ROWS)
    found = evidence.rescore_activations(ROWS, lambda part: altered[part])
    arrange = arrange or (lambda maps, _output: maps)
    expected = exchanged(network, layer, images, ROWS, altered, arrange=arrange)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found - evidence.logits[ROWS]).abs().max() > 1e-3


def test_what_comes_before_the_layer_runs_once_for_an_image():
    network = seeded(Residual())
    for layer in ("stage2", "conv2"):
        evidence = capture(network, layer, noise_images(3), 1, chunk_size=2)
        altered, CALLS[network] = altered_activations(evidence, ROWS), 0
        evidence.rescore_activations(ROWS, lambda part, altered=altered: altered[part])
        # The hook of the first stage is called in the pass that keeps what it returns, and as often as that is given.
        given, CALLS["first"] = CALLS[network], 0
        handle = network.stage1[0].register_forward_hook(lambda *_: CALLS.update(["first"]))
        evidence.rescore_activations(ROWS, lambda part, altered=altered: altered[part])
        handle.remove()
        assert CALLS["first"] == 3
        assert given == 3 + 3 + (3 + 2 + 1)


def test_submodules_that_talk_past_what_they_return_run_each_time():
    network, images = seeded(Talking()), noise_images(3)
    evidence = capture(network, "stage2", images, 1, chunk_size=2)
    altered = altered_activations(evidence, ROWS)
    found = evidence.rescore_activations(ROWS, lambda part: altered[part])
    torch.testing.assert_close(found, exchanged(network, "stage2", images, ROWS, altered), rtol=1e-5, atol=1e-5)


def test_the_unaltered_activations_give_the_logits():
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(3), 1, chunk_size=2)
    found = evidence.rescore_activations(ROWS, lambda part: evidence.activations[ROWS[part]])
    torch.testing.assert_close(found, evidence.logits[ROWS], rtol=1e-5, atol=1e-5)


def test_logits_of_labels_are_read_as_the_captures():
    network, images, asked = seeded(SmallCNN()), noise_images(3), torch.tensor([4, 0, 2])
    evidence = capture(network, "stage2", images, "predicted", asked=asked)
    altered = altered_activations(evidence, ROWS)
    found = evidence.rescore_activations(ROWS, lambda part: altered[part])
    expected = logits_of_label(exchanged(network, "stage2", images, ROWS, altered), asked[ROWS])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_is_asked_as_it_was_at_the_capture():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = SmallCNN()

    network, images = seeded(Wrapped()), noise_images(3)
    evidence = capture(network, "stage2", images, 1, forward=lambda model, x: {"logits": 2 * model.network(x)})
    altered = altered_activations(evidence, ROWS)
    found = evidence.rescore_activations(ROWS, lambda part: altered[part])
    expected = 2 * exchanged(network.network, "stage2", images, ROWS, altered)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_no_rows_are_no_logits():
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(3), 1)
    assert evidence.rescore_activations(torch.zeros(0, dtype=torch.long), lambda _: pytest.fail("asked")).shape == (
        0,
        5,
    )


@pytest.mark.parametrize("at", [2, 3, 4])
def test_every_forward_is_the_models_own_again_after_a_failure(at):
    network = Faulty(at)
    network.load_state_dict(seeded(SmallCNN()).state_dict())
    evidence = capture(network, "stage2", noise_images(3), 1, chunk_size=2)
    with pytest.raises(OSError, match="the network failed"):
        evidence.rescore_activations(ROWS, lambda part: evidence.activations[ROWS[part]])
    for module in network.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_forward_of_an_instance_is_put_back():
    network = seeded(SmallCNN())
    own = network.stage1.forward
    network.stage1.forward = own
    evidence = capture(network, "stage2", noise_images(3), 1, chunk_size=2)
    evidence.rescore_activations(ROWS, lambda part: evidence.activations[ROWS[part]])
    assert vars(network.stage1)["forward"] is own


def test_weights_that_changed_are_refused():
    network = seeded(SmallCNN())
    evidence = capture(network, "stage2", noise_images(3), 1)
    with torch.no_grad():
        network.head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weights to be those of the capture"):
        evidence.rescore_activations(ROWS, lambda part: evidence.activations[ROWS[part]])
