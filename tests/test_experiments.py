"""Every experiment's quick version runs and leaves its tables and figure."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/run.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_quick_version_leaves_its_results(name, tmp_path):
    words = [sys.executable, "-m", f"experiments.{name}.run", "--quick", "--output", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, timeout=600)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (ROOT / "experiments" / name / "results.csv").open() as file:
        committed = list(csv.DictReader(file))
    assert rows
    assert rows[0].keys() == committed[0].keys(), "the committed results come from this program"
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_readme_names_its_command(name):
    text = (ROOT / "experiments" / name / "README.md").read_text()
    assert f"python -m experiments.{name}.run" in text
