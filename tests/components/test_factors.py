"""Decision factors found from a network, followed over snapshots, and what misled it."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lit_decom import Components, DecomCAM, Explainer, Probe, Scoring
from lit_decom.components import FollowedFactors, wrong_decisions
from lit_decom.components.shared import SharedComponents
from lit_decom.evidence import capture
from lit_decom.functional.decision_factors import factor_maps
from lit_decom.observer import Observer
from lit_decom.process import Process
from lit_decom.records import Snapshot
from tests.helpers.networks import SmallCNN, noise_images, plain_evidence, seeded

METHOD = DecomCAM(n_components=2)


class Coloured(nn.Module):
    """The mean of each of four channels decides by a linear head: the layer is what comes in."""

    def __init__(self, head):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1, bias=False)
        self.head = nn.Linear(4, len(head), bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(4)[:, :, None, None])
            self.head.weight.copy_(torch.as_tensor(head))

    def forward(self, images):
        return self.head(self.layer(images).mean(dim=(2, 3)))


def coloured_images(n=24, seed=0):
    return torch.randn(n, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def find(followed, network, layer, images, step, *, targets=0, batch=16):
    followed.begin()
    for piece in images.split(batch):
        followed.add(capture(network, layer, piece, targets))
    return followed.finish(tuple(images.shape[-2:]), step=step)


def network_and_images(n=12):
    return seeded(SmallCNN()), noise_images(n)


def test_with_a_linear_head_the_maps_are_the_directions_of_the_activations():
    network, images = network_and_images()
    found = find(FollowedFactors(), network, "stage2", images, 1)
    factors = found.factors
    activations = network.features(images).detach().double()
    expected = torch.einsum("ck,nchw->nkhw", factors.directions, activations)
    # What the layer says along a factor is its score where all of the logits are explained.
    weights = (network.head.weight - network.head.weight.mean(0)).double()
    projected = factors.codes @ factors.readout.T
    assert_close(factors.codes, projected @ weights @ factors.directions, rtol=1e-4, atol=1e-5)
    assert_close(found.maps.double(), expected, rtol=1e-3, atol=1e-4)


def test_maps_are_grad_cam_of_code_times_score():
    network, images = network_and_images(4)
    found = find(FollowedFactors(), network, "stage1", images, 1, targets="predicted")
    classes = network(images).argmax(1)
    shown = factor_maps(found.factors.codes, found.maps, classes)
    per_class = [plain_evidence(network, "stage1", images, torch.full((4,), c)) for c in range(5)]
    activations = per_class[0][1]
    for image in range(4):
        for j in range(shown.shape[1]):
            code = float(found.factors.codes[classes[image], j])
            readout = found.factors.readout[:, j] - found.factors.readout[:, j].mean()
            gradient = sum(float(readout[c]) * code * per_class[c][2][image] for c in range(5))
            expected = torch.einsum("c,chw->hw", gradient.sum((1, 2)), activations[image]).relu()
            scale = float(shown.max())
            assert_close(shown[image, j], expected, rtol=1e-3, atol=1e-5 * scale)
    assert shown.amax() > 0


def test_neither_batches_nor_processes_matter():
    network, images = network_and_images(10)
    whole = find(FollowedFactors(), network, "stage1", images, 1, batch=10)
    pieces = find(FollowedFactors(), network, "stage1", images, 1, batch=3)
    parts = [FollowedFactors() for _ in range(3)]
    for rank, part in enumerate(parts):
        part.begin(rank, 3)
        part.add(capture(network, "stage1", images[rank::3], 0))

    def everyone(work):
        question, arguments = (work.func, work.args) if isinstance(work, partial) else (work, ())
        return [getattr(part, question.__name__)(*arguments) for part in parts]

    shared = parts[0].finish((32, 32), step=1, share=everyone)
    for other in (pieces, shared):
        # Float32 passes in other batches, through an inverse.
        for name in ("codes", "scores", "directions", "shares"):
            expected = getattr(whole.factors, name)
            assert_close(getattr(other.factors, name), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
        assert_close(other.maps, whole.maps, rtol=0, atol=1e-3 * float(whole.maps.abs().max()))
        assert torch.equal(other.images, whole.images)


FIRST = [[2.0, 0.0, 0.0, 0.0], [-2.0, 0.0, 0.0, 0.0], [0.0, 1.5, 0.0, 0.0], [0.0, -1.5, 0.0, 0.0]]
SWAPPED = [[1.5, 0.0, 0.0, 0.0], [-1.5, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, -2.1, 0.0, 0.0]]
OTHER = [[1.5, 0.0, 0.0, 0.0], [-1.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -2.0], [0.0, 0.0, 0.0, 2.1]]


def white_images():
    """Channel means that do not correlate, of equal variance, so that factors are channels."""
    images = coloured_images(24)
    means = torch.linalg.qr(torch.cat((torch.ones(24, 1), images.mean(dim=(2, 3))), dim=1)).Q[:, 1:]
    return images - images.mean(dim=(2, 3), keepdim=True) + 5 * means[:, :, None, None]


def test_a_factor_keeps_its_name_and_sign_while_its_rank_and_largest_class_change():
    images, followed = white_images(), FollowedFactors()
    first = find(followed, Coloured(FIRST), "layer", images, 1)
    second = find(followed, Coloured(SWAPPED), "layer", images, 2)
    assert (first.identities, second.identities) == ([0, 1], [1, 0])
    assert [round(float(code), 3) for code in first.factors.codes[:, 1]] == [0, 0, 1.5, -1.5]
    # By itself its sign would be that of the class which is negative here.
    column = second.factors.codes[:, 0]
    assert column[2] > 0 > column[3]
    assert column[3].abs() > column[2].abs()
    assert second.tracked.flips[0, 0]
    # What codes times scores tell is the same with either sign.
    told = second.factors.scores @ second.factors.codes.T
    logits = Coloured(SWAPPED)(images).detach().double()
    logits = logits - logits.mean(1, keepdim=True)
    assert_close(told, logits - logits.mean(0), rtol=1e-3, atol=1e-4)
    third = find(followed, Coloured(SWAPPED), "layer", images, 3)
    assert_close(third.factors.codes, second.factors.codes)
    assert_close(third.maps, second.maps)
    assert third.numbers()["factor_confidence"] > 0.9
    alone = find(FollowedFactors(), Coloured(SWAPPED), "layer", images, 1)
    assert_close(alone.factors.codes[:, 0], -column)
    shown, turned = (factor_maps(one.factors.codes, one.maps, torch.zeros(24).long()) for one in (second, alone))
    assert_close(shown, turned, msg="what speaks for a class does not depend on the factor's sign")


def test_births_and_deaths():
    images, followed = white_images(), FollowedFactors()
    find(followed, Coloured(FIRST), "layer", images, 1)
    found = find(followed, Coloured(OTHER), "layer", images, 2)
    assert sorted(found.identities) == [0, 2]
    assert found.numbers()["factor_births"] == 1
    for step in (3, 4):
        found = find(followed, Coloured(OTHER), "layer", images, step)
    assert found.numbers()["factor_deaths"] == 1, "gone for longer than it is waited for"


def test_a_resumed_run_goes_on_with_names_and_signs():
    images, whole, first = white_images(), FollowedFactors(), FollowedFactors()
    for followed in (whole, first):
        find(followed, Coloured(FIRST), "layer", images, 1)
        find(followed, Coloured(SWAPPED), "layer", images, 2)
    resumed = FollowedFactors()
    resumed.load_state_dict(first.state_dict())
    expected, found = (find(followed, Coloured(SWAPPED), "layer", images, 3) for followed in (whole, resumed))
    assert found.identities == expected.identities
    assert torch.equal(found.factors.codes, expected.factors.codes)
    assert found.numbers() == expected.numbers()


def test_a_network_that_does_not_look_at_the_layer_has_no_factors():
    images, followed = coloured_images(), FollowedFactors()
    found = find(followed, Coloured([[0.0] * 4] * 3), "layer", images, 1)
    assert (found.maps.shape, found.images.shape) == ((24, 0, 4, 4), (0, 4))
    assert set(found.factors.states) == {"no_variation", "dead_layer"}
    assert "completeness" not in found.numbers()
    wrong = wrong_decisions(
        torch.eye(3)[[0] * 24], torch.ones(24).long(), found.factors.codes, found.factors.scores, found.maps
    )
    assert wrong.factors.tolist() == [-1] * 24
    assert wrong.maps.isnan().all()


def test_an_image_that_is_not_finite_has_no_scores_and_spoils_no_other():
    images = white_images()
    network = Coloured(FIRST)
    spoiled = torch.cat((images, images[:1]))
    spoiled[-1, 0, 0, 0] = torch.nan
    expected, found = (find(FollowedFactors(), network, "layer", some, 1) for some in (images, spoiled))
    assert found.factors.scores[-1].isnan().all()
    assert found.maps[-1].isnan().all()
    assert_close(found.factors.scores[:-1], expected.factors.scores)
    assert 24 not in found.images
    nothing = find(FollowedFactors(), network, "layer", torch.full_like(images, torch.nan), 1)
    assert nothing is None


def test_what_misled_the_network():
    codes = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, -2.5]])
    scores = torch.tensor([[1.0, -1.0], [2.0, 3.0], [torch.nan, 1.0], [0.5, 0.5]])
    logits = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 2])
    maps = torch.arange(32.0).reshape(4, 2, 2, 2) - 4
    found = wrong_decisions(logits, labels, codes, scores, maps)
    # Image 3 is right. 0: (1, -2), the second. 1: (-2, 1.5), the first. 2: nobody knows.
    assert found.images.tolist() == [0, 1, 2]
    assert found.factors.tolist() == [1, 0, -1]
    assert_close(found.support, torch.tensor([-2.0, -2.0, torch.nan]), equal_nan=True)
    assert_close(found.maps[0], (2 * maps[0, 1]).relu())
    assert_close(found.maps[1], (-maps[1, 0]).relu())
    assert found.maps[2].isnan().all()


def probe(n=12):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, 16, 16, dtype=torch.bool)
    masks[:, 4:10, 4:10] = True
    return Probe.from_tensors(torch.randn(n, 3, 16, 16, generator=generator), torch.arange(n) % 3, masks=masks)


def test_a_snapshot_keeps_and_logs_the_factors(tmp_path):
    network, images = seeded(SmallCNN()), probe()
    observer = Observer(Explainer(METHOD), Scoring(), Components(shared="decision_factors"))
    observer.prepare(network, images)
    record = observer.observe(network, epoch=0, step=1)
    read = Snapshot.load(record.save(tmp_path))
    n_factors = read.factor_codes.shape[1]
    assert read.factor_codes.shape == (5, n_factors)
    assert read.factor_directions.shape == (8, n_factors)
    assert read.factor_maps.shape == (12, n_factors, 8, 8)
    assert read.factor_scores.shape == (12, n_factors)
    assert read.factor_states == record.factor_states
    assert read.shared_patterns is None
    numbers = record.numbers
    assert_close(sum(numbers[f"factor_share/{j + 1:02d}"] for j in range(n_factors)), numbers["completeness"])
    wrong = record.logits.argmax(1) != images.labels
    assert wrong.any()
    expected = record.factor_scores[wrong, 0].mean()
    assert abs(numbers["factor_score/incorrect/01"] - float(expected)) < 1e-5
    again = Observer(Explainer(METHOD), Scoring(), Components(shared="decision_factors"))
    again.load_state_dict(observer.state_dict())
    again.prepare(network, images)
    second = again.observe(network, epoch=1, step=2, process=Process())
    assert torch.equal(second.factor_identities, record.factor_identities)
    assert "factor_births" not in second.numbers, "an untrained network has nothing to go on from"


def test_names_begin_anew_once_a_network_is_no_longer_untrained(monkeypatch):
    observer, images = Observer(Explainer(METHOD), Scoring(), Components(shared="decision_factors")), probe()
    observer.prepare(seeded(SmallCNN()), images)
    names = []
    for step, untrained_above in enumerate((0.0, 1.0, 1.0)):
        monkeypatch.setattr("lit_decom.functional.decision_factors.UNTRAINED_ABOVE", untrained_above)
        network = seeded(SmallCNN(), step)  # another one each time, so that every factor is born
        names.append(observer.observe(network, epoch=step, step=step + 1).factor_identities.tolist())
    first, second, third = (sorted(found) for found in names)
    assert first == list(range(len(first)))
    assert second == list(range(len(second)))
    assert max(third) >= len(second), "they go on from there"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, FollowedFactors),
        ({"shared": "decision_factors"}, FollowedFactors),
        ({"shared": "svd"}, SharedComponents),
        ({"n_shared": 0}, type(None)),
    ],
)
def test_which_components_are_followed(options, kind):
    assert type(Components(**options).new(METHOD)) is kind


def test_how_many_components_are_followed():
    assert Components(shared="svd").new(METHOD).n_components == 6
    assert Components(3, shared="svd").new(METHOD).n_components == 3
    assert Components(shared="decision_factors").new(METHOD).max_factors == 12
    assert Components(3, shared="decision_factors").new(METHOD).max_factors == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": "pca"}, "Expected `shared` to be one of"),
        ({"n_shared": -1}, "Expected `n_shared` to be at least 0"),
        ({"freeze_shared": True}, "Expected `shared='svd'`"),
    ],
)
def test_components_that_cannot_be_followed_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Components(**options)
    with pytest.raises(ValueError, match="Expected `max_factors` to be at least 1"):
        FollowedFactors(0)


# ----- sanity: what factors owe to the head and to training


def two_part_images(n, seed):
    """Noise with a red spot on the left and a blue one on the right, each bright or dark: four classes of two bits."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(n, 3, 16, 16, generator=generator)
    bits = torch.randint(0, 2, (n, 2), generator=generator)
    rows = torch.randint(2, 11, (n, 2), generator=generator)
    for image, side in torch.cartesian_prod(torch.arange(n), torch.arange(2)).tolist():
        top, left = int(rows[image, side]), (2, 11)[side]
        images[image, 2 * side, top : top + 3, left : left + 3] += 4.0 * bits[image, side] - 2
    return images, 2 * bits[:, 0] + bits[:, 1]


def small_network():
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)]
    return seeded(nn.Sequential(nn.Sequential(*layers), *head), 2)


def trained(network, steps=100):
    images, labels = two_part_images(512, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(steps):
        rows = torch.arange(64) + 64 * (step % 8)
        optimizer.zero_grad()
        F.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()
    return network


def left_share(found):
    """By factor, how much of its map's energy lies on the left half."""
    energy = found.maps.square().sum(dim=(0, 2))
    return (energy[:, : energy.shape[1] // 2].sum(1) / energy.sum(1)).tolist()


def overlap(first, second):
    """Share of one set of directions that lies in the span of another, in [0, 1]."""
    return float((first.factors.directions.T @ second.factors.directions).square().sum() / first.maps.shape[1])


def test_factors_need_a_trained_network_and_its_own_head():
    images, labels = two_part_images(96, seed=1)
    network = small_network()
    raw = find(FollowedFactors(), network, "0", images, 1)
    assert (trained(network)(images).argmax(1) == labels).float().mean() > 0.9
    found = find(FollowedFactors(), network, "0", images, 1)
    other_probe = find(FollowedFactors(), network, "0", two_part_images(96, seed=2)[0], 1)
    with torch.no_grad():
        network[3].weight.copy_(torch.randn(4, 32, generator=torch.Generator().manual_seed(5)) / 6)
    new_head = find(FollowedFactors(), network, "0", images, 1)
    assert "untrained" in raw.factors.states
    assert found.factors.states == ()
    # Without any label of a side: one factor for each, and the two bits of every class.
    assert sorted(share > 0.5 for share in left_share(found)) == [False, True]
    assert all(abs(share - 0.5) > 0.3 for share in left_share(found))
    signs = {tuple(row) for row in found.factors.codes.sign().tolist()}
    assert signs == {(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)}
    assert overlap(found, other_probe) > 0.95
    assert overlap(found, new_head) < 0.5
    assert all(abs(share - 0.5) < 0.25 for share in left_share(new_head) + left_share(raw))
