"""Going past what cannot be read of a user's data: a training may never meet a broken file that the probe chooses."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

_HOPELESS = 16
_MOST_NAMED = 5
T = TypeVar("T")


class UnreadableError(ValueError):
    """Nothing of what was tried could be read."""


class Attempts:
    """Tries to read samples or batches, and remembers which could not be read.

    Args:
        most: how many may fail; nothing more is tried then.

    Attributes:
        failed: names of what could not be read.
    """

    def __init__(self, most: int) -> None:
        self.failed: list[Any] = []
        self._most, self._any_read = most, False
        self._first: Exception | None = None

    def read(self, name: Any, work: Callable[[], T]) -> T | None:
        """Read something; None where that fails, or has failed before.

        Args:
            name: such as an index.
            work: reads it.

        Raises:
            ValueError: where nothing was read, and sixteen attempts failed: see :attr:`problem`.
        """
        if name in self.failed or self.spent:
            return None
        try:
            found = work()
        except Exception as error:
            self._first = self._first or error
            self.failed.append(name)
            if not self._any_read and len(self.failed) >= _HOPELESS:
                raise self.problem from error
            return None
        self._any_read = True
        return found

    @property
    def spent(self) -> bool:
        """Whether so much failed that nothing more is tried."""
        return len(self.failed) >= self._most

    @property
    def problem(self) -> Exception:
        """What to raise where nothing could be read: the first error itself if it says what was expected."""
        if isinstance(self._first, TypeError | ValueError):
            return self._first
        return UnreadableError(f"Expected data that can be read, but all that were tried failed: {self._said()}.")

    def warn(self) -> None:
        """Warn of what is left out, if there is anything."""
        if self.failed:
            warnings.warn(f"The probe leaves out what cannot be read: {self._said()}.", stacklevel=5)

    def _said(self) -> str:
        names = ", ".join(map(str, self.failed[:_MOST_NAMED])) + (", ..." if len(self.failed) > _MOST_NAMED else "")
        what = "sample" if len(self.failed) == 1 else "samples"
        return f"{len(self.failed)} {what} ({names}), {type(self._first).__name__}: {str(self._first).rstrip('.')}"
