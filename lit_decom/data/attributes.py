"""Critters labelled with what they have, not with what they are: one attribute or none, or several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lit_decom.data.base import AnnotatedDataset, Split, Target
from lit_decom.data.critters import Critters, CrittersDataModule
from lit_decom.data.figure import PART_NAMES, SPECIES

Attribute = Literal["round ears", "sleepy eyes", "snout"]

ATTRIBUTES: tuple[Attribute, ...] = ("round ears", "sleepy eyes", "snout")
# Of each the part that tells it, what that part is like then, and what it is like otherwise.
_MEANING = {
    "round ears": ("ears", "round", "pointed ears"),
    "sleepy eyes": ("eyes", "sleepy", "open eyes"),
    "snout": ("nose", "snout", "button nose"),
}


class CritterAttributes(AnnotatedDataset):
    """Critters, each with or without some attributes, of which one does not tell the others.

    With one attribute the label is 0 or 1, and ``"masks"`` (bool ``(1, H, W)``) is the part that tells it. With several
    it is a vector of 0 and 1, ``(N,)`` float32, of which all may be 0, and ``"label_masks"`` (bool ``(N, H, W)``) holds
    the part that tells each of them. ``"parts"`` are those of the critters.

    Args:
        critters: The images.
        attributes: What they are labelled with, in this order.

    Raises:
        ValueError: If an attribute is unknown, there is none or one comes twice.
    """

    def __init__(self, critters: Critters, attributes: Sequence[Attribute] = ATTRIBUTES) -> None:
        if not attributes or not set(attributes) <= set(ATTRIBUTES) or len(set(attributes)) < len(attributes):
            raise ValueError(f"Expected `attributes` to be among {ATTRIBUTES}, each once, but got {tuple(attributes)}.")
        told = [_MEANING[attribute][:2] for attribute in attributes]
        has = torch.tensor([[int(getattr(species, part) == like) for part, like in told] for species in SPECIES])
        targets = has[critters.targets]
        super().__init__(
            attribute_names(attributes),
            targets[:, 0] if len(attributes) == 1 else targets,
            critters.part_names,
            critters.transform,
            annotations=critters.annotations,
        )
        self.critters = critters
        self._places = [PART_NAMES.index(part) for part, _ in told]

    def load(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """The critter's image and parts, and which of these tell its attributes."""
        image, target = self.critters.load(index)
        if "parts" not in target:
            return image, target
        kept = {name: value for name, value in target.items() if name not in ("masks", "boxes")}
        name = "masks" if len(self._places) == 1 else "label_masks"
        return image, kept | {name: tv_tensors.Mask(target["parts"][self._places])}


class CritterAttributesDataModule(CrittersDataModule):
    """Critters with yes or no labels for training, validation and test: with one attribute, or with several.

    Args:
        attributes: What the critters are labelled with; of one, its absence and presence are two classes that exclude
            each other.
        **options: Those of :class:`CrittersDataModule`.
    """

    def __init__(self, attributes: Sequence[Attribute] = ATTRIBUTES, **options: Any) -> None:
        super().__init__(**options)
        self.attributes = tuple(attributes)

    @property
    def task(self) -> Literal["binary", "multilabel"]:
        """What a network has to learn, in the words of :class:`lit_decom.tasks.ClassificationTask`."""
        return "binary" if len(self.attributes) == 1 else "multilabel"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the two classes, or of the labels."""
        return attribute_names(self.attributes)

    def make_dataset(self, split: Split, transform: v2.Transform) -> CritterAttributes:  # type: ignore[override]
        """Label the critters of the split."""
        return CritterAttributes(super().make_dataset(split, transform), self.attributes)


def attribute_names(attributes: Sequence[Attribute]) -> tuple[str, ...]:
    """Names of several attributes; of a single one, what there is without it and with it."""
    return tuple(attributes) if len(attributes) > 1 else (_MEANING[attributes[0]][2], attributes[0])
