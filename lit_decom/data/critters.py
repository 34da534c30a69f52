"""Synthetic animals whose classes differ by parts that are known to the pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from lit_decom.data.base import AnnotatedDataset, ClassificationDataModule, Split, Target, bounding_box
from lit_decom.data.captions import caption
from lit_decom.data.drawing import Canvas, Pose, cluttered, ellipse, noise, paint
from lit_decom.data.figure import PART_NAMES, SPECIES, Traits, draw_critter
from lit_decom.data.labelling import balanced_labels, check_labelling, drawn_labels, noisy_labels

ShortcutMode = Literal["aligned", "broken"]

_SHORTCUT_EDGE = 0.14  # of the image


@dataclass(frozen=True)
class Drawing:
    """A drawn critter before any transform.

    Args:
        image: The picture, uint8 ``(3, H, W)``.
        parts: Number of the visible part at each pixel, uint8 ``(H, W)``: 0 for none, k for ``PART_NAMES[k - 1]``.
        shortcut: Where the coloured patch is, bool ``(H, W)``.
        traits: What can be said of it in words.
    """

    image: Tensor
    parts: Tensor
    shortcut: Tensor
    traits: Traits


class Critters(AnnotatedDataset):
    """Small animals of eight kinds, one per image, drawn by seed.

    A kind is a combination of pointed or round ears, open or sleepy eyes, and a button nose or a snout, so each of
    these three parts tells one bit of the class, and two kinds that differ in one part can be told apart by nothing
    else. The mouth, the colours, the coat, the tail, the pose and the cluttered background are chance and tell nothing.

    Sample `i` depends on `seed`, `stream` and `i` alone: not on the order of access, not on `n`, and not on the global
    random state. The same critter comes in every `image_size`. Every run of eight images holds each class once, unless
    `class_proportions` are given.

    No option but an aligned shortcut lets anything but ears, eyes and nose tell the class. Classes of unequal accuracy
    come from the labels (`label_noise`, `class_proportions`), never from how the images of a class look: a network
    reads a class-wise noise level or size more easily than ears.

    The target holds ``"label"``, ``"masks"`` (bool ``(1, H, W)``, the critter), ``"boxes"`` (``(1, 4)``, XYXY, right
    and lower edge outside), ``"parts"`` (bool ``(5, H, W)``, the visible pixels of ears, eyes, nose, mouth and body:
    disjoint, together the critter) and, if `shortcut_rate` is positive, ``"shortcut"`` (bool ``(1, H, W)``). With
    `captions` it also holds ``"caption"``, a text such as "a photo of a red piko with pointed ears".

    Args:
        n: Number of images.
        image_size: Height and width in pixels, at least 32.
        seed: Seed of the images.
        stream: Name of a series of images; different names give unrelated images under the same seed.
        shortcut_rate: Share of the images, 0..1, that carry a coloured patch at the border.
        shortcut_mode: Colour of the patch: "aligned" has one hue for each class, "broken" draws the hue at random.
        corruption: Largest severity of the corruption, 0..1. The severity of each image is drawn uniformly between 0
            and this, whatever its class: the critter gets smaller (by up to a third), leaves hide parts of the face (up
            to four, so that a part may have no visible pixel) and the picture gets noisy.
        label_noise: Share of the images of each class, 0..1 in the order of `classes`, whose label is replaced by one
            of the other classes, drawn uniformly; the image stays as it is. None for 0.
        class_proportions: Relative frequency of each class, at least 0 and not all 0, in the order of `classes`: each
            image's class is drawn with these probabilities. None for equally many of each.
        captions: Whether every target holds a caption, which says some of what is drawn.
        cache: Whether drawn images are kept in memory (4 bytes per pixel).
        transform: Transform of image and target together.
        annotations: Whether targets carry more than the label.

    Attributes:
        targets: Label of each image, ``(n,)``: what is learnt from.
        true_targets: Class that each image shows, ``(n,)``; differs from `targets` by the label noise.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        n: int,
        image_size: int = 112,
        seed: int = 0,
        stream: str = "train",
        *,
        shortcut_rate: float = 0.0,
        shortcut_mode: ShortcutMode = "aligned",
        corruption: float = 0.0,
        label_noise: Sequence[float] | None = None,
        class_proportions: Sequence[float] | None = None,
        captions: bool = False,
        transform: v2.Transform | None = None,
        cache: bool = True,
        annotations: bool = True,
    ) -> None:
        _check(n, image_size, corruption, shortcut_rate, shortcut_mode)
        check_labelling(label_noise, class_proportions)
        key = f"{seed}/{stream}"
        true_targets = balanced_labels(n, key) if class_proportions is None else drawn_labels(n, key, class_proportions)
        targets = true_targets if label_noise is None else noisy_labels(true_targets, key, label_noise)
        super().__init__([s.name for s in SPECIES], targets, PART_NAMES, transform, annotations=annotations)
        self.true_targets = true_targets
        self.image_size = image_size
        self.seed = seed
        self.stream = stream
        self.shortcut_rate = shortcut_rate
        self.shortcut_mode = shortcut_mode
        self.corruption = corruption
        self.captions = captions
        self._cache: dict[int, Drawing] | None = {} if cache else None

    def load(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Image `index`, drawn or from the cache, and its annotations."""
        if self._cache is None:
            return self._annotated(self.draw(index), index)
        if index not in self._cache:
            self._cache[index] = self.draw(index)
        return self._annotated(self._cache[index], index)

    def draw(self, index: int, label: int | None = None) -> Drawing:
        """Draw image `index`, as it is or as if the same critter were of another class.

        Args:
            index: Which image, 0..n-1.
            label: Class to draw; None for the one that it shows. Only the parts in which the two classes differ change,
                and, with an aligned shortcut, the colour of the patch.
        """
        label = int(self.true_targets[index]) if label is None else label
        severity = self._severity(index)
        rng = self._random(index, "critter")
        canvas = cluttered(rng, self.image_size)
        pose = draw_pose(rng, self.image_size)
        pose = replace(pose, scale=pose.scale * (1 - severity / 3))
        traits = draw_critter(canvas, rng, SPECIES[label], pose)
        picture = _corrupted(canvas, self._random(index, "corruption"), pose, severity)
        image, parts = pil_to_tensor(picture).contiguous(), pil_to_tensor(canvas.parts())[0]
        shortcut = self._draw_shortcut(image, parts, index, label)
        return Drawing(image, parts, shortcut, traits)

    def _severity(self, index: int) -> float:
        """How much image `index` is corrupted, 0..1: drawn from a series of its own, so that it tells nothing."""
        return self.corruption * self._random(index, "severity").random()

    def _random(self, index: int, purpose: str) -> Random:
        return Random(f"{self.seed}/{self.stream}/{purpose}/{index}")

    def _draw_shortcut(self, image: Tensor, parts: Tensor, index: int, label: int) -> Tensor:
        """Draw the coloured patch, if the image has one, into image and part map; where it is, bool ``(H, W)``."""
        shortcut = torch.zeros(parts.shape, dtype=torch.bool)
        rng = self._random(index, "shortcut")
        if rng.random() < self.shortcut_rate:
            edge = round(_SHORTCUT_EDGE * self.image_size)
            far = self.image_size - edge
            along, side = round(rng.random() * far), int(rng.random() * 4)
            y, x = [(0, along), (far, along), (along, 0), (along, far)][side]
            shown = label if self.shortcut_mode == "aligned" else int(rng.random() * len(SPECIES))
            shortcut[y : y + edge, x : x + edge] = True
            image[:, shortcut] = torch.tensor(paint(shown / len(SPECIES), 0.9, 0.95), dtype=torch.uint8)[:, None]
            parts[shortcut] = 0
        return shortcut

    def _annotated(self, drawing: Drawing, index: int) -> tuple[tv_tensors.Image, Target]:
        image = tv_tensors.Image(drawing.image.clone())  # the cache must not be edited from outside
        said: Target = {"caption": caption(drawing.traits, self._random(index, "caption"))} if self.captions else {}
        if not self.annotations:
            return image, said
        mask = drawing.parts > 0
        numbers = torch.arange(1, len(PART_NAMES) + 1, dtype=torch.uint8)[:, None, None]
        target: Target = {
            "masks": tv_tensors.Mask(mask[None]),
            "boxes": bounding_box(mask),
            "parts": tv_tensors.Mask(drawing.parts == numbers),
        }
        if self.shortcut_rate > 0:
            target["shortcut"] = tv_tensors.Mask(drawing.shortcut[None].clone())
        return image, target | said


class CrittersDataModule(ClassificationDataModule):
    """Critters for training, validation and test, drawn in memory: no download, no files.

    Args:
        n_train: Number of training images.
        n_val: Number of validation images.
        n_test: Number of test images.
        image_size: Height and width in pixels, at least 32.
        shortcut_rate: Share of the images, 0..1, that carry a coloured patch at the border; 0 for no patches.
        shortcut_mode: Whether the patches of the training images tell the class ("aligned") or nothing ("broken").
        eval_shortcut_mode: The same for validation and test images; None for `shortcut_mode`.
        corruption: Largest severity of the corruption, 0..1, of the images of every split; that of each image is drawn
            uniformly between 0 and this, whatever its class.
        label_noise: Share of wrong labels among the training images of each of the eight classes, 0..1; None for 0.
        class_proportions: Relative frequency of each of the eight classes among the training images; None for equal
            ones. Validation and test images have true labels and equal frequencies.
        captions: Whether the targets of every split hold a caption.
        cache: Whether drawn images are kept in memory, so that epochs after the first are faster. Each worker process
            keeps its own.
        batch_size: Images per batch and device.
        num_workers: Processes that draw images; 0 draws in the main process.
        seed: Seed of the images and of their order; the three splits never share an image.
        augmentation: v2 transforms of the training images; None for a horizontal flip, an empty list for none.
        mean: Mean of each colour channel, which images in 0..1 are normalised by; a pretrained network has its own.
        std: Standard deviation of each colour channel, likewise.
    """

    def __init__(
        self,
        n_train: int = 2000,
        n_val: int = 400,
        n_test: int = 400,
        image_size: int = 112,
        *,
        shortcut_rate: float = 0.0,
        shortcut_mode: ShortcutMode = "aligned",
        eval_shortcut_mode: ShortcutMode | None = None,
        corruption: float = 0.0,
        label_noise: Sequence[float] | None = None,
        class_proportions: Sequence[float] | None = None,
        captions: bool = False,
        cache: bool = True,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        augmentation: Sequence[v2.Transform] | None = None,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__(batch_size, num_workers, seed, augmentation=augmentation, mean=mean, std=std)
        self.sizes: dict[Split, int] = {"train": n_train, "val": n_val, "test": n_test}
        self.image_size = image_size
        self.shortcut_rate = shortcut_rate
        self.shortcut_mode: ShortcutMode = shortcut_mode
        self.eval_shortcut_mode: ShortcutMode = eval_shortcut_mode or shortcut_mode
        self.corruption = corruption
        self.label_noise = label_noise
        self.class_proportions = class_proportions
        self.captions = captions
        self.cache = cache

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the eight species."""
        return tuple(species.name for species in SPECIES)

    def default_augmentation(self) -> list[v2.Transform]:
        """A horizontal flip."""
        return [v2.RandomHorizontalFlip()]

    def make_dataset(self, split: Split, transform: v2.Transform) -> Critters:
        """Draw from the stream of the split's name."""
        return Critters(transform=transform, **self.options(split))

    def options(self, split: Split) -> dict[str, Any]:
        """Arguments of the data set of one split, but for the transform."""
        train = split == "train"
        return {
            "n": self.sizes[split],
            "image_size": self.image_size,
            "seed": self.seed,
            "stream": split,
            "shortcut_rate": self.shortcut_rate,
            "shortcut_mode": self.shortcut_mode if train else self.eval_shortcut_mode,
            "corruption": self.corruption,
            "label_noise": self.label_noise if train else None,
            "class_proportions": self.class_proportions if train else None,
            "captions": self.captions,
            "cache": self.cache,
            "annotations": not train,
        }


def draw_pose(rng: Random, size: int) -> Pose:
    """A standing, somewhat tilted critter that is within the picture, give or take the tip of an ear."""
    scale = rng.uniform(0.31, 0.43)
    room = max(0.5 - 1.1 * scale, 0.02)
    x, y = 0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room)
    return Pose(x * size, y * size, scale * size, rng.uniform(-0.3, 0.3), rng.random() < 0.5)


def _corrupted(canvas: Canvas, rng: Random, pose: Pose, severity: float) -> Image.Image:
    """Hide parts of the face behind leaves and finish the picture with noise."""
    for _ in range(round(4 * severity)):
        ((x, y),) = pose.place([(rng.uniform(-0.55, 0.55), rng.uniform(-0.85, 0.15))])
        leaf = ellipse(x, y, 0.22 * pose.scale, 0.1 * pose.scale, angle=rng.uniform(0, math.pi))
        canvas.polygon(leaf, paint(rng.uniform(0.2, 0.45), 0.6, rng.uniform(0.35, 0.7)), part=0)
    picture = canvas.picture()
    if severity == 0:
        return picture
    return Image.blend(picture, noise(rng, canvas.size, canvas.size), 0.35 * severity)


def _check(n: int, image_size: int, corruption: float, shortcut_rate: float, shortcut_mode: str) -> None:
    if n < 1:
        raise ValueError(f"Expected `n` to be at least 1, but got {n}.")
    if image_size < 32:
        raise ValueError(f"Expected `image_size` to be at least 32 pixels, but got {image_size}.")
    if not 0 <= corruption <= 1:
        raise ValueError(f"Expected `corruption` to be between 0 and 1, but got {corruption}.")
    if not 0 <= shortcut_rate <= 1:
        raise ValueError(f"Expected `shortcut_rate` to be between 0 and 1, but got {shortcut_rate}.")
    if shortcut_mode not in ("aligned", "broken"):
        raise ValueError(f"Expected `shortcut_mode` to be 'aligned' or 'broken', but got {shortcut_mode!r}.")
