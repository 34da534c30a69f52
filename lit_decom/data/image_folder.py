"""The user's own images, one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from lit_decom.data.base import AnnotatedDataset, ClassificationDataModule, Split, Target, stratified_split

# JPEG would smear a mask's border.
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")


class ImageFolder(AnnotatedDataset):
    """Image files with labels.

    The target holds ``"label"`` and, with mask files, ``"masks"`` (bool ``(1, H, W)``).

    Args:
        paths: Files, one per sample.
        targets: Label of each file, ``(n,)`` int64.
        classes: Name of each class.
        transform: Transform of image and target together.
        masks: Files as large as their images, one per sample, 0 beside the object; None for none.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        targets: Tensor,
        classes: Sequence[str],
        transform: v2.Transform | None = None,
        *,
        masks: Sequence[Path] | None = None,
    ) -> None:
        super().__init__(classes, targets, transform=transform)
        self.paths = tuple(paths)
        self.masks = None if masks is None else tuple(masks)

    def load(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Image `index` in RGB, turned upright by its EXIF orientation, and its mask where there are masks.

        Raises:
            ValueError: If a file is no image, or the mask's size is not its image's.
        """
        image = tv_tensors.Image(VF.pil_to_tensor(_read(self.paths[index]).convert("RGB")))
        if self.masks is None:
            return image, {}
        drawn = _read(self.masks[index])
        drawn = drawn.convert("RGB") if drawn.mode.endswith("A") else drawn  # opaque is not on the object
        mask = (VF.pil_to_tensor(drawn) != 0).any(dim=0, keepdim=True)
        if mask.shape[1:] != image.shape[1:]:
            raise ValueError(
                f"Expected the mask {self.masks[index]} to be {tuple(image.shape[1:])} pixels high and wide, as its "
                f"image, but got {tuple(mask.shape[1:])}."
            )
        return image, {"masks": tv_tensors.Mask(mask)}


class ImageFolderDataModule(ClassificationDataModule):
    """Folders of images, one folder per class.

    Either ``root/train/<class>/*`` with ``root/val/<class>/*`` and perhaps ``root/test/<class>/*``, or
    ``root/<class>/*`` (or ``root/train/<class>/*`` alone), of which a share is set aside for validation. Classes are
    the folder names of the training images in alphabetical order; images may lie in sub-folders.

    With `masks`, validation and test images have object masks, which turn on the localisation scores. The mask of
    ``root/<folders>/<name>.jpg`` is ``masks/<folders>/<name>.png`` (or another lossless format): as large as the image,
    0 in the background and anything else on the object.

    Args:
        root: Folder that holds the images.
        image_size: Height and width in pixels to which all images are brought.
        val_fraction: Share of each class, between 0 and 1, set aside for validation where there is no ``val`` folder.
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0 loads in the main process.
        seed: Seed of the split and of the order.
        augmentation: v2 transforms of the training images; None for random crops and horizontal flips, an empty list
            for none. Whatever comes out is resized and cropped to `image_size`.
        mean: Mean of each colour channel, of images in 0..1; by default that of ImageNet, which pretrained networks
            expect.
        std: Standard deviation of each colour channel, of images in 0..1; by default that of ImageNet.
        masks: Folder that holds the masks, laid out as `root`; None for none.

    Raises:
        ValueError: If `val_fraction` is not between 0 and 1.
        FileNotFoundError: On first use, if a folder or its images are missing; the message says what to do.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 224,
        val_fraction: float = 0.2,
        batch_size: int = 32,
        num_workers: int = 0,
        *,
        seed: int = 0,
        augmentation: Sequence[v2.Transform] | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        masks: str | Path | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, augmentation=augmentation, mean=mean, std=std)
        if not 0 < val_fraction < 1:
            raise ValueError(f"Expected `val_fraction` to be between 0 and 1, but got {val_fraction}.")
        self.root = Path(root)
        self.image_size = image_size
        self.val_fraction = val_fraction
        self.masks = None if masks is None else Path(masks)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the folders of the training images."""
        return find_classes(self._folder("train"))

    def default_augmentation(self) -> list[v2.Transform]:
        """A random crop of at least a quarter of the image and a horizontal flip."""
        return [v2.RandomResizedCrop(self.image_size, scale=(0.25, 1.0), antialias=True), v2.RandomHorizontalFlip()]

    def geometry(self) -> list[v2.Transform]:
        """Resize the shorter edge and crop the centre."""
        return [v2.Resize(self.image_size, antialias=True), v2.CenterCrop(self.image_size)]

    def make_dataset(self, split: Split, transform: v2.Transform) -> ImageFolder:
        """The images of one split."""
        folder = self._folder(split)
        paths, targets = find_images(folder, self.class_names)
        if split != "test" and not (self.root / "val").is_dir():
            keep = 0 if split == "train" else 1
            chosen = stratified_split(targets, (1 - self.val_fraction, self.val_fraction), self.seed)[keep]
            paths, targets = [paths[i] for i in chosen.tolist()], targets[chosen]
        # Training needs no masks, and transforming them would cost.
        masks = None if split == "train" or self.masks is None else find_masks(paths, self.root, self.masks)
        return ImageFolder(paths, targets, self.class_names, transform, masks=masks)

    def _folder(self, split: Split) -> Path:
        """Where the images of a split lie; training and validation images may share a folder."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"Expected `root` to be a folder with images, but there is none at {self.root}.")
        folder = self.root / split
        if folder.is_dir():
            return folder
        if split == "test":
            raise FileNotFoundError(
                f"Expected test images in {folder}, but there is no such folder; add one, or use the validation images "
                "(`trainer.validate`, or `lit-decom validate`)."
            )
        return self._folder("train") if split == "val" else self.root


def find_classes(folder: Path) -> tuple[str, ...]:
    """Names of the sub-folders in alphabetical order, without hidden ones.

    Raises:
        FileNotFoundError: If there are none.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise FileNotFoundError(
            f"Expected a sub-folder for each class in {folder}, but there is none; move the images of each class into "
            "a folder with its name."
        )
    return tuple(names)


def find_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    """Image files below the folders of `classes`, sorted, and their labels ``(n,)``.

    Raises:
        FileNotFoundError: If a class has no image.
        ValueError: If there is a folder that is no class.
    """
    unknown = sorted(set(find_classes(folder)) - set(classes))
    if unknown:
        raise ValueError(f"Expected the folders in {folder} to be among the training classes, but got {unknown}.")
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        if not files:
            raise FileNotFoundError(
                f"Expected images ({', '.join(IMG_EXTENSIONS)}) in {folder / name}, but found none; add some, or "
                "remove the class."
            )
        paths += files
        targets += [label] * len(files)
    return paths, torch.tensor(targets)


def find_masks(paths: Sequence[Path], root: Path, folder: Path) -> list[Path]:
    """The mask of each image: the file below `folder` that is called as the image is below `root`, but for the suffix.

    Raises:
        FileNotFoundError: If an image has none.
    """
    wanted = [(folder / path.relative_to(root)).with_suffix("") for path in paths]
    known = [[stem.with_name(stem.name + suffix) for suffix in _LOSSLESS] for stem in wanted]
    found = [next((path for path in names if path.is_file()), None) for names in known]
    missing = [names[0] for names, mask in zip(known, found, strict=True) if mask is None]
    if missing:
        raise FileNotFoundError(
            f"Expected a mask ({', '.join(_LOSSLESS)}) for each of {len(paths)} images, but {len(missing)} have none, "
            f"such as {missing[0]}."
        )
    return [mask for mask in found if mask is not None]


def _read(path: Path) -> Image.Image:
    """An image file, turned upright by its EXIF orientation."""
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"Expected {path} to be a readable image; repair or remove it ({error}).") from error
