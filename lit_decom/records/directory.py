"""The directory of a run: its probe and settings, a record and a picture per snapshot, the names of its factors."""

import errno
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_decom.probe import Probe
from lit_decom.records.checking import refuse_missing, refuse_other_than_texts
from lit_decom.records.files import RunDirectoryError, remove_parts, replacing, text_array, write_npz, write_text
from lit_decom.records.missing import Missing, read_missing, write_missing
from lit_decom.records.room import Room, is_full
from lit_decom.records.snapshot import Snapshot
from lit_decom.render import to_unit

_RUN_FILE, _PROBE_FILE, _NAMES_FILE, _MISSING_FILE = "run.json", "probe.npz", "names.json", "missing.json"
_PICTURES = "pictures"
_UNREADABLE = (ValueError, KeyError, TypeError, RecursionError)
_RECORD_NAME = re.compile(r"step-(\d{9,})_epoch-(\d{5,})\.npz")


@dataclass(frozen=True)
class FactorNames:
    """What the decision factors of a run are called, in words.

    Attributes:
        epoch: of the snapshot at which they were named.
        sides: by identity what makes the score high and what makes it low, each with its confidence, such as
            ``"pointed ears (98%)"``; None for no name.
    """

    epoch: int
    sides: Mapping[int, tuple[str | None, str | None]]


class RunDirectory:
    """A folder with the probe, the settings and one record per snapshot of one run.

    Args:
        path: the folder; made when the run is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._room, self._size = Room(path), 0
        self._begun: tuple[str, Probe, Mapping[str, Any]] | None = None
        self._missing: list[Missing] = []

    def open(self, run_id: str, probe: Probe, settings: Mapping[str, Any], from_step: int | None = None) -> None:
        """Begin to write, or go on.

        Args:
            run_id: identity of the run that writes.
            probe: what is explained.
            settings: of the run.
            from_step: of a resumed run: records after it were superseded by going on from an earlier checkpoint, and
                are set aside under the suffix ``.superseded``.

        Raises:
            RunDirectoryError: if the folder holds another run's records.
        """
        owner = self.owner()
        if owner is None and self.files():
            raise RunDirectoryError(
                f"Expected `dirpath` {self.path} to be empty, but it holds records of an unknown run."
            )
        if owner not in (None, run_id):
            raise RunDirectoryError(
                f"Expected `dirpath` {self.path} to be this run's own, but it holds records of run {owner}. "
                "Choose another one or remove it."
            )
        for folder in (self.path, self.path / _PICTURES):
            remove_parts(folder)
        if from_step is not None:
            for file in self.files():
                if _moment_of(file)[0] > from_step:
                    file.replace(file.with_suffix(".npz.superseded"))
        self._missing = [each for each in self.missing() if from_step is None or each.step <= from_step]
        self._begun = run_id, probe, settings
        self._begin()

    def _begin(self) -> None:
        """Write what a run directory holds before the first snapshot."""
        if self._begun is not None:
            run_id, probe, settings = self._begun
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / _RUN_FILE, json.dumps({"run_id": run_id, "settings": dict(settings)}, indent=2))
            write_npz(self.path / _PROBE_FILE, _arrays_of(probe))
            write_missing(self.path / _MISSING_FILE, self._missing)

    @property
    def is_gone(self) -> bool:
        """Whether somebody removed the folder since it was opened."""
        return self._begun is not None and not (self.path / _RUN_FILE).exists()

    def keep(self, record: Snapshot) -> Path:
        """Write a record: where the disk is full into the room that is held, where the folder is gone into a new one.

        Raises:
            OSError: if it cannot be written; what is read of the directory says so then.
        """
        try:
            if self.is_gone:
                self._begin()
            try:
                path = record.save(self.path)
            except OSError as error:
                if not is_full(error):
                    raise
                self._room.give_up()
                path = record.save(self.path)
        except Exception as error:
            why = getattr(error, "strerror", None) or str(error)
            self._missing.append(Missing(record.epoch, record.step, why))
            write_missing(self.path / _MISSING_FILE, self._missing)
            raise
        self._size = path.stat().st_size
        self._room.keep(self._size)
        return path

    def close(self) -> None:
        """Give up the room that is held for records: no more will come for now."""
        self._room.give_up()
        write_missing(self.path / _MISSING_FILE, self._missing)

    def missing(self) -> list[Missing]:
        """Tell which snapshots have no record because none could be written, as far as that is known."""
        return self._missing or read_missing(self.path / _MISSING_FILE)

    def save_picture(self, jpeg: bytes, record: Snapshot) -> Path:
        """Keep the encoded picture of a snapshot beside its record, under ``pictures/``.

        Raises:
            OSError: if it cannot be written, or would take the room of the next record.
        """
        if not self._room.keep(self._size):
            raise OSError(errno.ENOSPC, "The space that is left on the disk is kept for records", str(self.path))
        path = (self.path / _PICTURES / record.filename).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(jpeg)
        return path

    def save_names(self, names: FactorNames) -> Path:
        """Keep what the decision factors are called, in place of what they were called before."""
        return write_text(self.path / _NAMES_FILE, json.dumps({"epoch": names.epoch, "factors": dict(names.sides)}))

    def names(self) -> FactorNames | None:
        """Read what the decision factors are called; None where nobody named them.

        Raises:
            RunDirectoryError: if the file is broken.
        """
        file = self.path / _NAMES_FILE
        if not file.exists():
            return None
        try:
            read = json.loads(file.read_text())
            sides = {int(identity): (high, low) for identity, (high, low) in read["factors"].items()}
            return FactorNames(int(read["epoch"]), sides)
        except (*_UNREADABLE, AttributeError, OSError) as error:
            raise RunDirectoryError(f"Expected {file} to name decision factors, but: {error}.") from error

    def owner(self) -> str | None:
        """Identity of the run whose records lie here; None if there is none.

        Raises:
            RunDirectoryError: if what the run wrote of itself cannot be read.
        """
        return str(self._told_at_start("run_id")["run_id"]) if (self.path / _RUN_FILE).exists() else None

    def begun(self) -> dict[str, Any]:
        """Read what the run wrote of itself when it began: its ``run_id`` and ``settings``.

        Raises:
            RunDirectoryError: if there is nothing, or it cannot be read.
        """
        return self._told_at_start("run_id", "settings")

    def _told_at_start(self, *names: str) -> dict[str, Any]:
        file = self.path / _RUN_FILE
        try:
            read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            for name in names:
                if not isinstance(read[name], kind := {"run_id": str, "settings": dict}[name]):
                    raise TypeError(f"`{name}` is {type(read[name]).__name__}, and not {kind.__name__}")
        except (*_UNREADABLE, OSError) as error:
            problem = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else error
            raise RunDirectoryError(f"Expected {file} to name a run, but it cannot be read: {problem}.") from error
        return read

    def files(self) -> list[Path]:
        """The records' files, in the order of their steps."""
        found = (file for file in self.path.glob("step-*.npz") if _RECORD_NAME.fullmatch(file.name))
        return sorted(found, key=_moment_of)

    def records(self) -> Iterator[Snapshot]:
        """Read the records, in the order of their steps."""
        return (Snapshot.load(file) for file in self.files())

    def probe(self) -> Probe:
        """Read the probe; its images are in [0, 1], to 8 bits.

        Raises:
            RunDirectoryError: if there is none, or it cannot be read.
        """
        file = self.path / _PROBE_FILE
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                known = {name: stored[name] for name in stored.files}
            return _probe_of(known)
        except Exception as error:
            raise RunDirectoryError(f"Expected {file} to hold a probe, but: {error}.") from error


def displayed(probe: Probe) -> Tensor:
    """Bring a probe's images to [0, 1] for the eye, as :func:`lit_decom.render.to_unit` does: ``(n, 3, H, W)``."""
    return to_unit(probe.images, probe.mean, probe.std)


def _arrays_of(probe: Probe) -> dict[str, Any]:
    texts = {name: getattr(probe, name) for name in ("ids", "part_names", "class_names", "multilabel")}
    texts["boxes"] = None if probe.boxes is None else [box.tolist() for box in probe.boxes]
    arrays = {name: getattr(probe, name) for name in ("labels", "masks", "parts")}
    return {
        "images": (displayed(probe) * 255).round().to(torch.uint8).numpy(),
        "json": text_array(texts),
        **{name: value.numpy() for name, value in arrays.items() if value is not None},
    }


def _probe_of(known: dict[str, np.ndarray[Any, Any]]) -> Probe:
    """Undo :func:`_arrays_of`.

    Raises:
        ValueError: naming what is missing or of another kind.
    """
    refuse_missing(("images", "labels", "json"), known)
    texts = json.loads(known.pop("json").item())
    refuse_missing(("boxes", "ids", "part_names", "class_names"), texts)
    for name in ("ids", "part_names", "class_names"):
        refuse_other_than_texts(name, texts[name])
    for name, array in known.items():
        if array.dtype.kind not in "bui":
            raise ValueError(f"`{name}` holds {array.dtype}, and not whole numbers")
    tensors = {name: torch.from_numpy(value) for name, value in known.items()}
    images, labels, boxes = tensors.pop("images").float() / 255, tensors.pop("labels"), texts.pop("boxes")
    try:
        texts["boxes"] = None if boxes is None else [torch.tensor(box).float().reshape(-1, 4) for box in boxes]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`boxes` is not a list of boxes: {error}") from error
    return Probe.from_tensors(images, labels, **tensors, **texts)


def _moment_of(file: Path) -> tuple[int, int]:
    """Step and epoch of a record, by its name: names of more digits than usual do not sort as they do."""
    found = _RECORD_NAME.fullmatch(file.name)
    return (0, 0) if found is None else (int(found[1]), int(found[2]))
