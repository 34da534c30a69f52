"""Curves of tracked components over T snapshots on the same B images.

Identities are ``(T, B, K)`` int64, unique within an image and -1 where there is no component; a value, say the score
gain, comes as ``(T, B, K)`` next to them. An image without any identity in a snapshot was not seen there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Curves = dict[tuple[int, int], list[tuple[int, float]]]


@dataclass(frozen=True)
class CurveChange:
    """Mean absolute change of a value from one snapshot to the next; NaN without a pair.

    Curves by identity break off where a component is lost, those by rank never do, so `by_identity` and `by_rank`
    are taken over the very same components: those that continue, and whose rank was taken before.

    Attributes:
        by_identity: Against the component of the same identity.
        by_rank: Against the component of the same rank.
        pairs: Number of components compared.
        by_rank_all: Against the component of the same rank over all components, births included.
        rank_pairs: Number of all those.
    """

    by_identity: float
    by_rank: float
    pairs: int
    by_rank_all: float
    rank_pairs: int


def identity_series(identities: Tensor, values: Tensor, steps: Sequence[int]) -> Curves:
    """Draw a value over the steps, one curve per image and identity.

    Args:
        identities: ``(T, B, K)``.
        values: ``(T, B, K)``; NaN leaves the point out.
        steps: The epochs or steps of the T snapshots.

    Returns:
        ``(index of the image, identity) -> [(step, value), ...]`` in the order of the snapshots.

    Raises:
        ValueError: If the shapes or the number of steps do not fit together.

    Example:
        Two components swap their ranks:

        >>> identities = torch.tensor([[[0, 1]], [[1, 0]]])
        >>> identity_series(identities, torch.tensor([[[5.0, 4.0]], [[4.5, 3.0]]]), steps=[10, 20])
        {(0, 0): [(10, 5.0), (20, 3.0)], (0, 1): [(10, 4.0), (20, 4.5)]}
    """
    _check_shapes(identities, values, 3)
    if len(steps) != len(identities):
        raise ValueError(f"Expected `steps` to hold {len(identities)} steps, but got {len(steps)}.")
    curves: Curves = {}
    drawn = (identities >= 0) & ~values.isnan()
    where = drawn.nonzero()[:, :2].tolist()
    for (snapshot, image), identity, value in zip(
        where, identities[drawn].tolist(), values[drawn].tolist(), strict=True
    ):
        curves.setdefault((image, identity), []).append((steps[snapshot], value))
    return curves


def mean_absolute_change(identities: Tensor, values: Tensor) -> CurveChange:
    """Measure how much a value moves between consecutive snapshots, by identity and by rank.

    Args:
        identities: ``(T, B, K)``.
        values: ``(T, B, K)``; a change from or to NaN does not count.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(identities, values, 3)
    old, new = identities[:-1], identities[1:]
    same = new.unsqueeze(3) == old.unsqueeze(2)
    partner = torch.where(same, values[:-1].unsqueeze(2), 0.0).sum(3)
    by_identity = torch.where(same.any(3), (values[1:] - partner).abs(), torch.nan)
    by_rank = torch.where((old >= 0) & (new >= 0), values.diff(dim=0).abs(), torch.nan)
    paired = ~by_identity.isnan() & ~by_rank.isnan()
    return CurveChange(
        by_identity=float(by_identity[paired].mean()),
        by_rank=float(by_rank[paired].mean()),
        pairs=int(paired.sum()),
        by_rank_all=float(by_rank.nanmean()),
        rank_pairs=int((~by_rank.isnan()).sum()),
    )


def settled_since(
    identities: Tensor, drift: Tensor, steps: Sequence[int], *, max_drift: float = 0.1
) -> list[int | None]:
    """Find the step since which each image's explanation has hardly changed.

    Args:
        identities: ``(T, B, K)``.
        drift: ``(T, B)`` drift of each image since the snapshot before in which it was seen, NaN in its first one.
        steps: The epochs or steps of the T snapshots.
        max_drift: Largest drift from observation to observation that counts as settled.

    Returns:
        For each of the B images the step of the observation from which no later one drifts further, or None: seen less
        than twice, or still drifting at the end.

    Raises:
        ValueError: If the shapes or the number of steps do not fit together.

    Example:
        >>> identities = torch.zeros(4, 1, 1, dtype=torch.long)
        >>> settled_since(identities, torch.tensor([[torch.nan], [0.5], [0.05], [0.01]]), steps=[0, 1, 2, 3])
        [1]
    """
    _check_shapes(identities[..., 0], drift, 2)
    if len(steps) != len(identities):
        raise ValueError(f"Expected `steps` to hold {len(identities)} steps, but got {len(steps)}.")
    seen = (identities >= 0).any(2)
    settled: list[int | None] = []
    for image in range(identities.shape[1]):
        snapshots = seen[:, image].nonzero().flatten().tolist()
        restless = [at for at, snapshot in enumerate(snapshots) if not drift[snapshot, image] <= max_drift]
        start = restless[-1] if restless else 0
        settled.append(steps[snapshots[start]] if start < len(snapshots) - 1 else None)
    return settled


def _check_shapes(identities: Tensor, values: Tensor, dimensions: int) -> None:
    if identities.shape != values.shape or identities.ndim != dimensions:
        raise ValueError(
            "Expected the identities and what is drawn of them to agree in their snapshots, images and components, "
            f"but got {tuple(identities.shape)} and {tuple(values.shape)}."
        )
