"""The Trainer's loggers, called such that none of them changes, ends or holds up a training.

They are called where the training runs, in turn, and not from a thread of their own. A tracker that waits for its
server draws from Python's global generator for how long it waits before it tries again (``wandb.sdk.lib.retry``,
``urllib3.util.retry``), which nobody can keep apart from what the training draws at the same time: with a thread, a
slow server would change the weights. Nor are Lightning's loggers made for two threads (the Trainer calls them, too),
and loader workers are forked whenever an epoch begins. So a call has a limit of time: it is ended there as by Ctrl-C,
nothing of it runs on, and the tracker is left alone.
"""

import signal
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from lightning.pytorch.loggers import Logger

from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.isolation import isolated_random_state


class Trackers:
    """Calls loggers for one run.

    Args:
        tolerance: of what fails here.
        seconds: that a call may take.
    """

    def __init__(self, tolerance: Tolerance, seconds: float) -> None:
        self._tolerance, self._seconds = tolerance, seconds
        self._left_alone: list[Logger] = []

    def tell(self, loggers: Iterable[Logger], send: Callable[[Logger], Any]) -> None:
        """Give every logger its turn, also after one that raises or hangs; random states stay as they are.

        Args:
            loggers: of the Trainer; those that took too long before are passed over.
            send: what is done with each.

        Raises:
            Exception: in a strict run, after all turns, what the first of them raised; ``TimeoutError`` for the limit.
        """
        problems = []
        for logger in loggers:
            if not any(logger is slow for slow in self._left_alone):
                problem = self._problem_of(send, logger)
                problems += [] if problem is None else [(logger, problem)]
        for logger, problem in problems:
            with self._tolerance.forgiving(f"reach {type(logger).__name__}"):
                raise problem

    def _problem_of(self, send: Callable[[Logger], Any], logger: Logger) -> Exception | None:
        """Do it, and tell what went wrong."""
        problem: Exception | None = None
        begun = monotonic()
        try:
            with isolated_random_state():
                _call(send, logger, self._seconds)
        except Exception as error:  # noqa: BLE001 -- passed on
            problem = error
        if monotonic() - begun < self._seconds:
            return problem
        self._left_alone.append(logger)
        limit = TimeoutError(
            f"a call took longer than {self._seconds:g} s, so it gets nothing more in this run; "
            "`Log(tracker_seconds=...)` allows more"
        )
        limit.__cause__ = problem
        return limit


class _LimitReached(BaseException):
    """Ends a call; as an Exception, what tries again after an error would catch it."""


def _call(send: Callable[[Logger], Any], logger: Logger, seconds: float) -> None:
    """Call, for no longer than a number of seconds where the system has an alarm that nobody else uses."""
    if not _alarm_is_free():
        send(logger)
        return

    def end(_signal: int, _frame: Any) -> None:
        raise _LimitReached

    before = signal.signal(signal.SIGALRM, end)

    def disarm() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            send(logger)
        finally:
            disarm()
    except _LimitReached:
        disarm()  # it rings once: if that was within the first time, this is the second


def _alarm_is_free() -> bool:
    """Whether there is an alarm (not on Windows, and in the main thread alone) that is not somebody else's."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        return False
    unused = signal.getsignal(signal.SIGALRM) in {signal.SIG_DFL, signal.SIG_IGN}
    return unused and signal.getitimer(signal.ITIMER_REAL)[0] == 0
