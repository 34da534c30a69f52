"""Finding images and labels in whatever a loader gives."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Unpack = Callable[[Any], tuple[Tensor, Any]]


def images_and_labels(batch: Any, unpack: Unpack | None = None) -> tuple[Tensor, Tensor]:
    """Find the images ``(B, C, H, W)`` and class indices ``(B,)`` of a collated batch.

    Raises:
        ValueError: if the batch is not understood.
    """
    images, target = _parts_of(batch) if unpack is None else unpack(batch)
    return images, target["label"] if isinstance(target, Mapping) else target


def unpacked(batch: Any, unpack: Unpack | None) -> tuple[Tensor, dict[str, Any]]:
    """Image ``(1, C, H, W)`` and target of one sample, the target's entries without the batch dimension."""
    image, target = _parts_of(batch) if unpack is None else unpack(batch)
    if not isinstance(image, Tensor) or image.ndim not in {3, 4} or image.shape[:-3] not in {(), (1,)}:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"Expected a sample's image to be (C, H, W), but got {got}. Pass `unpack=` to find it.")
    image = plain(image)
    image = image[None] if image.ndim == 3 else image
    if isinstance(target, Mapping) and "label" not in target:
        raise ValueError(
            f"Expected a sample's target to have the key 'label', but got {sorted(map(str, target))}. "
            "Pass `unpack=` to find it."
        )
    found: dict[str, Any] = {"label": _class_index(target["label"] if isinstance(target, Mapping) else target)}
    if not isinstance(target, Mapping):
        return image, found
    size = image.shape[-2:]
    for name in {"masks", "parts"} & set(target):
        grids = plain(target[name]).bool()
        if grids.shape[-2:] != size:
            raise ValueError(
                f"Expected a sample's `{name}` to have its image's size {tuple(size)}, but got {tuple(grids.shape)}."
            )
        grids = grids.reshape(-1, *size)
        found[name] = grids.any(dim=0) if name == "masks" else grids
    if "boxes" in target:
        found["boxes"] = plain(target["boxes"]).reshape(-1, 4)
    return image, found


def _class_index(value: Any) -> Tensor:
    """Label of one sample as a scalar on the CPU."""
    label = torch.as_tensor(value)
    if label.numel() != 1 or label.is_floating_point():
        raise ValueError(
            f"Expected a sample's label to be one class index, but got {tuple(label.shape)} {label.dtype}. "
            "Pass `unpack=` to make it one."
        )
    return plain(label).long().reshape(())


def with_xyxy(sample: Any) -> Any:
    """Give a sample whose boxes are x1, y1, x2, y2: before collating, which forgets the format."""
    if isinstance(sample, Mapping) and "boxes" in sample:
        return {**sample, "boxes": xyxy(sample["boxes"])}
    if isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[1], Mapping):
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
