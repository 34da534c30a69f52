"""Where the images of a comparison come from: read by index where that is possible, else one batch after another."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, default_collate

from lit_decom.comparison.base import ComparisonError
from lit_decom.probe import Probe, Unpack, normalisation_of
from lit_decom.probe.batches import Sample, samples_of, with_xyxy
from lit_decom.probe.loaders import batches_of, indices_of, names_beside, owners_of
from lit_decom.probe.reading import names_of, together
from lit_decom.probe.rows import classes_in
from lit_decom.process import Process

Transfer = Callable[[Any], Any]
Split = Literal["val", "test"]

_BATCH = 32
_LOOKED_AT = 8  # images that layer, normalisation and annotations are found by


@dataclass(frozen=True)
class Batch:
    """Some images of the data.

    Attributes:
        places: of the labelled ones, in the data.
        piece: these; None if no image of the batch is labelled.
        unlabelled: places of the others.
    """

    places: tuple[int, ...]
    piece: Probe | None
    unlabelled: tuple[int, ...] = ()


class Source(ABC):
    """Images that have a place each, the same at every reading, and are read batch by batch."""

    @abstractmethod
    def first(self) -> Probe:
        """Read a few images, the same ones whatever else is asked for."""

    @abstractmethod
    def chosen(self, limit: int | None) -> Sequence[int] | None:
        """List the places of the images that are compared, or None where only reading tells."""

    @abstractmethod
    def batches(self, done: set[int], limit: int | None, process: Process = Process()) -> Iterator[Batch]:  # noqa: B008
        """Read the chosen images that are not done: this process's share of the batches."""

    def read(self, places: Sequence[int]) -> Probe:
        """Read some images, by their places; in that order."""
        wanted = set(places)
        found: dict[int, Probe] = {}
        for batch in self._reading(wanted):
            for row, place in enumerate(batch.places):
                if place in wanted and batch.piece is not None:
                    found[place] = batch.piece.select([row])
            if len(found) == len(wanted):
                break
        return _stacked([found[place] for place in places])

    @abstractmethod
    def _reading(self, wanted: set[int]) -> Iterator[Batch]: ...


class ProbeSource(Source):
    """The images of a probe."""

    def __init__(self, probe: Probe, batch_size: int | None = None) -> None:
        if probe.multilabel:
            raise _several_labels()
        self._probe, self._size = probe, batch_size or _BATCH

    def first(self) -> Probe:
        """Take the first images."""
        return self._probe.select(range(min(_LOOKED_AT, len(self._probe))))

    def chosen(self, limit: int | None) -> list[int]:
        """Choose by a fixed draw."""
        return _drawn(range(len(self._probe)), limit)

    def batches(self, done: set[int], limit: int | None, process: Process = Process()) -> Iterator[Batch]:  # noqa: B008
        """Cut what is left into pieces."""
        for places in _share(self.chosen(limit), done, self._size, process):
            yield Batch(tuple(places), self._probe.select(places))

    def _reading(self, wanted: set[int]) -> Iterator[Batch]:
        places = sorted(wanted)
        yield Batch(tuple(places), self._probe.select(places))


class _Pipeline(Source):
    """What a loader gives, through the user's own collate function and transfer hooks."""

    def __init__(self, loader: Any, datamodule: Any, unpack: Unpack | None, transfer: Transfer | None) -> None:
        self._loader, self._datamodule = loader, datamodule
        self._unpack, self._transfer = unpack, transfer or _as_it_is
        self._known: dict[str, Any] | None = None

    def _probe(self, samples: Sequence[Sample], places: Sequence[int]) -> Batch:
        if any(target["label"].ndim for _, target in samples):
            raise _several_labels()
        has_label = [bool(classes_in(target["label"])) for _, target in samples]
        labelled = [place for place, has in zip(places, has_label, strict=True) if has]
        rest = tuple(place for place, has in zip(places, has_label, strict=True) if not has)
        if not labelled:
            return Batch((), None, rest)
        kept = [sample for sample, has in zip(samples, has_label, strict=True) if has]
        found = together(kept, [str(place) for place in labelled], len(kept))
        return Batch(tuple(labelled), Probe.from_tensors(**(found | self._beside())), rest)

    def _beside(self) -> dict[str, Any]:
        """What is known of all images, found once, from the first of them."""
        if self._known is None:
            # of the first images themselves no more than this is known
            of_data = names_of(getattr(self._loader, "dataset", self._loader))
            self._known = of_data | names_beside(self._loader, self._datamodule)
            images = self.first().images
            for owner in owners_of(self._loader, self._datamodule):
                found = normalisation_of(owner, images)
                if found is not None:
                    self._known |= {"mean": found[0], "std": found[1]}
                    break
        return self._known


class IndexedSource(_Pipeline):
    """A loader over a data set that is read by index: what is done is not read again, and the order does not matter."""

    def __init__(
        self,
        loader: Any,
        indices: list[Any],
        datamodule: Any = None,
        *,
        unpack: Unpack | None = None,
        transfer: Transfer | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(loader, datamodule, unpack, transfer)
        by_number = all(isinstance(index, int) for index in indices)
        self._index_of = {index if by_number else place: index for place, index in enumerate(indices)}
        self._size = batch_size or getattr(loader.batch_sampler, "batch_size", None) or _BATCH

    def first(self) -> Probe:
        """Read the first images."""
        places = list(self._index_of)[:_LOOKED_AT]
        batch = next(self._read_chunks([places], workers=0))
        if batch.piece is None:
            raise ComparisonError(f"Expected labelled images, but the first {len(places)} have no label.")
        return batch.piece

    def chosen(self, limit: int | None) -> list[int]:
        """Choose by a fixed draw, since data are often sorted by class."""
        return _drawn(list(self._index_of), limit)

    def batches(self, done: set[int], limit: int | None, process: Process = Process()) -> Iterator[Batch]:  # noqa: B008
        """Read what is left, with the loader's own workers."""
        chunks = _share(self.chosen(limit), done, self._size, process)
        return self._read_chunks(chunks, workers=self._loader.num_workers)

    def _reading(self, wanted: set[int]) -> Iterator[Batch]:
        return self._read_chunks([sorted(wanted)], workers=0)

    def _read_chunks(self, chunks: list[list[int]], *, workers: int) -> Iterator[Batch]:
        own = self._loader
        loader = DataLoader(
            own.dataset,
            batch_sampler=[[self._index_of[place] for place in chunk] for chunk in chunks],
            collate_fn=_EachAlone(own.collate_fn or default_collate),
            num_workers=workers,
            worker_init_fn=own.worker_init_fn,
            multiprocessing_context=own.multiprocessing_context if workers else None,
            generator=torch.Generator(),
        )
        for chunk, batches in zip(chunks, loader, strict=True):
            samples = [samples_of(self._transfer(batch), self._unpack, alone=True)[0] for batch in batches]
            yield self._probe(samples, chunk)


class StreamSource(_Pipeline):
    """A pipeline without an index: it is read from its beginning each time, and what is done is left out."""

    def first(self) -> Probe:
        """Read until a batch has a label."""
        for batch in self._numbered(batches_of(self._loader)):
            if batch.piece is not None:
                return batch.piece.select(range(min(_LOOKED_AT, len(batch.piece))))
        raise ComparisonError(f"Expected {type(self._loader).__name__} to give labelled images, but got none.")

    def chosen(self, limit: int | None) -> None:
        """Say that only reading tells."""
        return

    def batches(self, done: set[int], limit: int | None, process: Process = Process()) -> Iterator[Batch]:  # noqa: B008
        """Read everything, and give every ``world``-th batch of what is left."""
        for number, batch in enumerate(self._numbered(iter(self._loader))):
            left = [row for row, place in enumerate(batch.places) if place not in done and _below(place, limit)]
            if number % process.world == process.rank and (left or set(batch.unlabelled) - done):
                places = tuple(batch.places[row] for row in left)
                yield Batch(places, batch.piece.select(left) if batch.piece and left else None, batch.unlabelled)
            if not _below(max((*batch.places, *batch.unlabelled)) + 1, limit):
                return

    def _reading(self, wanted: set[int]) -> Iterator[Batch]:
        return self._numbered(iter(self._loader))

    def _numbered(self, batches: Iterator[Any]) -> Iterator[Batch]:
        place = 0
        for batch in batches:
            samples = samples_of(self._transfer(batch), self._unpack)
            yield self._probe(samples, range(place, place + len(samples)))
            place += len(samples)


def source_of(
    data: Any,
    *,
    split: Split = "val",
    unpack: Unpack | None = None,
    transfer: Transfer | None = None,
    batch_size: int | None = None,
) -> Source:
    """Find out how data are read.

    Args:
        data: a probe, a loader of any kind, or a datamodule.
        split: of a datamodule.
        unpack: from a batch to images and labels, where they are not found by themselves.
        transfer: the module's batch-transfer hooks.
        batch_size: images explained at once; the loader's by default. A stream has its own.

    Raises:
        ComparisonError: if there are several loaders, or labels that do not exclude one another.
        TypeError: if it can be iterated only once, or not at all.
    """
    if split not in ("val", "test"):
        raise ComparisonError(f"Expected `split` to be 'val' or 'test', but got {split!r}.")
    if batch_size is not None and batch_size < 1:
        raise ComparisonError(f"Expected `batch_size` to be at least 1, but got {batch_size}.")
    if isinstance(data, Probe):
        return ProbeSource(data, batch_size)
    datamodule = data if hasattr(data, f"{split}_dataloader") and not isinstance(data, DataLoader) else None
    if datamodule is not None:
        datamodule.prepare_data()
        datamodule.setup("validate" if split == "val" else "test")
        data = getattr(datamodule, f"{split}_dataloader")()
    if isinstance(data, list | tuple | dict):
        raise ComparisonError(f"Expected `data` to be one loader, but got {len(data)} of them: pass one.")
    indices = indices_of(data)
    if indices is None:
        batches_of(data)  # refuses what can be read only once
        return StreamSource(data, datamodule, unpack, transfer)
    return IndexedSource(data, indices, datamodule, unpack=unpack, transfer=transfer, batch_size=batch_size)


class _EachAlone:
    """Collates every sample by itself, so that annotations of several sizes stay what they are."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> list[Any]:
        return [self._collate([with_xyxy(sample)]) for sample in samples]


def _drawn(places: Sequence[int], limit: int | None) -> list[int]:
    if limit is None or limit >= len(places):
        return list(places)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:limit]
    return [places[row] for row in order.sort().values.tolist()]


def _share(places: Sequence[int], done: set[int], size: int, process: Process) -> list[list[int]]:
    left = [place for place in places if place not in done]
    chunks = [left[start : start + size] for start in range(0, len(left), size)]
    return chunks[process.rank :: process.world]


def _stacked(pieces: Sequence[Probe]) -> Probe:
    """Images with labels, one below the other; annotations are left out."""
    bare = [replace(piece, masks=None, boxes=None, parts=None, part_names=None) for piece in pieces]
    ids = tuple(name for piece in bare for name in piece.ids)
    images, labels = (torch.cat([getattr(piece, name) for piece in bare]) for name in ("images", "labels"))
    return replace(bare[0], images=images, labels=labels, ids=ids)


def _below(place: int, limit: int | None) -> bool:
    return limit is None or place < limit


def _as_it_is(batch: Any) -> Any:
    return batch


def _several_labels() -> ComparisonError:
    return ComparisonError(
        "Expected images of one label each, but these may have several: compare them with `evaluate(...)`."
    )
