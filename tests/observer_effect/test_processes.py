"""Two processes, one of which fails: both leave out that snapshot, both train on, and neither waits for the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.faults import PLACES

ROOT = Path(__file__).parents[2]


def trained(folder: Path, plan: str, epochs: int) -> list[dict]:
    """Train in two processes as `tests.helpers.two_processes` does; gives what each of them has left."""
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.helpers.two_processes", str(folder), plan, str(epochs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def assert_nothing_but_snapshots_was_lost(watched, alone, epochs):
    first, second = watched
    # The training is the one without the callback, in both processes, batch by batch.
    assert [page["left"] for page in watched] == [page["left"] for page in alone]
    lost = {int(epoch): what for page in watched for epoch, what in page["lost"].items()}
    without = {what: {epoch for epoch, cost in lost.items() if cost == what} for what in set(lost.values())}
    # A fault costs what it strikes, in both processes, and nothing else.
    snapshots = set(range(epochs)) - without.get("snapshot", set())
    assert set(first["records"]) == snapshots - without.get("record", set())
    assert first["pages"] == second["pages"]
    for epoch in set(range(epochs)) - without.get("values", set()):
        assert ("decomcam/score_gain/rank_01" in first["pages"][epoch]) is (epoch in snapshots)
    assert first["best"] == second["best"]
    assert first["followed"] == second["followed"], "what is remembered is the same"
    return lost


@pytest.mark.slow
def test_a_fault_in_one_process_costs_both_what_it_strikes_and_neither_the_training(tmp_path):
    epochs = 2 * len(PLACES) + 1
    first, second = watched = trained(tmp_path / "watched", "each", epochs)
    lost = assert_nothing_but_snapshots_was_lost(watched, trained(tmp_path / "alone", "alone", epochs), epochs)
    assert lost == {2 * number + 1: place.loses for number, place in enumerate(PLACES)}
    # Processes that were given different probes explain that of the first.
    assert first["probe"] == second["probe"]
    assert len(first["said"]) == 1
    # What cannot work in one of them is refused by both, and says why.
    assert first["refusal"] == """RuntimeError("Another process failed: MisconfigurationException('no room')")"""
    assert second["refusal"] == "MisconfigurationException('no room')"


@pytest.mark.slow
def test_two_hundred_epochs_with_random_faults_are_those_without_the_callback(tmp_path):
    watched, alone = trained(tmp_path / "watched", "0", 200), trained(tmp_path / "alone", "alone", 200)
    lost = assert_nothing_but_snapshots_was_lost(watched, alone, 200)
    assert len(lost) > 40
    assert set(lost.values()) == {place.loses for place in PLACES}
