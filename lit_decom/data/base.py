"""What all datasets and datamodules here share: annotated samples, transforms, seeded loaders and stratified splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

Split = Literal["train", "val", "test"]
Target = dict[str, Any]
Sample = tuple[Tensor, Target]


class AnnotatedDataset(Dataset[Sample], ABC):
    """A map-style dataset of images with a dictionary of annotations each.

    A sample is ``(image, target)``. ``target["label"]`` is always there, and so is ``target["caption"]``, a text, where
    the data have captions; what else there is (``"masks"``, ``"boxes"``, ``"parts"``) is a tv_tensor, so that a v2
    transform moves it along with the image.

    Args:
        classes: Name of each class.
        targets: Label of each sample, ``(n,)`` int64, or 0 and 1 for each of several labels, ``(n, N)``, whose samples
            have them in floating point: known without loading an image.
        part_names: Name of each channel of ``target["parts"]``; empty where there are none.
        transform: Transform of image and target together; None for none.
        annotations: Whether targets carry more than label and caption. Training needs no more, and to transform masks
            costs more than to transform the image.
    """

    def __init__(
        self,
        classes: Sequence[str],
        targets: Tensor,
        part_names: Sequence[str] = (),
        transform: v2.Transform | None = None,
        *,
        annotations: bool = True,
    ) -> None:
        self.classes = tuple(classes)
        self.targets = targets
        self.part_names = tuple(part_names)
        self.transform = transform
        self.annotations = annotations

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Expected `index` to be less than {len(self)} (the number of samples), but got {index}.")
        index = int(index) % len(self)
        label = self.targets[index]
        target: Target = {"label": label.float() if label.ndim else int(label)}
        image, annotations = self.load(index)
        target |= {name: value for name, value in annotations.items() if self.annotations or name == "caption"}
        if self.transform is None:
            return image, target
        transformed: Sample = self.transform(image, target)
        return transformed

    @abstractmethod
    def load(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """One image, uint8 ``(3, H, W)``, and its annotations beyond the label, before any transform."""


class ClassificationDataModule(L.LightningDataModule, ABC):
    """Datasets of one classification problem behind seeded loaders.

    Nothing but the augmentation draws from the global random state: both the order of the training samples and the
    seeds of the workers come from generators that start at `seed`, and a checkpoint remembers where they are.

    A subclass implements `make_dataset` and `class_names`; datasets are built on first use.

    Args:
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0 loads in the main process. Workers are kept between epochs.
        seed: Seed of everything that is random in the data.
        augmentation: v2 transforms of the training images, uint8 ``(3, H, W)``, in this order; None for those that
            suit the data (`default_augmentation`), an empty list for none.
        mean: Mean of each colour channel, of images in 0..1.
        std: Standard deviation of each colour channel, of images in 0..1.

    Attributes:
        mean: The same as a tensor, ``(3,)``.
        std: The same as a tensor, ``(3,)``.
    """

    def __init__(
        self,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        *,
        augmentation: Sequence[v2.Transform] | None = None,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
        if min(std) <= 0:
            raise ValueError(f"Expected `std` to be positive, but got {tuple(std)}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.augmentation = augmentation
        self.mean = torch.tensor(mean)
        self.std = torch.tensor(std)
        self._datasets: dict[Split, AnnotatedDataset] = {}
        self._order = torch.Generator().manual_seed(seed)

    @abstractmethod
    def make_dataset(self, split: Split, transform: v2.Transform) -> AnnotatedDataset:
        """The dataset of one split; called once for each."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Name of each channel of the part masks of the validation data; empty where there are none."""
        return self.val_dataset.part_names

    @property
    def train_dataset(self) -> AnnotatedDataset:
        """Training samples, augmented; their targets hold the label alone."""
        return self._dataset("train")

    @property
    def val_dataset(self) -> AnnotatedDataset:
        """Validation samples with every annotation there is."""
        return self._dataset("val")

    @property
    def test_dataset(self) -> AnnotatedDataset:
        """Test samples with every annotation there is."""
        return self._dataset("test")

    def setup(self, stage: str) -> None:
        """Build the datasets of a stage, so that a wrong path or value fails before the first step.

        Raises:
            MisconfigurationException: If a dataset refuses a value.
            FileNotFoundError: If there are no images where they should be.
        """
        needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        try:
            for split in needed.get(stage, ("test",)):
                self._dataset(split)
        except ValueError as error:
            # What a Trainer's user can mend, as the command line tells it from a bug.
            raise MisconfigurationException(str(error)) from error

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled training batches; a last incomplete batch is dropped."""
        return self._loader("train", self._order)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Validation batches in the order of the dataset."""
        return self._loader("val", torch.Generator().manual_seed(self.seed))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Test batches in the order of the dataset."""
        return self._loader("test", torch.Generator().manual_seed(self.seed))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test batches."""
        return self.test_dataloader()

    def default_augmentation(self) -> list[v2.Transform]:
        """The training transforms used where the user named none."""
        return []

    def geometry(self) -> list[v2.Transform]:
        """What brings images of every split to one size; nothing where they have it."""
        return []

    def state_dict(self) -> dict[str, Tensor]:
        """Where the order of the training samples is."""
        return {"order": self._order.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the order of the training samples from a checkpoint."""
        self._order.set_state(state_dict["order"].cpu())

    def _dataset(self, split: Split) -> AnnotatedDataset:
        if split not in self._datasets:
            self._datasets[split] = self.make_dataset(split, self._transform(split))
        return self._datasets[split]

    def _transform(self, split: Split) -> v2.Transform:
        augmentation: Sequence[v2.Transform] = []
        if split == "train":
            augmentation = self.default_augmentation() if self.augmentation is None else self.augmentation
        normalisation = v2.Normalize(self.mean.tolist(), self.std.tolist())
        return v2.Compose([*augmentation, *self.geometry(), v2.ToDtype(torch.float32, scale=True), normalisation])

    def _loader(self, split: Split, generator: torch.Generator) -> DataLoader[Sample]:
        dataset = self._dataset(split)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=split == "train",
            drop_last=split == "train" and len(dataset) >= self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=generator,
        )


def bounding_box(mask: Tensor) -> tv_tensors.BoundingBoxes:
    """The smallest box around the true pixels of a mask ``(H, W)``: ``(1, 4)``, XYXY, right and lower edge outside."""
    rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
    box = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
    size = (mask.shape[0], mask.shape[1])
    return tv_tensors.BoundingBoxes(
        torch.tensor(box, dtype=torch.float32), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size
    )


def stratified_split(targets: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Split indices at random so that each class is divided in the same proportions.

    Args:
        targets: Labels, ``(n,)``.
        fractions: Share of each group; together 1.
        seed: Seed of the choice.

    Returns:
        Sorted indices of each group. Every class has at least one member in every group.

    Raises:
        ValueError: If the fractions are not a division of 1 or a class has fewer members than there are groups.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"Expected `fractions` to be positive and to sum to 1, but got {tuple(fractions)}.")
    generator = torch.Generator().manual_seed(seed)
    groups: list[list[Tensor]] = [[] for _ in fractions]
    for label in sorted(set(targets.tolist())):
        members = (targets == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        for group, part in zip(groups, members.split(_shares(len(members), fractions, label)), strict=True):
            group.append(part)
    return [torch.cat(group).sort().values for group in groups]


def _shares(n: int, fractions: Sequence[float], label: int) -> list[int]:
    """Whole numbers near `fractions` of `n` that sum to `n`, each at least 1."""
    if n < len(fractions):
        raise ValueError(
            f"Expected each class to have at least {len(fractions)} samples, but got {n} of class {label}."
        )
    shares = [max(1, round(n * fraction)) for fraction in fractions]
    while sum(shares) != n:
        shares[shares.index(max(shares))] += 1 if sum(shares) < n else -1
    return shares
