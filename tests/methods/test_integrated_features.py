"""Integrated feature analysis against loops over images, on networks whose channels are known, and its tautology."""

import dataclasses

import numpy as np
import pytest
import torch

from lit_decom import capture
from lit_decom.functional.integrated_features import FeatureDistribution, IntensityScale, correlation
from lit_decom.methods import FeatureAnalysis, accuracy_left, reduced_logits
from lit_decom.render import overlay
from tests.helpers.networks import Flattening, Patches, SmallCNN, noise_images, plain_evidence, seeded

KINDS = ("elementwise", "mean", "grad_cam_pp")


def evidence_of(network, images, labels, layer="stage2"):
    return capture(network, layer, images, labels)


def noisy(n=24, seed=1):
    return 2 * noise_images(n, seed=seed)


def analysed(network, images, labels, kind="elementwise", batch=24):
    analysis = FeatureAnalysis(5, kind)
    for rows in torch.arange(len(images)).split(batch):
        analysis.update(evidence_of(network, images[rows], labels[rows]))
    return analysis


def answers(network, images):
    with torch.no_grad():
        return network(images).argmax(dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_mean_over_the_images_of_a_class_that_the_network_gets_right(kind):
    network, images = seeded(Flattening()), noisy()
    labels = answers(network, images)
    labels[::4] = (labels[::4] + 1) % 5
    found = analysed(network, images, labels, kind)
    logits, activations, gradients = plain_evidence(network, "stage2", images, labels)
    importances, largest, smallest, sums, own = {}, [], [], [], []
    for row, label in enumerate(labels.tolist()):
        a, g = activations[row].double().numpy(), gradients[row].double().numpy()
        if kind == "mean":
            g = np.broadcast_to(g.mean(axis=(1, 2), keepdims=True), g.shape)
        elif kind == "grad_cam_pp":
            below = 2 + a.sum(axis=(1, 2), keepdims=True) * g
            g = np.broadcast_to((np.maximum(g, 0) / below).sum(axis=(1, 2), keepdims=True), g.shape)
        drawn = (g * a).sum(axis=0)
        largest.append(drawn.max())
        smallest.append(drawn.min())
        sums.append(drawn.sum())
        own.append(logits[row, label].item())
        if logits[row].argmax() == label:
            importances.setdefault(label, []).append((g * a).sum(axis=(1, 2)))
    distribution = found.distribution
    every = np.concatenate([np.stack(rows) for rows in importances.values()])
    np.testing.assert_allclose(distribution.overall, every.mean(axis=0), atol=1e-4)
    for label in range(5):
        assert distribution.counts[label] == len(importances.get(label, []))
        if label in importances:
            np.testing.assert_allclose(distribution.by_class[label], np.mean(importances[label], axis=0), atol=1e-4)
        else:
            assert distribution.by_class[label].isnan().all()
    assert found.scale.high == pytest.approx(np.percentile(largest, 90), abs=1e-4)
    assert found.scale.low == pytest.approx(np.percentile(smallest, 50), abs=1e-4)
    for label in range(5):
        chosen = (labels == label).numpy()
        if chosen.sum() > 2:
            expected = np.corrcoef(np.array(sums)[chosen], np.array(own)[chosen])[0, 1]
            assert found.consistency[label].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["elementwise", "mean"])
def test_consistency_is_a_tautology_behind_pooling_and_a_linear_head(kind):
    network, images = seeded(SmallCNN()), noisy(40)
    labels = torch.arange(40) % 5
    consistency = analysed(network, images, labels, kind).consistency
    # Of a network that was never trained, whatever the labels are.
    torch.testing.assert_close(consistency, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)


def test_it_is_none_behind_a_head_that_is_not_linear():
    class Squared(SmallCNN):
        def forward(self, images):
            return self.head(self.features(images).square().mean(dim=(2, 3)).sqrt().tanh())

    consistency = analysed(seeded(Squared()), noisy(40), torch.arange(40) % 5).consistency
    assert consistency.max() < 0.999


def test_batches_add_up():
    network, images = seeded(SmallCNN()), noisy()
    labels = answers(network, images)
    one, other = analysed(network, images, labels), analysed(network, images, labels, batch=5)
    torch.testing.assert_close(
        one.distribution.by_class, other.distribution.by_class, equal_nan=True, rtol=0, atol=1e-5
    )
    assert one.scale.high == pytest.approx(other.scale.high, rel=1e-5)


def test_a_broken_image_is_left_out_and_counted():
    network, images = seeded(SmallCNN()), noisy()
    labels = answers(network, images)
    clean = analysed(network, images[1:], labels[1:])
    images[0, 0, 0, 0] = torch.nan
    found = analysed(network, images, labels)
    assert (clean.n_left_out, found.n_left_out) == (0, 1)
    torch.testing.assert_close(found.distribution.overall, clean.distribution.overall, rtol=0, atol=1e-5)
    assert found.scale.high == pytest.approx(clean.scale.high, rel=1e-5)
    assert found.consistency.isfinite().any()


# ----- the common intensity scale


def test_the_scale_sends_its_ends_where_they_belong():
    scale = IntensityScale(low=-2.0, high=6.0)
    ends = torch.tensor([-2.0, 2.0, 6.0, 60.0])
    torch.testing.assert_close(scale.linear(ends), torch.tensor([0.0, 0.5, 1.0, 7.75]))
    found = scale.tanh(ends)
    torch.testing.assert_close(found[[0, 2]], torch.tensor([0.05, 0.95]))
    assert 0.05 < found[1] < 0.95 < found[3] <= 1


def test_the_scale_is_of_percentiles_and_leaves_out_what_is_not_finite():
    largest = torch.tensor([*range(11), float("nan")])
    scale = IntensityScale.of(largest, -largest)
    assert (scale.low, scale.high) == (-5.0, 9.0)
    with pytest.raises(ValueError, match="at least one map that is finite"):
        IntensityScale.of(torch.tensor([torch.nan]), torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"`high` to be above `low`, but got 0\.0 and 0\.0"):
        IntensityScale.of(torch.zeros(3), torch.zeros(3))


def test_pictures_on_the_scale_can_be_compared():
    faint, strong = torch.zeros(4, 4), torch.zeros(4, 4)
    faint[1, 1], strong[1, 1] = 1.0, 4.0
    images, maps = torch.zeros(2, 3, 4, 4), torch.stack([faint, strong])
    each = overlay(images, maps)
    assert torch.equal(each[0], each[1])
    common = overlay(images, maps, IntensityScale(0.0, 4.0).limits(2))
    assert common[0].sum() < 0.8 * common[1].sum()
    assert torch.equal(common[1], each[1])


# ----- feature decomposition


def coloured(n=30):
    """Pictures of one colour each, with a little of the others, for a head that reads each class off its colour."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    pictures = 0.2 * torch.rand(n, 3, 8, 8, generator=generator)
    pictures[torch.arange(n), labels] += 0.5
    return Patches([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), pictures, labels


def test_the_channels_that_tell_a_class_apart_suffice_and_others_do_not():
    network, pictures, labels = coloured()
    evidence = capture(network, "colours", pictures, labels)
    analysis = FeatureAnalysis(3)
    analysis.update(evidence)
    assert torch.equal(analysis.distribution.distinctive(1 / 3), torch.eye(3, dtype=torch.bool))
    left = accuracy_left([evidence], analysis.distribution, 1 / 3, seed=1)
    drawn = analysis.distribution.random(1 / 3, torch.Generator().manual_seed(1))
    expected = (reduced_logits(evidence, drawn).argmax(dim=1) == labels).float().mean().item()
    assert (left.full, left.distinctive, left.n_images) == (1.0, 1.0, 30)
    assert left.rest == pytest.approx(1 / 3)  # no class has a logit: the first one wins
    assert left.random == pytest.approx(expected)
    assert left.random < 1


@pytest.mark.parametrize("make", [SmallCNN, Flattening])
def test_reduced_logits_are_those_of_activations_with_zeros(make):
    network, images = seeded(make()), noise_images(3)
    kept = torch.rand(5, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    kept[3] = False
    found = reduced_logits(evidence_of(network, images, torch.zeros(3, dtype=torch.long)), kept)
    for label in (0, 1, 2, 4):
        mask = kept[label].float()[:, None, None]
        handle = network.stage2.register_forward_hook(lambda _module, _args, output, mask=mask: output * mask)
        with torch.no_grad():
            expected = network(images)[:, label]
        handle.remove()
        torch.testing.assert_close(found[:, label], expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert (found[:, 3] == -torch.inf).all()


def test_with_all_channels_they_are_the_logits():
    evidence = evidence_of(seeded(SmallCNN()), noise_images(3), torch.tensor([0, 1, 2]))
    found = reduced_logits(evidence, torch.ones(5, 12, dtype=torch.bool))
    torch.testing.assert_close(found, evidence.logits, rtol=1e-5, atol=1e-5)


def test_a_broken_image_has_no_reduced_logits_and_counts_as_wrong():
    network, pictures, labels = coloured(6)
    pictures[1, 0, 0, 0] = torch.nan
    evidence = capture(network, "colours", pictures, labels)
    assert reduced_logits(evidence, torch.eye(3, dtype=torch.bool))[1].isnan().all()
    analysis = FeatureAnalysis(3)
    analysis.update(evidence)
    left = accuracy_left([evidence], analysis.distribution, 1 / 3)
    assert (left.full, left.distinctive) == pytest.approx((5 / 6, 5 / 6))


def test_how_many_are_chosen():
    by_class = torch.tensor([[0.0, 5.0, -7.0, 1.0], [torch.nan] * 4])
    found = FeatureDistribution(torch.tensor([0.0, 1.0, 1.0, 1.0]), by_class, torch.tensor([2, 0]))
    assert found.distinctive(0.5).tolist() == [[False, True, True, False], [False] * 4]
    assert found.distinctive(0.01).sum() == 1
    assert found.distinctive(1.0).sum() == 4
    assert found.random(0.5, torch.Generator().manual_seed(0)).sum(dim=1).tolist() == [2, 0]
    draws = torch.stack([found.random(0.5, torch.Generator().manual_seed(seed))[0] for seed in range(200)]).double()
    assert ((draws.mean(dim=0) - 0.5).abs() < 4 * (0.25 / 200) ** 0.5).all()


def test_what_cannot_be_is_refused():
    evidence = evidence_of(seeded(SmallCNN()), noise_images(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="`kind` to be one of 'elementwise', 'mean', 'grad_cam_pp', but got 'sum'"):
        FeatureAnalysis(5, "sum")
    with pytest.raises(ValueError, match="a class in each image"):
        FeatureAnalysis(5).update(dataclasses.replace(evidence, targets=torch.tensor([-1, -1])))
    with pytest.raises(ValueError, match="at least one image that the network gets right"):
        _ = FeatureAnalysis(5).distribution
    distribution = FeatureDistribution(torch.zeros(12), torch.zeros(5, 12), torch.ones(5, dtype=torch.long))
    for ratio in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"`ratio` to be in \(0, 1\]"):
            distribution.distinctive(ratio)
    with pytest.raises(ValueError, match="at least one image, but got none"):
        accuracy_left([], distribution)


def test_too_few_images_have_no_correlation():
    assert correlation(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])).isnan()
    assert correlation(torch.ones(4), torch.arange(4.0)).isnan()
