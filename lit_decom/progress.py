"""How far long work is, and how long the rest will take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Advance = Callable[[float], None]


@contextmanager
def counted(what: str, total: float, *, shown: bool = True) -> Iterator[Advance]:
    """Show a bar with the time left, on the standard error where that is a terminal; it goes when the work is done.

    Args:
        what: stands before the bar.
        total: how much there is to do, in any unit.
        shown: whether there is a bar at all.

    Yields:
        What moves the bar by as much as was done.
    """
    line = "{desc}: {percentage:3.0f} %, {remaining} left |{bar}|"
    disable = None if shown else True  # None: unless it is a terminal
    with tqdm(total=total, desc=what, leave=False, disable=disable, dynamic_ncols=True, bar_format=line) as bar:

        def advance(done: float) -> None:
            bar.update(done)

        yield advance
