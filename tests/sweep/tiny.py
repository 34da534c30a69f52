"""A program that answers at once in place of a training, and sweeps of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from lit_decom.sweep.spec import read_raw

ROOT = Path(__file__).parents[2]

# x in [0, 1]: `score` rises over three validations and falls at the last one, `acc` falls with x. A trial waits where a
# file of its number lies in the folder `wait`, so that a test can kill it at a known place.
PROGRAM = """
import json, os, sys, time
from pathlib import Path

told = json.loads(Path(sys.argv[1]).read_text())
trial = Path(os.environ["LIT_DECOM_TRIAL"])
Path("started").mkdir(exist_ok=True)
with Path("started", trial.name).open("a") as file:
    file.write(f"{os.getpid()}\\n")
if told.get("broken"):
    sys.exit("it broke on purpose")
for epoch, factor in enumerate([1.0, 2.0, 3.0, 2.5]):
    values = {"score": told["x"] * factor, "acc": 1 - told["x"] / 2, "nan": float("nan")}
    with (trial / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": epoch, "values": values}) + "\\n")
    while epoch == 1 and Path("wait", trial.name).exists():
        time.sleep(0.02)
    time.sleep(told.get("pause", 0))
"""


def sweep_of(**changed):
    """Return the content of a sweep's file."""
    content = {
        "program": "program.py",
        "method": "grid",
        "metric": {"name": "score", "goal": "maximize"},
        "parameters": {"x": {"values": [0.25, 0.5, 0.75, 1.0]}},
        "command": ["${env}", "python", "${program}", "${args_json_file}"],
    }
    return {key: value for key, value in (content | changed).items() if value is not None}


def spec_of(**changed):
    """Return a sweep as it is read."""
    return read_raw(sweep_of(**changed), "tiny")


def write_sweep(folder, **changed):
    """Write a sweep and its program, and return the sweep's file."""
    (folder / "program.py").write_text(PROGRAM)
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(sweep_of(**changed)))
    return file


def sweep_words(*words):
    """Return the command line of ``lit-decom sweep``."""
    return [sys.executable, "-m", "lit_decom", "sweep", *map(str, words)]


def start(folder, *words):
    """Start ``lit-decom sweep`` in a process group of its own."""
    # What runs in the background ignores Ctrl-C, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            sweep_words(*words), cwd=folder, env=dict(os.environ) | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def finish(process, code=0):
    """Wait for a sweep, and return what it said."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def results(directory):
    """Return the outcomes of a sweep's trials as its study keeps them, by number."""
    from lit_decom.sweep.run import read_study

    return {outcome.number: outcome.stored() for outcome in read_study(directory).outcomes()}
