"""The probe: a fixed labelled set of images that is explained again and again."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, default_collate

from lit_decom.isolation import isolated_random_state

Unpack = Callable[[Any], tuple[Tensor, Any]]
_READ_TWICE = 4
_SCANNED_PER_WANTED = 20


@dataclass(frozen=True, eq=False)
class Probe:
    """A fixed labelled set of images, as the network sees them, with what is known about where things are.

    Attributes:
        images: ``(n, C, H, W)``, normalised as for the network.
        labels: ``(n,)`` class indices.
        ids: one name per image; the dataset's index where it comes from a dataset.
        masks: object masks ``(n, H, W)`` bool.
        boxes: boxes ``(m, 4)`` per image, as x1, y1, x2, y2 in pixels.
        parts: part masks ``(n, R, H, W)`` bool.
        part_names: ``R`` names.
        class_names: ``N`` names.
        mean: normalisation ``(C,)`` of the images, where known.
        std: normalisation ``(C,)`` of the images, where known.

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

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(f"Expected `images` to be (n, C, H, W) with n >= 1, but got {tuple(self.images.shape)}.")
        if not self.images.is_floating_point():
            raise ValueError(
                f"Expected `images` as the network sees them, floating point, but got {self.images.dtype}."
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
        if self.class_names is not None and self.labels.max() >= len(self.class_names):
            raise ValueError(
                f"Expected `labels` below {len(self.class_names)}, one of `class_names` each, "
                f"but got {int(self.labels.max())}."
            )

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
            labels: ``(n,)`` class indices.
            **known: any other attribute of the class.

        Returns:
            The probe, with copies of the tensors on the CPU.
        """
        for name, dtype in {"masks": torch.bool, "parts": torch.bool, "mean": torch.float, "std": torch.float}.items():
            if known.get(name) is not None:
                known[name] = _plain(known[name]).to(dtype).clone()
        for name in ("ids", "part_names", "class_names"):
            if known.get(name) is not None:
                known[name] = tuple(str(entry) for entry in known[name])
        if known.get("boxes") is not None:
            known["boxes"] = tuple(_plain(_xyxy(box)).float().reshape(-1, 4) for box in known["boxes"])
        labels = _plain(labels)
        labels = labels if labels.is_floating_point() else labels.long()
        return cls(_plain(images).clone(), labels.clone(), **known)

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
            dataset: map-style; its samples are ``(image, label)``, ``(image, {"label", "masks", "boxes", "parts"})``,
                a mapping with the keys ``image`` and ``label``, or whatever ``unpack`` understands.
            n: how many images; fewer if the dataset has fewer.
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
            ValueError: if it is empty, or a sample is not understood.
        """
        _check_map_style(dataset)
        if n < 1:
            raise ValueError(f"Expected `n` to be at least 1, but got {n}.")

        def read(index: int) -> tuple[Tensor, dict[str, Any]]:
            batch = collate_fn([_with_xyxy(dataset[index])])
            return _unpacked(batch if transfer is None else transfer(batch), unpack)

        with isolated_random_state(seed):
            indices = _choose(dataset, n, seed, balance, lambda index: int(read(index)[1]["label"]))
            samples = [read(index) for index in indices]
            again = [read(index)[0] for index in indices[:_READ_TWICE]]
        if any(not torch.equal(first, second[0]) for second, first in zip(samples, again, strict=False)):
            warnings.warn(
                "The dataset gives another image at the second reading (a random transform?): "
                "the probe keeps the first.",
                stacklevel=2,
            )
        sizes = {tuple(image.shape[1:]) for image, _ in samples}
        if len(sizes) > 1:
            raise ValueError(f"Expected images of one size, but got {sorted(sizes)}. Resize them in the transform.")
        targets = [target for _, target in samples]
        labels = torch.tensor([int(target["label"]) for target in targets])
        class_names = _attribute(dataset, "classes")
        if class_names is not None and labels.max() < len(class_names):
            known = {"class_names": class_names} | known
        known = {"part_names": _attribute(dataset, "part_names")} | known
        present = {name for name in ("masks", "boxes", "parts") if all(name in target for target in targets)}
        for name in present:
            values = [target[name] for target in targets]
            known[name] = values if name == "boxes" else torch.stack(values)
        ids = [str(index) for index in indices]
        return cls.from_tensors(torch.cat([image for image, _ in samples]), labels, ids=ids, **known)

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


def images_and_labels(batch: Any, unpack: Unpack | None = None) -> tuple[Tensor, Tensor]:
    """Find the images ``(B, C, H, W)`` and class indices ``(B,)`` of a collated batch.

    Raises:
        ValueError: if the batch is not understood.
    """
    images, target = _parts_of(batch) if unpack is None else unpack(batch)
    return images, target["label"] if isinstance(target, Mapping) else target


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(entry, device) for entry in value)
    return value.to(device) if isinstance(value, Tensor) else value


def _check_map_style(dataset: Dataset[Any]) -> None:
    by_index = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not by_index:
        raise TypeError(
            f"Expected `dataset` to be read by index, but {type(dataset).__name__} has no length or no items. "
            "Collect some of its images yourself: `Probe.from_tensors(images, labels)`."
        )
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise ValueError(f"Expected `dataset` to hold images for the probe, but {type(dataset).__name__} is empty.")


def _unpacked(batch: Any, unpack: Unpack | None) -> tuple[Tensor, dict[str, Any]]:
    """Image ``(1, C, H, W)`` and target of one sample, the target's entries without the batch dimension."""
    image, target = _parts_of(batch) if unpack is None else unpack(batch)
    if not isinstance(image, Tensor) or image.ndim not in {3, 4} or image.shape[:-3] not in {(), (1,)}:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"Expected a sample's image to be (C, H, W), but got {got}. Pass `unpack=` to find it.")
    image = _plain(image)
    image = image[None] if image.ndim == 3 else image
    if isinstance(target, Mapping) and "label" not in target:
        raise ValueError(
            f"Expected a sample's target to have the key 'label', but got {sorted(map(str, target))}. "
            "Pass `unpack=` to find it."
        )
    label = torch.as_tensor(target["label"] if isinstance(target, Mapping) else target)
    if label.numel() != 1 or label.is_floating_point():
        raise ValueError(
            f"Expected a sample's label to be one class index, but got {tuple(label.shape)} {label.dtype}. "
            "Pass `unpack=` to make it one."
        )
    found: dict[str, Any] = {"label": label.reshape(())}
    if not isinstance(target, Mapping):
        return image, found
    size = image.shape[-2:]
    for name in {"masks", "parts"} & set(target):
        grids = _plain(target[name]).bool()
        if grids.shape[-2:] != size:
            raise ValueError(
                f"Expected a sample's `{name}` to have its image's size {tuple(size)}, but got {tuple(grids.shape)}."
            )
        grids = grids.reshape(-1, *size)
        found[name] = grids.any(dim=0) if name == "masks" else grids
    if "boxes" in target:
        found["boxes"] = _plain(target["boxes"]).reshape(-1, 4)
    return image, found


def _plain(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().cpu().as_subclass(Tensor)


def _xyxy(boxes: Any) -> Any:
    """Boxes as x1, y1, x2, y2: torchvision's say what they are, plain ones are taken for it."""
    if getattr(boxes, "format", None) is None:
        return boxes
    from torchvision.transforms.v2.functional import convert_bounding_box_format

    return convert_bounding_box_format(boxes, new_format="XYXY")


def _with_xyxy(sample: Any) -> Any:
    # Before collating, which forgets the format.
    if isinstance(sample, Mapping) and "boxes" in sample:
        return {**sample, "boxes": _xyxy(sample["boxes"])}
    if isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[1], Mapping):
        return sample[0], _with_xyxy(sample[1])
    return sample


def _parts_of(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping) and {"image", "label"} <= set(batch):
        return batch["image"], batch
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], batch[1]
    keys = f" with the keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
    raise ValueError(
        f"Expected a sample to be (image, label) or (image, {{'label': ...}}), but got {type(batch).__name__}{keys}. "
        "Pass `unpack=` to find image and label."
    )


def _choose(dataset: Dataset[Any], n: int, seed: int, balance: str, label_of: Callable[[int], int]) -> list[int]:
    """Indices in an order in which the classes take turns, so that the first few show as many classes as they can."""
    count = len(dataset)  # type: ignore[arg-type]
    order: list[int] = np.random.default_rng(seed).permutation(count).tolist()
    if balance == "none":
        return order[:n]
    if balance != "class":
        raise ValueError(f"Expected `balance` to be 'class' or 'none', but got {balance!r}.")
    labels = _known_labels(dataset)
    if labels is None:
        # Nothing tells the labels without reading images: look at some, not at a million.
        order = order[: n * _SCANNED_PER_WANTED]
        labels = {index: label_of(index) for index in order}
    by_class: dict[int, list[int]] = {}
    for index in order:
        by_class.setdefault(int(labels[index]), []).append(index)
    turns = [(turn, label, index) for label, members in by_class.items() for turn, index in enumerate(members)]
    return [index for _, _, index in sorted(turns)[:n]]


def _attribute(dataset: Any, name: str) -> Any:
    """An attribute of a dataset, or of the one that it is a subset of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, name, None)


def _known_labels(dataset: Dataset[Any]) -> Sequence[int] | dict[int, int] | None:
    """Labels of a dataset that knows them without reading its images."""
    if isinstance(dataset, Subset):
        below = _known_labels(dataset.dataset)
        return None if below is None else [below[index] for index in dataset.indices]
    for name in ("targets", "labels"):
        known = getattr(dataset, name, None)
        if isinstance(known, list | tuple | Tensor | np.ndarray) and len(known) == len(dataset):  # type: ignore[arg-type]
            try:
                return [int(label) for label in known]
            except (TypeError, ValueError, RuntimeError):
                # Detection and segmentation data keep dictionaries or file names there.
                return None
    return None
