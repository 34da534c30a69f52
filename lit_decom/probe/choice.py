"""Choosing images of a dataset that is read by index."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

_SCANNED_PER_WANTED = 20


def choose(dataset: Dataset[Any], n: int, seed: int, balance: str, label_of: Callable[[int], int]) -> list[int]:
    """Indices in an order in which the classes take turns, so that the first few show as many classes as they can."""
    count = len(dataset)  # type: ignore[arg-type]
    order: list[int] = np.random.default_rng(seed).permutation(count).tolist()
    if balance == "none":
        return order[:n]
    if balance != "class":
        raise ValueError(f"Expected `balance` to be 'class' or 'none', but got {balance!r}.")
    labels = _known_labels(dataset)
    if labels is None:
        # Nothing tells the labels without reading images: look at some, not at a million.
        order = order[: n * _SCANNED_PER_WANTED]
        labels = {index: label_of(index) for index in order}
    by_class: dict[int, list[int]] = {}
    for index in order:
        by_class.setdefault(int(labels[index]), []).append(index)
    turns = [(turn, label, index) for label, members in by_class.items() for turn, index in enumerate(members)]
    return [index for _, _, index in sorted(turns)[:n]]


def check_map_style(dataset: Dataset[Any]) -> None:
    """Refuse what has no length or no items."""
    by_index = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not by_index:
        raise TypeError(
            f"Expected `dataset` to be read by index, but {type(dataset).__name__} has no length or no items. "
            "Collect some of its images yourself: `Probe.from_tensors(images, labels)`."
        )
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise ValueError(f"Expected `dataset` to hold images for the probe, but {type(dataset).__name__} is empty.")


def attribute(dataset: Any, name: str) -> Any:
    """An attribute of a dataset, or of the one that it is a subset of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, name, None)


def _known_labels(dataset: Dataset[Any]) -> Sequence[int] | dict[int, int] | None:
    """Labels of a dataset that knows them without reading its images."""
    if isinstance(dataset, Subset):
        below = _known_labels(dataset.dataset)
        return None if below is None else [below[index] for index in dataset.indices]
    for name in ("targets", "labels"):
        known = getattr(dataset, name, None)
        if isinstance(known, list | tuple | Tensor | np.ndarray) and len(known) == len(dataset):  # type: ignore[arg-type]
            try:
                return [int(label) for label in known]
            except (TypeError, ValueError, RuntimeError):
                # Detection and segmentation data keep dictionaries or file names there.
                return None
    return None
