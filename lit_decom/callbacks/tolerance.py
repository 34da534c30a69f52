"""What fails beside a training: counted, and warned about once of its kind."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from lightning.pytorch.utilities import rank_zero_warn

Advance = Callable[[int], None]


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
        with self.only_warning():
            try:
                yield
            except Exception as error:
                if self.strict:
                    raise
                self.errors += 1
                self.let_pass((what, type(error)), f"could not {what}: {type(error).__name__}: {error}")

    @contextmanager
    def only_warning(self) -> Iterator[None]:
        """Leave warnings what they are where the user has made errors of them, unless ``strict``.

        Those of other libraries would lose a snapshot, and our own end a training.
        """
        if self.strict or all(entry[0] != "error" for entry in warnings.filters):
            # Nothing is touched: to enter the other block makes Python forget what it has warned of before.
            yield
            return
        with warnings.catch_warnings():
            filters = list(warnings.filters)
            warnings.resetwarnings()
            for action, message, category, module, line in reversed(filters):
                words, place = (getattr(pattern, "pattern", pattern) or "" for pattern in (message, module))
                warnings.filterwarnings("default" if action == "error" else action, words, category, place, line)  # type: ignore[arg-type]
            yield

    @contextmanager
    def showing(self, bar: AbstractContextManager[Advance]) -> Iterator[Advance]:
        """Show a progress bar for as long as it does not fail.

        Args:
            bar: gives what moves it on.

        Yields:
            What moves it on; a bar that has failed stays where it is.
        """
        what, shown = "show a progress bar", ExitStack()
        advance: Advance | None = None

        def move(images: int) -> None:
            nonlocal advance
            if advance is not None:
                working, advance = advance, None
                with self.forgiving(what):
                    working(images)
                    advance = working

        with self.forgiving(what):
            advance = shown.enter_context(bar)
        try:
            yield move
        finally:
            with self.forgiving(what):
                shown.close()

    def let_pass(self, kind: object, what: str) -> None:
        """Warn, once of its kind, of what would end a strict run."""
        end = "" if what.endswith(".") else "."
        self.warn_once(kind, f"{what}{end} Training goes on; `strict=True` makes this an error.")

    def warn_once(self, kind: object, what: str) -> None:
        """Warn of anything, once of its kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            rank_zero_warn(f"DecomCAMCallback {what}")
