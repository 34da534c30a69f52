"""Sweeps of a program that answers at once: outcomes, kills, resumption, workers side by side."""

import io
import json
import os
import signal
import sqlite3
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lit_decom.cli import main
from lit_decom.sweep import SweepError
from lit_decom.sweep.run import Options, Worker, read_study, run_sweep
from lit_decom.sweep.study import OUTCOME
from lit_decom.sweep.trial import Outcome, Reading

from .tiny import finish, results, start, sweep_of, write_sweep


@pytest.fixture
def console():
    return Console(quiet=True)


@pytest.fixture
def run(tmp_path, monkeypatch, console):
    monkeypatch.chdir(tmp_path)

    def run(options=None, **changed):
        options = options or {}
        file = write_sweep(tmp_path, **changed)
        return results(run_sweep(Options(file=file, dir=tmp_path / "sweep", **options), console))

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


def test_more_trials_of_the_same_seed_begin_as_fewer_did(run):
    parameters = {"x": {"min": 0.0, "max": 1.0}}
    few = run({"n_trials": 2, "backend": "random", "seed": 5}, parameters=parameters)
    more = run({"n_trials": 3, "backend": "random", "seed": 5}, parameters=parameters)
    assert {number: more[number] for number in few} == few
    assert len({more[number]["params"]["x"] for number in more}) == 3


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
        ({"storage": "journal.log"}, {}, "`--storage` to be a database's URL"),
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


@pytest.mark.parametrize("words", [["--jobs", "-1"], ["--n_trials", "0"], ["--heartbeat", "0"]])
def test_numbers_that_cannot_be_followed_are_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "run", "tiny.yaml", *words])
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_optuna_prunes_what_is_hopeless_and_counts_it(run):
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


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["grid", "random", "optuna"])
def test_a_killed_sweep_loses_one_trial_and_ends_as_if_it_had_not_been(tmp_path, backend):
    words = ["run", "tiny.yaml", "--dir", "sweep", "--backend", backend, "--n_trials", 4, "--seed", 3]
    parameters = {"x": {"values": [0.25, 0.5, 0.75, 1.0]}} if backend == "grid" else {"x": {"min": 0.0, "max": 1.0}}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
        write_sweep(folder, parameters=parameters)
    kill_in_trial(killed, 2, *words, "--heartbeat", 1)
    before = results(killed / "sweep")
    assert sorted(before) == [0, 1], "what had ended is kept"
    (lost,) = (killed / "started" / "2").read_text().split()
    eventually(lambda: not alive(int(lost)))
    finish(start(killed, *words, "--heartbeat", 1))
    finish(start(whole, *words))
    after, expected = results(killed / "sweep"), results(whole / "sweep")
    assert {n: o["params"] for n, o in after.items()} == {n: o["params"] for n, o in expected.items()}
    assert {n: o["readings"] for n, o in after.items()} == {n: o["readings"] for n, o in expected.items()}
    assert {n: after[n] for n in before} == before, "none was run again"
    states = [trial.state.name for trial in read_study(killed / "sweep").trials()]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert len(list((killed / "sweep" / "trials").glob("2-lost-*"))) == 1


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


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["grid", "random", "optuna"])
def test_two_worker_processes_share_the_trials_of_one_sweep(tmp_path, backend):
    x = {"values": [k / 8 for k in range(8)]} if backend == "grid" else {"min": 0.0, "max": 1.0}
    write_sweep(tmp_path, parameters={"x": x, "pause": {"value": 0.15}})
    words = ["run", "tiny.yaml", "--dir", "sweep", "--backend", backend, "--n_trials", 6]
    first, second = start(tmp_path, *words), start(tmp_path, *words)
    told = finish(first), finish(second)
    done = results(tmp_path / "sweep")
    assert sorted(done) == list(range(6))
    assert all(len((tmp_path / "started" / str(number)).read_text().split()) == 1 for number in done)
    assert sum(text.count("complete in") for text in told) == 6
    assert len({outcome["params"]["x"] for outcome in done.values()}) == 6


@pytest.mark.slow
def test_workers_in_other_places_join_a_study_by_its_storage(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    for folder in (here, there):
        folder.mkdir()
        write_sweep(folder, parameters={"x": {"min": 0.0, "max": 1.0}, "pause": {"value": 0.3}}, method="bayes")
    finish(start(here, "run", "tiny.yaml", "--n_trials", 4, "--storage", storage, "--jobs", 0))
    join = ["worker", "--storage", storage, "--dir", "sweep"]
    first, second = start(there, *join), start(here, *join)
    told = finish(first), finish(second)
    assert sum(text.count("complete in") for text in told) == 4
    assert all("complete in" in text for text in told), "both had a share"
    assert sorted(results(there / "sweep")) == [0, 1, 2, 3]
    assert "4 trials: 4 complete" in finish(start(there, "show", "sweep"))
    assert "Expected `--study` to be one of tiny-" in finish(start(there, *join, "--study", "other"), code=2)


def open_sweep(folder, **changed):
    """Open a sweep whose trials nobody runs yet."""
    options = Options(write_sweep(folder, **changed), jobs=0, dir=folder / "sweep", heartbeat=1)
    return options, read_study(run_sweep(options, Console(quiet=True)))


def die_with(study, file, *, begun):
    """Take the first trial as a worker does that dies a day ago, and return what it knew of the parameters."""
    with pytest.warns(UserWarning, match="Heartbeat"):
        trial = study.optuna.ask()
    params = {parameter.name: parameter.suggest(trial) for parameter in study.parameters if begun}
    with sqlite3.connect(file) as database:
        database.execute("UPDATE trials SET datetime_start = datetime('now', '-1 day') WHERE number = 0")
        if begun:
            database.execute("INSERT INTO trial_heartbeats(trial_id, heartbeat) VALUES (1, datetime('now', '-1 day'))")
    database.close()
    return params


@pytest.mark.parametrize("begun", [True, False], ids=["with parameters", "before it had any"])
def test_a_trial_without_sign_of_life_is_run_again_with_its_parameters(tmp_path, monkeypatch, begun):
    monkeypatch.chdir(tmp_path)
    options, study = open_sweep(tmp_path, method="random", parameters={"x": {"min": 0.0, "max": 1.0}}, run_cap=2)
    params = die_with(study, tmp_path / "sweep" / "study.db", begun=begun)
    run_sweep(replace(options, jobs=1), Console(quiet=True))
    done = results(tmp_path / "sweep")
    assert [outcome["state"] for outcome in done.values()] == ["complete"] * 2
    assert params.items() <= done[0]["params"].items()
    assert [trial.state.name for trial in study.trials()] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_whose_worker_died_before_saying_so_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, study = open_sweep(tmp_path, run_cap=1)
    die_with(study, tmp_path / "sweep" / "study.db", begun=True)
    reading = Reading(0.5, 0.5, 0, 0.5, 0)
    kept = Outcome(0, "complete", {"x": 0.25}, {"score": reading})
    study.optuna._storage.set_trial_user_attr(1, OUTCOME, kept.stored())
    run_sweep(replace(options, jobs=1), Console(quiet=True))
    assert read_study(tmp_path / "sweep").outcomes() == [kept]
    assert not (tmp_path / "started").exists()


def test_a_trial_beyond_the_last_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, study = open_sweep(tmp_path, run_cap=1)
    worker = Worker(study, tmp_path / "sweep", options, Console(quiet=True))
    for _ in range(2):  # as when two workers see one trial waiting
        study.optuna.optimize(worker._run, n_trials=1)
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE", "FAIL"]
    assert len(study.outcomes()) == 1


def test_no_trial_is_taken_by_two_workers_at_once(tmp_path):
    _, study = open_sweep(tmp_path, method="random", parameters={"x": {"min": 0.0, "max": 1.0}}, run_cap=40)

    def take(_):
        return [study.optuna.ask().number for _ in range(10)]

    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("ignore", UserWarning)  # that heartbeats are for Study.optimize
        taken = [number for numbers in pool.map(take, range(4)) for number in numbers]
    assert sorted(taken) == list(range(40))


@pytest.mark.parametrize(("goal", "target", "count"), [("maximize", 1.5, 2), ("maximize", 4, 4), ("minimize", 2.3, 1)])
def test_a_reached_target_stops_the_sweep(run, goal, target, count):
    done = run(metric={"name": "score", "goal": goal, "target": target})
    assert sorted(done) == list(range(count))
    assert len(run(metric={"name": "score", "goal": goal, "target": target})) == count, "it stays stopped"


def test_several_objectives_are_searched_by_nsga_and_all_are_told(run, tmp_path):
    described = {"type": "cloud", "lit_decom": {"metrics": [{"name": "acc", "goal": "maximize", "target": 0.0}]}}
    metric = {"name": "score", "goal": "maximize", "target": 99}
    parameters = {"x": {"min": 0.0, "max": 1.0}, "z": {"distribution": "log_normal"}}
    done = run({"n_trials": 3}, method="bayes", controller=described, metric=metric, parameters=parameters)
    assert len(done) == 3, "both targets must be reached"
    trials = read_study(tmp_path / "sweep").trials()
    assert all("NSGAIISampler:generation" in str(trial.system_attrs) for trial in trials)
    for number, trial in enumerate(trials):
        readings = done[number]["readings"]
        assert trial.values == [readings["score"]["value"], readings["acc"]["value"]]


def test_how_far_the_sweep_is_and_what_is_left_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    run_sweep(Options(write_sweep(tmp_path), dir=tmp_path / "sweep"), Console(file=said, width=200))
    told = [line for line in said.getvalue().splitlines() if line.startswith("trial")]
    assert [line.rpartition("; ")[2].partition(",")[0] for line in told] == [f"{k} of 4 trials" for k in (1, 2, 3, 4)]
    assert all(line.endswith(" left") for line in told[:3])
    assert told[3].endswith("4 of 4 trials")


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_sweep_says_how_to_go_on_and_keeps_no_half_outcome(tmp_path, by):
    write_sweep(tmp_path)
    (tmp_path / "wait").mkdir()
    (tmp_path / "wait" / "1").touch()
    process = start(tmp_path, "run", "tiny.yaml", "--dir", "sweep")
    eventually((tmp_path / "started" / "1").exists)
    process.send_signal(by)
    assert "the same command goes on" in finish(process, code=130)
    assert sorted(results(tmp_path / "sweep")) == [0]
    states = [trial.state.name for trial in read_study(tmp_path / "sweep").trials()]
    assert states == ["COMPLETE", "FAIL", "WAITING", "WAITING", "WAITING"], "what was running is in line again"


def test_the_sweeps_file_is_kept_as_it_was_run(run, tmp_path):
    run({"n_trials": 1})
    stored = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert stored["sweep"] == sweep_of()
    assert (stored["backend"], stored["seed"]) == ("grid", 0)
