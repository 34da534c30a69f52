"""Choosing images of a dataset that is read by index."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset

_SCANNED_PER_WANTED = 4
_SCANNED_AT_LEAST = 50


def most_scanned(n: int) -> int:
    """How many samples are looked at, at most, to choose ``n``: nobody waits for a thousand images."""
    return max(_SCANNED_PER_WANTED * n, _SCANNED_AT_LEAST)


def choose(
    candidates: Sequence[Any], n: int, seed: int, balance: str, label_of: Callable[[Any], int], *, costly: bool
) -> list[Any]:
    """Choose labelled samples, the classes taking turns, so that the first few show as many of them as can be.

    Args:
        candidates: indices.
        n: how many.
        seed: of the order.
        balance: ``"class"``, or ``"none"`` for no turns.
        label_of: the label of an index; a negative one means that there is none.
        costly: whether telling a label means reading a sample, so that only some are looked at.

    Returns:
        At most ``n`` indices.

    Raises:
        ValueError: if there is no such balance, or nothing is labelled.
    """
    if balance not in {"class", "none"}:
        raise ValueError(f"Expected `balance` to be 'class' or 'none', but got {balance!r}.")
    order = [candidates[row] for row in np.random.default_rng(seed).permutation(len(candidates)).tolist()]
    order = order[: most_scanned(n)] if costly else order
    labelled = ((index, label) for index in order if (label := label_of(index)) >= 0)
    if balance == "none":
        chosen = [index for index, _ in islice(labelled, n)]
    else:
        by_class: dict[int, list[Any]] = {}
        for index, label in labelled:
            by_class.setdefault(label, []).append(index)
        turns = [(turn, label, index) for label, members in by_class.items() for turn, index in enumerate(members)]
        chosen = [index for _, _, index in sorted(turns, key=lambda entry: entry[:2])[:n]]
    if not chosen:
        raise ValueError(f"Expected labelled images, but the labels of all {len(order)} looked at are negative.")
    return chosen


def is_map_style(dataset: Any) -> bool:
    """Whether samples can be read by index."""
    by_index = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    return by_index and not isinstance(dataset, IterableDataset)


def attribute(dataset: Any, name: str) -> Any:
    """An attribute of a dataset, or of the one that it is a subset of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, name, None)


def known_labels(dataset: Any) -> Sequence[int] | None:
    """Labels of a dataset that knows them without reading its images."""
    if isinstance(dataset, Subset):
        below = known_labels(dataset.dataset)
        return None if below is None else [below[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        return [label for part in parts for label in part or ()] if all(part is not None for part in parts) else None
    for name in ("targets", "labels"):
        known = getattr(dataset, name, None)
        if isinstance(known, list | tuple | Tensor | np.ndarray) and len(known) == len(dataset):
            try:
                return [int(label) for label in known]
            except (TypeError, ValueError, RuntimeError):
                # Detection and segmentation data keep dictionaries or file names there.
                return None
    return None
