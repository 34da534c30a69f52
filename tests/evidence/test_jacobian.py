"""Gradients of combinations of the classes, against one plain backward pass for each."""

import pytest
import torch
from torch.testing import assert_close

from lit_decom import capture
from lit_decom.evidence import combined_gradients
from tests.helpers.networks import (
    Answering,
    ChannelsLast,
    Flattening,
    InPlaceAfter,
    NoGradBackbone,
    SmallCNN,
    noise_images,
    plain_evidence,
    seeded,
    transformer,
)
from tests.helpers.unchanged import assert_unchanged, everything, half_trained

COMBINATIONS = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))


def evidence(network, layer, images):
    return capture(network, layer, images, "predicted")


def products_in_loops(network, layer, images, combinations, to_grid=lambda rows: rows):
    """Every class's gradient of every image by itself, summed over positions, then combined."""
    products = torch.zeros(len(images), combinations.shape[1], 1)
    for c in range(len(combinations)):
        _, _, gradients = plain_evidence(network, layer, images, torch.full((len(images),), c))
        summed = to_grid(gradients).flatten(2).sum(2)
        products = products + combinations[c][None, :, None] * summed[:, None]
    return products


@pytest.mark.parametrize(
    ("make", "layer", "to_grid"),
    [
        (SmallCNN, "stage1", lambda rows: rows),
        (Flattening, "stage1", lambda rows: rows),
        (ChannelsLast, "block", lambda rows: rows.permute(0, 3, 1, 2)),
        (lambda: transformer(prefix=1), "blocks.0", lambda rows: rows[:, 1:].mT),
        (lambda: Answering(wrap_layer=lambda features: (features, "more")), "layer", lambda rows: rows),
    ],
)
def test_against_one_backward_pass_for_every_class_and_image(make, layer, to_grid):
    network, images = seeded(make()), noise_images()
    found = combined_gradients(evidence(network, layer, images), images, COMBINATIONS)
    expected = products_in_loops(network, layer, images, COMBINATIONS, to_grid)
    assert found.shape == expected.shape
    # Sums over a few hundred positions in float32.
    assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert found.abs().max() > 1e-3


def test_with_a_linear_head_they_are_its_weights():
    network, images = seeded(SmallCNN()), noise_images(3)
    found = combined_gradients(evidence(network, "stage2", images[:1]), images, COMBINATIONS)
    expected = (COMBINATIONS.T @ network.head.weight).expand(3, -1, -1)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("odd", "plain", "layer"),
    [(NoGradBackbone, SmallCNN, "stage2"), (InPlaceAfter, lambda: InPlaceAfter(in_place=False), "layer")],
)
def test_a_network_that_forgets_to_record_or_writes_in_place_is_like_its_plain_twin(odd, plain, layer):
    odd, plain, images = seeded(odd()), seeded(plain()), noise_images()
    assert_close(
        combined_gradients(evidence(odd, layer, images), images, COMBINATIONS),
        combined_gradients(evidence(plain, layer, images), images, COMBINATIONS),
    )


def test_no_combination_gives_no_gradient():
    network, images = seeded(SmallCNN()), noise_images()
    assert combined_gradients(evidence(network, "stage2", images), images, COMBINATIONS[:, :0]).shape == (4, 0, 12)


def test_the_model_stays_as_it_is():
    network, images = half_trained(), noise_images()
    before = everything(network)
    with torch.inference_mode():
        combined_gradients(evidence(network, "stage1", images), images, COMBINATIONS)
    assert_unchanged(network, before)


def test_combinations_of_other_classes_and_another_networks_weights_are_refused():
    network, images = seeded(SmallCNN()), noise_images()
    found = evidence(network, "stage2", images)
    with pytest.raises(ValueError, match="Expected `combinations` to be"):
        combined_gradients(found, images, COMBINATIONS[:4])
    with torch.no_grad():
        network.head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weights"):
        combined_gradients(found, images, COMBINATIONS)
