"""Two critters in one image: which of them does a text, or a class, mean?"""

from dataclasses import replace
from random import Random

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from lit_decom.data.base import AnnotatedDataset, Target, bounding_box
from lit_decom.data.critters import draw_pose
from lit_decom.data.drawing import cluttered
from lit_decom.data.figure import SPECIES, draw_critter


class CritterPairs(AnnotatedDataset):
    """Two critters of different kinds side by side, each with its own mask.

    Each stands in its half of the image and is as large as in :class:`Critters` of half the size, so that a
    convolutional network that learnt from those knows both. Sample `i` depends on `seed`, `stream` and `i` alone.

    The target holds ``"label"`` (the left one's kind), ``"labels"`` (``(2,)`` int64, left and right), ``"masks"`` (bool
    ``(2, H, W)``, the visible pixels of the left and of the right one: disjoint) and ``"boxes"`` (``(2, 4)``, XYXY).

    Args:
        n: Number of images.
        image_size: Height and width in pixels, at least 64.
        seed: Seed of the images.
        stream: Name of a series of images; different names give unrelated images under the same seed.
        transform: Transform of image and target together.

    Attributes:
        pairs: Kinds of the left and of the right critter of each image, ``(n, 2)`` int64.

    Raises:
        ValueError: If there are no images or they are too small.
    """

    def __init__(
        self,
        n: int,
        image_size: int = 128,
        seed: int = 0,
        stream: str = "pairs",
        *,
        transform: v2.Transform | None = None,
    ) -> None:
        if n < 1:
            raise ValueError(f"Expected `n` to be at least 1, but got {n}.")
        if image_size < 64:
            raise ValueError(f"Expected `image_size` to be at least 64 pixels, but got {image_size}.")
        self.image_size = image_size
        self._key = f"{seed}/{stream}"
        self.pairs = torch.tensor([_two_kinds(Random(f"{self._key}/labels/{i}")) for i in range(n)])
        super().__init__([species.name for species in SPECIES], self.pairs[:, 0], transform=transform)

    def load(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Draw image `index` and its annotations."""
        rng = Random(f"{self._key}/critters/{index}")
        canvas = cluttered(rng, self.image_size)
        half = self.image_size // 2
        drawn = []
        for side, kind in enumerate(self.pairs[index].tolist()):
            pose = draw_pose(rng, half)
            room = half * rng.uniform(0, 1)
            canvas.forget_parts()
            draw_critter(canvas, rng, SPECIES[kind], replace(pose, x=pose.x + side * half, y=pose.y + room))
            drawn.append(pil_to_tensor(canvas.parts())[0] > 0)
        left, right = drawn
        masks = [left & ~right, right]
        target: Target = {
            "labels": self.pairs[index].clone(),
            "masks": tv_tensors.Mask(torch.stack(masks)),
            "boxes": tv_tensors.wrap(torch.cat([bounding_box(mask) for mask in masks]), like=bounding_box(left)),
        }
        return tv_tensors.Image(pil_to_tensor(canvas.picture())), target


def _two_kinds(rng: Random) -> list[int]:
    """Two different kinds, each ordered pair as likely as any other."""
    first = int(rng.random() * len(SPECIES))
    return [first, (first + 1 + int(rng.random() * (len(SPECIES) - 1))) % len(SPECIES)]
