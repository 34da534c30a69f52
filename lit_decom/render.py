"""Tensors to pictures: overlays, the OSSM grid, curves. The first place where NumPy and PIL appear."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lit_decom.functional.image import upsample

_TEXT_HEIGHT = 15
_MARGIN = 3
_LARGEST_TILE = 160
_SMALLEST_TILE = 96


def overlay(images: Tensor, maps: Tensor, limits: Tensor | None = None) -> Tensor:
    """Draw maps as heat over their images.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        maps: ``(n, h, w)``, non-negative.
        limits: what counts as full heat ``(n,)``; by default each map's own maximum.

    Returns:
        Pictures ``(n, 3, H, W)`` in [0, 1]: where the map is 0, the darkened grey image; where it is high, the heat. A
        map with NaN is grey with a red tint throughout.
    """
    size = (images.shape[-2], images.shape[-1])
    broken = ~maps.isfinite().all(dim=(1, 2))
    maps = maps.masked_fill(broken[:, None, None], 0)
    limits = maps.amax(dim=(1, 2)) if limits is None else limits
    limits = torch.where(limits > 0, limits, torch.ones_like(limits))[:, None, None]
    heat = (upsample(maps, size).clamp(min=0) / limits).clamp(max=1)
    colours = heat_colours()[(heat * 255).long()].permute(0, 3, 1, 2)
    grey = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    shown = torch.lerp(grey * 0.55, colours, (0.15 + 0.7 * heat).where(heat > 0.02, heat * 0)[:, None])
    red = torch.tensor([0.6, 0.0, 0.0])[:, None, None]
    return torch.where(broken[:, None, None, None], 0.5 * grey + red * 0.5, shown)


def ossm_grid(
    images: Tensor,
    cams: Tensor,
    ossms: Tensor,
    *,
    row_captions: Sequence[str],
    ossm_captions: Sequence[Sequence[str]],
    title: str,
    limits: Tensor | None = None,
) -> Image.Image:
    """Compose one picture: a row per image with the image, its integrated map and its OSSMs.

    Without ``limits`` every map is drawn to its own maximum, since the first component would leave the others dark; how
    much each one counts stands in its caption.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        cams: ``(n, h, w)``, non-negative.
        ossms: ``(n, K, h, w)``, non-negative.
        row_captions: ``n`` texts under the images.
        ossm_captions: for each image ``K`` texts; an empty one leaves its tile blank.
        title: stands above.
        limits: what counts as full heat in the integrated map and in the OSSMs of each image ``(n, 2)``.

    Returns:
        The picture.
    """
    n, k = ossms.shape[:2]
    tile = int(min(max(images.shape[-1], _SMALLEST_TILE), _LARGEST_TILE))
    step_x, step_y = tile + _MARGIN, tile + _TEXT_HEIGHT + _MARGIN
    canvas = Image.new("RGB", (step_x * (k + 2) + _MARGIN, step_y * n + _TEXT_HEIGHT * 2 + 2 * _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), title, fill="black", font=_font(13))
    heads = ["image", "integrated", *(f"OSSM {rank}" for rank in range(1, k + 1))]
    for column, head in enumerate(heads):
        draw.text((_MARGIN + column * step_x, _TEXT_HEIGHT + _MARGIN), head, fill="#555555", font=_font(11))
    repeated = images[:, None].expand(-1, k + 1, -1, -1, -1).flatten(0, 1)
    full = None if limits is None else torch.cat([limits[:, :1], limits[:, 1:].expand(-1, k)], dim=1).flatten()
    heats = overlay(repeated, torch.cat([cams[:, None], ossms], dim=1).flatten(0, 1), full)
    heats = heats.view(n, k + 1, *images.shape[1:])
    for row in range(n):
        top = 2 * _TEXT_HEIGHT + 2 * _MARGIN + row * step_y
        tiles = [images[row], *heats[row]]
        texts = [row_captions[row], _condition(cams[row]), *ossm_captions[row]]
        for column, (picture, text) in enumerate(zip(tiles, texts, strict=True)):
            left = _MARGIN + column * step_x
            if column < 2 or text:
                canvas.paste(to_picture(picture).resize((tile, tile), Image.Resampling.BICUBIC), (left, top))
            draw.text((left, top + tile), _fitted(draw, text, tile), fill="black", font=_font(11))
    return canvas


def _condition(cam: Tensor) -> str:
    """What keeps a map from being read as one."""
    if not cam.isfinite().all():
        return "not finite"
    return "" if (cam != 0).any() else "blank"


def contribution_curves(steps: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Draw one line per component over the firings.

    Args:
        steps: of the firings, ``T`` of them.
        series: ``T`` values per line, NaN where there is none.
        title: says what identifies a line: its rank, or its identity.

    Returns:
        A figure that no global state of matplotlib knows of.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(len(series), 1)))
    for colour, (name, values) in zip(colours, series.items(), strict=False):
        axes.plot(list(steps), list(values), marker=".", color=colour, label=name)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(title=title, xlabel="step", ylabel="score gain over the blurred image (logit)")
    if series:
        axes.legend(fontsize="small", ncols=2, frameon=False)
    return figure


def to_picture(image: Tensor) -> Image.Image:
    """Turn an image ``(3, H, W)`` in [0, 1] into a picture of 8 bits."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().numpy())


@lru_cache(maxsize=1)
def heat_colours() -> Tensor:
    """Colours of heat from 0 to 1 in 256 steps, ``(256, 3)`` in [0, 1]."""
    with torch.inference_mode(mode=False):
        return torch.tensor(mpl.colormaps["inferno"](np.linspace(0.1, 1, 256))[:, :3], dtype=torch.float32)


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's own font: Pillow's default one has neither check marks nor arrows.
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    shown = text
    while len(text) > 1 and draw.textlength(shown, font=_font(11)) > width:
        text = text[:-1]
        shown = f"{text}…"
    return shown
