"""Sweeps of the real ``lit-decom fit`` on pictures of 32 pixels."""

import os
import subprocess
import sys

import pytest
import torch
import yaml

from lit_decom.records import RunDirectory
from lit_decom.sweep import SweepError
from lit_decom.sweep.check import check_objectives, check_parameters, dry_trial, parse
from lit_decom.sweep.spec import read_raw
from tests.helpers.wandb_server import StandInServer, offline_environment

from .tiny import ROOT, results, sweep_words

pytestmark = pytest.mark.slow

SCORE, LR = "decomcam/energy_pointing_game/all", "model.init_args.optimizer.init_args.lr"
SMALL = {
    "trainer": {
        "max_epochs": 2,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "data": {"init_args": {"n_train": 32, "n_val": 16, "n_test": 8, "image_size": 32, "batch_size": 16}},
    "callback": {
        "probe": 8,
        "log": {"n_images": 1},
        "components": {"n_shared": 0},
        "scores": {"baselines": []},
        "report": False,
        "method": {"init_args": {"n_components": 2}},
    },
}
SWEEP = {
    "name": "small",
    "project": "small",
    "program": "lit_decom",
    "method": "grid",
    "metric": {"name": SCORE, "goal": "maximize"},
    "controller": {"type": "cloud", "lit_decom": {"metrics": [{"name": "val/acc", "goal": "maximize"}]}},
    "parameters": {LR: {"values": [0.001, 0.02]}, "trainer.logger.init_args.offline": {"value": False}},
    "command": [
        "${env}", "python", "-m", "lit_decom", "fit", "--config", str(ROOT / "configs" / "quickstart.yaml"),
        "--config", "small.yaml", "--config", "${args_json_file}",
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    return tmp_path


def run(folder, words, environment):
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sweep_of_fit_is_run_shown_and_its_choice_trained_again(folder, monkeypatch):
    monkeypatch.chdir(folder)
    # Adam's first steps make much of rounding, which another number of threads changes.
    environment = offline_environment(folder) | {"OMP_NUM_THREADS": "1"}
    run(folder, sweep_words("run", "sweep.yaml", "--dir", "sweep"), environment)
    done = results(folder / "sweep")
    assert [done[number]["params"][LR] for number in (0, 1)] == [0.001, 0.02]
    for outcome in done.values():
        assert outcome["state"] == "complete", outcome
        score, acc = outcome["readings"][SCORE], outcome["readings"]["val/acc"]
        assert len(score["per_image"]) == score["n"] == 8
        assert sum(score["per_image"].values()) / 8 == pytest.approx(score["value"], abs=1e-5)
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
        assert acc["n"] == 16
        assert acc["interval"][0] <= acc["value"] <= acc["interval"][1]
        assert outcome["config"]["model"]["init_args"]["optimizer"]["init_args"]["lr"] == outcome["params"][LR]
        weights = torch.load(outcome["checkpoint"], weights_only=True)
        assert weights["epoch"] == outcome["epoch"] == score["best_epoch"]
        place = folder / "sweep" / "trials" / str(outcome["number"])
        assert len(list(place.rglob("step-*.npz"))) == 2, "its records lie in its own directory"
        assert list(place.rglob("*.wandb")), "and so do its W&B files, offline"
    assert not (folder / "runs").exists(), "nothing lies elsewhere"

    shown = run(folder, sweep_words("show", "sweep", "--eps", 1), environment)
    best = max(done.values(), key=lambda outcome: outcome["readings"][SCORE]["value"])
    assert f"Chosen: trial {best['number']} (epoch {best['epoch']})" in shown
    assert best["checkpoint"] in shown
    assert (folder / "sweep" / "front.png").stat().st_size > 5000
    page = (folder / "sweep" / "sweep.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "")

    again = parse(["--config", "sweep/chosen.yaml"])
    assert again["model"]["init_args"]["optimizer"]["init_args"]["lr"] == best["params"][LR]
    assert again["callback"]["dirpath"] is None
    assert again["trainer"]["default_root_dir"] == "runs"
    assert not any("TrialLog" in callback["class_path"] for callback in again["trainer"]["callbacks"])
    words = [sys.executable, "-m", "lit_decom", "fit", "--config", "sweep/chosen.yaml", "--callback.dirpath", "again"]
    run(folder, [*words, "--trainer.logger", "false"], environment)
    scores = [record.numbers["energy_pointing_game/all"] for record in RunDirectory(folder / "again").records()]
    assert scores[best["epoch"]] == pytest.approx(best["readings"][SCORE]["value"], abs=1e-6)


def test_a_dry_trial_tells_what_is_logged_and_what_is_better(folder, monkeypatch):
    monkeypatch.chdir(folder)
    sweep = read_raw(SWEEP, "small")
    check_parameters(sweep)
    before = sorted(folder.rglob("*"))
    directions = dry_trial(sweep)
    assert sorted(folder.rglob("*")) == before, "it leaves nothing behind"
    assert {SCORE, "val/acc", "val/loss", "decomcam/average_drop/all"} <= set(directions)
    assert {f"decomcam/gini/{stratum}" for stratum in ("correct", "incorrect", "fixed_incorrect", "gap")} <= set(
        directions
    )
    assert (directions[SCORE], directions["val/acc"], directions["val/loss"]) == (True, True, False)
    assert directions["decomcam/average_drop/all"] is False
    check_objectives(sweep, directions)


def test_a_trial_that_cannot_run_is_refused_with_the_end_of_its_log(folder, monkeypatch):
    monkeypatch.chdir(folder)
    width = {"parameters": {"widht": {"values": [4, 8]}}}
    sweep = read_raw(SWEEP | {"parameters": {"model.init_args.model_args": width}}, "small")
    check_parameters(sweep)
    with pytest.raises(SweepError, match=r"(?s)dry trial.*widht"):
        dry_trial(sweep)


def test_wandb_sweep_and_agent_run_the_same_file_through_fit(folder):
    with StandInServer() as server:
        environment = server.environment(folder) | {"OMP_NUM_THREADS": "1"}
        assert environment["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)  # noqa: PTH120 -- a text
        run(folder, ["wandb", "sweep", "sweep.yaml"], environment)
        (sweep,) = server.sweeps.values()
        run(folder, ["wandb", "agent", "--count", "2", f"tester/{sweep.project}/{sweep.name}"], environment)
    assert server.unanswered == []
    assert sweep.config == SWEEP, "the file arrives as it is"
    assert [trial[LR] for trial in sweep.trials.values()] == [0.001, 0.02]
    assert len(server.runs) == 2
    for name, trial in sweep.trials.items():
        received = server.runs[name]
        assert received.exit_code == 0
        assert received.sweep == sweep.name
        assert received.config[LR] == trial[LR]
        scores = received.column(SCORE)
        assert len(scores) == 2
        assert received.summary[SCORE]["max"] == pytest.approx(max(scores))
        assert received.summary[SCORE]["last"] == pytest.approx(scores[-1])
