"""Choosing images of a dataset that is read by index."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from lit_decom.functional.labels import as_labels

_SCANNED_PER_WANTED = 4
_SCANNED_AT_LEAST = 50


def most_scanned(n: int) -> int:
    """How many samples are looked at, at most, to choose ``n``: nobody waits for a thousand images."""
    return max(_SCANNED_PER_WANTED * n, _SCANNED_AT_LEAST)


def choose(
    candidates: Sequence[Any], n: int, seed: int, balance: str, labels_of: Callable[[Any], list[int]], *, costly: bool
) -> list[Any]:
    """Choose labelled samples, the classes taking turns, so that the first few show as many of them as can be.

    Args:
        candidates: indices.
        n: how many.
        seed: of the order.
        balance: ``"class"``, or ``"none"`` for no turns.
        labels_of: the class of an index, or all of its labels; it may have none.
        costly: whether telling a label means reading a sample, so that only some are looked at.

    Returns:
        At most ``n`` indices.

    Raises:
        ValueError: if nothing is labelled.
    """
    order = [candidates[row] for row in np.random.default_rng(seed).permutation(len(candidates)).tolist()]
    order = order[: most_scanned(n)] if costly else order
    labelled = ((index, labels) for index in order if (labels := labels_of(index)))
    if balance == "none":
        chosen = [index for index, _ in islice(labelled, n)]
    else:
        by_class: dict[int, list[Any]] = {}
        for index, labels in labelled:
            for label in labels:
                members = by_class.setdefault(label, [])
                if len(members) < n:  # nobody's turn comes later
                    members.append(index)
        turns = [(turn, label, index) for label, members in by_class.items() for turn, index in enumerate(members)]
        taken = dict.fromkeys(index for _, _, index in sorted(turns, key=lambda entry: entry[:2]))
        chosen = list(islice(taken, n))
    if not chosen:
        raise ValueError(f"Expected labelled images, but all {len(order)} looked at have none, or a negative one.")
    return chosen


def is_map_style(dataset: Any) -> bool:
    """Whether samples can be read by index."""
    by_index = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    return by_index and not isinstance(dataset, IterableDataset)


def told(owner: Any, name: str) -> Any:
    """What an object says of itself; None where it does not, or a property of it raises."""
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001 -- nobody asks for it in a training
        return None


def attribute(dataset: Any, name: str) -> Any:
    """An attribute of a dataset, or of the one that it is a subset of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return told(dataset, name)


def known_labels(dataset: Any) -> Sequence[list[int]] | None:
    """Labels of each image of a dataset that knows them without reading its images."""
    if isinstance(dataset, Subset):
        below = known_labels(dataset.dataset)
        return None if below is None else [below[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        return [label for part in parts for label in part or ()] if all(part is not None for part in parts) else None
    for name in ("targets", "labels"):
        known = told(dataset, name)
        if isinstance(known, list | tuple | Tensor | np.ndarray) and len(known) == len(dataset):
            try:
                labels = as_labels(torch.as_tensor(known))
            except (TypeError, ValueError, RuntimeError):
                # Detection and segmentation data keep dictionaries or file names there.
                return None
            # Not by `classes_in`: a million tensors take seconds.
            if labels.ndim == 1:
                return [[label] if label >= 0 else [] for label in labels.tolist()]
            return [[label for label, there in enumerate(row) if there] for row in labels.tolist()]
    return None
