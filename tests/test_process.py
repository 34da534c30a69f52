"""Processes that share work: all of them get through a block, or all of them learn that it failed, and none waits."""

from threading import BrokenBarrierError

import pytest

from lit_decom.process import Process
from tests.helpers.processes import in_processes


class Broken(Exception):  # noqa: N818
    pass


def test_everyone_gets_what_everyone_has():
    assert in_processes(lambda process: process.gather(process.rank**2)) == [[0, 1, 4]] * 3
    assert in_processes(lambda process: process.share(lambda: process.rank**2)) == [[0, 1, 4]] * 3


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_fails_all_do_wherever_that_is_and_go_on_together(rank, place):
    def work(process):
        def stop(here):
            if (process.rank, here) == (rank, place):
                raise Broken(f"at {here}")

        try:
            with process.together():
                stop(0)
                process.gather(None)
                stop(1)
                with process.together():
                    stop(2)
                    process.share(stop, 3)
                stop(4)
                process.gather(None)
                stop(5)
        except Exception as error:  # noqa: BLE001
            found = error
        # The next thing that they collect is of one time again.
        return found, process.gather(process.rank)

    for number, (error, after) in enumerate(in_processes(work)):
        assert after == [0, 1, 2]
        if number == rank:
            assert isinstance(error, Broken)
        else:
            assert type(error) is RuntimeError
            assert str(error) == f"Another process failed: Broken('at {place}')"


def test_two_that_fail_at_different_places_each_raise_their_own():
    def work(process):
        with process.together():
            if process.rank == 0:
                raise Broken("early")
            process.gather(None)
            if process.rank == 1:
                raise Broken("too late to matter")

    first, second, third = in_processes(work)
    assert str(first) == "early"
    assert str(second) == str(third) == "Another process failed: Broken('early')"


def test_an_error_within_an_error_is_told_once():
    def work(process):
        try:
            with process.together():
                try:
                    with process.together():
                        if process.rank == 0:
                            raise Broken("first")
                except Exception as error:
                    raise ValueError("said in other words") from error
        except ValueError:
            return process.gather(process.rank)

    assert in_processes(work) == [[0, 1, 2]] * 3


def test_an_error_that_is_caught_inside_a_block_is_nobodys_business():
    def work(process):
        with process.together():
            try:
                if process.rank == 0:
                    raise Broken
            except Broken:
                pass
            return process.gather(process.rank)

    assert in_processes(work) == [[0, 1, 2]] * 3


def test_where_the_exchange_itself_breaks_nobody_tries_again():
    calls = []

    def exchange(_mine):
        calls.append(1)
        raise ConnectionError("timed out")

    process = Process(0, 2, exchange)
    with pytest.raises(ConnectionError), process.together():
        process.gather(1)
    assert len(calls) == 1


def test_a_process_that_does_not_say_so_is_waited_for():
    """The harness sees what it must."""

    def work(process):
        if process.rank == 0:
            raise Broken
        process.gather(None)

    assert [type(error) for error in in_processes(work)] == [Broken, BrokenBarrierError, BrokenBarrierError]
