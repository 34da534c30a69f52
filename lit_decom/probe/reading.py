"""Reading the images of a probe from a dataset, as the network gets them in training."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lit_decom.isolation import isolated_random_state
from lit_decom.probe.batches import Unpack, unpacked, with_xyxy
from lit_decom.probe.choice import attribute, check_map_style, choose

_READ_TWICE = 4
Sample = tuple[Tensor, dict[str, Any]]


def read_dataset(
    dataset: Dataset[Any],
    n: int,
    seed: int,
    balance: str,
    *,
    unpack: Unpack | None,
    collate_fn: Callable[[list[Any]], Any],
    transfer: Callable[[Any], Any] | None,
) -> dict[str, Any]:
    """Choose images by index and read them: attributes of a probe, by name. See :meth:`Probe.from_dataset`."""
    check_map_style(dataset)
    if n < 1:
        raise ValueError(f"Expected `n` to be at least 1, but got {n}.")

    def read(index: int) -> Sample:
        batch = collate_fn([with_xyxy(dataset[index])])
        return unpacked(batch if transfer is None else transfer(batch), unpack)

    with isolated_random_state(seed):
        indices = choose(dataset, n, seed, balance, lambda index: int(read(index)[1]["label"]))
        samples = [read(index) for index in indices]
        again = [read(index)[0] for index in indices[:_READ_TWICE]]
    if any(not torch.equal(first, second[0]) for second, first in zip(samples, again, strict=False)):
        warnings.warn(
            "The dataset gives another image at the second reading (a random transform?): the probe keeps the first.",
            stacklevel=3,
        )
    return together(samples, [str(index) for index in indices]) | names_of(dataset, samples)


def together(samples: Sequence[Sample], ids: Sequence[str]) -> dict[str, Any]:
    """Put samples together; of masks, boxes and parts what every one of them has."""
    sizes = {tuple(image.shape[1:]) for image, _ in samples}
    if len(sizes) > 1:
        raise ValueError(f"Expected images of one size, but got {sorted(sizes)}. Resize them in the transform.")
    targets = [target for _, target in samples]
    found: dict[str, Any] = {
        "images": torch.cat([image for image, _ in samples]),
        "labels": torch.stack([target["label"] for target in targets]),
        "ids": list(ids),
    }
    for name in ("masks", "boxes", "parts"):
        if all(name in target for target in targets):
            values = [target[name] for target in targets]
            found[name] = values if name == "boxes" else torch.stack(values)
    return found


def names_of(dataset: Any, samples: Sequence[Sample]) -> dict[str, Any]:
    """Names of classes and parts that a dataset knows; of classes only if they reach all labels."""
    found = {"part_names": attribute(dataset, "part_names")}
    class_names = attribute(dataset, "classes")
    if class_names is not None and max(int(target["label"]) for _, target in samples) < len(class_names):
        found["class_names"] = class_names
    return found
