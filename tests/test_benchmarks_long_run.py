from io import StringIO

import pytest
from rich.console import Console

from benchmarks import long_run


@pytest.fixture(scope="module")
def costs():
    return long_run.measure(4)


def test_every_epoch_leaves_a_size_a_memory_and_a_time(costs):
    assert len(costs.checkpoint) == len(costs.resident) == len(costs.seconds) == 4
    assert min(costs.checkpoint) > 100, "in KiB: a small network and what is remembered of sixteen images"
    assert max(costs.checkpoint[1:]) < 1.05 * min(costs.checkpoint[1:])
    assert min(costs.seconds) > 0


def test_the_table_shows_what_grew(costs):
    assert long_run.early_and_late([9.0] * 2 + [1.0] * 16 + [3.0, 5.0]) == (1.0, 4.0)
    shown = StringIO()
    costs.checkpoint[:] = [100.0, 200.0, 250.0, 300.0]
    long_run.show(Console(file=shown, width=120), costs)
    (line,) = [line for line in shown.getvalue().splitlines() if "checkpoint" in line]
    assert "200.0 KiB" in line
    assert "300.0 KiB" in line
    assert "50.000 KiB" in line, "two snapshots lie between"
