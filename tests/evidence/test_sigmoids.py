"""Networks that end in sigmoids: one logit is a network of two classes, several are as many networks with one."""

import copy
from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lit_decom import DecomCAM, capture, find_target_layer
from lit_decom.evidence import combined_gradients
from tests.helpers.networks import NoGradBackbone, Patches, SmallCNN, noise_images, seeded, two_sized_images

LABELS = torch.tensor([1, 0, 0, 1])
ASKED = torch.tensor([2, 0, 4, 2])
METHOD = DecomCAM(n_components=3)


class OneLogit(SmallCNN):
    """Its logit comes as ``(B,)``, ``(B, 1)``, or without any dimension where there is one image."""

    def __init__(self, shape="column"):
        super().__init__(n_classes=1)
        self.shape = shape

    def forward(self, images):
        logit = super().forward(images)
        return {"column": logit, "flat": logit[:, 0], "squeezed": logit.squeeze()}[self.shape]


def twin(network):
    """The same network with a head of two classes."""
    other = copy.deepcopy(network)
    head = nn.Linear(12, 2)
    with torch.no_grad():
        head.weight.copy_(torch.cat([-network.head.weight / 2, network.head.weight / 2]))
        head.bias.copy_(torch.cat([-network.head.bias / 2, network.head.bias / 2]))
    other.head, other.shape = head, "column"
    return other.eval()


def assert_same_components(ours, theirs, **tolerance):
    for entry in fields(ours):
        assert_close(getattr(ours, entry.name), getattr(theirs, entry.name), msg=entry.name, **tolerance)


# ----- one logit


def test_one_logit_known_on_paper():
    images = torch.zeros(2, 3, 4, 6)
    images[:, 1, 0:2, 2:4] = 1.0
    network = Patches([[1.0, -6.0, 3.0]])
    evidence = capture(network, "colours", images, torch.tensor([1, 0]))
    # The green patch is one of six positions, so the logit is -6 / 6; the score is half of it towards either label.
    assert_close(evidence.logits, torch.tensor([[0.5, -0.5], [0.5, -0.5]]))
    rows = torch.arange(2)
    assert_close(evidence.score(evidence.logits, rows), torch.tensor([-0.5, 0.5]))
    weights = torch.tensor([1.0, -6.0, 3.0]) / 6 / 2
    towards = torch.stack([weights, -weights])[:, :, None, None].expand(2, 3, 2, 3)
    assert_close(evidence.gradients, towards)
    # Green speaks for label 0: its map is the green patch there, and nothing where label 1 is explained.
    lit = METHOD.weighted_maps(evidence).sum(dim=1) > 0
    assert lit[0].sum() == 0
    assert lit[1].nonzero().tolist() == [[0, 1]]


@pytest.mark.parametrize("shape", ["column", "flat", "squeezed"])
@pytest.mark.parametrize("targets", [LABELS, "predicted", "contrast", 1], ids=["label", "predicted", "contrast", "one"])
def test_a_network_with_one_logit_is_its_twin_with_two(shape, targets):
    network, images = seeded(OneLogit(shape)), noise_images()
    ours = capture(network, "stage2", images, targets)
    theirs = capture(twin(network), "stage2", images, targets)
    assert torch.equal(ours.targets, theirs.targets)
    for name in ("logits", "activations", "gradients"):
        assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    assert_same_components(METHOD.decompose(ours), METHOD.decompose(theirs), rtol=1e-3, atol=1e-5)
    # What decision factors ask for.
    combinations = torch.tensor([[1.0], [-2.0]])
    found = [combined_gradients(evidence, images, combinations) for evidence in (ours, theirs)]
    assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["column", "flat", "squeezed"])
def test_one_image_alone_has_its_logit(shape):
    network, images = seeded(OneLogit(shape)), noise_images(1)
    expected = network(images).reshape(1, 1) / 2
    assert_close(capture(network, "stage2", images, 1).logits, torch.cat([-expected, expected], dim=1))
    assert find_target_layer(network, images=images).name == "stage2"


# ----- several labels


class Shifted(SmallCNN):
    """Logits of which each has another sign in most images."""

    def forward(self, images):
        return super().forward(images) + torch.tensor([2.0, -2.0, 0.0, 1.0, -1.0])


@pytest.mark.parametrize("there", [True, False])
def test_a_row_is_half_of_its_label_explained_alone(there):
    network, images = seeded(Shifted()), two_sized_images()
    together = capture(network, "stage2", images, ASKED if there else ASKED + 5, asked=ASKED)
    found = METHOD.decompose(together)
    sign = 0.5 if there else -0.5
    for row, label in enumerate(ASKED.tolist()):
        alone = capture(network, "stage2", images[row : row + 1], label)
        assert_close(together.gradients[row], sign * alone.gradients[0], rtol=1e-4, atol=1e-7)
        assert_close(together.logits[row, label], alone.logits[0, label] / 2, rtol=1e-4, atol=1e-6)
        if there:
            # Maps and scores are half, what they are compared with as well: so the same counts.
            expected = METHOD.decompose(alone)
            for name in ("components", "singular_values", "scores", "reference_scores"):
                ours, theirs = getattr(found, name)[row], getattr(expected, name)[0] / 2
                assert_close(ours, theirs, rtol=1e-3, atol=2e-5 * float(theirs.abs().max()), msg=name)
            assert_close(found.contributions[row], expected.contributions[0], rtol=1e-3, atol=1e-3)
            assert_close(found.cam[row], expected.cam[0] / 2, rtol=1e-2, atol=1e-3 * float(expected.cam.max()))


def test_altered_images_are_asked_about_the_label_of_their_row():
    network, images = seeded(Shifted()), noise_images()
    evidence = capture(network, "stage2", images, ASKED, asked=ASKED, chunk_size=3)
    again = evidence.relogits(images.flip(0)[:, None].expand(-1, 2, -1, -1, -1))
    plain = network(images.flip(0)).detach()
    for row, label in enumerate(ASKED.tolist()):
        for version in range(2):
            assert_close(again[row, version, label], plain[row, label] / 2, rtol=1e-4, atol=1e-5)
            assert again[row, version].isfinite().nonzero().flatten().tolist() == [label, label + 5]
    assert evidence.rescore(torch.zeros(0, dtype=torch.long), lambda part: images[part]).shape == (0, 10)
    assert evidence.rescore(torch.tensor([3]), lambda _: images[:1], "bfloat16").isfinite().sum() == 2


@pytest.mark.parametrize("targets", [None, "predicted", "contrast", ASKED + 5], ids=str)
def test_the_evidence_of_altered_images_asks_the_same(targets):
    network, images = seeded(Shifted()), noise_images()
    again = capture(network, "stage2", images, ASKED, asked=ASKED).again(images.flip(0), targets)
    expected = capture(network, "stage2", images.flip(0), ASKED if targets is None else targets, asked=ASKED)
    assert torch.equal(again.targets, expected.targets)
    assert_close(again.logits, expected.logits)
    assert_close(again.gradients, expected.gradients)


def test_predicted_is_the_answer_to_the_question_of_the_row():
    network, images = seeded(Shifted()), noise_images()
    evidence = capture(network, "stage2", images, "predicted", asked=ASKED)
    passes = network(images).gather(1, ASKED[:, None])[:, 0] > 0
    assert torch.equal(evidence.targets, torch.where(passes, ASKED, ASKED + 5))
    assert passes.any()
    assert not passes.all()
    contrast = capture(network, "stage2", images, "contrast", asked=ASKED)
    assert_close(contrast.gradients, 2 * evidence.gradients)


def test_a_backbone_that_does_not_record_is_asked_again_about_the_same_labels():
    network, images = seeded(NoGradBackbone()), noise_images()
    evidence = capture(network, "stage2", images, ASKED + 5, asked=ASKED)
    plain = SmallCNN().eval()
    plain.load_state_dict(network.state_dict())
    assert_close(evidence.gradients, capture(plain, "stage2", images, ASKED + 5, asked=ASKED).gradients)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (torch.tensor([0, 1, 2]), r"`asked` to be \(4,\) labels, but got \(3,\)"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), r"`asked` to be \(4,\) labels, but got \(4,\) torch\.float32"),
        (torch.tensor([0, 1, 2, 5]), r"`asked` to be between 0 and 4, but got 0 to 5"),
        (torch.tensor([0, -1, 2, 3]), r"`asked` to be between 0 and 4, but got -1 to 3"),
    ],
)
def test_labels_that_the_network_does_not_have_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        capture(seeded(SmallCNN()), "stage2", noise_images(), 0, asked=asked)
