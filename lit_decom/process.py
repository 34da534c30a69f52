"""Processes that share the work on a probe, and what each part of it takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

Exchange = Callable[[Any], list[Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One of the processes that share the work on a probe.

    Whatever they collect from one another goes through here, and says beside it whether its process has failed: nobody
    waits for one that will not come.

    Attributes:
        rank: its number.
        world: how many there are.
        exchange: collects one object from every process, in the order of their ranks; it waits for all of them.
    """

    rank: int = 0
    world: int = 1
    exchange: Exchange = field(default=lambda mine: [mine])
    _told: list[Exception] = field(default_factory=list, init=False, repr=False, compare=False)

    def gather(self, mine: T) -> list[T]:
        """Collect one object from every process, by rank.

        Raises:
            RuntimeError: if another process has failed in the block of :meth:`together` that this one is in.
        """
        everyone = self._exchanged(mine, None)
        failed = next((text for _, text in everyone if text is not None), None)
        if failed is not None:
            error = RuntimeError(f"Another process failed: {failed}")
            self._told.append(error)
            raise error
        return [result for result, _ in everyone]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block that succeeds in all processes or in none: where one of them raises, all of them do.

        What one process raises reaches the others at the next thing that they collect, which may be the end of the
        block. A block may hold others.

        Raises:
            RuntimeError: if another process failed; what failed here is raised as it is.
        """
        try:
            yield
        except Exception as error:
            self._tell(error)
            raise
        self.gather(None)

    def share(self, work: Callable[..., T], *args: Any) -> list[T]:
        """Do this process's part and collect everyone's, by rank; where one of them fails, all of them raise.

        Args:
            work: gives this process's part.
            args: of ``work``.

        Raises:
            RuntimeError: if another process failed; what failed here is raised as it is.
        """
        try:
            mine = work(*args)
        except Exception as error:
            self._tell(error)
            raise
        return self.gather(mine)

    def _tell(self, error: Exception) -> None:
        """Say once to the others that they need not wait, whatever else goes wrong on the way out."""
        found: BaseException | None = error
        while found is not None:
            if any(found is told for told in self._told):
                return
            found = found.__context__
        self._told.append(error)
        self._exchanged(None, repr(error))

    def _exchanged(self, mine: T | None, problem: str | None) -> list[Any]:
        try:
            return self.exchange((mine, problem))
        except Exception as error:  # nobody can be told that nobody can be told
            self._told.append(error)
            raise


class Stopwatch:
    """Adds up the wall time of the parts of a snapshot; a part within another one interrupts it."""

    def __init__(self) -> None:
        self.seconds = {"explain": 0.0, "score": 0.0, "track": 0.0}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        self._stop()
        self._running.append(part)
        try:
            yield
        finally:
            self._stop()
            self._running.pop()

    def slowest(self, process: Process) -> dict[str, float]:
        """Give each part's time in the process that took longest for it."""
        everyone = process.gather(self.seconds)
        return {part: max(seconds[part] for seconds in everyone) for part in self.seconds}

    def _stop(self) -> None:
        now = monotonic()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
