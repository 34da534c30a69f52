"""Critters with a word on a plate: right words to learn reading from, wrong words to attack with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from lit_decom.data.base import Split, Target, bounding_box
from lit_decom.data.critters import Critters, CrittersDataModule
from lit_decom.data.drawing import cluttered, paint

Words = Literal["right", "wrong", "random"]

# Seven rows of five dots for each letter. Most of them are others in the mirror, as in any typeface, and none is drawn
# by a font of the machine: the same word gives the same pixels everywhere.
_FONT = {
    "a": "..... ..... .###. ....# .#### #...# .####",
    "b": "#.... #.... #.##. ##..# #...# #...# ####.",
    "c": "..... ..... .###. #.... #.... #...# .###.",
    "d": "....# ....# .##.# #..## #...# #...# .####",
    "e": "..... ..... .###. #...# ##### #.... .###.",
    "f": "..##. .#..# .#... ###.. .#... .#... .#...",
    "g": "..... .#### #...# #...# .#### ....# .###.",
    "h": "#.... #.... #.##. ##..# #...# #...# #...#",
    "i": "..#.. ..... .##.. ..#.. ..#.. ..#.. ..##.",
    "j": "...#. ..... ..##. ...#. ...#. #..#. .##..",
    "k": "#.... #.... #..#. #.#.. ##... #.#.. #..#.",
    "l": ".##.. ..#.. ..#.. ..#.. ..#.. ..#.. ..##.",
    "m": "..... ..... ##.#. #.#.# #.#.# #...# #...#",
    "n": "..... ..... #.##. ##..# #...# #...# #...#",
    "o": "..... ..... .###. #...# #...# #...# .###.",
    "p": "..... ..... ####. #...# ####. #.... #....",
    "q": "..... ..... .##.# #..## .#### ....# ....#",
    "r": "..... ..... #.##. ##..# #.... #.... #....",
    "s": "..... ..... .#### #.... .###. ....# ####.",
    "t": ".#... .#... ###.. .#... .#... .#..# ..##.",
    "u": "..... ..... #...# #...# #...# #..## .##.#",
    "v": "..... ..... #...# #...# #...# .#.#. ..#..",
    "w": "..... ..... #...# #...# #.#.# #.#.# .#.#.",
    "x": "..... ..... #...# .#.#. ..#.. .#.#. #...#",
    "y": "..... ..... #...# #...# .#### ....# .###.",
    "z": "..... ..... ##### ...#. ..#.. .#... #####",
    " ": "..... ..... ..... ..... ..... ..... .....",
}
_FINENESS = 3
_MARGIN = 1  # dots of the plate around the letters
_WIDEST = 0.95  # of the image, for the longest class name


class CrittersWithWords(Critters):
    """Critters of which some carry a plate with the name of a class.

    The plate lies over the lower part of the image, below most faces. Its place, size and colours, and whether there is
    one, are chance and tell nothing; the word tells the class if it is right, and never the class if it is wrong. The
    critter is that of :class:`lit_decom.data.Critters` with the same arguments, pixel by pixel but for the plate, so
    that images with right words, wrong words and none can be compared in pairs.

    A network that shall be fooled by a word must have learnt to read: train it on right words, of which some may stand
    alone, and without flips, since a word's mirror is only unreadable to a network that has not seen mirrored words.

    To what :class:`lit_decom.data.Critters` gives, the target adds ``"word"`` (bool ``(1, H, W)``, the plate, which
    hides the parts under it), and ``"word_label"``, the class that the word names, -1 where there is no word. A caption
    of a word alone names the class, and there is no box.

    Args:
        n: Number of images.
        image_size: Height and width in pixels, at least 32.
        words: Which class the word names: "right" the one that the image shows, "wrong" one of the others, drawn
            uniformly, "random" any.
        word_rate: Share of the images, 0..1, that carry a word.
        alone_rate: Share of these, 0..1, that show nothing else: the critter's background without the critter. Only
            with right words, since a label is then what is written.
        **options: Further arguments of :class:`lit_decom.data.Critters`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        n: int,
        image_size: int = 112,
        *,
        words: Words = "wrong",
        word_rate: float = 1.0,
        alone_rate: float = 0.0,
        **options: Any,
    ) -> None:
        if words not in ("right", "wrong", "random"):
            raise ValueError(f"Expected `words` to be 'right', 'wrong' or 'random', but got {words!r}.")
        for name, rate in (("word_rate", word_rate), ("alone_rate", alone_rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"Expected `{name}` to be between 0 and 1, but got {rate}.")
        if alone_rate and words != "right":
            raise ValueError(f"Expected `words` to be 'right' where `alone_rate` is positive, but got {words!r}.")
        super().__init__(n, image_size, **options)
        self.words = words
        self.word_rate = word_rate
        self.alone_rate = alone_rate

    def load(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Image `index` with its word, if it has one, and its annotations."""
        image, target = super().load(index)
        if self.is_alone(index):
            image, target = self._background(index), self._without_critter(index, target)
        named, rng = self.word_label(index), self._random(index, "plate")
        plate = torch.zeros(image.shape[1:], dtype=torch.bool)
        if named >= 0:
            plate = _draw_plate(image, self.classes[named], max(map(len, self.classes)), rng)
        return image, _hidden(target, plate) | {"word_label": named} if self.annotations else target

    def word_label(self, index: int) -> int:
        """Class that the word on image `index` names; -1 where there is no word."""
        rng, shown, n = self._random(index, "word"), int(self.true_targets[index]), len(self.classes)
        if rng.random() >= self.word_rate:
            return -1
        shift = {"right": 0, "wrong": 1 + int(rng.random() * (n - 1)), "random": int(rng.random() * n)}[self.words]
        return (shown + shift) % n

    def is_alone(self, index: int) -> bool:
        """Whether image `index` shows a word and no critter."""
        return self.word_label(index) >= 0 and self._random(index, "alone").random() < self.alone_rate

    def _background(self, index: int) -> tv_tensors.Image:
        # What is behind the critter is drawn first, so it is the same without it.
        picture = cluttered(self._random(index, "critter"), self.image_size).picture()
        return tv_tensors.Image(pil_to_tensor(picture).contiguous())

    def _without_critter(self, index: int, target: Target) -> Target:
        found: Target = {
            name: torch.zeros_like(value) for name, value in target.items() if isinstance(value, tv_tensors.Mask)
        }
        if self.captions:
            found |= {"caption": f"a photo of a {self.classes[self.word_label(index)]}"}
        return target | found


class CrittersWithWordsDataModule(CrittersDataModule):
    """Critters of which some carry a word, for training, validation and test.

    Training images are not flipped unless `augmentation` says so: the mirror of a word shall stay unreadable.

    Args:
        words: Which class the word names, of the images of every split.
        word_rate: Share of the images, 0..1, that carry a word, of every split.
        alone_rate: Share of the training images with a word, 0..1, that show nothing else; only with right words.
        **options: Further arguments of :class:`lit_decom.data.CrittersDataModule`.
    """

    def __init__(
        self, *, words: Words = "right", word_rate: float = 0.5, alone_rate: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.words: Words = words
        self.word_rate = word_rate
        self.alone_rate = alone_rate

    def default_augmentation(self) -> list[v2.Transform]:
        """None."""
        return []

    def make_dataset(self, split: Split, transform: v2.Transform) -> CrittersWithWords:
        """Draw from the stream of the split's name."""
        return CrittersWithWords(**self.options(split), transform=transform)

    def options(self, split: Split) -> dict[str, Any]:
        """Arguments of the data set of one split, but for the transform; words alone are for training."""
        alone_rate = self.alone_rate if split == "train" else 0.0
        words = {"words": self.words, "word_rate": self.word_rate, "alone_rate": alone_rate}
        return super().options(split) | words


@dataclass(frozen=True)
class _Plate:
    """Where a plate lies, in pixels, and its colours."""

    top: int
    left: int
    height: int
    width: int
    ground: Tensor
    ink: Tensor

    @classmethod
    def draw(cls, rng: Random, size: int, n_letters: int, most_letters: int) -> _Plate:
        """Draw a place and two colours of which one is dark."""
        dot = rng.uniform(0.8, 1.0) * _WIDEST * size / _columns(most_letters)
        height, width = round(dot * (7 + 2 * _MARGIN)), round(dot * _columns(n_letters))
        top = round(rng.uniform(0.7, 1.0) * (size - height))
        left = round(rng.random() * (size - width))
        hue, dark = rng.random(), rng.random() < 0.5
        light, deep = (torch.tensor(paint(hue, *tone)) for tone in ((0.15, 0.97), (0.6, 0.2)))
        return cls(top, left, height, width, *((deep, light) if dark else (light, deep)))


def _draw_plate(image: Tensor, word: str, most_letters: int, rng: Random) -> Tensor:
    """Draw a word into an image uint8 ``(3, H, W)``, in place; tell where the plate is, bool ``(H, W)``."""
    plate = _Plate.draw(rng, image.shape[-1], len(word), most_letters)
    where = slice(plate.top, plate.top + plate.height), slice(plate.left, plate.left + plate.width)
    inked, blocks = _coverage(word, plate.height, plate.width), _FINENESS**2
    # Whole numbers, so that no processor rounds otherwise.
    colours = inked * plate.ink[:, None, None] + (blocks - inked) * plate.ground[:, None, None]
    image[:, *where] = ((colours + blocks // 2) // blocks).to(torch.uint8)
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[where] = True
    return mask


def _coverage(word: str, height: int, width: int) -> Tensor:
    """How many of the nine fine pixels of each pixel a word covers, int64 ``(height, width)``, margins included."""
    dots = _dots(word)
    rows = torch.arange(height * _FINENESS) * dots.shape[0] // (height * _FINENESS)
    columns = torch.arange(width * _FINENESS) * dots.shape[1] // (width * _FINENESS)
    fine = dots[rows][:, columns].view(height, _FINENESS, width, _FINENESS)
    return fine.sum(dim=(1, 3))


@cache
def _dots(word: str) -> Tensor:
    """The dots of a word with its margin, int64 ``(9, columns)``."""
    dots = torch.zeros(7 + 2 * _MARGIN, _columns(len(word)), dtype=torch.long)
    for place, letter in enumerate(word):
        if letter not in _FONT:
            raise ValueError(f"Expected a word of lower-case letters, a to z, but got {word!r}.")
        rows = [[dot == "#" for dot in row] for row in _FONT[letter].split()]
        left = _MARGIN + 6 * place
        dots[_MARGIN:-_MARGIN, left : left + 5] = torch.tensor(rows)
    return dots


def _columns(n_letters: int) -> int:
    """Dots of a plate's width: five for a letter, one between two, and the margins."""
    return 6 * n_letters - 1 + 2 * _MARGIN


def _hidden(target: Mapping[str, Any], plate: Tensor) -> Target:
    """Annotations of a critter of which a plate hides a part."""
    found = dict(target)
    for name in {"masks", "parts", "shortcut"} & set(found):
        found[name] = tv_tensors.Mask(found[name] & ~plate)
    found["boxes"] = bounding_box(found["masks"][0]) if found["masks"].any() else found["boxes"][:0]
    found["word"] = tv_tensors.Mask(plate[None])
    return found
