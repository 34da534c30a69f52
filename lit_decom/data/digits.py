"""Scanned handwritten digits that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from lit_decom.data.base import (
    AnnotatedDataset,
    ClassificationDataModule,
    Split,
    Target,
    bounding_box,
    stratified_split,
)

_CLASSES = tuple(str(digit) for digit in range(10))


class Digits(AnnotatedDataset):
    """The 1797 handwritten digits of scikit-learn's `load_digits`, enlarged from 8 x 8 pixels.

    White ink on black in three equal channels, with a margin of one scanned pixel. The target holds ``"label"``,
    ``"masks"`` (bool ``(1, H, W)``, pixels of at least half the full ink) and ``"boxes"`` (``(1, 4)``, XYXY, right and
    lower edge outside, around the mask).

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998 (its test set).

    Args:
        indices: Which of the digits, ``(n,)``; None for all.
        image_size: Height and width in pixels, at least 10.
        transform: Transform of image and target together.
        annotations: Whether targets carry more than the label.

    Raises:
        ValueError: If `image_size` is less than 10.
    """

    def __init__(
        self,
        indices: Tensor | None = None,
        image_size: int = 64,
        transform: v2.Transform | None = None,
        *,
        annotations: bool = True,
    ) -> None:
        if image_size < 10:
            raise ValueError(f"Expected `image_size` to be at least 10 pixels, but got {image_size}.")
        images, targets = _scans()
        if indices is not None:
            images, targets = images[indices], targets[indices]
        super().__init__(_CLASSES, targets, transform=transform, annotations=annotations)
        self.image_size = image_size
        self._scans = images

    def load(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Digit `index`, enlarged, and its annotations."""
        size = (self.image_size, self.image_size)
        ink = F.interpolate(self._scans[index][None, None], size, mode="bicubic", align_corners=False)[0].clamp(0, 1)
        mask = ink[0] >= 0.5
        image = tv_tensors.Image((ink * 255).round().to(torch.uint8).expand(3, -1, -1).contiguous())
        return image, {"masks": tv_tensors.Mask(mask[None]), "boxes": bounding_box(mask)}


class DigitsDataModule(ClassificationDataModule):
    """Real handwritten digits without a download, split by class into 70 % training, 15 % validation and 15 % test.

    Args:
        image_size: Height and width in pixels to which the scans are enlarged.
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0 loads in the main process.
        seed: Seed of the split and of the order.
        augmentation: v2 transforms of the training images; None for small shifts and turns, an empty list for none.
    """

    def __init__(
        self,
        image_size: int = 64,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        augmentation: Sequence[v2.Transform] | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, augmentation=augmentation)
        self.image_size = image_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """The ten digits."""
        return _CLASSES

    def default_augmentation(self) -> list[v2.Transform]:
        """Turns by up to 10 degrees and shifts by up to a twentieth of the image."""
        return [v2.RandomAffine(degrees=10, translate=(0.05, 0.05), interpolation=v2.InterpolationMode.BILINEAR)]

    def make_dataset(self, split: Split, transform: v2.Transform) -> Digits:
        """The digits of one split."""
        groups = dict(
            zip(("train", "val", "test"), stratified_split(_scans()[1], (0.7, 0.15, 0.15), self.seed), strict=True)
        )
        return Digits(groups[split], self.image_size, transform, annotations=split != "train")


def _scans() -> tuple[Tensor, Tensor]:
    """Ink in 0..1 with a margin, ``(1797, 10, 10)``, and labels ``(1797,)``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return F.pad(torch.from_numpy(digits.images).float() / 16, (1, 1, 1, 1)), torch.from_numpy(digits.target).long()
