"""Conceptor-CAM as its docstring says, image by image and without shortcuts, and what its parts are for."""

import numpy as np
import pytest
import torch

from lit_decom import METHODS, capture
from lit_decom.methods import ConceptorCAM
from tests.helpers.networks import Patches, SmallCNN, noise_images, plain_evidence, seeded

APERTURE = 5.0


def evidence_of(images=None, network=None, layer="stage2", targets=1):
    return capture(network or seeded(SmallCNN()), layer, noise_images() if images is None else images, targets)


def for_and_not_against(vectors, evidence):
    """In the full space; AND NOT with ``C^-1 - I`` of the negation written out, ``a^2 R-``."""
    positive = (vectors * np.maximum(evidence, 0)) @ vectors.T
    negative = (vectors * np.maximum(-evidence, 0)) @ vectors.T
    total = np.trace(positive) + np.trace(negative)
    positive, negative, one = positive / total, negative / total, np.eye(len(vectors))
    values, directions = np.linalg.eigh(positive @ np.linalg.inv(positive + APERTURE**-2 * one))
    root = (directions * np.sqrt(np.maximum(values, 0))) @ directions.T
    return root @ np.linalg.inv(one + APERTURE**2 * root @ negative @ root) @ root


@pytest.mark.parametrize("relations", ["both", "inter", "intra"])
@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_it_is_its_definition(relations, layer):
    network, images = seeded(SmallCNN()), noise_images()
    found = ConceptorCAM(APERTURE, relations)(evidence_of(images, network, layer))
    _, activations, gradients = plain_evidence(network, layer, images, [1] * 4)
    for a, g, cam in zip(activations.double().numpy(), gradients.double().numpy(), found, strict=True):
        maps, w = a.reshape(len(a), -1), g.mean(axis=(1, 2))
        between = np.eye(len(maps)) if relations == "intra" else for_and_not_against(maps, w @ maps)
        within = np.eye(maps.shape[1]) if relations == "inter" else for_and_not_against(maps.T, w)
        expected = np.maximum(w @ between @ maps @ within, 0).reshape(cam.shape)
        # the square root of a conceptor of low rank has half the digits
        np.testing.assert_allclose(cam, expected, rtol=0, atol=1e-4 * np.abs(w @ maps).max())


def test_a_wide_aperture_without_negative_evidence_is_grad_cam():
    evidence = evidence_of(2 * noise_images().abs(), Patches([[2.0, 1.0, 0.5]] * 2), "colours")
    found, expected = ConceptorCAM(1e4)(evidence), METHODS["grad_cam"]()(evidence)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.max().item())
    assert ConceptorCAM(1e-4)(evidence).max() < 1e-6 * expected.max(), "a narrow one lets nothing through"


def test_between_channels_what_is_found_at_negative_places_is_taken_out():
    # Red and green speak for the target as much, but red is also where blue, which speaks against it, prevails.
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 1, 0:2, 0:2], picture[0, 0, 4:6, 4:6] = 1.0, 1.0
    picture[0, 0, 6:8, 0:2] = picture[0, 2, 6:8, 0:2] = 1.0
    network = Patches([[1.0, 1.0, -2.0], [0.0, 0.0, 0.0]])
    evidence = evidence_of(picture, network, "colours", targets=0)
    (found,), (expected,) = ConceptorCAM(APERTURE, "inter")(evidence), METHODS["grad_cam"]()(evidence)
    assert expected[2, 2] == expected[0, 0]
    assert found[2, 2] < 0.8 * found[0, 0]
    assert found[0, 0] == pytest.approx(expected[0, 0].item(), rel=0.2)


def test_within_channels_patterns_of_negative_channels_are_taken_out():
    # Red is at two places, green at the first of them, and blue, which speaks against the target, at the second.
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 0, 0:2, 0:2] = picture[0, 0, 4:6, 4:6] = 1.0
    picture[0, 1, 0:2, 0:2] = picture[0, 2, 4:6, 4:6] = 1.0
    network = Patches([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
    evidence = evidence_of(picture, network, "colours", targets=0)
    (found,), (expected,) = ConceptorCAM(APERTURE, "intra")(evidence), METHODS["grad_cam"]()(evidence)
    assert expected[2, 2] / expected[0, 0] == pytest.approx(1 / 3)
    assert 0 < found[2, 2] < 0.8 / 3 * found[0, 0]


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_scale_of_the_score_scales_the_map_and_nothing_else(factor):
    network = seeded(SmallCNN())
    one = ConceptorCAM()(evidence_of(network=network, targets=lambda logits, _rows: logits[:, 1]))
    other = ConceptorCAM()(evidence_of(network=network, targets=lambda logits, _rows: factor * logits[:, 1]))
    torch.testing.assert_close(other / factor, one, rtol=0, atol=1e-5 * one.max().item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aperture": 0.0}, r"`aperture` to be positive, but got 0\.0"),
        ({"relations": "none"}, r"`relations` to be one of 'both', 'inter', 'intra', but got 'none'"),
    ],
)
def test_a_bad_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConceptorCAM(**settings)
