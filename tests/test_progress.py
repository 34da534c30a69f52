"""The bar of long work: on a terminal, and nowhere else."""

import io
import sys

import pytest

from lit_decom.progress import counted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "shown", "drawn"), [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)]
)
def test_the_time_left_is_shown_on_a_terminal_unless_it_is_not_wanted(monkeypatch, stream, shown, drawn):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr", stream())
    with counted("3 checkpoints", 3, shown=shown) as advance:
        for _ in range(6):
            advance(0.5)
    written = sys.stderr.getvalue()
    assert ("3 checkpoints:   0 %, ? left" in written) is drawn
    assert bool(written) is drawn
