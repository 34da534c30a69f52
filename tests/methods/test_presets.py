"""Every preset against an oracle written from its definition: image by image, in NumPy, SciPy and a plain forward."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import softmax
from torch.nn import functional as F

from lit_decom import DecomCAM, capture
from lit_decom.methods import PRESETS
from tests.helpers.networks import SmallCNN, noise_images, plain_evidence, seeded, transformer
from tests.helpers.rounding import magnification, map_tolerance

MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
K = 4


@dataclass
class Rules:
    """What the presets differ in, as the table of the method says it."""

    weight: str = "mean"
    positive: bool = False
    centred: bool = True
    sign: str = "largest"
    composite: str = "maximum"
    space: str = "input"
    sigma: float = 10.0
    truncate: float = 4.0
    subtract: bool = True
    threshold: float | None = None
    integration: str = "maximum"
    p: int = 100


PAPER = Rules(
    weight="sum",
    positive=True,
    centred=False,
    sign="evidence",
    composite="convex",
    sigma=10.0 * 32 / 224,
    integration="min_max",
)
TABLE = {
    "paper": PAPER,
    "relu_gain": replace(PAPER, integration="relu_gain"),
    "v25": Rules(subtract=False, threshold=0.001, p=500),
    "notebook": Rules(space="unit", truncate=100.0, threshold=0.01),
    "predecessor": Rules(space="unit", integration="softmax"),
    "predecessor_pp": Rules(space="unit", integration="softmax", weight="grad_cam_pp"),
}


def oracle(rules, score, activation, gradient, image):
    """Components, scores, blurred score, weights and map of one image, all in float64 but for the network itself."""
    channels, height, width = activation.shape
    alpha = gradient.sum(axis=(1, 2)) if rules.weight == "sum" else gradient.mean(axis=(1, 2))
    if rules.weight == "grad_cam_pp":
        alphas = np.zeros_like(gradient)
        for c in range(channels):
            for at in np.ndindex(height, width):
                g = gradient[c][at]
                below = 2 * g**2 + activation[c].sum() * g**3
                alphas[c][at] = g**2 / below if below != 0 else 0
        alpha = (alphas * np.maximum(gradient, 0)).sum(axis=(1, 2))
    chosen = [c for c in np.argsort(-alpha, kind="stable")[: rules.p] if alpha[c] > 0 or not rules.positive]
    matrix = (activation[chosen] * alpha[chosen, None, None]).reshape(len(chosen), -1)
    if rules.centred:
        matrix = matrix - matrix.mean(axis=1, keepdims=True)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)

    patterns, scores = [], []
    to_unit = (lambda x: x * STD[:, None, None] + MEAN[:, None, None]) if rules.space == "unit" else (lambda x: x)
    to_input = (lambda x: (x - MEAN[:, None, None]) / STD[:, None, None]) if rules.space == "unit" else (lambda x: x)
    shown = to_unit(image)
    blurred = np.stack([gaussian_filter(c, rules.sigma, mode="reflect", truncate=rules.truncate) for c in shown])
    for i in range(K):
        flip = left[:, i].sum() if rules.sign == "evidence" else right[i][np.abs(right[i]).argmax()]
        pattern = (np.sign(flip) * values[i] * right[i]).reshape(height, width)
        ossm = torch.from_numpy(np.maximum(pattern, 0))[None, None]
        large = F.interpolate(ossm, size=image.shape[1:], mode="bicubic", align_corners=False)[0, 0].numpy()
        mask = (large - large.min()) / (large.max() - large.min())
        if rules.composite == "convex":
            composed = shown * mask + blurred * (1 - mask)
        else:
            composed = np.maximum(shown * mask, blurred * (1 - mask))
        patterns.append(pattern)
        scores.append(score(to_input(composed)))
    reference = score(to_input(blurred))

    d = np.array(scores) - reference if rules.subtract else np.array(scores)
    if rules.threshold is not None:
        d = np.where(d < rules.threshold, 0, d)
    if rules.integration in ("maximum", "relu_gain") and d.max() <= 0:
        return np.stack(patterns), np.array(scores), reference, None, None
    weights = {
        "min_max": lambda: (d - d.min()) / (d.max() - d.min()),
        "maximum": lambda: d / d.max(),
        "softmax": lambda: d * softmax(d),
        "relu_gain": lambda: np.maximum(d, 0) / np.maximum(d, 0).sum(),
    }[rules.integration]()
    cam = np.maximum(sum(w * np.maximum(pattern, 0) for w, pattern in zip(weights, patterns, strict=True)), 0)
    return np.stack(patterns), np.array(scores), reference, weights, cam


def assert_as_oracle(method, rules, network, layer, *, to_grid=lambda rows: rows):
    images = 2 * noise_images(4)
    # Three images are explained for the class they are taken for, the last one for another.
    targets = network(images).argmax(dim=1)
    targets[3] = (targets[3] + 1) % 5
    found = method.decompose(
        capture(network, layer, images, targets, mean=torch.from_numpy(MEAN), std=torch.from_numpy(STD))
    )
    magnified = magnification(found, method).tolist()
    reach = map_tolerance(found, method, score_error=5e-6, map_error=2e-5).tolist()
    _, activations, gradients = plain_evidence(network, layer, images, targets)
    activations, gradients = to_grid(activations), to_grid(gradients)
    for row, target in enumerate(targets.tolist()):

        def score(image, target=target):
            with torch.no_grad():
                return network(torch.from_numpy(image).float()[None])[0, target].item()

        arrays = [tensor[row].double().numpy() for tensor in (activations, gradients, images)]
        patterns, scores, reference, weights, cam = oracle(rules, score, *arrays)
        largest = np.abs(patterns).max(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found.components[row].numpy() / largest, patterns / largest, atol=2e-5)
        np.testing.assert_allclose(found.scores[row], scores, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(found.reference_scores[row], reference, atol=1e-5, rtol=1e-5)
        assert found.fallback[row].item() is (weights is None)
        if weights is None:
            assert found.contributions[row].tolist() == [1 / K] * K
            continue
        # Weights divide by what sets the scores apart, which magnifies float32's rounding of the network.
        rounding = 5e-6 * magnified[row]
        np.testing.assert_allclose(found.contributions[row], weights, rtol=0, atol=rounding)
        np.testing.assert_allclose(found.cam[row], cam, rtol=0, atol=reach[row])
    assert not found.fallback.all()


def test_the_table_names_every_preset():
    assert set(TABLE) == set(PRESETS)


@pytest.mark.parametrize("preset", TABLE)
def test_preset_is_its_oracle(preset):
    assert_as_oracle(DecomCAM(n_components=K, integration=preset), TABLE[preset], seeded(SmallCNN(), 2), "stage2")


@pytest.mark.parametrize("preset", TABLE)
def test_preset_is_its_oracle_with_few_channels(preset):
    method = DecomCAM(n_components=K, integration=preset, top_p=6)
    assert_as_oracle(method, replace(TABLE[preset], p=6), seeded(SmallCNN(), 2), "stage2")


def test_decom_cam_pp_is_the_predecessor_with_other_channel_weights():
    weighed = DecomCAM(n_components=K, integration="predecessor", channel_weight="grad_cam_pp")
    assert weighed.preset == DecomCAM(n_components=K, integration="predecessor_pp").preset


def test_a_transformers_tokens_are_explained_like_any_map():
    def to_grid(rows):
        return rows[:, 1:].mT.unflatten(2, (8, 8))

    assert_as_oracle(DecomCAM(n_components=K), TABLE["paper"], transformer(prefix=1), "blocks.1", to_grid=to_grid)


def test_the_papers_blur_grows_with_the_shorter_side():
    images = noise_images(2)
    wide = F.interpolate(images, size=(32, 64))
    network = seeded(SmallCNN())
    for shown, side in ((images, 32), (wide, 32), (F.interpolate(images, size=(64, 64)), 64)):
        found = DecomCAM(n_components=2).decompose(capture(network, "stage2", shown, 0))
        blurred = np.stack(
            [[gaussian_filter(c, 10 * side / 224, mode="reflect") for c in image] for image in shown.double().numpy()]
        )
        with torch.no_grad():
            expected = network(torch.from_numpy(blurred).float())[:, 0]
        torch.testing.assert_close(found.reference_scores, expected, rtol=1e-5, atol=1e-5)


def test_presets_differ_from_one_another():
    network, images = seeded(SmallCNN(), 2), 2 * noise_images(4)
    evidence = capture(network, "stage2", images, "predicted", mean=torch.from_numpy(MEAN), std=torch.from_numpy(STD))
    cams = [DecomCAM(n_components=K, integration=preset)(evidence) for preset in TABLE]
    for i, one in enumerate(cams):
        for other in cams[i + 1 :]:
            assert (one - other).abs().max() > 1e-3
