"""Tensors to pictures: overlays, the OSSM grid, curves. The first place where NumPy and PIL appear."""

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.image import upsample

Pixels = npt.NDArray[np.uint32]
"""Four bytes per pixel, ``(H, W)``: red, green, blue and one that means nothing."""

_TEXT_HEIGHT = 15
_CAPTION, _TITLE = 11, 13  # sizes of letters
_BEARING = 2  # pixels by which a letter may reach beyond its own width
_MARGIN = 3
_TOP = 2 * _TEXT_HEIGHT + 2 * _MARGIN
_LARGEST_TILE = 160
_SMALLEST_TILE = 96
_WHITE = -1  # four bytes of 255
_BROKEN = 256  # the level of a map that is not finite, above those of heat

# Digits one by one, everything else word by word: so that most pieces of a caption are drawn once in a training.
_PIECES = re.compile(r"[\d+.%-]|[^\d+.%-]+")


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
    packed = _heated(greys, maps, limits)
    colours = packed[..., None].view(torch.uint8)[..., :3]
    return colours.permute(0, 3, 1, 2) / 255


def ossm_grids(
    images: Tensor,
    cams: Tensor,
    ossms: Tensor,
    *,
    row_captions: Sequence[str],
    ossm_captions: Sequence[Sequence[str]],
    scales: Mapping[str, Tensor | None],
) -> list[Image.Image]:
    """Compose pictures with a row per image: the image, its integrated map and its OSSMs.

    The pictures differ in the scale of their maps alone. Without limits every map is drawn to its own maximum, since
    the first component would leave the others dark; how much each one counts stands in its caption.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        cams: ``(n, h, w)``, non-negative.
        ossms: ``(n, K, h, w)``, non-negative.
        row_captions: ``n`` texts under the images.
        ossm_captions: for each image ``K`` texts; an empty one leaves its tile blank.
        scales: for each picture, by the title above it, what counts as full heat in the integrated map and in the OSSMs
            of each image ``(n, 2)``; None for each map's own maximum.

    Returns:
        The pictures, in the order of ``scales``.
    """
    n, k = ossms.shape[:2]
    tile = int(min(max(images.shape[-1], _SMALLEST_TILE), _LARGEST_TILE))
    photos, greys = _photos(images, tile)
    maps = torch.cat([cams[:, None], ossms], dim=1)
    texts = [[row, _condition(cam), *rest] for row, cam, rest in zip(row_captions, cams, ossm_captions, strict=True)]
    page = _captioned(texts, tile)
    _tiles_of(page, n, tile)[:, 0] = photos
    pictures = []
    for title, limits in scales.items():
        canvas = page.copy()
        _write(canvas, _MARGIN, _MARGIN, title, _TITLE)
        tiles = _tiles_of(canvas, n, tile)
        full = [None] * n if limits is None else torch.cat([limits[:, :1], limits[:, 1:].expand(-1, k)], dim=1)
        for row in range(n):  # one by one, so that what is computed stays in the processor's cache
            tiles[row, 1:] = _heated(greys[row], maps[row], full[row])
            for column in (column for column, text in enumerate(ossm_captions[row], start=2) if not text):
                tiles[row, column] = _WHITE
        pictures.append(Image.frombytes("RGB", canvas.shape[::-1], canvas, "raw", "RGBX"))
    return pictures


def _photos(images: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Images at the size of a tile: their pixels as :func:`_packed`, and their greys, int32 ``(n, tile, tile)``."""
    steps = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    if steps.shape[-2:] != (tile, tile):
        steps = F.interpolate(steps, (tile, tile), mode="bicubic", antialias=True)
    return _packed(steps.permute(0, 2, 3, 1)), (steps.sum(dim=1, dtype=torch.float32) / 3).round().int()


def _captioned(texts: Sequence[Sequence[str]], tile: int) -> Pixels:
    """White pixels with room for tiles, the heads of their columns, and the text under each tile."""
    step_x, step_y, columns = tile + _MARGIN, tile + _TEXT_HEIGHT + _MARGIN, len(texts[0])
    page = np.full((step_y * len(texts) + _TOP, step_x * columns + _MARGIN), 0xFFFFFFFF, dtype=np.uint32)
    heads = ["image", "integrated", *(f"OSSM {rank}" for rank in range(1, columns - 1))]
    for column, head in enumerate(heads):
        _write(page, _MARGIN + column * step_x, _TEXT_HEIGHT + _MARGIN, head, _CAPTION, ink=0x55)
    for row, captions in enumerate(texts):
        for column, text in enumerate(captions):
            _write(page, _MARGIN + column * step_x, _TOP + row * step_y + tile, _fitted(text, tile), _CAPTION)
    return page


def _tiles_of(canvas: Pixels, n: int, tile: int) -> Tensor:
    """The tiles of ``n`` rows as a view ``(n, columns, tile, tile)`` of the pixels of a grid."""
    step_x, step_y = tile + _MARGIN, tile + _TEXT_HEIGHT + _MARGIN
    pixels = torch.from_numpy(canvas.view(np.int32))
    body = pixels[_TOP:, _MARGIN:]
    columns = body.shape[1] // step_x
    return body.as_strided(
        (n, columns, tile, tile), (step_y * len(pixels[0]), step_x, len(pixels[0]), 1), body.storage_offset()
    )


def _write(page: Pixels, left: int, top: int, text: str, size: int, *, ink: int = 0) -> None:
    """Write a text on white; what does not fit on the page is cut off.

    Args:
        page: pixels ``(H, W)``, changed in place.
        left: where the text begins.
        top: where its line begins.
        text: one line.
        size: of the letters.
        ink: their grey.
    """
    at = float(left)
    for piece in _PIECES.findall(text):
        letters, advance = _letters(piece, size, ink)
        start = max(0, round(at) - _BEARING)
        place = page[top : top + letters.shape[0], start : start + letters.shape[1]]
        # All four bytes of a grey are the same, so that the darker one is the smaller number.
        np.minimum(place, letters[: place.shape[0], : place.shape[1]], out=place)
        at += advance


@lru_cache(maxsize=2048)
def _letters(piece: str, size: int, ink: int = 0) -> tuple[Pixels, float]:
    """A word or a digit on white, and how far the next one is from its start."""
    font = _font(size)
    advance = font.getlength(piece)
    picture = Image.new("L", (round(advance) + 2 * _BEARING, size + 2 * _MARGIN), 255)
    ImageDraw.Draw(picture).text((_BEARING, 0), piece, fill=ink, font=font)
    return np.asarray(picture).astype(np.uint32) * 0x01010101, advance


def _packed(colours: Tensor) -> Tensor:
    """Bytes ``(..., 3)`` as one int32 of four bytes, ``(...)``."""
    packed = colours.new_full((*colours.shape[:-1], 4), 255)
    packed[..., :3] = colours
    return packed.view(torch.int32).squeeze(-1)


def _heated(greys: Tensor, maps: Tensor, limits: Tensor | None) -> Tensor:
    """Look up the colour of every pixel.

    Args:
        greys: 0 to 255, int32 ``(..., H, W)``.
        maps: ``(..., h, w)``.
        limits: ``(...)``; None for each map's own maximum.

    Returns:
        One int32 of four bytes per pixel, ``(..., H, W)``.
    """
    broken = ~maps.isfinite().all(dim=-1).all(dim=-1)
    known = maps.masked_fill(broken[..., None, None], 0)
    full = known.amax(dim=(-2, -1)) if limits is None else limits
    relative = known / torch.where(full > 0, full, torch.ones_like(full))[..., None, None]
    heat = upsample(relative, (greys.shape[-2], greys.shape[-1])).mul_(255).clamp_(0, 255).int()
    if broken.any():
        heat[broken] = _BROKEN
    heat.mul_(256).add_(greys)
    return _colours().index_select(0, heat.flatten()).view_as(heat)


def _condition(cam: Tensor) -> str:
    """What keeps a map from being read as one."""
    if not cam.isfinite().all():
        return "not finite"
    return "" if (cam != 0).any() else "blank"


def contribution_curves(steps: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Draw one line per component over the snapshots.

    Args:
        steps: of the snapshots, ``T`` of them.
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


@lru_cache(maxsize=1)
def _colours() -> Tensor:
    """The colour of every level of heat over every grey: int32 ``(257 * 256,)``, four bytes each."""
    with torch.inference_mode(mode=False):
        levels, grey = torch.arange(256)[:, None, None] / 255, torch.arange(256)[None, :, None] / 255
        share = torch.where(levels > 0.02, 0.15 + 0.7 * levels, 0.0)
        heat = torch.lerp(grey * 0.55, heat_colours()[:, None], share)
        broken = 0.5 * grey + 0.5 * torch.tensor([0.6, 0.0, 0.0])
        steps = (torch.cat([heat, broken]) * 255).round().to(torch.uint8)
        return _packed(steps).flatten()


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's own font: Pillow's default one has neither check marks nor arrows.
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _fitted(text: str, width: int) -> str:
    """Cut a caption where it would run out of its tile."""
    ends = list(accumulate(_letters(letter, _CAPTION)[1] for letter in text))
    if not ends or ends[-1] <= width:
        return text
    room = width - _letters("…", _CAPTION)[1]
    return f"{text[: max(1, bisect(ends, room))]}…"
