"""Labels of critters: as many of each kind, or unequally many, and with mistakes."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import torch
from torch import Tensor

from lit_decom.data.figure import SPECIES


def balanced_labels(n: int, key: str) -> Tensor:
    """Labels of which every run of one per class holds each class once, in random order."""
    labels: list[int] = []
    for block in range(-(-n // len(SPECIES))):
        rng = Random(f"{key}/labels/{block}")
        labels += sorted(range(len(SPECIES)), key=lambda _, rng=rng: rng.random())  # type: ignore[misc]
    return torch.tensor(labels[:n])


def drawn_labels(n: int, key: str, proportions: Sequence[float]) -> Tensor:
    """Labels that are drawn one by one with the given relative frequencies."""
    edges = list(accumulate(proportions))
    draws = [Random(f"{key}/labels/{i}").random() * edges[-1] for i in range(n)]
    return torch.tensor([bisect_right(edges[:-1], draw) for draw in draws])


def noisy_labels(targets: Tensor, key: str, rates: Sequence[float]) -> Tensor:
    """Replace the share `rates[label]` of the labels by one of the other classes."""
    given = targets.clone()
    for i, label in enumerate(targets.tolist()):
        rng = Random(f"{key}/label_noise/{i}")
        if rng.random() < rates[label]:
            given[i] = (label + 1 + int(rng.random() * (len(SPECIES) - 1))) % len(SPECIES)
    return given


def check_labelling(label_noise: Sequence[float] | None, class_proportions: Sequence[float] | None) -> None:
    """Refuse what is no rate of mistakes, and no relative frequency, of every kind."""
    n = len(SPECIES)
    if label_noise is not None and (len(label_noise) != n or not all(0 <= rate <= 1 for rate in label_noise)):
        raise ValueError(f"Expected `label_noise` to be {n} numbers between 0 and 1, but got {tuple(label_noise)}.")
    if class_proportions is not None and (
        len(class_proportions) != n or min(class_proportions) < 0 or not 0 < sum(class_proportions) < math.inf
    ):
        raise ValueError(
            f"Expected `class_proportions` to be {n} numbers of at least 0 and not all 0, "
            f"but got {tuple(class_proportions)}."
        )
