"""A small canvas that draws a picture and the map of its parts from the same polygons.

Everything random comes from the `random.Random` that is handed in, whose uniform numbers and bytes Python promises to
keep, and every vertex is rounded to the fine grid before it is filled: the same seed gives the same pixels on every
machine with the same Pillow.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

FINENESS = 3  # odd, so that a block of fine pixels has a centre


@dataclass(frozen=True)
class Pose:
    """Where a figure stands: maps its own coordinates (x to the right, y down) to pixels of the picture.

    Args:
        x: Column of the figure's origin in pixels.
        y: Row of the figure's origin in pixels.
        scale: Pixels per unit of the figure's coordinates.
        angle: Rotation in radians, clockwise as seen.
        mirrored: Whether left and right are exchanged before the rotation.
    """

    x: float
    y: float
    scale: float
    angle: float = 0.0
    mirrored: bool = False

    def place(self, points: Iterable[Point]) -> list[Point]:
        """Map points of the figure to pixel coordinates."""
        cos, sin = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        side = -1.0 if self.mirrored else 1.0
        return [(self.x + cos * side * u - sin * v, self.y + sin * side * u + cos * v) for u, v in points]


class Canvas:
    """A picture and its part map, drawn finely and averaged down.

    A pixel belongs to the part that was drawn last over its centre, so parts are disjoint by construction.

    Args:
        size: Height and width in pixels.
        backdrop: RGB image of that size to draw on.
    """

    def __init__(self, size: int, backdrop: Image.Image) -> None:
        self.size = size
        fine = (size * FINENESS, size * FINENESS)
        self._picture = backdrop.resize(fine, Image.Resampling.NEAREST)
        self._parts = Image.new("L", fine, 0)
        self._brush = ImageDraw.Draw(self._picture)
        self._part_brush = ImageDraw.Draw(self._parts)

    def polygon(self, points: Iterable[Point], colour: Colour, part: int | None = None) -> None:
        """Fill a polygon.

        Args:
            points: Corners in pixels of the picture.
            colour: Red, green and blue in 0..255.
            part: Number that the covered pixels get in the part map (0 for none of them); None leaves the map as it is,
                for details inside a part.
        """
        corners = [(round(x * FINENESS), round(y * FINENESS)) for x, y in points]
        self._brush.polygon(corners, fill=colour)
        if part is not None:
            self._part_brush.polygon(corners, fill=part)

    def pattern(self, shapes: Iterable[Iterable[Point]], colour: Colour, part: int) -> None:
        """Fill polygons only where `part` is visible so far."""
        stencil = Image.new("1", self._parts.size)
        brush = ImageDraw.Draw(stencil)
        for points in shapes:
            brush.polygon([(round(x * FINENESS), round(y * FINENESS)) for x, y in points], fill=1)
        visible = self._parts.point([255 if value == part else 0 for value in range(256)], "1")
        self._picture.paste(colour, mask=ImageChops.logical_and(stencil, visible))

    def picture(self) -> Image.Image:
        """The RGB picture: the mean of each block of fine pixels."""
        return self._picture.reduce(FINENESS)

    def forget_parts(self) -> None:
        """Begin a new part map over the picture as it is: for a second figure."""
        self._parts.paste(0, (0, 0, *self._parts.size))

    def parts(self) -> Image.Image:
        """The part map: the part at the centre of each pixel, 0 where there is none."""
        return self._parts.resize((self.size, self.size), Image.Resampling.NEAREST)


def ellipse(x: float, y: float, rx: float, ry: float, *, angle: float = 0.0, n: int = 24) -> list[Point]:
    """Corners of an ellipse with radii `rx` and `ry`, turned by `angle` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + cos * rx * u - sin * ry * v, y + sin * rx * u + cos * ry * v) for u, v in _circle(n)]


@cache
def _circle(n: int) -> tuple[Point, ...]:
    return tuple((math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n)) for k in range(n))


def arc(x: float, y: float, rx: float, ry: float, span: tuple[float, float], *, n: int = 12) -> list[Point]:
    """Points of an elliptic arc over the angles of `span` in radians (0 points right, a quarter turn points down)."""
    start, end = span
    turns = [start + (end - start) * k / (n - 1) for k in range(n)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def band(x: float, y: float, rx: float, ry: float, span: tuple[float, float], *, width: float) -> list[Point]:
    """Corners of an elliptic arc drawn with a pen of `width`."""
    half = width / 2
    outer = arc(x, y, rx + half, ry + half, span)
    return outer + arc(x, y, rx - half, ry - half, span)[::-1]


def star(x: float, y: float, radius: float, points: int, depth: float, *, angle: float = 0.0) -> list[Point]:
    """Corners of a star whose inner corners lie at `depth` times its radius (1 gives a regular polygon)."""
    corners = []
    for k in range(2 * points):
        r, t = radius * (depth if k % 2 else 1.0), angle + math.pi * k / points
        corners.append((x + r * math.cos(t), y + r * math.sin(t)))
    return corners


def grown(points: Sequence[Point], margin: float) -> list[Point]:
    """The corners moved away from their centre by `margin`: a rim for shapes without dents."""
    x = sum(p[0] for p in points) / len(points)
    y = sum(p[1] for p in points) / len(points)
    stretches = [1 + margin / max(math.hypot(u - x, v - y), 1e-6) for u, v in points]
    return [(x + (u - x) * k, y + (v - y) * k) for (u, v), k in zip(points, stretches, strict=True)]


def paint(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue, saturation and value, each in 0..1 (the hue wraps around)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def noise(rng: Random, size: int, cells: int) -> Image.Image:
    """A smooth random RGB texture with about `cells` blobs along each side."""
    grid = Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells * cells))
    return grid.resize((size, size), Image.Resampling.BICUBIC)


def cluttered(rng: Random, size: int) -> Canvas:
    """A canvas with a busy background: two scales of texture, perhaps stripes, and shapes that are no critters."""
    muted = Image.new("RGB", (size, size), paint(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.35, 0.85)))
    texture = Image.blend(noise(rng, size, 3), noise(rng, size, 12), 0.35)
    canvas = Canvas(size, Image.blend(muted, texture, 0.45))
    if rng.random() < 0.4:
        _stripes(rng, canvas)
    for _ in range(int(rng.uniform(6, 13))):
        _distractor(rng, canvas)
    return canvas


def _stripes(rng: Random, canvas: Canvas) -> None:
    pose = Pose(canvas.size / 2, canvas.size / 2, canvas.size, rng.uniform(0, math.pi))
    colour = paint(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.9))
    pitch = rng.uniform(0.1, 0.25)
    for k in range(-int(0.75 / pitch), int(0.75 / pitch) + 1):
        left, right = k * pitch, (k + 0.4) * pitch
        canvas.polygon(pose.place([(left, -0.8), (right, -0.8), (right, 0.8), (left, 0.8)]), colour)


def _distractor(rng: Random, canvas: Canvas) -> None:
    x, y = rng.uniform(0, canvas.size), rng.uniform(0, canvas.size)
    radius, angle = canvas.size * rng.uniform(0.04, 0.13), rng.uniform(0, 2 * math.pi)
    colour = paint(rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.95))
    kind = int(rng.random() * 5)
    if kind == 0:
        canvas.polygon(ellipse(x, y, radius, radius * rng.uniform(0.5, 1), angle=angle, n=20), colour)
    elif kind == 1:
        canvas.polygon(star(x, y, radius, 3, 0.5, angle=angle), colour)  # a triangle, like a pointed ear
    elif kind == 2:
        canvas.polygon(star(x, y, radius, 5, rng.uniform(0.4, 0.7), angle=angle), colour)
    elif kind == 3:
        canvas.polygon(star(x, y, radius, 2, rng.uniform(0.3, 0.6), angle=angle), colour)
    else:  # a disc in a disc, like an eye
        canvas.polygon(ellipse(x, y, 0.6 * radius, 0.6 * radius, n=16), paint(0, 0, 0.95))
        canvas.polygon(ellipse(x, y, 0.3 * radius, 0.3 * radius, n=12), paint(0, 0, 0.1))
