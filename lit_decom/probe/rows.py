"""Rows of a probe where an image may have several labels: one for each label that it has."""

import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor


def classes_in(label: Tensor) -> list[int]:
    """List the class of a sample ``()``, none where it is negative; or each label that it has ``(N,)``."""
    if label.ndim == 0:
        return [int(label)] if label >= 0 else []
    found: list[int] = label.nonzero().flatten().tolist()
    return found


def images_within(n: int, labels: Sequence[Tensor]) -> int:
    """Count how many of the first images have at most ``n`` labels together; at least one."""
    ends = accumulate(len(classes_in(label)) for label in labels)
    return max(1, sum(end <= n for end in ends))


def one_row_per_label(images: Tensor, labels: Tensor, known: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Repeat images, and what is known of them, for each of their labels ``(n, N)``."""
    n, n_labels = labels.shape
    rows, asked = labels.nonzero(as_tuple=True)
    without = n - int(labels.any(dim=1).sum())
    if without:
        warnings.warn(
            f"{without} of {n} images have none of the {n_labels} labels: no row asks about them.", stacklevel=3
        )
    if n > 1 and not known.get("multilabel") and (labels.sum(dim=1) == 1).all():
        warnings.warn(
            f"Each of {n} images has exactly one of the {n_labels} labels, which are explained as labels that do not "
            "exclude one another. If they are classes, under a softmax, give class indices: `labels.argmax(dim=1)`, by "
            "`unpack=` where they come from a loader.",
            stacklevel=3,
        )
    names = _names(known.get("class_names") or (), n_labels)
    ids = known.get("ids") or tuple(str(image) for image in range(n))
    if len(names) != n_labels or len(ids) != n or len(images) != n:
        raise ValueError(
            f"Expected `images`, `ids` and `class_names` for `labels` {n, n_labels}, but got {len(images)}, {len(ids)} "
            f"and {len(names)}."
        )
    pairs = list(zip(rows.tolist(), asked.tolist(), strict=True))
    known = known | {
        "ids": tuple(f"{ids[row]}:{names[label]}" for row, label in pairs),
        "class_names": (*names, *(f"no {name}" for name in names)),
        "multilabel": True,
    }
    for name in ("masks", "parts"):
        if known.get(name) is not None:
            own = name == "masks" and known[name].ndim == 4
            known[name] = known[name][rows, asked] if own else known[name][rows]
    if known.get("boxes") is not None:
        known["boxes"] = tuple(known["boxes"][row] for row, _ in pairs)
    return images[rows], asked, known


def _names(given: Sequence[str], n_labels: int) -> tuple[str, ...]:
    """Names of all labels; a warning says that some of those given were missing."""
    if 0 < len(given) < n_labels:
        warnings.warn(
            f"There are {len(given)} `class_names`, but {n_labels} labels: the others are called by their number.",
            stacklevel=4,
        )
    return (*given, *map(str, range(len(given), n_labels)))
