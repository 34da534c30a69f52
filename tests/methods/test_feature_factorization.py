"""Deep feature factorization: parts known on paper, against pytorch-grad-cam, and what they say of the target."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff
from scipy.optimize import linear_sum_assignment

from lit_decom import METHODS, capture
from lit_decom.methods import DeepFeatureFactorization
from tests.helpers.networks import Patches, SmallCNN, noise_images, seeded


def evidence_of(images, network=None, layer="stage2", targets=0):
    return capture(network or seeded(SmallCNN()), layer, images, targets)


def parts_apart():
    """Two pictures of red, green and yellow places on black; each channel is somewhere 0."""
    pictures = torch.zeros(2, 3, 8, 8)
    pictures[:, 0, 0:2, 0:2], pictures[:, 1, 4:6, 6:8] = 1.0, 0.5
    pictures[0, :2, 2:4, 2:4] = torch.tensor([0.6, 0.2])[:, None, None]
    pictures[1, 2, 6:8, 0:4] = 0.9
    return evidence_of(pictures, Patches([[2.0, 1.0, -3.0], [0.0, 1.0, 1.0]]), "colours")


def peers(activations, n_components):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its 200 iterations were not enough
        concepts, maps = dff(activations.numpy().copy(), n_components)
    return torch.from_numpy(concepts), torch.from_numpy(maps)


@pytest.mark.parametrize("over", ["image", "batch"])
def test_parts_agree_with_pytorch_grad_cam_where_they_are_unique(over):
    evidence = parts_apart()
    shown = [evidence.activations] if over == "batch" else evidence.activations.split(1)
    found = DeepFeatureFactorization(3 if over == "batch" else 2, over).concepts(evidence)
    at = 0
    for activations in shown:
        _, maps = peers(activations, found.maps.shape[1])
        ours = found.maps[at : at + len(activations)].transpose(0, 1).flatten(1)
        theirs = maps.transpose(0, 1).flatten(1)
        at += len(activations)
        if over == "image" and at == 2:  # three colours in two parts are not unique
            continue
        correlation = np.corrcoef(ours, theirs)[: len(ours), len(ours) :]
        assert correlation[linear_sum_assignment(-correlation)].min() >= 0.999


def test_elsewhere_parts_explain_nearly_as_much_as_those_of_pytorch_grad_cam():
    # A factorisation has many local optima, and the peer's depends on the channels' minima: maps need not agree.
    evidence = evidence_of(noise_images())
    shifted = evidence.activations - evidence.activations.amin(dim=(0, 2, 3), keepdim=True)
    concepts, maps = peers(shifted, 4)
    error = (torch.einsum("ck,bkhw->bchw", concepts, maps) - shifted).square().sum()
    found = DeepFeatureFactorization(4, "batch").concepts(dataclasses.replace(evidence, activations=shifted))
    ours = (torch.einsum("bck,bkhw->bchw", found.profiles, found.maps) - shifted).square().sum()
    energy = shifted.square().sum()
    assert energy - ours > 0.97 * (energy - error)


def test_parts_known_on_paper():
    found = DeepFeatureFactorization(2).concepts(parts_apart())
    red, green = torch.zeros(4, 4), torch.zeros(4, 4)
    red[0, 0], red[1, 1], green[2, 3], green[1, 1] = 1.0, 0.6, 0.5, 0.2
    torch.testing.assert_close(found.maps[0], torch.stack([red, green]), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.profiles[0], torch.eye(3)[:, :2], rtol=0, atol=2e-3)


def test_parts_of_a_batch_have_one_profile_in_all_images():
    evidence = evidence_of(noise_images())
    found = DeepFeatureFactorization(3, "batch").concepts(evidence)
    assert torch.equal(found.profiles[0], found.profiles[3])
    alone = DeepFeatureFactorization(3).concepts(evidence)
    assert not torch.allclose(alone.profiles[0], alone.profiles[3], atol=1e-2)
    assert found.maps.shape == alone.maps.shape == (4, 3, 8, 8)


def test_with_all_parts_the_map_is_that_of_grad_cam():
    evidence = parts_apart()
    found = DeepFeatureFactorization(3)(evidence)
    expected = METHODS["grad_cam"]()(evidence)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * expected.max().item())
    assert expected.flatten(1).any(dim=1).all()


def test_a_part_counts_by_what_a_linear_head_says_of_its_profile():
    network = seeded(SmallCNN())
    evidence = evidence_of(noise_images(), network, targets=2)
    method = DeepFeatureFactorization(4)
    found = method.concepts(evidence)
    logits = torch.einsum("c,bck->bk", network.head.weight.detach()[2], found.profiles)
    expected = torch.einsum("bk,bkhw->bhw", logits, found.maps).relu() / 64
    torch.testing.assert_close(method(evidence), expected, rtol=0, atol=1e-5 * expected.max().item())


def test_a_broken_image_has_no_part_in_the_batchs_factorisation():
    images = noise_images(3)
    clean = DeepFeatureFactorization(3, "batch")(evidence_of(images[[0, 2]]))
    images[1, 0, 0, 0] = torch.nan
    found = DeepFeatureFactorization(3, "batch")(evidence_of(images))
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], clean, rtol=0, atol=1e-4 * clean.max().item())


def test_a_layer_that_has_fewer_parts_shows_those():
    assert DeepFeatureFactorization(50).concepts(evidence_of(noise_images())).maps.shape == (4, 12, 8, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 0}, r"`n_components` to be at least 1, but got 0"),
        ({"over": "set"}, r"`over` to be one of 'image', 'batch', but got 'set'"),
    ],
)
def test_a_bad_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepFeatureFactorization(**settings)
