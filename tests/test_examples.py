"""Every example runs in its quick version, and leaves pictures and a report where it says."""

import runpy
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(__file__).parents[1].joinpath("examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_quick_version_leaves_what_it_says(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, "--quick"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice on workers and log intervals
        runpy.run_path(str(path), run_name="__main__")
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    report = Path(said["report"].strip())
    assert report.stat().st_size > 10_000
    assert list((report.parent / "pictures").glob("*.jpg"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path):
    lines = path.read_text().splitlines()
    assert len(lines) < 70
    assert any(f"python examples/{path.name}" in line for line in lines)
