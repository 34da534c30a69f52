"""What fails beside a training: counted, and warned about once of its kind."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_warn


class Tolerance:
    """Lets a training go on where what watches it fails.

    Args:
        strict: whether an error is raised all the same.

    Attributes:
        errors: how many there were.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.errors = 0
        self._warned: set[object] = set()

    @contextmanager
    def forgiving(self, what: str) -> Iterator[None]:
        """Count an error and warn once of its kind, unless ``strict``."""
        try:
            yield
        except Exception as error:
            if self.strict:
                raise
            self.errors += 1
            self.let_pass((what, type(error)), f"could not {what}: {type(error).__name__}: {error}")

    def let_pass(self, kind: object, what: str) -> None:
        """Warn, once of its kind, of what would end a strict run."""
        end = "" if what.endswith(".") else "."
        self.warn_once(kind, f"{what}{end} Training goes on; `strict=True` makes this an error.")

    def warn_once(self, kind: object, what: str) -> None:
        """Warn of anything, once of its kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(f"DecomCAMCallback {what}")
