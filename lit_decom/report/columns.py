"""Which column, and with it which colour, a component has."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def keep_columns(names: Tensor) -> dict[int, int]:
    """Give every component a column that nobody else has from its first to its last snapshot.

    Taken by first appearance, the lowest free column each: the fewest columns that can do (colouring of intervals).

    Args:
        names: ``(T, K)``, what each component of an image is called at each snapshot; -1 for none.

    Returns:
        Column by name.

    Example:
        Component 1 ends, so component 2 can have its column:

        >>> import torch
        >>> keep_columns(torch.tensor([[0, 1], [2, 0]]))
        {0: 0, 1: 1, 2: 1}
    """
    last = {name: time for time, row in enumerate(names.tolist()) for name in row if name >= 0}
    columns: dict[int, int] = {}
    busy_until: list[int] = []
    for time, row in enumerate(names.tolist()):
        for name in row:
            if name < 0 or name in columns:
                continue
            free = next((index for index, end in enumerate(busy_until) if end < time), len(busy_until))
            if free == len(busy_until):
                busy_until.append(time)
            busy_until[free] = last[name]
            columns[name] = free
    return columns


def follow_columns(columns: Mapping[int, int], wanted: Mapping[int, int]) -> dict[int, int]:
    """Exchange columns such that some components get the one they should have.

    Args:
        columns: column by name, as from :func:`keep_columns`.
        wanted: new column by name, of components that have different columns.

    Returns:
        New column by name; the components without a wish keep to those that they shared a column with, or move on to
        the lowest free ones.

    Example:
        >>> follow_columns({5: 0, 6: 1, 7: 1}, {6: 0})
        {5: 1, 6: 0, 7: 0}
    """
    moved = {columns[name]: column for name, column in wanted.items()}
    taken = set(moved.values())
    for old in sorted(set(columns.values()) - set(moved)):
        moved[old] = next(new for new in range(len(taken) + 1) if new not in taken)
        taken.add(moved[old])
    return {name: moved[column] for name, column in columns.items()}


def count(*columns: Mapping[int, int]) -> int:
    """How many columns are needed to show all of them."""
    return max((column + 1 for each in columns for column in each.values()), default=0)


def names_of(identities: Sequence[Tensor | None], valid: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Call components by identity or, where they have none, by rank; -1 for padding.

    Args:
        identities: one ``(n, K)`` per snapshot, or None throughout.
        valid: ``(n, K)`` bool per snapshot.
    """
    ranks = torch.arange(valid[0].shape[1])
    return tuple(
        (ranks.expand_as(exists) if known is None else known).where(exists, -1)
        for known, exists in zip(identities, valid, strict=True)
    )
