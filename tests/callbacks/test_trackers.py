"""A tracker neither holds a training up, nor ends it, nor draws from its random states."""

import random
import signal
import threading
import time

import pytest
import torch

from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.callbacks.trackers import Trackers
from tests.helpers.modules import callback, fit
from tests.observer_effect.settings.sinks import Hanging, Tracker

LIMIT = 0.1


def trackers(*, strict=False):
    tolerance = Tolerance(strict=strict)
    return Trackers(tolerance, LIMIT), tolerance


def thrice(calls, loggers, send):
    for _ in range(3):
        calls.tell(loggers, send)


def timed(work):
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def test_a_training_waits_for_a_tracker_that_hangs_once_and_as_long_as_it_is_told(tmp_path):
    """Of 20 seconds at each of nine calls, 180 in all, a tenth of a second remains."""
    hanging, at_once = (
        callback(strict=False, tracker_seconds=LIMIT, dirpath=tmp_path / name / "run") for name in ("hangs", "answers")
    )
    alone = timed(lambda: fit(tmp_path / "answers", at_once, logger=Tracker(), max_epochs=3))
    with pytest.warns(
        UserWarning, match="could not reach Hanging: TimeoutError: a call took longer than 0.1 s"
    ) as said:
        watched = timed(lambda: fit(tmp_path / "hangs", hanging, logger=Hanging(), max_epochs=3))
    assert sum("could not" in str(entry.message) for entry in said) == hanging.errors == 1
    assert watched < alone + 10, "a busy machine may take its time for the rest"
    assert len(hanging.directory.files()) == len(list((hanging.directory.path / "pictures").iterdir())) == 3


def test_nothing_of_a_call_runs_on_after_its_limit():
    calls, tolerance = trackers()
    steps = []

    def endless(_logger):
        while True:
            time.sleep(0.001)
            steps.append(random.random())

    before, others = random.getstate(), threading.active_count()
    with pytest.warns(UserWarning, match="took longer than 0.1 s, so it gets nothing more in this run"):
        assert LIMIT <= timed(lambda: calls.tell([Tracker()], endless)) < 5
    assert random.getstate() == before, "draws of the call are taken back"
    n, threads = len(steps), threading.active_count()
    time.sleep(0.05)
    assert len(steps) == n > 0
    assert threads == others
    assert tolerance.errors == 1


def test_a_retry_loop_does_not_outlive_the_limit():
    """W&B tries again after any error: what ends a call must be none."""
    calls, _ = trackers()

    def stubborn(_logger):
        while True:
            try:
                time.sleep(20)
            except Exception:  # noqa: BLE001
                continue

    with pytest.warns(UserWarning, match="took longer"):
        assert timed(lambda: calls.tell([Tracker()], stubborn)) < 5


def test_only_the_one_that_hangs_is_left_alone():
    calls, tolerance = trackers()
    slow, quick, got = Tracker(), Tracker(), []

    def send(logger):
        got.append("slow" if logger is slow else "quick")
        time.sleep(20 if logger is slow else 0)

    with pytest.warns(UserWarning, match="took longer"):
        thrice(calls, [slow, quick], send)
    assert got == ["slow", "quick", "quick", "quick"]
    assert tolerance.errors == 1


def test_one_that_raises_gets_its_next_turn():
    calls, tolerance = trackers()
    turns = []

    def send(logger):
        turns.append(logger)
        raise ConnectionError("down")

    with pytest.warns(UserWarning, match="could not reach Tracker: ConnectionError: down") as said:
        thrice(calls, [Tracker()], send)
    assert len(turns) == tolerance.errors == 3
    assert len(said) == 1


def test_what_a_strict_run_raises_comes_after_everybodys_turn():
    calls, _ = trackers(strict=True)
    slow, down, well = Tracker(), Tracker(), Tracker()
    got = []

    def send(logger):
        got.append(logger)
        if logger is slow:
            time.sleep(20)
        if logger is down:
            raise ConnectionError

    with pytest.raises(TimeoutError, match=r"`Log\(tracker_seconds=\.\.\.\)` allows more"):
        calls.tell([slow, down, well], send)
    assert got == [slow, down, well]
    with pytest.raises(ConnectionError):
        calls.tell([slow, down, well], send)


def test_what_the_alarm_was_is_what_it_is_afterwards():
    calls, _ = trackers()
    calls.tell([Tracker()], lambda _logger: None)
    with pytest.warns(UserWarning, match="took longer"):
        calls.tell([Tracker()], lambda _logger: time.sleep(20))
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def _with_a_handler():
    signal.signal(signal.SIGALRM, lambda *_: None)


def _with_a_timer():
    signal.setitimer(signal.ITIMER_REAL, 100)


@pytest.mark.parametrize("taken", [_with_a_handler, _with_a_timer])
def test_somebody_elses_alarm_is_left_to_him_and_the_next_call_is_not_made(taken):
    calls, tolerance = trackers()
    turns = []

    def slow(_logger):
        turns.append(1)
        time.sleep(2 * LIMIT)

    try:
        taken()
        before = signal.getsignal(signal.SIGALRM)
        with pytest.warns(UserWarning, match="took longer"):
            thrice(calls, [Tracker()], slow)
        assert len(turns) == tolerance.errors == 1
        assert signal.getsignal(signal.SIGALRM) is before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_in_another_thread_a_slow_call_is_the_last_one():
    calls, tolerance = trackers()
    turns = []

    def slow(_logger):
        turns.append(1)
        time.sleep(2 * LIMIT)

    def elsewhere():
        thread = threading.Thread(target=thrice, args=(calls, [Tracker()], slow))
        thread.start()
        thread.join()

    with pytest.warns(UserWarning, match="took longer"):
        elsewhere()
    assert len(turns) == tolerance.errors == 1


def test_ctrl_c_goes_through():
    calls, tolerance = trackers()

    def interrupted(_logger):
        raise KeyboardInterrupt

    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        calls.tell([Tracker()], interrupted)
    assert tolerance.errors == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
