"""The critters themselves: small animals whose kind can be told only from their ears, eyes and nose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Literal

from lit_decom.data.drawing import Canvas, Colour, Point, Pose, arc, band, ellipse, grown, paint, star

PART_NAMES = ("ears", "eyes", "nose", "mouth", "body")
EARS, EYES, NOSE, MOUTH, BODY = range(1, 6)

_INK: Colour = (38, 30, 36)
_WHITE: Colour = (250, 250, 244)
_RIM = 0.035


@dataclass(frozen=True)
class Species:
    """What all critters of one class share; everything else about a critter is chance.

    Args:
        name: First syllable after the ears, consonant after the eyes, ending after the nose.
        ears: Triangles or discs on top of the head.
        eyes: Wide open or half covered by a lid.
        nose: A small dark button or a broad snout with two nostrils.
    """

    name: str
    ears: Literal["pointed", "round"]
    eyes: Literal["open", "sleepy"]
    nose: Literal["button", "snout"]


SPECIES = tuple(
    Species(syllable + consonant + ending, ears, eyes, nose)  # type: ignore[arg-type]
    for (syllable, ears), (consonant, eyes), (ending, nose) in product(
        (("pi", "pointed"), ("mu", "round")), (("k", "open"), ("z", "sleepy")), (("o", "button"), ("onk", "snout"))
    )
)


@dataclass(frozen=True)
class Traits:
    """What can be said of one critter: its kind, and what is chance about it.

    Args:
        species: Its kind, which tells ears, eyes and nose.
        colour: Of its fur.
        coat: Of its head.
        mouth: What it does with it.
        tail: Its form.
    """

    species: Species
    colour: str
    coat: str
    mouth: str
    tail: str


# In the order of the numbers that are drawn; the first colour is that of hues around 0, the others follow evenly.
COLOURS = (
    "red",
    "orange",
    "yellow",
    "lime",
    "green",
    "mint",
    "turquoise",
    "azure",
    "blue",
    "purple",
    "magenta",
    "pink",
)
COATS = ("spotted", "striped", "plain")
MOUTHS = ("smiling", "open", "closed")
TAILS = ("bushy", "pompon", "thin")


@dataclass(frozen=True)
class _Look:
    """The chance side of one critter: colours, proportions and expression."""

    hue: float
    fur: Colour
    shade: Colour
    belly: Colour
    accent: Colour
    iris: Colour
    head: tuple[float, float]
    torso: tuple[float, float]
    ear_spread: float
    ear_size: float
    eye_gap: float
    eye_size: float
    nose_size: float
    gaze: Point
    coat: int
    mouth: int
    tail: int

    @classmethod
    def draw(cls, rng: Random) -> _Look:
        hue, saturation, value = rng.random(), rng.uniform(0.25, 0.8), rng.uniform(0.6, 0.95)
        return cls(
            hue=hue,
            fur=paint(hue, saturation, value),
            shade=paint(hue, min(1.0, saturation + 0.15), 0.45 * value),
            belly=paint(hue + rng.uniform(-0.06, 0.06), 0.35 * saturation, min(1.0, value + 0.15)),
            accent=paint(rng.uniform(0.92, 1.08), rng.uniform(0.35, 0.6), rng.uniform(0.75, 0.95)),
            iris=paint(rng.random(), 0.7, 0.5),
            head=(rng.uniform(0.58, 0.66), rng.uniform(0.46, 0.53)),
            torso=(rng.uniform(0.34, 0.46), rng.uniform(0.34, 0.4)),
            ear_spread=rng.uniform(0.55, 0.75),
            ear_size=rng.uniform(0.9, 1.12),
            eye_gap=rng.uniform(0.25, 0.3),
            eye_size=rng.uniform(0.155, 0.185),
            nose_size=rng.uniform(0.9, 1.15),
            gaze=(rng.uniform(-0.08, 0.08), rng.uniform(-0.04, 0.05)),
            coat=int(rng.random() * 3),
            mouth=int(rng.random() * 3),
            tail=int(rng.random() * 3),
        )

    def traits(self, species: Species) -> Traits:
        """Say in words what is drawn."""
        colour = COLOURS[round(self.hue * len(COLOURS)) % len(COLOURS)]
        return Traits(species, colour, COATS[self.coat], MOUTHS[self.mouth], TAILS[self.tail])


def draw_critter(canvas: Canvas, rng: Random, species: Species, pose: Pose) -> Traits:
    """Draw one critter of a species, about two units high and centred on the pose's origin, and say what it is like.

    Parts hide those drawn before: limbs and torso, ears, head, then the face.
    """
    look = _Look.draw(rng)
    pen = _Pen(canvas, pose, look.shade)
    _torso(pen, rng, look)
    _ears(pen, look, species.ears)
    _head(pen, rng, look)
    for side in (-1.0, 1.0):
        _eye(pen, look, species.eyes, side)
    _mouth(pen, look)
    _nose(pen, look, species.nose)
    return look.traits(species)


@dataclass(frozen=True)
class _Pen:
    canvas: Canvas
    pose: Pose
    rim: Colour

    def shape(self, points: list[Point], colour: Colour, part: int, rim: float = _RIM) -> None:
        """Fill a shape with a darker rim around it."""
        self.canvas.polygon(self.pose.place(grown(points, rim)), self.rim, part)
        self.canvas.polygon(self.pose.place(points), colour)

    def detail(self, points: list[Point], colour: Colour, part: int | None = None) -> None:
        self.canvas.polygon(self.pose.place(points), colour, part)

    def pattern(self, shapes: list[list[Point]], colour: Colour, part: int) -> None:
        self.canvas.pattern([self.pose.place(points) for points in shapes], colour, part)


def _torso(pen: _Pen, rng: Random, look: _Look) -> None:
    rx, ry = look.torso
    if look.tail == 0:  # a plume
        pen.shape(ellipse(rx + 0.2, 0.45, 0.13, 0.3, angle=0.5), look.fur, BODY)
    elif look.tail == 1:  # a pompon
        pen.shape(ellipse(rx + 0.08, 0.68, 0.14, 0.14), look.belly, BODY)
    else:  # a thin one
        pen.detail(band(rx, 0.55, 0.28, 0.22, (0.0, math.pi / 2), width=0.1), look.shade, BODY)
    for side in (-1, 1):
        pen.shape(ellipse(side * 0.22, 0.92, 0.17, 0.1), look.fur, BODY)
    pen.shape(ellipse(0, 0.58, rx, ry), look.fur, BODY)
    pen.detail(ellipse(0, 0.64, 0.6 * rx, 0.68 * ry), look.belly)
    for side in (-1, 1):
        lift = rng.uniform(-0.5, 0.9)
        pen.shape(ellipse(side * (rx + 0.06), 0.52, 0.1, 0.21, angle=-side * lift), look.fur, BODY)


def _ears(pen: _Pen, look: _Look, kind: str) -> None:
    rx, ry = look.head
    size = look.ear_size
    for side in (-1.0, 1.0):
        # where the ear grows out of the head; pointed ears stand upright and are dark inside, round ones stick out
        spread = look.ear_spread + (0.0 if kind == "pointed" else 0.2)
        x, y = side * rx * math.sin(spread), -0.17 - ry * math.cos(spread)
        if kind == "pointed":
            pen.shape(_triangle(x, y, 0.24 * size, 0.5 * size, side * 0.3), look.fur, EARS)
            pen.detail(_triangle(x, y, 0.14 * size, 0.38 * size, side * 0.3), look.shade)
        else:
            x, y = x + side * 0.06, y - 0.06
            pen.shape(ellipse(x, y, 0.27 * size, 0.27 * size), look.fur, EARS)
            pen.detail(ellipse(x, y, 0.18 * size, 0.18 * size), look.accent)


def _triangle(x: float, y: float, half: float, height: float, lean: float) -> list[Point]:
    cos, sin = math.cos(lean), math.sin(lean)
    corners = [(-half, 0.2), (-0.7 * half, -0.3 * height), (0.0, -height), (0.7 * half, -0.3 * height), (half, 0.2)]
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in corners]


def _head(pen: _Pen, rng: Random, look: _Look) -> None:
    rx, ry = look.head
    pen.shape(ellipse(0, -0.17, rx, ry, n=40), look.fur, BODY)
    if look.coat == 0:  # spots
        spots = [(rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.8), rng.uniform(0.06, 0.14)) for _ in range(7)]
        pen.pattern([ellipse(x, y, r, r, n=16) for x, y, r in spots], look.shade, BODY)
    elif look.coat == 1:  # stripes
        rows = [-0.62 + 0.3 * k for k in range(6)]
        bars = [[(-0.8, y), (-0.3, y + 0.04), (-0.3, y + 0.08), (-0.8, y + 0.12)] for y in rows]
        pen.pattern(bars + [[(-x, y) for x, y in bar] for bar in bars], look.shade, BODY)
    for side in (-1, 1):  # cheeks
        pen.detail(ellipse(side * 0.4 + look.gaze[0], 0.06 + look.gaze[1], 0.09, 0.06, n=16), look.accent)


def _eye(pen: _Pen, look: _Look, kind: str, side: float) -> None:
    r = look.eye_size
    x, y = side * look.eye_gap + look.gaze[0], -0.22 + look.gaze[1]
    pen.shape(ellipse(x, y, r, r), _WHITE, EYES, rim=0.025)
    u, v = x + 0.4 * look.gaze[0], y + (0.02 if kind == "open" else 0.05)
    pen.detail(ellipse(u, v, 0.66 * r, 0.66 * r, n=20), look.iris)
    pen.detail(ellipse(u, v, 0.42 * r, 0.42 * r, n=16), _INK)
    if kind == "open":
        pen.detail(ellipse(u - 0.25 * r, v - 0.25 * r, 0.2 * r, 0.2 * r, n=12), _WHITE)
    else:
        pen.detail(arc(x, y + 0.06 * r, r, 1.06 * r, (math.pi, 2 * math.pi), n=16), look.fur)
        pen.detail(band(x, y + 0.06 * r, 1.05 * r, 0.02, (0, math.pi), width=0.05), _INK)


def _mouth(pen: _Pen, look: _Look) -> None:
    x, y = look.gaze[0], 0.185 + look.gaze[1]
    if look.mouth == 0:  # a smile
        pen.detail(band(x, y, 0.17, 0.1, (0.1, math.pi - 0.1), width=0.055), _INK, MOUTH)
    elif look.mouth == 1:  # open, with a tongue
        pen.detail(arc(x, y + 0.02, 0.15, 0.15, (0, math.pi), n=16), _INK, MOUTH)
        pen.detail(ellipse(x, y + 0.11, 0.07, 0.05, n=14), look.accent)
    else:  # closed, with a tooth
        pen.detail(
            [(x - 0.16, y + 0.04), (x + 0.16, y + 0.04), (x + 0.16, y + 0.09), (x - 0.16, y + 0.09)], _INK, MOUTH
        )
        pen.detail(
            [(x - 0.02, y + 0.07), (x + 0.07, y + 0.07), (x + 0.06, y + 0.16), (x - 0.01, y + 0.16)], _WHITE, MOUTH
        )


def _nose(pen: _Pen, look: _Look, kind: str) -> None:
    x, y, size = look.gaze[0], 0.03 + look.gaze[1], look.nose_size
    if kind == "button":
        pen.detail(star(x, y, 0.12 * size, 3, 0.62, angle=math.pi / 2), _INK, NOSE)
        pen.detail(ellipse(x - 0.025, y - 0.03, 0.03, 0.02, n=8), (150, 140, 146))
    else:
        pen.shape(ellipse(x, y, 0.19 * size, 0.12 * size), look.accent, NOSE, rim=0.025)
        for side in (-1, 1):
            pen.detail(ellipse(x + side * 0.075 * size, y, 0.032 * size, 0.05 * size, n=12), _INK)
