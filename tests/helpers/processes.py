"""Threads that stand for processes: each has its rank, and what one exchanges waits for all others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from lit_decom.process import Process


def in_processes(work: Callable[[Process], Any], world: int = 3) -> list[Any]:
    """Do some work in every process; gives what each returns or raises, by rank.

    One that waits for others which do not come breaks the barrier for all.
    """
    barrier, boxes = Barrier(world, timeout=2), [None] * world

    def of_rank(rank: int) -> Any:
        def exchange(mine: Any) -> list[Any]:
            boxes[rank] = mine
            barrier.wait()
            everyone = list(boxes)
            barrier.wait()
            return everyone

        try:
            return work(Process(rank, world, exchange))
        except Exception as error:  # noqa: BLE001 -- it is what is looked at
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(of_rank, range(world)))
