"""Text on arrays of pixels: a word or a pair of digits is drawn once and copied ever after."""

import re
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from lit_decom.render.captions import RIGHT, WRONG

Pixels = npt.NDArray[np.uint32]
"""Four bytes per pixel, ``(H, W)``: red, green, blue and one that means nothing."""
Ink = tuple[int, int, int]
"""Red, green and blue of letters, 0 to 255."""

BLACK: Ink = (0, 0, 0)
GREY: Ink = (0x55, 0x55, 0x55)
GREEN: Ink = (0x0B, 0x7A, 0x3B)
RED: Ink = (0xC4, 0x12, 0x1E)

_OF_MARKS = {RIGHT: GREEN, WRONG: RED}
_BEARING = 2  # pixels by which a letter may reach beyond its own width
_BELOW = 6  # pixels of a line below the size of its letters
# Numbers in pieces of two digits, everything else word by word: so that most pieces are drawn once in a training.
_PIECES = re.compile(rf"[{RIGHT}{WRONG}]|\s*(?:[+-]?\d{{0,2}}\.|\d\d?%?|[+%-]|[^\s\d+.%{RIGHT}{WRONG}-]+)|\s+")
_BREAKS = re.compile(r"[^\s_/-]*[_/-]*\s*")


def write(page: Pixels, left: int, top: int, text: str, size: int, *, ink: Ink = BLACK) -> None:
    """Write a text on white; what does not fit on the page is cut off, and ✓ and ✗ have colours of their own.

    Args:
        page: pixels ``(H, W)``, changed in place.
        left: where the text begins.
        top: where its line begins.
        text: one line.
        size: of the letters.
        ink: their colour.
    """
    # Byte by byte the darker one stays, so that letters may touch.
    room = page.view(np.uint8)
    at = float(left)
    for piece in _PIECES.findall(text):
        letters, advance = _letters(piece, size, _OF_MARKS.get(piece, ink))
        start = 4 * max(0, round(at) - _BEARING)
        place = room[top : top + letters.shape[0], start : start + letters.shape[1]]
        np.minimum(place, letters[: place.shape[0], : place.shape[1]], out=place)
        at += advance


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Break a text into lines that fit: between words, after ``_ / -``, and within a word that is longer than a line.

    Args:
        text: with line breaks of its own, where it needs them.
        width: of a line in pixels.
        size: of the letters.
    """
    return [line for part in text.split("\n") for line in _broken(part, width, size)]


def width_of(text: str, size: int) -> float:
    """How far the end of a line is from its start."""
    return sum(_letters(piece, size, BLACK)[1] for piece in _PIECES.findall(text))


@lru_cache(maxsize=512)
def _broken(text: str, width: int, size: int) -> tuple[str, ...]:
    if width_of(text, size) <= width:
        return (text,)
    lines = [""]
    for word in filter(None, _BREAKS.findall(text)):
        fits = width_of((lines[-1] + word).rstrip(), size) <= width
        # A word that fits nowhere is broken between its letters.
        for part in [word] if fits or width_of(word.rstrip(), size) <= width else word:
            if lines[-1] and width_of((lines[-1] + part).rstrip(), size) > width:
                lines[-1] = lines[-1].rstrip()
                lines.append("")
            lines[-1] += part
    return tuple(lines)


@lru_cache(maxsize=2048)
def _letters(piece: str, size: int, ink: Ink) -> tuple[npt.NDArray[np.uint8], float]:
    """A word or a number on white as bytes ``(h, 4 w)``, and how far the next one is from its start."""
    font = _font(size)
    advance = font.getlength(piece)
    picture = Image.new("RGBX", (round(advance) + 2 * _BEARING, size + _BELOW), (255, 255, 255, 255))
    ImageDraw.Draw(picture).text((_BEARING, 0), piece, fill=(*ink, 255), font=font)
    return np.asarray(picture).reshape(picture.height, -1), advance


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib's own font: Pillow's default one has neither check marks nor crosses.
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
