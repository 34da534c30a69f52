"""Sweeps of a program that answers at once: outcomes, kills, resumption, workers side by side."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_decom.sweep import SweepError
from lit_decom.sweep.run import SweepOptions, run_sweep
from lit_decom.sweep.space import random_point
from lit_decom.sweep.spec import read_sweep
from lit_decom.sweep.trials import TrialRunner

from .tiny import finish, results, spec_of, start, sweep_of, write_sweep


@pytest.fixture
def console():
    from rich.console import Console

    return Console(quiet=True)


@pytest.fixture
def run(tmp_path, monkeypatch, console):
    monkeypatch.chdir(tmp_path)

    def run(options=None, **changed):
        options = options or {}
        file = write_sweep(tmp_path, **changed)
        return results(run_sweep(SweepOptions(file=file, directory=tmp_path / "sweep", **options), console))

    return run


def eventually(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a zombie has ended
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_trial_keeps_best_and_last_and_reads_what_the_sweep_says(run):
    described = {"type": "cloud", "lit_decom": {"metrics": [{"name": "acc", "goal": "maximize"}]}}
    (outcome,) = run({"n_trials": 1}, controller=described).values()
    assert outcome["state"] == "complete"
    assert outcome["params"] == {"x": 0.25}
    score = outcome["readings"]["score"]
    assert (score["best"], score["best_epoch"], score["last"], score["last_epoch"]) == (0.75, 2, 0.625, 3)
    assert (score["value"], outcome["epoch"]) == (0.75, 2)
    assert outcome["readings"]["acc"]["value"] == 0.875
    assert outcome["checkpoint"] is None


def test_a_sweep_over_last_values_reads_the_last_epoch(run):
    (outcome,) = run({"n_trials": 1}, controller={"type": "cloud", "lit_decom": {"summary": "last"}}).values()
    assert (outcome["readings"]["score"]["value"], outcome["epoch"]) == (0.625, 3)


def test_a_grid_runs_every_point_once_with_workers_side_by_side(run, tmp_path):
    done = run({"jobs": 3})
    assert [done[number]["params"]["x"] for number in sorted(done)] == [0.25, 0.5, 0.75, 1.0]
    assert all(len((tmp_path / "started" / str(number)).read_text().split()) == 1 for number in done)


def test_more_trials_of_the_same_seed_begin_as_fewer_did(run, tmp_path):
    parameters = {"x": {"min": 0.0, "max": 1.0}}
    few = run({"n_trials": 2, "backend": "random", "seed": 5}, parameters=parameters)
    more = run({"n_trials": 3, "backend": "random", "seed": 5}, parameters=parameters)
    assert {number: more[number] for number in few} == few
    sweep = read_sweep(tmp_path / "tiny.yaml")
    assert [more[number]["params"] for number in range(3)] == [random_point(sweep.parameters, 5, n) for n in range(3)]


def test_a_failed_trial_is_told_and_the_others_go_on(run):
    done = run(parameters={"x": {"values": [0.5]}, "broken": {"values": [True, False]}})
    assert [done[number]["state"] for number in (0, 1)] == ["failed", "complete"]
    assert done[0]["reason"] == "exit status 1"


def test_a_sweep_none_of_whose_trials_work_stops_after_three(run, tmp_path):
    with pytest.raises(SweepError, match="all 3 failed; the last one said:\n    it broke on purpose"):
        run(parameters={"x": {"values": [0.1, 0.2, 0.3, 0.4, 0.5]}, "broken": {"value": True}})
    assert len(results(tmp_path / "sweep")) == 3


@pytest.mark.parametrize("name", ["absent", "nan"])
def test_a_trial_that_never_logs_the_objective_has_failed(run, name):
    with pytest.raises(SweepError, match="failed"):
        run({"n_trials": 1}, metric={"name": name, "goal": "maximize"})


def test_a_directory_of_another_sweep_is_refused(run):
    run({"n_trials": 1})
    with pytest.raises(SweepError, match="one with another sweep"):
        run({"n_trials": 1}, parameters={"x": {"values": [0.1, 0.2]}})
    with pytest.raises(SweepError, match="another seed"):
        run({"n_trials": 1, "seed": 1})


@pytest.mark.parametrize(
    ("options", "changed", "told"),
    [
        ({"jobs": 0}, {}, "`--jobs` to be at least 1"),
        ({"backend": "random"}, {"early_terminate": {"type": "hyperband", "min_iter": 1}}, "backend optuna"),
        ({"backend": "grid", "storage": "sqlite:///x.db"}, {}, "`--storage` with the backend optuna"),
        (
            {"backend": "optuna"},
            {
                "early_terminate": {"type": "hyperband", "min_iter": 1},
                "controller": {"type": "cloud", "lit_decom": {"metrics": [{"name": "acc", "goal": "maximize"}]}},
            },
            "one objective only",
        ),
        ({"backend": "grid"}, {"parameters": {"x": {"min": 0.0, "max": 1.0}}}, "in a grid"),
        ({}, {"command": ["${what}", "${args}"]}, "macros"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(run, options, changed, told):
    with pytest.raises(SweepError) as raised:
        run(options, **changed)
    assert told in str(raised.value)


def test_optuna_prunes_what_is_hopeless_and_counts_it(run):
    pytest.importorskip("optuna", reason="needs the extra `sweep`")
    early = {"early_terminate": {"type": "median", "min_trials": 2, "min_iter": 2}}
    done = run(
        {"backend": "optuna", "n_trials": 8},
        parameters={"x": {"min": 0.0, "max": 1.0}, "pause": {"value": 0.3}},
        controller={"type": "cloud", "lit_decom": early},
    )
    states = [done[number]["state"] for number in sorted(done)]
    assert len(states) == 8
    assert set(states) == {"complete", "pruned"}
    assert "pruned" not in states[:2]
    pruned = [outcome for outcome in done.values() if outcome["state"] == "pruned"]
    best = max(outcome["readings"]["score"]["value"] for outcome in done.values())
    assert all(outcome["readings"]["score"]["value"] < best for outcome in pruned)


def test_a_trial_is_claimed_by_one_worker_until_it_is_released(tmp_path):
    first, second = TrialRunner(spec_of(), tmp_path, {}), TrialRunner(spec_of(), tmp_path, {})
    lock = first.claim(0)
    assert lock is not None
    assert second.claim(0) is None
    assert first.claim(0) is None
    second.claim(1).release()
    lock.release()
    second.claim(0).release()


def test_a_killed_worker_gives_up_its_claim_though_its_child_lives_on(tmp_path):
    code = (
        "import subprocess, sys, time; from pathlib import Path; from lit_decom.sweep.trials import TrialRunner;"
        "lock = TrialRunner(None, Path(sys.argv[1]), {}).claim(0);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        child = int(worker.stdout.readline())
        try:
            runner = TrialRunner(spec_of(), tmp_path, {})
            assert runner.claim(0) is None
            worker.kill()
            worker.wait()
            assert alive(child)
            runner.claim(0).release()
        finally:
            worker.kill()
            os.kill(child, signal.SIGKILL)


# ----- killed


def kill_in_trial(folder, number, *words):
    """Run a sweep until a trial waits in its middle, kill the whole group, and let the trial pass next time."""
    (folder / "wait").mkdir(exist_ok=True)
    (folder / "wait" / str(number)).touch()
    process = start(folder, *words)
    try:
        lines = folder / "sweep" / "trials" / str(number) / "metrics.jsonl"
        eventually(lambda: lines.exists() and lines.read_text().count("\n") >= 2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    (folder / "wait" / str(number)).unlink()


@pytest.mark.parametrize("backend", ["grid", pytest.param("random", marks=pytest.mark.slow)])
def test_a_killed_sweep_loses_one_trial_and_ends_as_if_it_had_not_been(tmp_path, backend):
    words = ["run", "tiny.yaml", "--dir", "sweep", "--backend", backend, "--n_trials", 4, "--seed", 3]
    parameters = {"x": {"values": [0.25, 0.5, 0.75, 1.0]}} if backend == "grid" else {"x": {"min": 0.0, "max": 1.0}}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
        write_sweep(folder, parameters=parameters)
    kill_in_trial(killed, 2, *words)
    before = results(killed / "sweep")
    assert sorted(before) == [0, 1], "what had ended is kept"
    (lost,) = (killed / "started" / "2").read_text().split()
    eventually(lambda: not alive(int(lost)))
    finish(start(killed, *words))
    finish(start(whole, *words))
    after, expected = results(killed / "sweep"), results(whole / "sweep")
    assert {n: o["params"] for n, o in after.items()} == {n: o["params"] for n, o in expected.items()}
    assert {n: o["readings"] for n, o in after.items()} == {n: o["readings"] for n, o in expected.items()}
    assert {n: after[n] for n in before} == before, "none was run again"
    assert [path.name for path in (killed / "sweep" / "lost").iterdir()] == ["2-0"]


def test_a_killed_parent_takes_its_trial_with_it(tmp_path):
    write_sweep(tmp_path)
    (tmp_path / "wait").mkdir()
    (tmp_path / "wait" / "0").touch()
    process = start(tmp_path, "run", "tiny.yaml", "--dir", "sweep")
    eventually((tmp_path / "started" / "0").exists)
    eventually(lambda: (tmp_path / "started" / "0").read_text().strip())
    trial = int((tmp_path / "started" / "0").read_text())
    process.kill()
    process.communicate()
    eventually(lambda: not alive(trial))


def test_a_killed_study_is_consistent_and_ends_as_if_it_had_not_been(tmp_path):
    optuna = pytest.importorskip("optuna", reason="needs the extra `sweep`")
    words = ["run", "tiny.yaml", "--dir", "sweep", "--backend", "optuna", "--n_trials", 5, "--seed", 3]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
        write_sweep(folder, parameters={"x": {"min": 0.0, "max": 1.0}})
    kill_in_trial(killed, 2, *words)
    finish(start(killed, *words))
    finish(start(whole, *words))

    def study_in(folder):
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "sweep" / "journal.log"))
        return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))

    states = [trial.state.name for trial in study_in(killed).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    study, expected = study_in(killed), study_in(whole)
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert study.trials[3].user_attrs["retry_of"] == 2
    assert [trial.params for trial in complete] == [trial.params for trial in expected.trials]
    assert [trial.values for trial in complete] == [trial.values for trial in expected.trials]
    kept = results(killed / "sweep")
    assert sorted(kept) == [trial.number for trial in complete]
    assert all(kept[trial.number]["readings"]["score"]["value"] == trial.value for trial in complete)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["random", "optuna"])
def test_two_worker_processes_share_the_trials_of_one_sweep(tmp_path, backend):
    if backend == "optuna":
        pytest.importorskip("optuna", reason="needs the extra `sweep`")
    write_sweep(tmp_path, parameters={"x": {"min": 0.0, "max": 1.0}, "pause": {"value": 0.15}})
    words = ["run", "tiny.yaml", "--dir", "sweep", "--backend", backend, "--n_trials", 6]
    first, second = start(tmp_path, *words), start(tmp_path, *words)
    told = finish(first), finish(second)
    done = results(tmp_path / "sweep")
    assert sorted(done) == list(range(6))
    assert all(len((tmp_path / "started" / str(number)).read_text().split()) == 1 for number in done)
    assert sum(text.count("complete in") for text in told) == 6
    assert len({outcome["params"]["x"] for outcome in done.values()}) == 6


@pytest.mark.slow
def test_workers_in_two_places_share_a_study_by_its_storage(tmp_path):
    pytest.importorskip("optuna", reason="needs the extra `sweep`")
    here, there = tmp_path / "here", tmp_path / "there"
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    words = ["run", "tiny.yaml", "--dir", "sweep", "--backend", "optuna", "--n_trials", 4, "--storage", storage]
    for folder in (here, there):
        folder.mkdir()
        write_sweep(folder, parameters={"x": {"min": 0.0, "max": 1.0}, "pause": {"value": 0.3}})
    finish(start(here, *words[:-3], 2, *words[-2:]))
    finish(start(there, *words))
    assert sorted(results(here / "sweep")) == [0, 1]
    assert sorted(results(there / "sweep")) == [2, 3]
    shown = finish(start(there, "show", "sweep", "--storage", storage))
    assert "4 trials: 4 complete" in shown


@pytest.mark.slow
def test_an_interrupted_sweep_says_how_to_go_on_and_keeps_no_half_outcome(tmp_path):
    write_sweep(tmp_path)
    (tmp_path / "wait").mkdir()
    (tmp_path / "wait" / "1").touch()
    process = start(tmp_path, "run", "tiny.yaml", "--dir", "sweep")
    eventually((tmp_path / "started" / "1").exists)
    os.killpg(process.pid, signal.SIGINT)
    assert "the same command goes on" in finish(process, code=130)
    assert sorted(results(tmp_path / "sweep")) == [0]


def test_the_sweeps_file_is_kept_as_it_was_run(run, tmp_path):
    run({"n_trials": 1})
    stored = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert stored["sweep"] == sweep_of()
    assert (stored["backend"], stored["seed"]) == ("grid", 0)
