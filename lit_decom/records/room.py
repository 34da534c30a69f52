"""Room on a disk that is kept for the next record, so that pictures and others' files cannot take it."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from lit_decom.records.files import temporary_name

_SPARE = 1.25  # the next record may be larger
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk, or a user's share of it, is full."""
    return error.errno in _FULL


class Room:
    """A file that holds nothing but its place, and is given up when a record needs it.

    Args:
        folder: where records are written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = temporary_name(folder / "room")

    def keep(self, size: int) -> bool:
        """Hold a number of bytes, and some more, unless as many are held already.

        Returns:
            Whether they are; where not, nothing is held.
        """
        try:
            if not self._file.exists() or self._file.stat().st_size < size:
                with self._file.open("wb") as file:
                    file.write(bytes(int(_SPARE * size)))
                    os.fsync(file.fileno())
        except OSError:
            self.give_up()
            return False
        return True

    def give_up(self) -> None:
        """Leave the place to others."""
        with suppress(OSError):
            self._file.unlink()
