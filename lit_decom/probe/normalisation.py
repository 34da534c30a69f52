"""How images were normalised, out of what a datamodule or a dataset happens to call ``mean`` and ``std``."""

import warnings
from typing import Any

import torch
from torch import Tensor

from lit_decom.probe.choice import told

_UNUSUAL = 0.05  # share of the values that may lie outside of the range without a word
_CLIPPED = 0.5  # share of the values from which on a picture shows nothing
_SLACK = 0.1
_LEAST_OF_BYTES = 16.0  # images in 0..1 never reach it, those in 0..255 do


def normalisation_of(owner: Any, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """Read the normalisation of images off the object that they come from.

    Scalars, lists and tensors such as ``(3, 1, 1)`` are made one number per channel; units of 0..255 are brought to
    0..1; methods of these names mean something else. A warning says what is ignored: what does not fit the channels,
    and what would draw pictures of nothing but black and white, which are stretched to their own range instead.

    Args:
        owner: a datamodule or a dataset.
        images: ``(n, C, H, W)``, as the network sees them.

    Returns:
        Mean and standard deviation ``(C,)`` of images in 0..1; None where they are not known.
    """
    given = {name: told(owner, name) for name in ("mean", "std")}
    if any(value is None or callable(value) for value in given.values()):
        return None
    mean, std = (per_channel(value, images.shape[1]) for value in given.values())
    if mean is None or std is None or not (std > 0).all():
        _say_ignored(owner, f"they are no finite numbers, or not one for each of {images.shape[1]} channels")
        return None
    raw = images * std[:, None, None] + mean[:, None, None]
    outside = _outside(raw)
    if outside <= _UNUSUAL:
        return mean, std
    if raw.max() > _LEAST_OF_BYTES and _outside(raw / 255) <= _UNUSUAL:
        return mean / 255, std / 255
    if outside <= _CLIPPED:
        return mean, std
    _say_ignored(owner, f"{outside:.0%} of the pixels' values would lie outside of what a picture can show")
    return None


def per_channel(value: Any, channels: int) -> Tensor | None:
    """Read one number per channel ``(C,)`` out of a number, a list or a tensor; None where it is nothing of these."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.float32).detach().cpu().flatten()
    except (TypeError, ValueError, RuntimeError):
        return None
    if len(numbers) not in {1, channels} or not numbers.isfinite().all():
        return None
    return numbers.expand(channels).clone()


def _outside(images: Tensor) -> float:
    """Share of the values that lie outside of 0..1."""
    return ((images < -_SLACK) | (images > 1 + _SLACK)).float().mean().item()


def _say_ignored(owner: Any, why: str) -> None:
    warnings.warn(
        f"`mean` and `std` of {type(owner).__name__} are ignored, since {why}. Pictures are stretched to their own "
        "range.",
        stacklevel=3,
    )
