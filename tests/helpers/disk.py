"""A disk that is full, as far as one folder is concerned."""

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def used(folder: Path) -> int:
    """Bytes of all files in a folder, those that a process keeps for itself among them."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def disk(folder: Path, capacity: Callable[[], float]) -> Iterator[None]:
    """Let writing to files of a folder fail as the system does, where they would have more bytes than `capacity` says.

    Args:
        folder: need not be there yet.
        capacity: asked at every write.
    """

    class Limited(io.FileIO):
        def write(self, data: Any) -> int:
            if used(folder) + len(data) > capacity():
                raise OSError(errno.ENOSPC, "No space left on device", str(self.name))
            return super().write(data)

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *rest: Any) -> Any:
        if not set(mode) & set("wax+") or not isinstance(file, str | Path) or folder not in Path(file).parents:
            return open_(file, mode, buffering, encoding, *rest)
        raw = Limited(file, mode.replace("b", "").replace("t", ""))
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding=encoding)

    open_ = io.open
    io.open = opened
    try:
        yield
    finally:
        io.open = open_
