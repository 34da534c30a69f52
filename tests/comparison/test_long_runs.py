"""Long comparisons: killed in the middle, of thousands of images, on two processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.comparison.generated import BATCH, compared

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COST = {"seconds_per_image", "peak_mib_per_image"}


def generated(folder, n, seconds=0.0):
    words = [sys.executable, "-m", "tests.comparison.generated", str(folder), str(n), str(seconds)]
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def rows_in(folder):
    return sorted(path for path in (folder / "rows").glob("*.npz") if not path.name.startswith("."))


def table(folder):
    with (folder / "results.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in COST} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_comparison_loses_one_batch_at_most_and_goes_on(tmp_path):
    killed, whole, n = tmp_path / "killed", tmp_path / "whole", 12 * BATCH
    process = generated(killed, n, 0.01)
    deadline = time.monotonic() + 120
    while len(rows_in(killed)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written = [np.load(path)["places"] for path in rows_in(killed)]
    assert 4 <= len(written) < 12, "it was killed in the middle"
    kept = {int(place) for places in written for place in places}
    read = [int(line) for line in (killed / "read.txt").read_text().split()]
    first = read.index(0, 1) if read.count(0) > 1 else 0  # after those that layer and settings are found by
    assert len(set(read[first:]) - kept) <= BATCH
    (killed / "read.txt").unlink()
    resumed = compared(killed, n)
    again = {int(line) for line in (killed / "read.txt").read_text().split()}
    assert again & kept <= set(range(8)) | {each.place for each in resumed.disagreements}
    compared(whole, n)
    assert table(killed) == table(whole)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for n in (2000, 5000):
        out, _ = generated(tmp_path / str(n), n).communicate(timeout=600)
        found = json.loads(out)
        assert found["images"] == n
        peaks.append(found["peak_mib"])
    # 3000 images of 24 x 24 pixels alone are 20 MiB, and what a network makes of them is more.
    assert peaks[1] - peaks[0] < 12


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    common = [
        *(sys.executable, "-m", "lit_decom", "compare", "--config", "quickstart.yaml"),
        *("--config", "compare/critters.yaml", "--trainer.logger=false", "--trainer.accelerator=cpu"),
        *("--compare.methods=[decom_cam, grad_cam, layer_cam]", "--limit=50", "--compare.batch_size=8"),
        "--data.init_args.image_size=32",
    ]
    for name, more in {"one": [], "two": ["--trainer.devices=2", "--trainer.strategy=ddp"]}.items():
        words = [*common, f"--output={tmp_path / name}", *more]
        done = subprocess.run(
            words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("comparison.html:") == 1, "one process speaks"
    assert len(rows_in(tmp_path / "two")) == 7
    assert table(tmp_path / "one") == table(tmp_path / "two")
