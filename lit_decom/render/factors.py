"""Decision factors in the picture of a snapshot: maps of every image, and above them the codes of the classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_decom.render.captions import figures
from lit_decom.render.text import BLACK, GREY, RED, Ink, Pixels, width_of, wrapped, write

LINE = 15  # height of a line of text
LETTERS = 11  # size of the letters of captions
_MOST_CLASSES = 12
_Colours = npt.NDArray[np.uint32]
_CODES = (
    "codes: what a class gains, in logits, for each unit of the factor's score. Red speaks for it, blue against it."
)
_MAPS = (
    "under a map: code times score, what the factor says for the class of the image, in logits. The map shows where; "
    "what speaks for a class by its absence has no place. The factors of an image have one scale."
)


@dataclass(frozen=True)
class FactorPanel:
    """What a picture shows of ``K`` decision factors.

    Attributes:
        title: how far they go; of one line or more.
        cautions: why they are no result, or less than they seem.
        heads: ``K`` names of columns.
        maps: ``(n, K, h, w)`` non-negative, where each speaks for the class of the image; NaN where not finite. The
            factors of an image have one scale.
        captions: for each image ``K`` texts under its maps.
        codes: ``(N, K)``; None for no codes.
        class_names: of the ``N`` classes.
    """

    title: str
    cautions: Sequence[str]
    heads: Sequence[str]
    maps: Tensor
    captions: Sequence[Sequence[str]]
    codes: Tensor | None = None
    class_names: Sequence[str] = ()

    @cached_property
    def classes(self) -> list[int]:
        """The classes with the largest codes, in their own order."""
        if self.codes is None or self.codes.numel() == 0:
            return []
        largest = self.codes.abs().amax(dim=1).argsort(descending=True, stable=True)
        return sorted(largest[:_MOST_CLASSES].tolist())


@dataclass(frozen=True)
class Above:
    """What stands above the maps of the factors: their title, cautions and codes.

    Attributes:
        panel: what is shown.
        step: from the left of one column of the picture to the left of the next.
        width: of the picture.
        margin: around everything.
    """

    panel: FactorPanel
    step: int
    width: int
    margin: int

    @cached_property
    def height(self) -> int:
        """Of all of it."""
        return (len(self._said) + max(sum(map(len, self._names)), len(self._legend))) * LINE + 3 * self.margin

    def draw(self, page: Pixels, top: int) -> None:
        """Write and paint, from a height of the page on."""
        top += self.margin
        for line, ink in self._said:
            write(page, self.margin, top, line, LETTERS, ink=ink)
            top += LINE
        beside = self.margin + (1 + len(self.panel.heads)) * self.step
        for number, line in enumerate(self._legend):
            write(page, beside, top + number * LINE, line, LETTERS, ink=GREY)
        if self.panel.codes is None or not self.panel.classes:
            return
        colours = _colours_of(self.panel.codes)
        for row, lines in zip(self.panel.classes, self._names, strict=True):
            for number, line in enumerate(lines):
                write(page, self.margin, top + number * LINE, line, LETTERS)
            bottom = top + len(lines) * LINE - 1
            for column, code in enumerate(self.panel.codes[row].tolist()):
                left = self.margin + (column + 1) * self.step
                page[top:bottom, left : left + self.step - self.margin] = colours[row, column]
                text = figures(code, 2, signed=True)
                indent = round((self.step - self.margin - width_of(text, LETTERS)) / 2)
                write(page, left + max(indent, 0), top, text, LETTERS)
            top = bottom + 1

    @cached_property
    def _said(self) -> list[tuple[str, Ink]]:
        """Title and cautions, line by line."""
        texts = [(self.panel.title, BLACK), *((text, RED) for text in self.panel.cautions)]
        room = self.width - 2 * self.margin
        return [(line, ink) for text, ink in texts if text for line in wrapped(text, room, LETTERS)]

    @cached_property
    def _names(self) -> list[list[str]]:
        """The lines of each class's name."""
        return [wrapped(self.panel.class_names[row], self.step - self.margin, LETTERS) for row in self.panel.classes]

    @cached_property
    def _legend(self) -> list[str]:
        """What codes and captions mean, beside the codes."""
        if not self.panel.heads:
            return []
        texts = [_CODES, _MAPS] if self.panel.classes else [_MAPS]
        if self.panel.codes is not None and len(self.panel.codes) > _MOST_CLASSES:
            texts.insert(0, f"{_MOST_CLASSES} of {len(self.panel.codes)} classes, those with the largest codes.")
        room = self.width - (1 + len(self.panel.heads)) * self.step - 2 * self.margin
        return [line for text in texts for line in wrapped(text, room, LETTERS)]


def _colours_of(codes: Tensor) -> _Colours:
    """One pixel for each code: white at 0, as strong at the largest of either sign."""
    known = codes.float().nan_to_num()
    largest = known.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    colours: _Colours = _scale_of_codes()[((known / largest + 1) * 127.5).round().long().numpy()]
    return colours


@lru_cache(maxsize=1)
def _scale_of_codes() -> _Colours:
    """From blue over white to red in 256 steps of four bytes; light enough for black letters."""
    colours = (mpl.colormaps["RdBu_r"](np.linspace(0.2, 0.8, 256))[:, :4] * 255).round().astype(np.uint8)
    return np.ascontiguousarray(colours).view(np.uint32)[:, 0]
