"""Finding images and labels in whatever a loader gives."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from lit_decom.functional.labels import as_labels

Unpack = Callable[[Any], tuple[Tensor, Any]]
Sample = tuple[Tensor, dict[str, Any]]

# As torchgeo, Hugging Face, MONAI, fastai and most tutorials call them; of several the first one counts.
_IMAGE_KEYS = ("image", "images", "pixel_values", "img", "imgs", "inputs", "input", "x", "data")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "class_idx")


class NoImagesError(ValueError):
    """A batch, or a loader, in which nothing looks like an image."""


def images_and_target(batch: Any) -> tuple[Tensor, Any]:
    """Find the images of a batch and what stands for their labels.

    Named entries (of a mapping, a dataclass or a named tuple) are found by the usual names. Of other entries, in
    whatever order, the first floating tensor with four dimensions is the images (else the first of uint8, else with
    three dimensions, a single image); the label is the first mapping that has one or, without any, the first whole
    numbers of which there is one per image.

    Args:
        batch: as the loader gives it.

    Returns:
        Images ``(B, C, H, W)``, or one of them ``(C, H, W)``; and labels, or a mapping with ``label`` that may have
        ``masks``, ``boxes`` and ``parts``.

    Raises:
        NoImagesError: if there is no image.
        ValueError: if nothing can be the label.
    """
    named, image = _named(batch), None
    if named is not None:
        image = next((named[key] for key in _IMAGE_KEYS if _is_image(named.get(key))), None)
        image = _first_image(list(named.values())) if image is None else image
        target = _with_label(named)
        if image is not None and target is not None:
            return image, _with_masks(target, image)
    entries = _in_order(batch, named)
    if len(entries) < 2:
        raise _not_understood(batch, named)
    image = _first_image(entries) if image is None else image
    if image is None:
        raise _no_image(entries[0])
    return image, _target_among([entry for entry in entries if entry is not image], image)


def images_and_labels(batch: Any, unpack: Unpack | None = None) -> tuple[Tensor, Tensor]:
    """Find the images ``(B, C, H, W)`` and the labels of a batch, the latter as ``as_labels`` gives them.

    Raises:
        ValueError: if the batch is not understood.
    """
    images, target = images_and_target(batch) if unpack is None else unpack(batch)
    labels = torch.as_tensor(target["label"] if isinstance(target, Mapping) else target, device=images.device)
    if images.ndim == 3:  # a single sample, of a loader that makes no batches
        images, labels = images[None], labels.reshape(1, -1)
    return images, as_labels(labels)


def samples_of(batch: Any, unpack: Unpack | None, *, alone: bool = False) -> list[Sample]:
    """Cut a batch into samples: an image ``(1, C, H, W)`` and its target each, without the batch dimension.

    Args:
        batch: as the loader, and the module's hooks, give it.
        unpack: finds images and target in it; None looks for them.
        alone: whether the batch was made of a single sample.

    Raises:
        NoImagesError: if there is no image.
        ValueError: if the batch is not understood.
    """
    images, target = images_and_target(batch) if unpack is None else unpack(batch)
    is_tensor = isinstance(images, Tensor) and images.ndim in {3, 4}
    if not is_tensor or (alone and images.shape[:-3] not in {(), (1,)}):
        raise _no_image(images)
    images = plain(images)
    images = images[None] if images.ndim == 3 else images
    known = _known_of(target)
    if len(images) == 1:
        return [_sample(images, {name: _only(value) for name, value in known.items()})]
    for name, value in known.items():
        if not hasattr(value, "__len__") or len(value) != len(images):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"Expected `{name}` to be one for each of {len(images)} images, but got {found}.")
    rows = [{name: value[row] for name, value in known.items()} for row in range(len(images))]
    return [_sample(image[None], row) for image, row in zip(images, rows, strict=True)]


def _known_of(target: Any) -> dict[str, Any]:
    """What is known of images: the label, and where things are."""
    if not isinstance(target, Mapping):
        return {"label": target}
    if "label" not in target:
        raise ValueError(
            f"Expected a sample's target to have the key 'label', but got {sorted(map(str, target))}. "
            "Pass `unpack=` to find it."
        )
    names = ("label", "masks", "label_masks", "parts", "boxes")
    return {name: target[name] for name in names if name in target}


def _only(value: Any) -> Any:
    """What is known of the only image of a batch, out of the list that some collate functions make."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _sample(image: Tensor, target: Mapping[str, Any]) -> Sample:
    """One image ``(1, C, H, W)`` with a target whose entries have no batch dimension, or one of 1."""
    found: dict[str, Any] = {"label": _label_of(target["label"])}
    size = image.shape[-2:]
    for name in {"masks", "label_masks", "parts"} & set(target):
        grids = plain(target[name]).bool()
        if grids.shape[-2:] != size:
            raise ValueError(
                f"Expected a sample's `{name}` to have its image's size {tuple(size)}, but got {tuple(grids.shape)}."
            )
        grids = grids.reshape(-1, *size)
        found[name] = grids.any(dim=0) if name == "masks" else grids
    if "boxes" in target:
        found["boxes"] = plain(xyxy(target["boxes"])).reshape(-1, 4)
    return image, found


def _label_of(value: Any) -> Tensor:
    """Class of one sample ``()``, negative where nobody labelled it; or which labels it has, ``(N,)`` bool."""
    try:
        label = plain(value)
        label = label[0] if label.ndim > 1 and len(label) == 1 else label
        # Not flattened: a mask is no vector of labels, though it holds 0 and 1.
        return as_labels(label[None])[0]
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(
            "Expected a sample's label to be one class index, or 0 and 1 for each of several labels, but got "
            f"{got}. Pass `unpack=` to make it one."
        ) from error


def _named(batch: Any) -> dict[Any, Any] | None:
    """Entries of a batch by name, where they have names."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {entry.name: getattr(batch, entry.name) for entry in dataclasses.fields(batch)}
    return dict(batch._asdict()) if isinstance(batch, tuple) and hasattr(batch, "_asdict") else None


def _in_order(batch: Any, named: Mapping[Any, Any] | None) -> list[Any]:
    """Entries of a batch by their places; none where places mean nothing."""
    if isinstance(batch, tuple | list):
        return list(batch)
    return [] if named is None or isinstance(batch, Mapping) else list(named.values())


def _is_image(value: Any, n_dims: Sequence[int] = (3, 4)) -> TypeGuard[Tensor]:
    if not isinstance(value, Tensor) or value.ndim not in n_dims:
        return False
    return value.is_floating_point() or value.dtype == torch.uint8


def _first_image(entries: Sequence[Any]) -> Tensor | None:
    for n_dims in (4, 3):
        fitting = [entry for entry in entries if _is_image(entry, (n_dims,))]
        floating = [entry for entry in fitting if entry.is_floating_point()]
        if fitting:
            return (floating or fitting)[0]
    return None


def _with_label(target: Mapping[Any, Any]) -> dict[Any, Any] | None:
    """A target whose label is called ``label``; None if nothing in it is."""
    key = next((key for key in _LABEL_KEYS if key in target), None)
    return None if key is None else {**target, "label": target[key]}


def _with_masks(target: dict[Any, Any], image: Tensor) -> dict[Any, Any]:
    """A target with torchgeo's ``mask`` as ``masks``, if it is one of the image; others call other things so."""
    mask = target.get("mask")
    fits = isinstance(mask, Tensor) and mask.ndim >= 2 and mask.shape[-2:] == image.shape[-2:]
    return {**target, "masks": mask} if fits and "masks" not in target else target


def _target_among(entries: Sequence[Any], image: Tensor) -> Any:
    """Find the label among the entries beside the image; without any that fits, the first one, as it is."""
    for entry in entries:
        target = _with_label(entry) if isinstance(entry, Mapping) else None
        if target is not None:
            return target
    n = len(image) if image.ndim == 4 else 1
    fitting = [entry for entry in entries if _is_one_index_each(entry, n)]
    fitting = fitting or [entry for entry in entries if _is_yes_or_no(entry, n)]
    if len(fitting) > 1:
        warnings.warn(
            f"{len(fitting)} entries of a batch may be the labels: the first of them is taken for the "
            "label. Pass `unpack=` if it is another one.",
            stacklevel=2,
        )
    return fitting[0] if fitting else entries[0]


def _is_one_index_each(value: Any, n: int) -> bool:
    if isinstance(value, list | tuple) and not all(isinstance(entry, int | np.integer) for entry in value):
        return False
    if isinstance(value, np.ndarray) and not np.issubdtype(value.dtype, np.integer):
        return False
    if not isinstance(value, Tensor | np.ndarray | list | tuple | int | np.integer):
        return False
    numbers = torch.as_tensor(value)
    whole = not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)
    return whole and numbers.numel() == n and numbers.ndim <= 2


def _is_yes_or_no(value: Any, n: int) -> bool:
    """Whether it holds 0 and 1 for each image, or for each label of each image."""
    if not isinstance(value, Tensor) or not value.numel() or ((value != 0) & (value != 1)).any():
        return False
    return value.numel() == n or (value.ndim == 2 and len(value) == n) or (value.ndim == 1 and n == 1)


def _no_image(found: Any) -> NoImagesError:
    got = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
    return NoImagesError(f"Expected a sample's image to be (C, H, W), but got {got}. Pass `unpack=` to find it.")


def _not_understood(batch: Any, named: Mapping[Any, Any] | None) -> ValueError:
    keys = "" if named is None else f" with the keys {sorted(map(str, named))}"
    has_image = isinstance(batch, Tensor) or (named is not None and _first_image(list(named.values())) is not None)
    return (ValueError if has_image else NoImagesError)(
        f"Expected a sample to be (image, label) or (image, {{'label': ...}}), but got {type(batch).__name__}{keys}. "
        "Pass `unpack=` to find image and label."
    )


def with_xyxy(sample: Any) -> Any:
    """Give a sample whose boxes are x1, y1, x2, y2: before collating, which forgets the format."""
    if isinstance(sample, Mapping) and "boxes" in sample:
        return {**sample, "boxes": xyxy(sample["boxes"])}
    if type(sample) is tuple and len(sample) == 2 and isinstance(sample[1], Mapping):
        return sample[0], with_xyxy(sample[1])
    return sample


def xyxy(boxes: Any) -> Any:
    """Boxes as x1, y1, x2, y2: torchvision's say what they are, plain ones are taken for it."""
    if getattr(boxes, "format", None) is None:
        return boxes
    from torchvision.transforms.v2.functional import convert_bounding_box_format

    return convert_bounding_box_format(boxes, new_format="XYXY")


def plain(value: Any) -> Tensor:
    """A tensor on the CPU, off the graph, of no subclass."""
    return torch.as_tensor(value).detach().cpu().as_subclass(Tensor)
