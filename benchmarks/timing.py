"""Timing several things in one run, turn by turn, so that a noisy machine is noisy to all of them."""

import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Literal

import torch

Clock = Literal["wall", "cpu"]
_CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Contestant:
    """Something to time.

    Attributes:
        run: does the work once.
        images: how many images that explains; times are given per image.
        rounds: in how many of the rounds it takes part, for what takes very long.
    """

    run: Callable[[], Any]
    images: int
    rounds: int | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds per image of each contestant in each round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.seconds

    def typical(self, name: str) -> float:
        """Median over rounds."""
        return median(self.seconds[name])

    def ratio(self, over: str, under: str) -> float:
        """Median over rounds of the quotient within a round."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=False)
        return median(above / below for above, below in pairs)

    def spread(self, over: str, under: str) -> tuple[float, float]:
        """Smallest and largest quotient within a round."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=False)
        quotients = [above / below for above, below in pairs]
        return min(quotients), max(quotients)


def interleave(
    contestants: Mapping[str, Contestant], rounds: int, clock: Clock, progress: Callable[[str], None]
) -> Timings:
    """Let everyone run once per round, in an order drawn anew each time, after one round that does not count.

    Args:
        contestants: who takes part.
        rounds: how many rounds count.
        clock: ``"wall"``, or ``"cpu"`` for the processor time of this process, which other processes disturb less.
        progress: told who is running.
    """
    timings = Timings({name: [] for name in contestants})
    order = Random(0)
    for index in range(rounds + 1):
        gc.collect()
        names = [name for name, one in contestants.items() if one.rounds is None or 0 < index <= one.rounds]
        for name in order.sample(names, len(names)):
            progress(f"round {index} of {rounds}: {name}" if index else f"warm-up: {name}")
            seconds = _seconds(contestants[name].run, clock) / contestants[name].images
            if index:
                timings.seconds[name].append(seconds)
    return timings


def _seconds(run: Callable[[], Any], clock: Clock) -> float:
    now = _CLOCKS[clock]
    _wait()
    start = now()
    run()
    _wait()
    return now() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def growth_per_run(run: Callable[[], Any], runs: int, warm_up: int) -> float | None:
    """Growth of this process's resident memory, bytes per run; None where the system does not tell, as Linux does."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None

    def resident() -> int:
        gc.collect()
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(warm_up):
        run()
    before = resident()
    for _ in range(runs):
        run()
    return (resident() - before) / runs
