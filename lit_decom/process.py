"""Processes that share the work on a probe, and what each part of it takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

Gather = Callable[[Any], list[Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One of the processes that share the work on a probe.

    Attributes:
        rank: its number.
        world: how many there are.
        gather: collects one object from every process, in the order of their ranks.
    """

    rank: int = 0
    world: int = 1
    gather: Gather = field(default=lambda mine: [mine])

    def share(self, work: Callable[..., T], *args: Any) -> list[T]:
        """Do this process's part and collect everyone's, by rank; where one of them fails, all of them raise.

        Args:
            work: gives this process's part.
            args: of ``work``.

        Raises:
            RuntimeError: if another process failed; what failed here is raised as it is.
        """
        mine, problem = None, None
        try:
            mine = work(*args)
        except Exception as error:  # noqa: BLE001 -- the other processes wait for this one
            problem = error
        everyone = self.gather((mine, None if problem is None else repr(problem)))
        if problem is not None:
            raise problem
        failed = next((text for _, text in everyone if text is not None), None)
        if failed is not None:
            raise RuntimeError(f"Another process could not explain its share of the probe: {failed}")
        return [result for result, _ in everyone]


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
