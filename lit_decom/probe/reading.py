"""Reading the images of a probe, as the network gets them in validation."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from torch.utils.data import default_collate

from lit_decom.isolation import isolated_random_state, rewound_generators
from lit_decom.probe.batches import NoImagesError, Sample, Unpack, samples_of, with_xyxy
from lit_decom.probe.choice import attribute, choose, is_map_style, known_labels, most_scanned
from lit_decom.probe.loaders import batches_of, indices_of
from lit_decom.probe.rows import classes_in, images_within
from lit_decom.probe.unreadable import Attempts, UnreadableError

Collate = Callable[[list[Any]], Any]
Transfer = Callable[[Any], Any]

_READ_TWICE = 4


def read_dataset(
    dataset: Any,
    n: int,
    seed: int,
    balance: str,
    *,
    indices: Sequence[Any] | None = None,
    unpack: Unpack | None,
    collate_fn: Collate,
    transfer: Transfer | None,
) -> dict[str, Any]:
    """Choose images by index and read them: attributes of a probe, by name. See :meth:`Probe.from_dataset`."""
    _check_map_style(dataset)
    _check_choice(n, balance)

    def read(index: Any) -> Sample:
        batch = collate_fn([with_xyxy(dataset[index])])
        return samples_of(batch if transfer is None else transfer(batch), unpack, alone=True)[0]

    known = known_labels(dataset)
    candidates = range(len(dataset)) if indices is None else indices

    def chosen(labels_of: Callable[[Any], list[int]]) -> list[Any]:
        return choose(candidates, n, seed, balance, labels_of, costly=known is None)

    with isolated_random_state(seed), rewound_generators(dataset, collate_fn, unpack, transfer):
        samples = _readable(chosen, read, known, Attempts(most_scanned(n)))
        differing = [_differs(sample, read, index) for index, sample in list(samples.items())[:_READ_TWICE]]
    if any(differing):
        warnings.warn(
            "The dataset gives another image at the second reading (a random transform?): the probe keeps the first.",
            stacklevel=3,
        )
    # What transforms make -1 of is not labelled either, whatever the dataset says.
    labelled = {str(index): sample for index, sample in samples.items() if _classes(sample)}
    if not labelled:
        raise ValueError(f"Expected labelled images, but all {len(samples)} that were read have a negative label.")
    return together(list(labelled.values()), list(labelled), n) | names_of(dataset)


def _readable(
    chosen: Callable[[Callable[[Any], list[int]]], list[Any]],
    read: Callable[[Any], Sample],
    known: Sequence[list[int]] | None,
    attempts: Attempts,
) -> dict[Any, Sample]:
    """Choose and read samples by index, and others in place of those that cannot be read."""

    def labels_of(index: Any) -> list[int]:
        if known is not None:
            return [] if index in attempts.failed else known[index]
        sample = attempts.read(index, lambda: read(index))
        return [] if sample is None else _classes(sample)

    samples: dict[Any, Sample] = {}
    while True:
        try:
            order = chosen(labels_of)
        except ValueError:
            if not attempts.failed:
                raise
            order = []
        failed = len(attempts.failed)
        for index in order:
            sample = samples.get(index) or attempts.read(index, partial(read, index))
            samples |= {} if sample is None else {index: sample}
        if not order:
            raise attempts.problem
        if len(attempts.failed) == failed:
            attempts.warn()
            return {index: samples[index] for index in order if index in samples}


def _differs(sample: Sample, read: Callable[[Any], Sample], index: Any) -> bool:
    try:
        return not torch.equal(sample[0], read(index)[0])
    except Exception:  # noqa: BLE001 -- it was read before, which is enough
        return False


def read_loader(
    loader: Any, n: int, seed: int, balance: str, *, unpack: Unpack | None, transfer: Transfer | None
) -> dict[str, Any]:
    """Choose images of what a loader reads: attributes of a probe, by name. See :meth:`Probe.from_loader`."""
    _check_choice(n, balance)
    with isolated_random_state(seed), rewound_generators(loader, unpack, transfer):
        indices = indices_of(loader)
    if indices is None:
        return _read_first(loader, n, seed, balance, unpack=unpack, transfer=transfer)
    collate_fn = loader.collate_fn or default_collate
    try:
        return read_dataset(
            loader.dataset,
            n,
            seed,
            balance,
            indices=indices,
            unpack=unpack,
            collate_fn=collate_fn,
            transfer=transfer,
        )
    except UnreadableError:  # by a collate function that wants more than one sample, for instance
        return _read_first(loader, n, seed, balance, unpack=unpack, transfer=transfer)


def _read_first(
    loader: Any, n: int, seed: int, balance: str, *, unpack: Unpack | None, transfer: Transfer | None
) -> dict[str, Any]:
    """Choose among the first samples of a pipeline, keeping at no time more than it takes."""
    kept: list[tuple[int, int, Sample]] = []
    turns: Counter[int] = Counter()
    attempts, seen = Attempts(most_scanned(n), ("batch", "batches")), 0
    with isolated_random_state(seed), rewound_generators(loader, unpack, transfer):
        for samples in _batches(loader, unpack, transfer, attempts):
            for place, sample in enumerate(samples, start=seen):
                labels = _classes(sample)
                if labels:
                    turn = min(turns[label] for label in labels)
                    kept.append((turn if balance == "class" else 0, place, sample))
                    turns.update(labels)
            seen += len(samples)
            # Who comes later takes a later turn: what is dropped now would not be chosen in the end either.
            kept = sorted(kept, key=lambda entry: entry[:2])[:n]
            if seen >= most_scanned(n) or (balance != "class" and len(kept) == n):
                break
    if not kept and attempts.failed:
        raise attempts.problem
    if not kept:
        raise NoImagesError(f"Expected {type(loader).__name__} to give labelled images for the probe, but got none.")
    attempts.warn()
    warnings.warn(
        f"{_what(loader)} is not read by index, so the probe is chosen among its first {seen} images. If they are "
        "sorted, pass `probe=Probe.from_tensors(...)`.",
        stacklevel=4,
    )
    found = together([sample for _, _, sample in kept], [str(place) for _, place, _ in kept], n)
    return found | names_of(getattr(loader, "dataset", loader))


def _batches(
    loader: Any, unpack: Unpack | None, transfer: Transfer | None, attempts: Attempts
) -> Iterator[list[Sample]]:
    """Give the samples of one batch after another, those left out that cannot be read."""

    def cut(batch: Any) -> list[Sample]:
        return samples_of(batch if transfer is None else transfer(batch), unpack)

    batches, end = batches_of(loader), object()
    for number in count():
        batch = attempts.read(number, partial(next, batches, end))
        if batch is end or attempts.spent:
            return
        yield attempts.read(number, partial(cut, batch)) or []


def _classes(sample: Sample) -> list[int]:
    return classes_in(sample[1]["label"])


def _what(loader: Any) -> str:
    dataset = getattr(loader, "dataset", None)
    return type(loader).__name__ if dataset is None else f"{type(dataset).__name__} in a {type(loader).__name__}"


def together(samples: Sequence[Sample], ids: Sequence[str], n: int) -> dict[str, Any]:
    """Put samples together, at most ``n`` rows; of masks, boxes and parts what every one of them has."""
    samples = samples[: images_within(n, [target["label"] for _, target in samples])]
    sizes = {tuple(image.shape[1:]) for image, _ in samples}
    if len(sizes) > 1:
        raise ValueError(f"Expected images of one size, but got {sorted(sizes)}. Resize them in the transform.")
    targets = [target for _, target in samples]
    found: dict[str, Any] = {
        "images": torch.cat([image for image, _ in samples]),
        "labels": torch.stack([target["label"] for target in targets]),
        "ids": list(ids[: len(samples)]),
    }
    for name in ("masks", "boxes", "parts"):
        if all(name in target for target in targets):
            values = [target[name] for target in targets]
            found[name] = values if name == "boxes" else torch.stack(values)
    if found["labels"].ndim == 2 and all("label_masks" in target for target in targets):
        found["masks"] = torch.stack([target["label_masks"] for target in targets])
    return found


def names_of(dataset: Any) -> dict[str, Any]:
    """Names of classes and parts that a dataset knows."""
    return {"part_names": attribute(dataset, "part_names"), "class_names": attribute(dataset, "classes")}


def _check_choice(n: int, balance: str) -> None:
    if n < 1:
        raise ValueError(f"Expected `n` to be at least 1, but got {n}.")
    if balance not in {"class", "none"}:
        raise ValueError(f"Expected `balance` to be 'class' or 'none', but got {balance!r}.")


def _check_map_style(dataset: Any) -> None:
    name = type(dataset).__name__
    if not is_map_style(dataset):
        raise TypeError(
            f"Expected `dataset` to be read by index, but {name} has no length or no items. Read it through its "
            "loader, `Probe.from_loader(loader)`, or collect some of its images yourself: "
            "`Probe.from_tensors(images, labels)`."
        )
    if len(dataset) == 0:
        raise NoImagesError(f"Expected `dataset` to hold images for the probe, but {name} is empty.")
