"""Files that a killed process cannot leave half written, and locks that it cannot keep."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock


def write_json(path: Path, content: Any) -> None:
    """Write a file that a reader sees either whole or not at all; what JSON does not know becomes text."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            json.dump(content, file, indent=2, default=str)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a file; None if there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def lock_at(path: Path) -> BaseFileLock:
    """Make the lock of a file, which one thread of one process holds at a time, and none whose process has died."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it."""
    with lock_at(path):
        yield
