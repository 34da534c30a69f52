"""Going past what cannot be read of a user's data: a training may never meet a broken file that the probe chooses."""

import warnings
from collections.abc import Callable
from itertools import islice
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
        what: they are called, one of them and several.

    Attributes:
        failed: names of what could not be read.
    """

    def __init__(self, most: int, what: tuple[str, str] = ("sample", "samples")) -> None:
        self.failed: dict[Any, None] = {}
        self._most, self._what, self._any_read = most, what, False
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
        except Exception as error:  # noqa: BLE001 -- of the user's own code
            self._first = self._first or error
            self.failed[name] = None
        else:
            self._any_read = True
            return found
        if not self._any_read and len(self.failed) >= _HOPELESS:
            raise self.problem
        return None

    @property
    def spent(self) -> bool:
        """Whether so much failed that nothing more is tried."""
        return len(self.failed) >= self._most

    @property
    def problem(self) -> Exception:
        """What to raise where nothing could be read: the first error itself if it says what was expected."""
        if isinstance(self._first, TypeError | ValueError):
            return self._first
        problem = UnreadableError(f"Expected data that can be read, but all that were tried failed: {self._said()}.")
        problem.__cause__ = self._first
        return problem

    def warn(self) -> None:
        """Warn of what is left out, if there is anything."""
        if self.failed:
            warnings.warn(f"The probe leaves out what cannot be read: {self._said()}.", stacklevel=5)

    def _said(self) -> str:
        names = ", ".join(map(str, islice(self.failed, _MOST_NAMED)))
        names += ", ..." if len(self.failed) > _MOST_NAMED else ""
        what = self._what[len(self.failed) > 1]
        return f"{len(self.failed)} {what} ({names}), {type(self._first).__name__}: {str(self._first).rstrip('.')}"
