from types import SimpleNamespace

import pytest
import torch

from lit_decom import DecomCAM, capture, find_target_layer
from lit_decom.evidence import TargetLayerError
from tests.helpers.networks import (
    TARGETS,
    Answering,
    ChannelsLast,
    Counting,
    Drawing,
    Flattening,
    InPlaceAfter,
    Pair,
    Patches,
    SmallCNN,
    Transformer,
    Twice,
    assert_plain,
    golden,
    noise_images,
    seeded,
    transformer,
)
from tests.helpers.unchanged import assert_unchanged, everything, half_trained

# ----- what it finds


@pytest.mark.parametrize("layer", ["stage1", "stage2", "stage1.0", "stage2.1"])
def test_evidence_is_what_a_plain_pass_leaves_behind(layer):
    network, images = seeded(SmallCNN()), noise_images()
    assert_plain(capture(network, layer, images, TARGETS), network, layer, images)


def test_evidence_known_on_paper():
    images = torch.zeros(1, 3, 4, 6)
    images[0, 1, 0:2, 2:4] = 1.0
    evidence = capture(Patches([[1.0, 2.0, 3.0], [0.0, -6.0, 0.5]]), "colours", images, 1)
    expected = torch.zeros(1, 3, 2, 3)
    expected[0, 1, 0, 1] = 1.0
    torch.testing.assert_close(evidence.activations, expected)
    torch.testing.assert_close(evidence.logits, torch.tensor([[2.0, -6.0]]) / 6)
    gradients = torch.tensor([0.0, -1.0, 0.5 / 6])[None, :, None, None].expand(1, 3, 2, 3)
    torch.testing.assert_close(evidence.gradients, gradients)


@pytest.mark.parametrize("network_class", [Flattening, Drawing, Counting])
def test_networks_that_do_inconvenient_things(network_class):
    network, images = seeded(network_class()), noise_images()
    assert_plain(capture(network, "stage2", images, TARGETS), network, "stage2", images)


def test_what_goes_in_and_out_of_a_layer_may_be_changed_in_place_afterwards():
    network, images = seeded(InPlaceAfter()), noise_images()
    evidence = capture(network, "layer", images, TARGETS)
    assert_plain(evidence, seeded(InPlaceAfter(in_place=False)), "layer", images)


def test_channels_last_maps_come_channels_first():
    network, images = seeded(ChannelsLast()), noise_images()
    evidence = capture(network, "block", images, TARGETS)
    assert_plain(evidence, network, "block", images, to_grid=lambda rows: rows.permute(0, 3, 1, 2))


@pytest.mark.parametrize("sequence_first", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_tokens_become_maps_without_class_and_register_tokens(prefix, sequence_first):
    network, images = transformer(prefix=prefix, sequence_first=sequence_first), noise_images()
    reference = transformer(prefix=prefix)
    evidence = capture(network, "blocks.1", images, TARGETS)
    assert_plain(evidence, reference, "blocks.1", images, to_grid=lambda rows: rows[:, prefix:].mT.unflatten(2, (8, 8)))


@pytest.mark.parametrize("sequence_first", [False, True])
def test_as_many_images_as_tokens_are_not_mixed_up(sequence_first):
    # 16 patches and a class token, 17 images: (17, 17, C) does not say which is which.
    network = transformer(size=16, sequence_first=sequence_first)
    images = noise_images(17, 16)
    together = capture(network, "blocks.1", images, 2)
    for row in (0, 5, 16):
        alone = capture(network, "blocks.1", images[row : row + 1], 2)
        torch.testing.assert_close(together.activations[row], alone.activations[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.gradients[row], alone.gradients[0], rtol=1e-3, atol=1e-6)


def test_a_batch_is_its_images_one_by_one():
    network, images = seeded(SmallCNN()), noise_images()
    together = capture(network, "stage2", images, TARGETS)
    for row in range(4):
        alone = capture(network, "stage2", images[row : row + 1], TARGETS[row : row + 1])
        for name in ("logits", "activations", "gradients"):
            ours, theirs = getattr(together, name)[row], getattr(alone, name)[0]
            # A sum rounds in units of its largest terms, of which its result may keep little.
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="one way alone before torch 2.9")
@pytest.mark.usefixtures("precision_restored")
def test_the_precision_may_be_set_by_either_of_torchs_two_ways():
    # Mixed, torch's older getter raises, and must not be asked.
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    network, images = seeded(SmallCNN()), noise_images()
    evidence = capture(network, "stage2", images, TARGETS)
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.conv.fp32_precision == "bf16"
    torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.conv.fp32_precision = "ieee"
    assert_plain(evidence, network, "stage2", images)


# ----- what the network answers


@pytest.mark.parametrize(
    ("wrap", "forward"),
    [
        (lambda logits: logits, None),
        (lambda logits: {"loss": None, "logits": logits}, None),
        (lambda logits: SimpleNamespace(logits=logits, loss=None), None),
        (lambda logits: (None, logits), lambda model, images: model(images)[1]),
        (lambda logits: {"scores": logits}, lambda model, images: model(images)["scores"]),
        (lambda logits: logits[:, :, None], lambda model, images: model(images)[..., 0]),
    ],
    ids=["tensor", "mapping", "attribute", "tuple", "other key", "other shape"],
)
def test_logits_are_found_or_read(wrap, forward):
    network, images = seeded(Answering(wrap)), noise_images()
    evidence = capture(network, "stage2", images, TARGETS, forward=forward)
    assert_plain(evidence, seeded(SmallCNN()), "stage2", images)
    assert find_target_layer(network, images=images, forward=forward).name == "layer"
    again = evidence.relogits(images[:, None])
    torch.testing.assert_close(again[:, 0], evidence.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wrap", "got"),
    [
        (lambda logits: (None, logits), "tuple"),
        (lambda logits: {"scores": logits}, "dict"),
        (lambda logits: logits[:, :, None], r"\(4, 5, 1\)"),
        (lambda logits: logits.argmax(1), r"\(4,\)"),
        (lambda logits: logits.argmax(1, keepdim=True), r"\(4, 1\)"),
    ],
)
def test_an_answer_without_logits_is_refused_with_the_remedy(wrap, got):
    with pytest.raises(
        ValueError, match=rf"Expected Answering\.forward to return logits \(B, N\), but got {got}.*`forward=`"
    ):
        capture(seeded(Answering(wrap)), "stage2", noise_images(), 0)


def test_logits_for_other_images_are_refused():
    with pytest.raises(ValueError, match=r"Expected logits for 4 images, but got \(2, 5\)"):
        capture(seeded(Answering(lambda logits: logits[:2])), "stage2", noise_images(), 0)


@pytest.mark.parametrize(
    "wrap_layer",
    [lambda features: (features, "weights"), lambda features: [features, None], lambda features: Pair(features, "w")],
    ids=["tuple", "list", "named tuple"],
)
def test_a_layer_may_return_more_than_its_features(wrap_layer):
    network, images = seeded(Answering(wrap_layer=wrap_layer)), noise_images()
    evidence = capture(network, "layer", images, TARGETS)
    reference = capture(seeded(SmallCNN()), "stage2", images, TARGETS)
    torch.testing.assert_close(evidence.gradients, reference.gradients)


# ----- what is explained


def test_one_class_for_all_and_the_predicted_class():
    network, images = seeded(SmallCNN(), 1), noise_images(8)
    fixed = capture(network, "stage2", images, 2)
    assert fixed.targets.tolist() == [2] * 8
    assert torch.equal(fixed.gradients, capture(network, "stage2", images, torch.full((8,), 2)).gradients)
    predicted = capture(network, "stage2", images, "predicted")
    assert torch.equal(predicted.targets, fixed.logits.argmax(dim=1))
    assert predicted.targets.unique().numel() > 1
    assert torch.equal(predicted.gradients, capture(network, "stage2", images, predicted.targets).gradients)


def test_targets_are_int64_whatever_came():
    for targets in (torch.tensor([1, 2, 0, 1], dtype=torch.int32), torch.tensor([1, 2, 0, 1], dtype=torch.uint8), 3):
        assert capture(seeded(SmallCNN()), "stage2", noise_images(), targets).targets.dtype == torch.int64


def test_the_contrast_pair_is_that_of_the_unaltered_image():
    network, images = seeded(SmallCNN()), noise_images()
    evidence = capture(network, "stage2", images, "contrast")
    first, second = evidence.logits.topk(2, dim=1).indices.unbind(1)
    assert torch.equal(evidence.targets, first)
    apart = [capture(network, "stage2", images, classes).gradients for classes in (first, second)]
    torch.testing.assert_close(evidence.gradients, apart[0] - apart[1], rtol=1e-4, atol=1e-7)
    # Altered logits in another order are still scored by the pair of the unaltered image.
    altered = torch.arange(20.0).view(4, 5)
    rows = torch.tensor([3, 0, 0, 1])
    expected = [altered[n, first[row]] - altered[n, second[row]] for n, row in enumerate(rows.tolist())]
    torch.testing.assert_close(evidence.score(altered, rows), torch.stack(expected))


def test_a_callable_scores_each_image_by_itself():
    network, images = seeded(SmallCNN()), noise_images()
    factors = torch.tensor([1.0, -2.0, 3.0, 0.5])
    evidence = capture(network, "stage2", images, lambda logits, rows: factors[rows] * logits[:, 2])
    assert evidence.targets.tolist() == [-1] * 4
    plain = capture(network, "stage2", images, 2)
    torch.testing.assert_close(evidence.gradients, plain.gradients * factors[:, None, None, None])
    found = DecomCAM(n_components=2, positive_only=False).decompose(evidence)
    expected = DecomCAM(n_components=2, positive_only=False).decompose(plain)
    torch.testing.assert_close(found.reference_scores, factors * expected.reference_scores)


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"Expected `targets` to score each of 4 images, but got \(4, 5\)"):
        capture(seeded(SmallCNN()), "stage2", noise_images(), lambda logits, rows: logits)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1, 2, 5]), r"`targets` to be between 0 and 4, but got 0 to 5"),
        (torch.tensor([0, -1, 2, 3]), r"`targets` to be between 0 and 4, but got -1 to 3"),
        (5, r"`targets` to be between 0 and 4, but got 5 to 5"),
        (torch.tensor([0, 1]), r"`targets` to be \(4,\) class indices, but got \(2,\)"),
        (torch.zeros(4, 5, dtype=torch.long), r"`targets` to be \(4,\) class indices, but got \(4, 5\)"),
        (torch.zeros(4), r"`targets` to be \(4,\) class indices, but got \(4,\) torch\.float32"),
        ("label", r"`targets` to be classes, 'predicted' or 'contrast', but got 'label'"),
    ],
)
def test_bad_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        capture(seeded(SmallCNN()), "stage2", noise_images(), targets)


# ----- what cannot be explained


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stage3", r"`target_layer` to be a submodule of Twice, but got 'stage3'\. Did you mean stage2 or stage1"),
        ("0", r"`target_layer` to name one submodule, but '0' fits stage1\.0, stage2\.0"),
        (
            "head",
            r"`target_layer` 'head' to return a feature grid .* but it returns \(4, 5\) for images \(4, 3, 32, 32\)",
        ),
        ("shared", r"`target_layer` 'shared' to run once in a forward pass, but it ran 2 times\. Choose the block"),
        ("unused", r"`target_layer` 'unused' to run once in a forward pass, but it ran 0 times\. Is it part"),
        ("aside", r"target score to depend on `target_layer` 'aside', but no gradient arrives there"),
    ],
)
def test_layers_that_cannot_be_explained_are_refused_and_left_alone(layer, message):
    network = half_trained(Twice)
    before = everything(network)
    with pytest.raises(TargetLayerError, match=message):
        capture(network, layer, noise_images(), 0)
    assert_unchanged(network, before)


def test_a_layer_of_another_network_is_refused():
    layer = find_target_layer(seeded(SmallCNN()), "stage2")
    with pytest.raises(TargetLayerError, match="ran 0 times"):
        capture(seeded(SmallCNN()), layer, noise_images(), 0)


def test_a_layer_that_returns_no_tensor_is_refused():
    network = seeded(Answering(wrap_layer=lambda features: frozenset([features])))
    with pytest.raises(TargetLayerError, match=r"'layer' to return a tensor, but got frozenset"):
        capture(network, "layer", noise_images(), 0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 32, 32), r"`images` to be \(B, 3, H, W\) with B >= 1, but got \(3, 32, 32\)"),
        (torch.zeros(0, 3, 32, 32), r"with B >= 1, but got \(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"floating point, but got torch\.uint8"),
    ],
)
def test_images_that_no_network_sees_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        capture(seeded(SmallCNN()), "stage2", images, 0)


def test_a_normalisation_that_does_not_fit_the_channels_is_refused():
    with pytest.raises(ValueError, match=r"Expected `mean` to be \(3,\), but got \(1,\)"):
        capture(seeded(SmallCNN()), "stage2", noise_images(), 0, mean=[0.5], std=[0.5])


@pytest.mark.parametrize("chunk_size", [0, -2])
def test_a_chunk_holds_at_least_one_image(chunk_size):
    with pytest.raises(ValueError, match=rf"`chunk_size` to be at least 1, but got {chunk_size}"):
        capture(seeded(SmallCNN()), "stage2", noise_images(), 0, chunk_size=chunk_size)


# ----- what it leaves behind


def test_evidence_takes_no_more_room_than_it_needs():
    # Nothing of the graph stays behind: the captured tensors own their storage or share it with one another.
    network, vectors = golden()
    evidence = capture(network, "relu3", vectors.images, 0)
    for name in ("activations", "gradients", "logits"):
        tensor = getattr(evidence, name)
        assert tensor.grad_fn is None
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_the_class_token_is_no_position():
    network = seeded(Transformer(prefix=1))
    evidence = capture(network, "blocks.2", noise_images(), 0)
    # Behind the last block only the class token is read: no patch matters any more.
    assert evidence.activations.shape == (4, 16, 8, 8)
    assert not evidence.gradients.any()
