"""What the functions that alter images share: how the network is asked again, and which maps rank their pixels."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

Rescore = Callable[[Tensor, Callable[[slice], Tensor]], Tensor]
"""Runs the model on altered images made chunk by chunk, as ``Capture.rescore`` does: from the image ``(n,)`` that each
altered one comes from, and a function from a slice of these to altered images, to logits ``(n, N)``."""


def check_option(name: str, value: object, options: Any) -> None:
    """Raise unless an argument is one of its options.

    Args:
        name: the argument.
        value: what arrived.
        options: a ``Literal`` type.

    Raises:
        ValueError: if it is none of them.
    """
    known = get_args(options)
    if value not in known:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(repr, known))}, but got {value!r}.")


def widened(tensor: Tensor) -> Tensor:
    """Return half-precision numbers in float32 and others as they are."""
    return tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor


def has_order(maps: Tensor) -> Tensor:
    """Tell which maps rank their pixels at all: finite and not constant.

    Args:
        maps: maps ``(B, H, W)``.

    Returns:
        ``(B,)`` bool.

    Example:
        >>> has_order(torch.tensor([[[0.0, 1.0]], [[2.0, 2.0]], [[0.0, float("nan")]]]))
        tensor([ True, False, False])
    """
    low, high = extremes(maps.flatten(1))
    return low.isfinite() & high.isfinite() & (high > low)


def extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Give the least and the largest value of each row; NaN for both where the row has one.

    Two reductions, since on a CPU ``torch.aminmax`` of a dimension takes ten times as long.

    Args:
        rows: ``(B, n)``.

    Returns:
        ``(B,)`` and ``(B,)``.
    """
    return rows.amin(dim=1), rows.amax(dim=1)


def all_finite(rows: Tensor) -> Tensor:
    """Tell which rows hold neither NaN nor infinity, which their extremes show.

    Args:
        rows: ``(B, n)``.

    Returns:
        ``(B,)`` bool; True for rows without entries.

    Example:
        >>> all_finite(torch.tensor([[0.0, 1.0], [0.0, float("nan")], [float("-inf"), 0.0]]))
        tensor([ True, False, False])
    """
    if not rows.shape[1]:
        return rows.new_ones(len(rows), dtype=torch.bool)
    low, high = extremes(rows)
    return low.isfinite() & high.isfinite()


def saliency_ranks(maps: Tensor, among_equals: Tensor | None = None) -> Tensor:
    """Rank the pixels of each map, 0 for the most salient.

    Args:
        maps: maps ``(B, H, W)``.
        among_equals: flat pixel indices ``(H * W,)``, each once: of equal pixels the one that comes first here has the
            lower rank; by default in reading order.

    Returns:
        Ranks ``(B, H, W)``, int64.

    Example:
        >>> maps = torch.tensor([[[0.2, 0.9], [0.2, 0.5]]])
        >>> saliency_ranks(maps)
        tensor([[[2, 0],
                 [3, 1]]])
        >>> saliency_ranks(maps, torch.tensor([3, 2, 1, 0]))
        tensor([[[3, 0],
                 [2, 1]]])
    """
    flat = maps.flatten(1)
    pixels = torch.arange(flat.shape[1], device=maps.device)
    among_equals = pixels if among_equals is None else among_equals.to(maps.device)
    order = among_equals[flat[:, among_equals].argsort(dim=1, descending=True, stable=True)]
    return torch.empty_like(order).scatter_(1, order, pixels.expand_as(order)).view(maps.shape)


def scatter_rows(rows: Tensor, kept: Tensor) -> Tensor:
    """Put the rows of some images in their places among all, NaN elsewhere.

    Args:
        rows: one row ``(n, ...)`` per image kept.
        kept: which images they are, ``(B,)`` bool with n true.

    Returns:
        Rows ``(B, ...)``.

    Example:
        >>> scatter_rows(torch.tensor([5.0]), torch.tensor([False, True]))
        tensor([nan, 5.])
    """
    out = rows.new_full((len(kept), *rows.shape[1:]), torch.nan)
    out[kept] = rows
    return out


def blank_broken(rows: Tensor) -> Tensor:
    """Make a whole row NaN where one of its numbers is, so that its first one tells whether the row is defined.

    Args:
        rows: ``(n, width)``.

    Returns:
        Rows ``(n, width)``.

    Example:
        >>> blank_broken(torch.tensor([[1.0, float("nan")], [1.0, 2.0]]))
        tensor([[nan, nan],
                [1., 2.]])
    """
    return rows.masked_fill(rows.isnan().any(dim=1, keepdim=True), torch.nan)


def check_maps_fit(images: Tensor, maps: Tensor) -> None:
    """Raise unless there is one map per image, of its size.

    Args:
        images: images ``(B, C, H, W)``.
        maps: maps ``(B, H, W)``.

    Raises:
        ValueError: if the shapes differ.
    """
    if maps.shape != (len(images), *images.shape[-2:]):
        raise ValueError(
            f"Expected `maps` to be (B, H, W) for images {tuple(images.shape)}, but got {tuple(maps.shape)}."
        )
