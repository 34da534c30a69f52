"""Maps of several classes over one image, one hue for each, with a legend (FM-G-CAM, arXiv 2312.05975)."""

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_decom.functional.image import upsample
from lit_decom.render.captions import share_text
from lit_decom.render.factors import LETTERS, LINE
from lit_decom.render.heat import photos
from lit_decom.render.text import Pixels, wrapped, write

# Colours that people with a colour deficiency tell apart as well (Okabe and Ito 2008), the most different first.
_APART = ((0.00, 0.62, 0.45), (0.84, 0.37, 0.00), (0.34, 0.71, 0.91), (0.94, 0.89, 0.26), (0.80, 0.47, 0.65))
_FIRST, _GOLDEN = 0.72, 0.6180339887  # turns of the colour wheel: no two multiples of the latter are close
_MARGIN, _TILE, _SWATCH, _GAP, _TITLE = 6, 128, 10, 3, 13
_NAMES = 128  # width of the names in a legend
_Legend = Sequence[tuple[tuple[float, float, float], Sequence[str]]]
_NOT_FINITE = (0.6, 0.0, 0.0)


def class_colours(classes: Tensor) -> dict[int, tuple[float, float, float]]:
    """Give every class a hue of its own, in the order of their first appearance.

    Args:
        classes: of any shape.

    Returns:
        Red, green and blue in [0, 1] of each class.

    Example:
        >>> colours = class_colours(torch.tensor([[7, 2], [2, 9]]))
        >>> list(colours), len(set(colours.values()))
        ([7, 2, 9], 3)
    """
    found = dict.fromkeys(classes.flatten().tolist())
    beyond = (colorsys.hsv_to_rgb((_FIRST + _GOLDEN * nth) % 1, 0.75, 0.95) for nth in range(len(found)))
    return dict(zip(found, (*_APART, *beyond), strict=False))


def class_overlay(images: Tensor, maps: Tensor, colours: Tensor) -> Tensor:
    """Draw the maps of several classes over one image, each in its colour.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        maps: ``(n, K, h, w)`` in [0, 1].
        colours: red, green and blue of each class of each image, ``(n, K, 3)`` in [0, 1].

    Returns:
        Pictures ``(n, 3, H, W)`` in [0, 1]: the darkened grey image where all maps are 0, and the colours, the stronger
        the larger the maps; where two maps meet, their mixture. A map with NaN is tinted red throughout.
    """
    broken = ~maps.isfinite().flatten(1).all(dim=1)[:, None, None, None]
    levels = upsample(maps.where(~broken, 0), (images.shape[-2], images.shape[-1])).clamp(0, 1)
    total = levels.sum(dim=1, keepdim=True)
    mixed = torch.einsum("nkhw,nkc->nchw", levels / torch.where(total > 0, total, 1), colours)
    grey = images.mean(dim=1, keepdim=True).clamp(0, 1)
    drawn = torch.lerp(0.55 * grey.expand_as(mixed), mixed, 0.85 * total.clamp(max=1))
    tint = 0.5 * grey + 0.5 * drawn.new_tensor(_NOT_FINITE)[:, None, None]
    return torch.where(broken, tint, drawn)


def class_grid(
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    probabilities: Tensor,
    *,
    class_names: Sequence[str],
    captions: Sequence[str],
    title: str = "",
    colours: Mapping[int, tuple[float, float, float]] | None = None,
) -> Image.Image:
    """Compose a picture with a row per image: the image, its classes' maps in one, and which hue is which class.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        maps: ``(n, K, h, w)`` in [0, 1], as :class:`lit_decom.methods.FMGCAM` makes them.
        classes: ``(n, K)``; a class has one hue throughout the picture.
        probabilities: ``(n, K)``, what the network gives each of them.
        class_names: of all classes of the network.
        captions: ``n`` texts under the images.
        title: above the picture.
        colours: of each class, where several pictures shall have the same.

    Returns:
        The picture.
    """
    colours = class_colours(classes) if colours is None else colours
    of_each = torch.tensor([[colours[index] for index in row] for row in classes.tolist()])
    pixels, _ = photos(images, _TILE)
    photo = _unpacked(pixels)
    shown, _ = photos(class_overlay(photo, maps.float(), of_each), _TILE)
    width = 2 * (_TILE + _MARGIN) + _SWATCH + _NAMES + 4 * _MARGIN
    heading = wrapped(title, width - 2 * _MARGIN, _TITLE) if title else []
    under = [wrapped(caption, _TILE, LETTERS) for caption in captions]
    legends = [
        [
            (colours[index], wrapped(f"{class_names[index]} {share_text(share)}", _NAMES, LETTERS))
            for index, share in each
        ]
        for each in (zip(*row, strict=True) for row in zip(classes.tolist(), probabilities.tolist(), strict=True))
    ]
    heights = [max(_TILE + LINE * len(lines), _height(legend)) for lines, legend in zip(under, legends, strict=True)]
    top = (2 if heading else 1) * _MARGIN + len(heading) * (LINE + 2)
    page = np.full((top + sum(heights) + len(heights) * 2 * _MARGIN, width), 0xFFFFFFFF, dtype=np.uint32)
    for number, line in enumerate(heading):
        write(page, _MARGIN, _MARGIN + number * (LINE + 2), line, _TITLE)
    for row, (lines, height) in enumerate(zip(under, heights, strict=True)):
        for column, tile in enumerate((pixels, shown)):
            left = _MARGIN + column * (_TILE + _MARGIN)
            page[top : top + _TILE, left : left + _TILE] = tile[row].numpy().view(np.uint32)
        for number, line in enumerate(lines):
            write(page, _MARGIN, top + _TILE + number * LINE, line, LETTERS)
        _write_legend(page, top, legends[row])
        top += height + 2 * _MARGIN
    return Image.frombytes("RGB", page.shape[::-1], page, "raw", "RGBX")


def _write_legend(page: Pixels, top: int, legend: _Legend) -> None:
    """Beside a picture: a swatch of its hue, and the name and the probability of each class."""
    left = 2 * (_TILE + _MARGIN) + _MARGIN
    for colour, lines in legend:
        red, green, blue = (round(255 * part) for part in colour)
        page[top + 2 : top + 2 + _SWATCH, left : left + _SWATCH] = 0xFF000000 | blue << 16 | green << 8 | red
        for number, line in enumerate(lines):
            write(page, left + _SWATCH + _MARGIN, top + number * LINE, line, LETTERS)
        top += _height([(colour, lines)])


def _height(legend: _Legend) -> int:
    return sum(LINE * len(lines) + _GAP for _, lines in legend)


def _unpacked(pixels: Tensor) -> Tensor:
    """Pixels of four bytes ``(n, side, side)`` as images ``(n, 3, side, side)`` in [0, 1]."""
    return pixels.contiguous()[..., None].view(torch.uint8)[..., :3].permute(0, 3, 1, 2) / 255
