"""What a loader would read, in its own way, without a trace in it."""

import copy
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Subset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from lit_decom.probe.batches import NoImagesError
from lit_decom.probe.choice import is_map_style, told


def indices_of(loader: Any) -> list[Any] | None:
    """List the samples that a loader may read, each once, as its own sampler and batch sampler give them.

    Whole numbers come in ascending order, so that what is chosen of them does not depend on how they were shuffled. A
    sampler that never ends is asked for as many as the dataset holds. A sampler that gives each process a share is
    asked for all shares.

    Args:
        loader: of any kind.

    Returns:
        The indices; None where the loader does not read one sample after another by index.

    Raises:
        NoImagesError: if there is none.
    """
    by_index = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    if not by_index or loader.batch_sampler is None or not is_map_style(loader.dataset):
        return None
    simple = type(loader.batch_sampler) is BatchSampler
    sampler = _of_all_processes(loader.batch_sampler.sampler) if simple else loader.batch_sampler
    drawn: Iterable[Any] = _copied(sampler, loader.dataset)
    drawn = drawn if simple else chain.from_iterable(drawn)
    found = list(dict.fromkeys(_plain_index(index) for index in islice(drawn, len(loader.dataset))))
    if not found:
        name = type(loader.dataset).__name__
        what = f"its sampler gives nothing of {name}" if len(loader.dataset) else f"{name} is empty"
        raise NoImagesError(f"Expected a loader that gives images for the probe, but {what}.")
    return sorted(found) if all(isinstance(index, int) for index in found) else found


def batches_of(loader: Any) -> Iterator[Any]:
    """Begin a pass over a loader's batches of its own, in this process.

    Raises:
        TypeError: if it can be iterated only once, or not at all.
    """
    if isinstance(loader, DataLoader):
        return iter(_in_process(loader))
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise TypeError(
            f"Expected data that can be iterated again and again, but got {type(loader).__name__}: reading the probe "
            "would use it up."
        )
    return iter(loader)


def owners_of(loader: Any, datamodule: Any = None) -> list[Any]:
    """List who may know things about the data that a loader gives: the datamodule before the dataset."""
    dataset = getattr(loader, "dataset", loader)
    owners = [datamodule, dataset]
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
        owners.append(dataset)
    return owners


def names_beside(loader: Any, datamodule: Any = None) -> dict[str, Any]:
    """Find the names of classes and parts; what the datamodule says goes before what the dataset says."""
    return {
        name: value
        for source in owners_of(loader, datamodule)[::-1]
        for name in ("class_names", "part_names")
        if (value := told(source, name)) is not None and not callable(value)
    }


def _of_all_processes(sampler: Any) -> Any:
    if not isinstance(sampler, DistributedSampler):
        return sampler
    # Lightning puts a user's own sampler in there, as if it were a dataset.
    return getattr(sampler.dataset, "_sampler", range(len(sampler.dataset)))  # type: ignore[arg-type]


def _copied(sampler: Any, dataset: Any) -> Any:
    """Copy a sampler, so that it neither counts nor shuffles nor draws for us; but not the data that it refers to."""
    kept: dict[int, Any] = {id(dataset): dataset}
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
        kept[id(dataset)] = dataset
    try:
        return copy.deepcopy(sampler, kept)
    except Exception:  # noqa: BLE001 -- locks and open files, and whatever its own code raises
        return sampler


def _plain_index(index: Any) -> Any:
    return int(index) if isinstance(index, torch.Tensor) or hasattr(index, "__index__") else index


def _in_process(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of the same batches without workers: starting some for a few batches takes longer than reading them."""
    alone = copy.copy(loader)
    changes = {
        "num_workers": 0,
        "timeout": 0,
        "prefetch_factor": None,
        "sampler": _copied(loader.sampler, loader.dataset),
        "batch_sampler": _copied(loader.batch_sampler, loader.dataset),
        "persistent_workers": False,
        "_iterator": None,
    }
    # Not by setattr: a loader does not let these be changed once it is made.
    vars(alone).update(changes)
    for name, held in vars(loader).items():
        if isinstance(held, _BaseDataLoaderIter) and name != "_iterator":
            # A pass that a loader keeps from epoch to epoch, as those do that keep their workers: it shall not move.
            vars(alone)[name] = DataLoader.__iter__(alone)
    return alone
