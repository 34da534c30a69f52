"""The picture of a snapshot: a row per image, with maps of decision factors, its integrated map and its OSSMs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lit_decom import keys
from lit_decom.render.captions import WRONG
from lit_decom.render.factors import LETTERS as _CAPTION
from lit_decom.render.factors import LINE as _LINE
from lit_decom.render.factors import Above, FactorPanel
from lit_decom.render.heat import heated, levels_of, photos, scale_of_heat
from lit_decom.render.text import GREY, Pixels, width_of, wrapped, write

_TITLE = 13  # size of the letters of a title; those of captions are smaller
_MARGIN = 3
_LARGEST_TILE, _SMALLEST_TILE = 160, 96
_BAR = (120, 9)  # width and height of the colour bar
_FRAME = 3  # pixels around an image that is taken for another class
_LIGHT_GREY = 0xFFB0B0B0  # a line between factors and OSSMs
_WHITE = -1  # pixels are int32 of four bytes each: red, green, blue, 255
_RED, _CYAN = np.array([0xFF1E12C4, 0xFFFFFF00], dtype=np.uint32).view(np.int32).tolist()


def ossm_grids(
    images: Tensor,
    cams: Tensor,
    ossms: Tensor,
    *,
    row_captions: Sequence[str],
    ossm_captions: Sequence[Sequence[str]],
    scales: Mapping[str, Tensor | None],
    masks: Tensor | None = None,
    factors: FactorPanel | None = None,
) -> list[Image.Image]:
    """Compose pictures with a row per image: the image, its integrated map and its OSSMs, above a colour bar.

    Decision factors have the first columns beside the image, and their codes above these. The pictures differ in the
    scale of their maps alone. Without limits every map is drawn to its own maximum, since the first component would
    leave the others dark; how much each one counts stands in its caption. No text is cut: captions and titles go on in
    the next line.

    Args:
        images: ``(n, 3, H, W)`` in [0, 1].
        cams: ``(n, h, w)``, non-negative.
        ossms: ``(n, K, h, w)``, non-negative.
        row_captions: ``n`` texts under the images; one that begins with ✗ gives its image a red frame.
        ossm_captions: for each image ``K`` texts; an empty one leaves its tile blank.
        scales: for each picture, by the title above it, what counts as full heat in the integrated map and in the OSSMs
            of each image ``(n, 2)``; None for each map's own maximum.
        masks: ``(n, H, W)`` bool, of objects whose outline is drawn on every tile; None for no outline.
        factors: of the same images; None for a picture without.

    Returns:
        The pictures, in the order of ``scales``.
    """
    panel = FactorPanel("", (), (), ossms[:, :0], [()] * len(images)) if factors is None else factors
    rows = zip(row_captions, panel.captions, cams, ossm_captions, strict=True)
    texts = [[row, *first, _condition(cam), *rest] for row, first, cam, rest in rows]
    tile = int(min(max(images.shape[-1], _SMALLEST_TILE), _LARGEST_TILE))
    layout = _Layout.of(texts, list(scales), tile, panel)
    pixels, greys = photos(images, tile)
    edges = None if masks is None else _outlines(masks, tile)
    page, maps = _captioned(layout), torch.cat([panel.maps, cams[:, None], ossms], dim=1)
    pictures = []
    for title, limits in scales.items():
        canvas = page.copy() if len(scales) > 1 else page
        _write_around(canvas, layout, title, is_shared=limits is not None)
        levels, broken = levels_of(maps, _full_heat(maps, len(panel.heads), limits))
        for row, captions in enumerate(row_captions):  # one by one, so that it stays in the processor's cache
            tiles = layout.tiles(canvas, row)
            tiles[0], tiles[1:] = pixels[row], heated(greys[row], levels[row], broken[row])
            if edges is not None:
                tiles.masked_fill_(edges[row], _CYAN)
            if captions.startswith(WRONG):
                _frame(tiles[0])
            for rank, text in enumerate(ossm_captions[row]):
                if not text:
                    tiles[len(panel.heads) + 2 + rank] = _WHITE
        pictures.append(Image.frombytes("RGB", canvas.shape[::-1], canvas, "raw", "RGBX"))
    return pictures


@dataclass(frozen=True)
class _Layout:
    """Where things are on a page.

    Attributes:
        tile: side of a tile.
        captions: for each row and column the lines under the tile.
        n_title_lines: of the longest title.
        factors: what the first columns beside the images show.
    """

    tile: int
    captions: tuple[tuple[list[str], ...], ...]
    n_title_lines: int
    factors: FactorPanel

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], titles: Sequence[str], tile: int, factors: FactorPanel) -> "_Layout":
        """Break texts and titles into lines, and make room for the longest."""
        captions = tuple(tuple(wrapped(text, tile, _CAPTION) for text in row) for row in texts)
        width = cls(tile, captions, 0, factors).width - 2 * _MARGIN
        return cls(tile, captions, max(len(wrapped(title, width, _TITLE)) for title in titles), factors)

    @property
    def step(self) -> int:
        """From the left of one column to the left of the next."""
        return self.tile + _MARGIN

    @property
    def width(self) -> int:
        """Of the page."""
        return self.step * len(self.captions[0]) + _MARGIN

    @property
    def under_title(self) -> int:
        """Where what stands under the title begins."""
        return self.n_title_lines * _LINE + 2 * _MARGIN

    @cached_property
    def above(self) -> Above | None:
        """What is said of the factors under the title; None where there is nothing to be said."""
        made = Above(self.factors, self.step, self.width, _MARGIN)
        return made if self.factors.title or self.factors.cautions else None

    @property
    def heads(self) -> int:
        """Where the line of the columns' heads begins."""
        return self.under_title + (0 if self.above is None else self.above.height)

    @cached_property
    def tops(self) -> list[int]:
        """Where each row of tiles begins, and last the foot of the page."""
        tops = [self.heads + _LINE + _MARGIN]
        for row in self.captions:
            tops.append(tops[-1] + self.tile + max(map(len, row)) * _LINE + _MARGIN)
        return tops

    def tiles(self, canvas: Pixels, row: int) -> Tensor:
        """The tiles of a row as a view ``(columns, tile, tile)`` of the pixels."""
        pixels = torch.from_numpy(canvas.view(np.int32))
        start = self.tops[row] * self.width + _MARGIN
        return pixels.as_strided((len(self.captions[0]), self.tile, self.tile), (self.step, self.width, 1), start)


def _captioned(layout: _Layout) -> Pixels:
    """White pixels with room for tiles, the heads of their columns, and the text under each tile."""
    page = np.full((layout.tops[-1] + _LINE + _MARGIN, layout.width), 0xFFFFFFFF, dtype=np.uint32)
    if layout.above is not None:
        layout.above.draw(page, layout.under_title)
    first = ["image", *layout.factors.heads, "integrated"]
    ranks = (f"rank {keys.number(rank)}" for rank in range(len(layout.captions[0]) - len(first)))
    for column, head in enumerate([*first, *ranks]):
        write(page, _MARGIN + column * layout.step, layout.heads, head, _CAPTION, ink=GREY)
    if layout.factors.heads:
        page[layout.heads : layout.tops[-1], (1 + len(layout.factors.heads)) * layout.step + 1] = _LIGHT_GREY
    for top, row in zip(layout.tops, layout.captions, strict=False):
        for column, lines in enumerate(row):
            for number, line in enumerate(lines):
                left = _MARGIN + column * layout.step
                write(page, left, top + layout.tile + number * _LINE, line, _CAPTION)
    return page


def _write_around(canvas: Pixels, layout: _Layout, title: str, *, is_shared: bool) -> None:
    """Write the title above the tiles, and below them what their colours mean."""
    for number, line in enumerate(wrapped(title, layout.width - 2 * _MARGIN, _TITLE)):
        write(canvas, _MARGIN, _MARGIN + number * _LINE, line, _TITLE)
    foot, left = layout.tops[-1], _MARGIN + round(width_of("0 ", _CAPTION))
    write(canvas, _MARGIN, foot, "0", _CAPTION)
    bar = scale_of_heat(_BAR[0]).numpy().view(np.uint32)
    canvas[foot + _MARGIN : foot + _MARGIN + _BAR[1], left : left + _BAR[0]] = bar
    most = "largest so far in the image" if is_shared else "largest of each map"
    write(canvas, left + _BAR[0] + _MARGIN, foot, most, _CAPTION)


def _outlines(masks: Tensor, tile: int) -> Tensor:
    """The pixels of an object that touch another one's or none's, ``(n, 1, tile, tile)`` bool."""
    inside = F.interpolate(masks[:, None].float(), (tile, tile))
    # What is outside grows into the object by a pixel, from beyond the image as well.
    grown = F.max_pool2d(1 - F.pad(inside, (1, 1, 1, 1)), 3, stride=1)
    return (inside * grown) > 0


def _frame(tile: Tensor) -> None:
    for side in (tile[:_FRAME], tile[-_FRAME:], tile[:, :_FRAME], tile[:, -_FRAME:]):
        side.fill_(_RED)


def _full_heat(maps: Tensor, n_factors: int, limits: Tensor | None) -> Tensor:
    """What counts as full heat ``(n, columns)``: the largest of an image's factors, and of each other map or given."""
    full = maps.nan_to_num(0, 0, 0).amax(dim=(-2, -1))
    if n_factors:
        full[:, :n_factors] = full[:, :n_factors].amax(dim=1, keepdim=True)
    if limits is not None:
        full[:, n_factors], full[:, n_factors + 1 :] = limits[:, 0], limits[:, 1:]
    return full


def _condition(cam: Tensor) -> str:
    """What keeps a map from being read as one."""
    if not cam.isfinite().all():
        return "not finite"
    return "" if (cam != 0).any() else "blank"
