import pytest
import torch

from lit_decom.concepts import ConceptTree, PartClassifiers

TREE = ConceptTree.load("critters")


def scores_of(labels, noise=0.3, seed=0):
    """Scores of an image-text model that sees every part with some noise."""
    names = list(TREE.classes)
    true = [[TREE.holds(names[label], concept) for concept in TREE.concepts] for label in labels.tolist()]
    drawn = torch.randn(len(labels), len(TREE.concepts), generator=torch.Generator().manual_seed(seed))
    return 5 + 3 * (torch.tensor(true, dtype=torch.float32) + noise * drawn)


LABELS = torch.arange(160) % 8
FOUND = PartClassifiers.fit(TREE, scores_of(LABELS), LABELS)


def oracle(votes, row):
    """Adds the parts' probabilities, number by number."""
    totals = [sum(float(votes[row, part, label]) for part in range(3)) for label in range(8)]
    return totals.index(max(totals))


def test_parts_together_tell_what_none_tells_alone():
    labels = torch.arange(80) % 8
    scores = scores_of(labels, seed=1)
    votes = FOUND.votes(scores)
    assert votes.shape == (80, 3, 8)
    torch.testing.assert_close(votes.sum(dim=2), torch.ones(80, 3).double())
    assert (FOUND.predict(scores) == labels).double().mean() > 0.85
    for part in range(3):
        alone = (votes[:, part].argmax(dim=1) == labels).double().mean()
        assert alone < 0.5, "a part tells one of two, and so at best one class in four"
    assert FOUND.predict(scores).tolist() == [oracle(votes, row) for row in range(80)]


def test_a_hard_vote_counts_the_likeliest_class_of_each_part():
    scores = scores_of(LABELS, noise=0.8, seed=2)
    votes = FOUND.votes(scores)
    found = FOUND.predict(scores, "hard")
    for row in range(len(scores)):
        counts = torch.bincount(votes[row].argmax(dim=1), minlength=8)
        assert counts[found[row]] == counts.max()
        best = [label for label in range(8) if counts[label] == counts.max()]
        assert votes[row].sum(dim=0)[found[row]] == votes[row].sum(dim=0)[best].max()


def test_each_part_sees_the_scores_of_its_own_concepts_alone():
    scores = scores_of(LABELS[:8])
    altered = scores.clone()
    altered[:, TREE.columns("nose")] += torch.arange(8.0)[:, None] * torch.tensor([1.0, -1.0])
    before, after = FOUND.votes(scores), FOUND.votes(altered)
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[1:, 2] - after[1:, 2]).abs().amax(dim=1).min() > 1e-3


def test_scale_and_offset_of_the_scores_do_not_matter():
    scores = scores_of(LABELS)
    scaled = PartClassifiers.fit(TREE, 40 * scores - 7, LABELS)
    torch.testing.assert_close(scaled.votes(40 * scores - 7), FOUND.votes(scores), rtol=1e-3, atol=1e-4)


def test_two_classes_have_a_vote_each():
    tree = ConceptTree({name: TREE.classes[name] for name in ("piko", "muzonk")})
    labels = torch.arange(40) % 2
    scores = torch.where(labels[:, None] == 0, 1.0, -1.0) * torch.tensor([1, -1, 1, -1, 1, -1])
    scores = scores + 0.1 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    found = PartClassifiers.fit(tree, scores, labels)
    assert found.votes(scores).shape == (40, 3, 2)
    assert torch.equal(found.predict(scores), labels)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(160, 5), LABELS, r"Expected `scores` to be \(n, 6\), but got \(160, 5\)"),
        (torch.zeros(16, 6), torch.arange(16) % 7, "Expected `labels` to be .* with each of 0 to 7"),
        (torch.zeros(16, 6), torch.arange(8), r"Expected `labels` to be \(16,\)"),
    ],
)
def test_what_does_not_fit_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        PartClassifiers.fit(TREE, scores, labels)


def test_an_unknown_vote_is_refused():
    with pytest.raises(ValueError, match="Expected `voting` to be 'soft' or 'hard', but got 'loud'"):
        FOUND.predict(scores_of(LABELS), "loud")
