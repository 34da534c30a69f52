"""Classes from concepts: one linear classifier for each part, and their votes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lit_decom.concepts.tree import ConceptTree

Voting = Literal["soft", "hard"]


@dataclass(frozen=True)
class PartClassifiers:
    """A linear classifier for each part of a concept tree, on the scores of that part's concepts.

    So every decision is a vote of parts, and each part's vote follows from what the image-text model sees of it. After
    Hi-CoDe (arXiv 2405.18672): similarities of image and concepts per part, one linear classifier per part, fused by
    voting. How its classifiers are trained and what kind of vote it takes is not known to us; logistic regression on
    standardised scores and both kinds of votes are our choice.

    Attributes:
        tree: the concept tree.
        n_classes: number of classes.
        weights: for each part ``(n concepts of the part, N)``.
        biases: for each part ``(N,)``.
    """

    tree: ConceptTree
    n_classes: int
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @classmethod
    def fit(cls, tree: ConceptTree, scores: Tensor, labels: Tensor, *, strength: float = 1.0) -> PartClassifiers:
        """Train them.

        Args:
            tree: the concept tree.
            scores: of each image for each of ``tree.concepts``, ``(n, L)``.
            labels: ``(n,)``, classes in the order of ``tree.classes``; each at least once.
            strength: inverse of the weight decay, as in scikit-learn.

        Raises:
            ValueError: If shapes do not fit together, or a class has no image.
        """
        n_classes = len(tree.classes)
        _check_scores(tree, scores)
        there = sorted(set(labels.flatten().tolist()))
        if labels.shape != (len(scores),) or there != list(range(n_classes)):
            raise ValueError(
                f"Expected `labels` to be ({len(scores)},) with each of 0 to {n_classes - 1}, "
                f"but got {tuple(labels.shape)} with {there}."
            )
        weights, biases = zip(
            *(_fitted(scores[:, tree.columns(part)], labels, strength) for part in tree.parts), strict=True
        )
        return cls(tree, n_classes, weights, biases)

    def votes(self, scores: Tensor) -> Tensor:
        """Probability that each part gives each class, ``(n, R, N)``, from scores ``(n, L)``."""
        _check_scores(self.tree, scores)
        scores = scores.detach().cpu().double()
        logits = [
            scores[:, self.tree.columns(part)] @ weight + bias
            for part, weight, bias in zip(self.tree.parts, self.weights, self.biases, strict=True)
        ]
        return torch.stack(logits, dim=1).softmax(dim=2)

    def predict(self, scores: Tensor, voting: Voting = "soft") -> Tensor:
        """Tell the class of images from their scores.

        Args:
            scores: ``(n, L)``.
            voting: ``"soft"`` adds the parts' probabilities; ``"hard"`` counts the class that each part thinks
                likeliest, and takes the probabilities where as many parts are for several. A part alone often cannot
                tell the class, and then its hard vote is arbitrary.

        Returns:
            ``(n,)`` int64.
        """
        if voting not in ("soft", "hard"):
            raise ValueError(f"Expected `voting` to be 'soft' or 'hard', but got {voting!r}.")
        votes = self.votes(scores)
        total = votes.mean(dim=1)
        if voting == "hard":
            # Less than one vote in all.
            total = torch.nn.functional.one_hot(votes.argmax(dim=2), self.n_classes).sum(dim=1) + 0.5 * total
        return total.argmax(dim=1)


def _fitted(scores: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Weights and biases on the scores as they are, of a regression on standardised ones."""
    values = scores.detach().cpu().double().numpy()
    scaler = StandardScaler().fit(values)
    model = LogisticRegression(C=strength, max_iter=1000).fit(scaler.transform(values), labels.cpu().numpy())
    weights = model.coef_ / scaler.scale_
    biases = model.intercept_ - weights @ scaler.mean_
    if len(weights) == 1:  # of two classes scikit-learn keeps one row
        return torch.from_numpy(weights.repeat(2, axis=0).T * [-0.5, 0.5]), torch.from_numpy(biases * [-0.5, 0.5])
    return torch.from_numpy(weights.T), torch.from_numpy(biases)


def _check_scores(tree: ConceptTree, scores: Tensor) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(tree.concepts):
        raise ValueError(f"Expected `scores` to be (n, {len(tree.concepts)}), but got {tuple(scores.shape)}.")
