"""The probe: a fixed labelled set of images that is explained again and again."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lit_decom.functional.labels import as_labels
from lit_decom.probe.batches import Unpack, plain, xyxy
from lit_decom.probe.reading import read_dataset, read_loader
from lit_decom.probe.rows import one_row_per_label


@dataclass(frozen=True, eq=False)
class Probe:
    """A fixed labelled set of images, as the network sees them, with what is known about where things are.

    Where an image may have several of ``N`` labels, each row is an image and one of its labels: an image with two
    labels is there twice. The row asks whether its label is there, and has two answers, which are classes of their own:
    ``k`` says that label ``k`` is there, ``N + k`` that it is not.

    Attributes:
        images: ``(n, C, H, W)``, normalised as for the network.
        labels: ``(n,)`` class indices, the right answers.
        ids: one name per image; the dataset's index where it comes from a dataset.
        masks: object masks ``(n, H, W)`` bool.
        boxes: boxes ``(m, 4)`` per image, as x1, y1, x2, y2 in pixels.
        parts: part masks ``(n, R, H, W)`` bool.
        part_names: ``R`` names.
        class_names: ``N`` names; classes beyond those that are given are called by their number. Where labels are
            independent, the names of all labels and then those of their absence.
        mean: normalisation ``(C,)`` of the images, where known.
        std: normalisation ``(C,)`` of the images, where known.
        multilabel: whether labels are independent, as for a network with one sigmoid per label.

    Raises:
        ValueError: if the probe is empty or its parts do not fit together.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...] = ()
    masks: Tensor | None = None
    boxes: tuple[Tensor, ...] | None = None
    parts: Tensor | None = None
    part_names: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    multilabel: bool = False

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(f"Expected `images` to be (n, C, H, W) with n >= 1, but got {tuple(self.images.shape)}.")
        if not self.images.is_floating_point():
            raise ValueError(
                f"Expected `images` as the network sees them, floating point, but got {self.images.dtype}: make floats "
                "of them as the steps of the module do, by `unpack=` where they come from a dataset or loader."
            )
        n = len(self.images)
        if self.labels.shape != (n,) or self.labels.is_floating_point():
            raise ValueError(
                f"Expected `labels` to be ({n},) class indices, but got {tuple(self.labels.shape)} {self.labels.dtype}."
            )
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(index) for index in range(n)))
        if len(self.ids) != n or len(set(self.ids)) != n:
            raise ValueError(f"Expected `ids` to be {n} different names, but got {len(set(self.ids))}.")
        self._check_regions()
        if self.class_names is not None:
            object.__setattr__(self, "class_names", _names_up_to(int(self.labels.max()), self.class_names))
        if self.multilabel and (not self.class_names or len(self.class_names) % 2):
            got = self.class_names and len(self.class_names)
            raise ValueError(f"Expected `class_names` of every label and of its absence, but got {got}.")

    def _check_regions(self) -> None:
        n, channels, height, width = self.images.shape
        regions = self.parts.shape[1] if self.parts is not None and self.parts.ndim == 4 else 0
        named = regions if self.part_names is None else len(self.part_names)
        expected = {
            "masks": (n, height, width),
            "parts": (n, named, height, width),
            "mean": (channels,),
            "std": (channels,),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"Expected `{name}` to be {shape}, but got {tuple(value.shape)}.")
        if self.boxes is not None and (len(self.boxes) != n or any(box.shape[1:] != (4,) for box in self.boxes)):
            shapes = [tuple(box.shape) for box in self.boxes]
            raise ValueError(f"Expected `boxes` to be {n} tensors (m, 4), but got {len(shapes)}: {shapes}.")

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def from_tensors(cls, images: Tensor, labels: Tensor, **known: Any) -> "Probe":
        """Make a probe of tensors.

        Args:
            images: ``(n, C, H, W)``, as the network shall see them.
            labels: ``(n,)`` class indices; or 0 and 1 for each of ``N`` labels, ``(n, N)``, for one row per image and
                label that it has: labels that are not there, and images without any, have no row.
            **known: any other attribute of the class, of the images; with ``(n, N)`` labels, ``class_names`` are the
                ``N`` names of the labels, and ``masks`` may be ``(n, N, H, W)``, one for each label. Where every image
                has exactly one of them, a warning asks whether they are classes, unless ``multilabel=True``.

        Returns:
            The probe, with copies of the tensors on the CPU.

        Raises:
            ValueError: if there are none, or what is given does not fit together.
        """
        for name, dtype in {"masks": torch.bool, "parts": torch.bool, "mean": torch.float, "std": torch.float}.items():
            if known.get(name) is not None:
                known[name] = plain(known[name]).to(dtype).clone()
        for name in ("ids", "part_names", "class_names"):
            if known.get(name) is not None:
                known[name] = tuple(str(entry) for entry in known[name])
        if known.get("boxes") is not None:
            known["boxes"] = tuple(plain(xyxy(box)).float().reshape(-1, 4) for box in known["boxes"])
        images, labels = plain(images), as_labels(plain(labels))
        if labels.ndim == 2:
            images, labels, known = one_row_per_label(images, labels, known)
        return cls(images.clone(), labels.clone(), **known)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset[Any],
        n: int = 64,
        seed: int = 0,
        balance: Literal["class", "none"] = "class",
        *,
        unpack: Unpack | None = None,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        transfer: Callable[[Any], Any] | None = None,
        **known: Any,
    ) -> "Probe":
        """Choose images of a dataset, by index, and read them once.

        No loader is iterated and no global random state is drawn from. Every sample goes through ``collate_fn`` and
        ``transfer`` as a batch of one, so that the network sees what it sees in training.

        Args:
            dataset: map-style; its samples are ``(image, label)`` in any order and with whatever else,
                ``(image, {"label", "masks", "boxes", "parts"})``, a mapping, dataclass or named tuple with the usual
                names (``image`` or ``pixel_values``, ``label`` or ``labels``, ...), or whatever ``unpack`` understands.
                What has a negative label is left out, and so is what cannot be read, which a warning says.
            n: how many images; fewer if the dataset has fewer. Where images may have several labels, about how many
                rows of an image and one of its labels: as many images, each with all of its labels, as are within it.
            seed: of the choice, and of whatever the transforms draw while they are read.
            balance: ``"class"`` takes as many of each class as there are to have, ``"none"`` takes any.
            unpack: from a batch of one to image ``(1, C, H, W)`` and label or mapping.
            collate_fn: the loader's.
            transfer: the module's batch-transfer hooks.
            **known: any other attribute of the class, such as ``class_names``, ``mean`` and ``std``.

        Returns:
            The probe.

        Raises:
            TypeError: if the dataset cannot be read by index.
            ValueError: if it is empty, or no sample can be read or is understood.
        """
        found = read_dataset(dataset, n, seed, balance, unpack=unpack, collate_fn=collate_fn, transfer=transfer)
        return cls.from_tensors(**(found | known))

    @classmethod
    def from_loader(
        cls,
        loader: Any,
        n: int = 64,
        seed: int = 0,
        balance: Literal["class", "none"] = "class",
        *,
        unpack: Unpack | None = None,
        transfer: Callable[[Any], Any] | None = None,
        **known: Any,
    ) -> "Probe":
        """Choose among the images that a loader reads.

        A ``DataLoader`` over a map-style dataset is read by index as in :meth:`from_dataset`, but only what its sampler
        or batch sampler gives. Of any other pipeline (an iterable dataset, ``batch_size=None``, a loader of another
        library) the first batches are read, in this process and without workers where it is torch's, and the choice is
        made among some images per image wanted, which a warning says. No global random state is drawn from, samplers
        are copied, and generators that loader and dataset hold are put back. A pass that a ``DataLoader`` keeps from
        epoch to epoch in an attribute stays where it is; one that a loader of another library keeps is moved on.

        Args:
            loader: anything that gives batches again and again.
            n: how many images or rows, as in :meth:`from_dataset`; fewer if it gives fewer.
            seed: as in :meth:`from_dataset`.
            balance: as in :meth:`from_dataset`.
            unpack: from a batch to images ``(B, C, H, W)`` and labels or mapping.
            transfer: the module's batch-transfer hooks.
            **known: any other attribute of the class, such as ``class_names``, ``mean`` and ``std``.

        Returns:
            The probe.

        Raises:
            TypeError: if the loader can be iterated only once, or not at all.
            ValueError: if it gives no labelled images, or none that can be read and is understood.
        """
        found = read_loader(loader, n, seed, balance, unpack=unpack, transfer=transfer)
        return cls.from_tensors(**(found | known))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that was read: images, labels, ids, masks, boxes and parts."""
        total = hashlib.sha256()
        for tensor in (self.images, self.labels, self.masks, self.parts, *(self.boxes or ())):
            if tensor is not None:
                total.update(str((tensor.dtype, tuple(tensor.shape))).encode())
                total.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        total.update(repr(self.ids).encode())
        return total.hexdigest()

    @property
    def asked(self) -> Tensor | None:
        """The label ``(n,)`` that each row asks about, of independent ones; None where classes exclude one another."""
        return self.labels % (len(self.class_names) // 2) if self.multilabel and self.class_names else None

    def class_name(self, index: int) -> str:
        """Name a class, by its number where no name is known."""
        names = self.class_names
        return names[index] if names is not None and 0 <= index < len(names) else str(index)

    def batches(self, size: int) -> Iterator["Probe"]:
        """Cut the probe into consecutive pieces of ``size`` images, the last one smaller."""
        if size < 1:
            raise ValueError(f"Expected `size` to be at least 1, but got {size}.")
        for start in range(0, len(self), size):
            yield self.select(range(start, min(start + size, len(self))))

    def shard(self, rank: int, world: int) -> "Probe | None":
        """Take the images that process ``rank`` of ``world`` explains: every ``world``-th; None if there is none."""
        rows = range(rank, len(self), world)
        return self.select(rows) if rows else None

    def select(self, rows: Sequence[int]) -> "Probe":
        """Take some images, in the order given."""
        index = torch.as_tensor(list(rows), dtype=torch.long, device=self.images.device)
        taken: dict[str, Any] = {
            "ids": tuple(self.ids[row] for row in rows),
            "boxes": None if self.boxes is None else tuple(self.boxes[row] for row in rows),
        }
        for name in ("images", "labels", "masks", "parts"):
            value = getattr(self, name)
            taken[name] = None if value is None else value[index]
        return replace(self, **taken)

    def to(self, device: torch.device) -> "Probe":
        """Move every tensor to a device."""
        moved = {entry.name: _moved(getattr(self, entry.name), device) for entry in fields(self)}
        return Probe(**moved)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(entry, device) for entry in value)
    return value.to(device) if isinstance(value, Tensor) else value


def _names_up_to(label: int, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of all classes up to the largest label; a warning says that some were missing.

    One name of two is that of label 1, whose absence is the other one.
    """
    if len(names) == 1 and label <= 1:
        return f"no {names[0]}", names[0]
    if label < len(names):
        return names
    warnings.warn(
        f"There are {len(names)} `class_names`, but a label of {label}: the other classes are called by their number.",
        stacklevel=4,
    )
    return (*names, *map(str, range(len(names), label + 1)))
