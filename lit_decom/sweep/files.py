"""Files that a kill cannot leave half written, and locks that a kill gives back."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


class Lock:
    """A lock of one holder among all threads and processes that see the file; the system frees it when its holder dies.

    Args:
        path: of the lock's file, which stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free, and say whether it was."""
        return self._acquire(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock and hold it."""
        self._acquire(fcntl.LOCK_EX)
        try:
            yield
        finally:
            self.release()

    def _acquire(self, how: int) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True
