"""Files that are there as a whole or not at all, whenever the process that writes them dies."""

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_PART = ".part"
_COMPRESSION = 1  # of 9: the others take several times as long for a few per cent


class RunDirectoryError(RuntimeError):
    """A run directory cannot be used: it belongs to another run, or what lies there cannot be read."""


class RecordLayoutError(RunDirectoryError):
    """A record was written by another version of lit-decom; the message says what to do."""


def write_npz(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Write what :func:`numpy.load` reads. Floats are stored as they are: compressing them takes long for little."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            kind = zipfile.ZIP_STORED if array.dtype.kind == "f" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getbuffer(), kind, _COMPRESSION)
    return path


def text_array(texts: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """JSON as an array of bytes: one per letter, where NumPy's own texts take four."""
    return np.array(json.dumps(texts).encode())


def write_text(path: Path, text: str) -> Path:
    """Write a text in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def temporary_name(path: Path) -> Path:
    """Name a file that this process alone writes, beside another one; no reader takes it for anything."""
    return path.with_name(f".{path.name}.{os.getpid()}{_PART}")


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed left half-written in a folder; nobody else may write to it."""
    for file in folder.glob(f".*{_PART}"):
        file.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file that takes its name only when it is whole."""
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
