import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, ZeroShotClassifier, capture, find_target_layer
from tests.helpers.networks import SmallCNN, noise_images, plain_evidence, seeded, transformer


def embeddings(n=3, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_logits_are_scaled_cosine_similarities():
    classes = embeddings()
    network = ZeroShotClassifier(nn.Flatten(), classes, logit_scale=50.0)
    found = network(classes.view(3, 5, 1, 1) * torch.tensor([1.0, 2.0, 0.1])[:, None, None, None])
    expected = 50 * nn.functional.cosine_similarity(classes[:, None], classes[None], dim=2)
    torch.testing.assert_close(found, expected)
    assert found.argmax(dim=1).tolist() == [0, 1, 2]


def test_embeddings_are_copied_normalised_and_kept_with_the_weights():
    classes = embeddings()
    network = ZeroShotClassifier(nn.Flatten(), classes)
    classes.zero_()
    assert network.state_dict()["class_embeddings"].norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    assert not list(network.parameters())


def test_half_precision_embeddings_go_with_any_tower():
    images = noise_images(2)
    tower = seeded(SmallCNN())
    exact = ZeroShotClassifier(tower, embeddings())(images)
    torch.testing.assert_close(ZeroShotClassifier(tower, embeddings().half())(images), exact, rtol=0.01, atol=0.1)
    whole = ZeroShotClassifier(tower, embeddings()).bfloat16()
    torch.testing.assert_close(whole(images.bfloat16()), exact, rtol=0.05, atol=2.0)
    assert ZeroShotClassifier(seeded(SmallCNN()).double(), embeddings())(images.double()).dtype == torch.float64


def test_autocast_does_not_round_the_similarities():
    network = ZeroShotClassifier(nn.Flatten(), embeddings(4, 300))
    images = embeddings(6, 300, seed=1).view(6, 3, 10, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, network(images))


def test_embeddings_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected `class_embeddings` to be \(N, D\), but got \(5,\)"):
        ZeroShotClassifier(nn.Flatten(), torch.zeros(5))


@pytest.mark.parametrize("layer", ["image_encoder.blocks.1", "blocks.1"])
def test_it_is_explained_like_any_classifier(layer):
    network = ZeroShotClassifier(transformer(sequence_first=True), embeddings()).eval()
    images = noise_images()
    evidence = capture(network, layer, images, torch.tensor([0, 1, 2, 0]))
    plain = ZeroShotClassifier(transformer(), embeddings()).eval()
    logits, activations, gradients = plain_evidence(plain, "image_encoder.blocks.1", images, [0, 1, 2, 0])
    torch.testing.assert_close(evidence.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(evidence.activations, activations[:, 1:].mT.unflatten(2, (8, 8)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evidence.gradients, gradients[:, 1:].mT.unflatten(2, (8, 8)), rtol=1e-3, atol=1e-4)
    assert DecomCAM(n_components=3).decompose(evidence).scores.isfinite().all()
    assert find_target_layer(network, images=images).name == "image_encoder.blocks.1"
