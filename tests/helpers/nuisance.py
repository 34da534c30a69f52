"""What an image shows beside its class, and the most that a classifier of it may get right by chance."""

import numpy as np
import torch
from scipy.stats import binom
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold

FOLDS = 2
ALPHA = 1e-4
SEED = 0
BORDER = 3  # pixels


def border_statistics(image, hidden=None):
    """Mean, spread and roughness of each colour along the border, and the mean size of the noise there.

    Args:
        image: uint8 ``(3, H, W)``.
        hidden: pixels to leave out, bool ``(H, W)``, such as those of a patch that is looked at by itself.
    """
    image = image.float()
    ring = torch.ones(image.shape[1:], dtype=torch.bool)
    ring[BORDER:-BORDER, BORDER:-BORDER] = False
    if hidden is not None:
        ring &= ~hidden
    across = image.diff(dim=2).abs()
    curved = 4 * image[:, 1:-1, 1:-1] - image[:, :-2, 1:-1] - image[:, 2:, 1:-1] - image[:, 1:-1, :-2]
    curved = (curved - image[:, 1:-1, 2:]).abs()
    parts = (image[:, ring], across[:, ring[:, 1:] & ring[:, :-1]], curved[:, ring[1:-1, 1:-1]])
    return torch.cat([torch.cat([part.mean(1), part.std(1)]) for part in parts])


def figure_statistics(target):
    """Place, size and area of the figure without the ears, which tell the class and reach out of the head."""
    figure = target["parts"][1:].any(0)
    rows, columns = figure.any(1).nonzero().flatten(), figure.any(0).nonzero().flatten()
    return torch.tensor([rows[0], rows[-1], columns[0], columns[-1], figure.sum()]).float()


def hits(features, labels):
    """Right answers in each fold of a random forest that never saw the fold, and how many there are in it.

    Args:
        features: ``(n, F)``.
        labels: ``(n,)``.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    found = []
    for known, new in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(features, labels):
        forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=SEED).fit(features[known], labels[known])
        found.append((int((forest.predict(features[new]) == labels[new]).sum()), len(new)))
    return found


def most_by_chance(n, share, alpha=ALPHA):
    """The most right answers among `n` that features which tell nothing give, but for a probability `alpha`.

    If the features are independent of the labels, then whatever was learnt from the other folds, each answer in a fold
    is right with a probability of at most the share of the commonest class, so the right answers are at most binomial.
    (Folds that hold each class in proportion are drawn without replacement, which spreads less.) There are `FOLDS`
    folds, so each is given its part of `alpha`.
    """
    return int(binom.ppf(1 - alpha / FOLDS, n, share))


def tells_the_class(features, labels):
    """Whether a classifier of the features is right more often than chance explains, in any fold."""
    share = np.bincount(np.asarray(labels)).max() / len(labels)
    return any(right > most_by_chance(n, share) for right, n in hits(features, labels))
