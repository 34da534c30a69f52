"""The causal test: draw the same critter with one part of the other kind; what moves beside that part's component?"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lit_decom.data import Critters
from lit_decom.data.figure import PART_NAMES

BITS = {"ears": 4, "eyes": 2, "nose": 1}  # what each part adds to the number of the species
PARTS = [PART_NAMES.index(name) for name in BITS]


def changed(dataset: Critters, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Draw critters as they are and with each of the three telling parts of the other kind.

    Returns:
        Images as the network sees them, ``(n, 3, H, W)`` and ``(n, 3 parts, 3, H, W)``.
    """
    as_they_are, with_change = [], []
    for index in indices:
        kind = int(dataset.true_targets[index])
        as_they_are.append(seen(dataset, index, kind))
        with_change.append(torch.stack([seen(dataset, index, kind ^ bit) for bit in BITS.values()]))
    return torch.stack(as_they_are), torch.stack(with_change)


def seen(dataset: Critters, index: int, kind: int) -> Tensor:
    """One critter as the network would see it if it were of another kind."""
    if dataset.transform is None:
        raise ValueError("Expected the dataset to have a transform, but got none.")
    image: Tensor = dataset.transform(dataset.draw(index, kind).image)
    return image


def selectivity(before: Tensor, after: Tensor) -> np.ndarray:
    """How much of what moves is the component of the part that was changed.

    Components are matched with parts one to one, by how much they move in units of their spread over images; on the
    even images for the odd ones, and the other way round. Of what the matched components move, the share is taken that
    the changed part's own one moves; a part without one, where there are fewer components than parts, has none.

    Args:
        before: a number per component ``(n, K)`` of each image as it is.
        after: ``(n, R, K)``, of each image with each of ``R`` parts changed.

    Returns:
        ``(n,)`` in [0, 1], mean over the parts; about 1/3 for three components that know nothing of parts.
    """
    spread = before.std(dim=0).clamp(min=torch.finfo(before.dtype).tiny)
    moved = ((after - before[:, None]).abs() / spread).double()
    found = np.zeros(len(before))
    for half in (0, 1):
        parts, matched = linear_sum_assignment(moved[1 - half :: 2].mean(dim=0).numpy(), maximize=True)
        seen = moved[half::2][:, :, matched]
        shares = seen / seen.sum(dim=2, keepdim=True).clamp(min=torch.finfo(seen.dtype).tiny)
        own = [shares[:, part, place] for place, part in enumerate(parts)]
        found[half::2] = torch.stack(own).sum(dim=0).numpy() / moved.shape[1]
    return found
