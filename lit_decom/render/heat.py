"""Maps as heat over their images, and images as pixels."""

from functools import lru_cache

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.image import upsample

_BROKEN = 256  # the level of a map that is not finite, above those of heat
_OPAQUE = -(1 << 24)  # the fourth byte of a pixel, 255


def overlay(images: Tensor, maps: Tensor, limits: Tensor | None = None) -> Tensor:
    """Draw maps as heat over their images.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        maps: ``(n, h, w)``, non-negative.
        limits: what counts as full heat ``(n,)``; by default each map's own maximum.

    Returns:
        Pictures ``(n, 3, H, W)`` in [0, 1], in steps of 1/255: where the map is 0, the darkened grey image; where it is
        high, the heat. A map with NaN is grey with a red tint throughout.
    """
    greys = (images.mean(dim=1).clamp(0, 1) * 255).round().int()
    packed = heated(greys, *levels_of(maps, limits))
    colours = packed[..., None].view(torch.uint8)[..., :3]
    return colours.permute(0, 3, 1, 2) / 255


def levels_of(maps: Tensor, limits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale maps to levels of heat.

    Args:
        maps: ``(..., h, w)``.
        limits: what counts as full heat ``(...)``; None for each map's own maximum.

    Returns:
        The maps ``(..., h, w)``, full heat at 255; and which of them are not finite, ``(...)`` bool: these are 0.
    """
    broken = ~maps.isfinite().all(dim=-1).all(dim=-1)
    known = maps.masked_fill(broken[..., None, None], 0)
    full = known.amax(dim=(-2, -1)) if limits is None else limits
    return known * (255 / torch.where(full > 0, full, torch.ones_like(full)))[..., None, None], broken


def heated(greys: Tensor, levels: Tensor, broken: Tensor) -> Tensor:
    """Look up the colour of every pixel.

    Args:
        greys: 0 to 255, int32 ``(..., H, W)``.
        levels: as from :func:`levels_of`, ``(..., h, w)``.
        broken: which maps are tinted red, ``(...)`` bool.

    Returns:
        One int32 of four bytes per pixel, ``(..., H, W)``.
    """
    heat = upsample(levels, (greys.shape[-2], greys.shape[-1])).clamp_(0, 255).int()
    if broken.any():
        heat[broken] = _BROKEN
    places = torch.add(greys, heat, alpha=256)
    return _colours().index_select(0, places.flatten()).view_as(places)


def photos(images: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Bring images ``(n, 3, H, W)`` in [0, 1] to one size.

    Returns:
        Their pixels, one int32 of four bytes each, and their greys, int32 from 0 to 255: both ``(n, side, side)``.
    """
    steps = (images.clamp(0, 1) * 255).round_().to(torch.uint8)
    if steps.shape[-2:] != (side, side):
        steps = F.interpolate(steps, (side, side), mode="bicubic", antialias=True)
    red, green, blue = steps.int().unbind(dim=1)
    greys = (red + green + blue).div(3).round_().int()
    return green.mul(1 << 8).add_(red).add_(blue, alpha=1 << 16).add_(_OPAQUE), greys


def scale_of_heat(width: int) -> Tensor:
    """The colours of heat over a middling grey, from none to full: pixels int32 ``(width,)``."""
    return _colours()[torch.linspace(0, 255, width).int() * 256 + 128]


def to_picture(image: Tensor) -> Image.Image:
    """Turn an image ``(3, H, W)`` in [0, 1] into a picture of 8 bits."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().numpy())


def to_unit(images: Tensor, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """Bring images to [0, 1] for the eye.

    Args:
        images: ``(n, C, H, W)``.
        mean: normalisation of the images ``(C,)``, where known.
        std: normalisation of the images ``(C,)``, where known.

    Returns:
        ``(n, 3, H, W)``: un-normalised where mean and std are known, else each stretched to its own range; one channel
        is repeated, of more than three the first three are shown.
    """
    images = images.float()
    if mean is not None and std is not None:
        images = (images * std[:, None, None] + mean[:, None, None]).clamp(0, 1)
    else:
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
        images = (images - low) / torch.where(high == low, torch.ones_like(high), high - low)
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


@lru_cache(maxsize=1)
def heat_colours() -> Tensor:
    """Colours of heat from 0 to 1 in 256 steps, ``(256, 3)`` in [0, 1]."""
    with torch.inference_mode(mode=False):
        return torch.tensor(mpl.colormaps["inferno"](np.linspace(0.1, 1, 256))[:, :3], dtype=torch.float32)


@lru_cache(maxsize=1)
def _colours() -> Tensor:
    """The colour of every level of heat over every grey: int32 ``(257 * 256,)``, four bytes each."""
    with torch.inference_mode(mode=False):
        # In one precision, whatever the default of the training is.
        shades = torch.arange(256, dtype=torch.float32) / 255
        levels, grey = shades[:, None, None], shades[None, :, None]
        share = torch.where(levels > 0.02, 0.15 + 0.7 * levels, 0.0)
        heat = torch.lerp(grey * 0.55, heat_colours()[:, None], share)
        broken = 0.5 * grey + 0.5 * torch.tensor([0.6, 0.0, 0.0], dtype=torch.float32)
        steps = (torch.cat([heat, broken]) * 255).round().int()
        return (steps * torch.tensor([1, 1 << 8, 1 << 16])).sum(dim=-1).add_(_OPAQUE).int().flatten()
