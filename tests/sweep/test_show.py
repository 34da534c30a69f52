"""What is shown of a sweep whose outcomes are planted."""

import csv
import io
import json
import re
import sys
from dataclasses import replace

import optuna
import pytest
import yaml
from rich.console import Console

from lit_decom.cli import main
from lit_decom.sweep import SweepError
from lit_decom.sweep.run import read_study
from lit_decom.sweep.show import show_sweep
from lit_decom.sweep.study import NUMBER, OUTCOME
from lit_decom.sweep.trial import Outcome, Reading

from .tiny import spec_of, sweep_of

OURS = {"metrics": [{"name": "acc", "goal": "maximize"}], "summary": "last"}


def plant(path, *outcomes, ours=OURS):
    content = sweep_of(controller={"type": "cloud", "lit_decom": ours})
    described = {"name": "planted", "sweep": content, "backend": "grid", "seed": 0, "storage": None}
    (path / "sweep.json").write_text(json.dumps(described))
    study = read_study(path)
    for outcome in outcomes:
        is_complete = outcome.state == "complete"
        values = [outcome.readings[objective.name].value for objective in study.sweep.objectives if is_complete]
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.COMPLETE if is_complete else optuna.trial.TrialState.FAIL,
            values=values or None,
            user_attrs={NUMBER: outcome.number, OUTCOME: outcome.stored()},
        )
        study.optuna.add_trial(trial)


def trial(number, score, acc, half=0.05, state="complete"):
    readings = {
        "score": Reading(score, score + 0.1, 1, score, 3, (score - half, score + half) if half else None, 64),
        "acc": Reading(acc, acc, 3, acc, 3, (acc - 0.01, acc + 0.01), 400),
    }
    return Outcome(number, state, {"x": number / 10}, readings, 3, 1.5, f"/somewhere/{number}/last.ckpt")


def shown(path, eps=0.02):
    said = io.StringIO()
    choice = show_sweep(path, eps, Console(width=200, file=said))
    return choice, said.getvalue()


def test_the_choice_its_checkpoint_its_ties_and_what_is_too_close_are_named(tmp_path):
    plant(
        tmp_path,
        trial(0, 0.90, 0.70),
        trial(1, 0.60, 0.90),
        trial(2, 0.58, 0.905),
        trial(3, 0.30, 0.91),
        trial(4, 0.59, 0.88),
        trial(5, 0.99, 0.99, state="pruned"),
        Outcome(6, "failed", {"x": 0.6}, reason="exit status 1"),
    )
    choice, said = shown(tmp_path)
    assert choice.chosen.number == 1
    assert "7 trials: 5 complete, 1 pruned, 1 failed. Values are those of the last validation" in said
    assert "Chosen: trial 1 (epoch 3), by the rule: best score with acc within 0.02 of the best." in said
    assert "/somewhere/1/last.ckpt" in said
    assert "Tied with it: trial 2." in said
    assert "Too close to say (95 %) whether within 0.02 or not: trials 1, 4;" in said
    assert "Pareto front: trials 0, 1, 2, 3." in said
    assert "0.6000 [0.550, 0.650] n=64" in said


def test_what_is_written_reads_back(tmp_path):
    plant(tmp_path, trial(0, 0.9, 0.7), trial(1, 0.6, 0.9))
    shown(tmp_path)
    assert yaml.safe_load((tmp_path / "chosen.yaml").read_text()) == {"x": 0.1}
    assert (tmp_path / "chosen.yaml").read_text().startswith("# Trial 1 of the sweep planted: score = 0.6, acc = 0.9")
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [row["chosen"] for row in rows] == ["False", "True"]
    assert (rows[1]["score:value"], rows[1]["score:best"], rows[1]["acc:interval_low"]) == ("0.6", "0.7", "0.89")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "sweep.html").read_text()
    assert "score: best, last" in page
    assert "0.7, 0.6" in page


def test_the_page_has_the_look_of_a_report(tmp_path):
    plant(tmp_path, trial(0, 0.9, 0.7))
    shown(tmp_path)
    page = (tmp_path / "sweep.html").read_text()
    assert 'name="viewport"' in page
    assert "color-scheme: light dark" in page
    assert 'id="theme"' in page
    drawn = page[page.index("<svg") : page.index("</svg>")]
    assert "<text" in drawn
    assert set(re.findall(r"(?:fill|stroke|color): *([^;\"]+)", drawn)) <= {
        "none", "var(--ink)", "var(--quiet)", "var(--c0)", "var(--c1)",
    }, "no colour stays when the page turns dark"  # fmt: skip


def test_a_page_shows_names_as_text(tmp_path):
    nasty = "<script>alert(1)</script>"
    outcome = trial(0, 0.9, 0.7)
    plant(tmp_path, Outcome(**{**vars(outcome), "params": {"x": nasty}}))
    shown(tmp_path)
    page = (tmp_path / "sweep.html").read_text()
    assert nasty not in page
    assert "&lt;script&gt;" in page


def test_without_intervals_it_is_said_that_nothing_is_known(tmp_path):
    plant(tmp_path, trial(0, 0.9, 0.9, half=0), trial(1, 0.6, 0.9, half=0))
    _, said = shown(tmp_path)
    assert "How sure its lead over trial 1 is, is not known: score has no intervals." in said
    assert "Tied" not in said


def test_one_objective_is_drawn_over_the_trials(tmp_path):
    plant(tmp_path, trial(0, 0.9, 0.9), trial(1, 0.6, 0.9), ours={})
    choice, said = shown(tmp_path)
    assert choice.chosen.number == 0
    assert "by the rule: best score." in said
    assert "each differs by more than the uncertainty" in said
    assert (tmp_path / "front.png").exists()


def test_outcomes_come_back_as_they_were_kept(tmp_path):
    kept = [trial(0, 0.9, 0.7), Outcome(11, "failed", {"x": None}, reason="exit status 1"), trial(2, 0.5, 0.5)]
    plant(tmp_path, *kept)
    assert read_study(tmp_path).outcomes() == [kept[0], kept[2], kept[1]]


def test_values_of_too_many_images_for_a_database_are_left_out(tmp_path):
    reading = trial(0, 0.9, 0.7).readings["score"]
    few, many = ({f"image {k}": 0.5 for k in range(count)} for count in (64, 5000))
    outcome = Outcome(0, "complete", {}, {"a": replace(reading, per_image=few), "b": replace(reading, per_image=many)})
    again = Outcome.of(json.loads(json.dumps(outcome.stored())))
    assert again.readings == {"a": outcome.readings["a"], "b": reading}


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (None, "has no sweep.json"),
        ([], "at least one complete trial.* none that has ended"),
        ([Outcome(0, "failed", {"x": 1}, reason="exit status 1")], "at least one complete trial.* 1 failed"),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path, capsys, planted, told):
    if planted is not None:
        plant(tmp_path, *planted)
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "show", str(tmp_path)])
    assert re.match(f"lit-decom sweep: error: .*{told}", capsys.readouterr().err)


@pytest.mark.parametrize("more", [(), ("--backend", "random")])
def test_a_wrong_file_ends_the_command_with_what_is_wrong(tmp_path, capsys, more):
    (tmp_path / "sweep.yaml").write_text("method: gird")
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "run", str(tmp_path / "sweep.yaml"), *more])
    assert re.search(r"^lit-decom sweep: error: (.|\n)*Got value: gird", capsys.readouterr().err)
    with pytest.raises(SweepError):
        main(["sweep", "run", str(tmp_path / "sweep.yaml"), *more, "--debug"])


def test_names_are_shortened_to_what_tells_them_apart(tmp_path):
    params = {"model.optimizer.lr": 1.0, "model.head.lr": 2.0, "data.size": 3}
    plant(tmp_path, replace(trial(0, 0.9, 0.7), params=params, config={"lr": 1.0}))
    shown(tmp_path)
    page = (tmp_path / "sweep.html").read_text()
    assert all(f'<th scope="col">{name}</th>' in page for name in ("model.optimizer.lr", "model.head.lr", "size"))


def test_without_optuna_its_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [name for name in sys.modules if name.startswith("lit_decom.sweep.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "show", "anywhere"])
    assert "pip install 'lit-decom[sweep]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ({"type": "hyperband", "min_iter": 3}, 3),
        ({"type": "hyperband", "max_iter": 27, "s": 2}, 3),
        ({"type": "hyperband", "max_iter": 8, "s": 1, "eta": 2}, 4),
    ],
)
def test_hyperband_looks_first_where_wandb_does(rule, first):
    study = optuna.create_study(direction="maximize", pruner=spec_of(early_terminate=rule).pruner)
    for value in (9.0, 8.0, 7.0, 6.0):
        trial = study.ask()
        trial.report(value, first)
        trial.should_prune()
        study.tell(trial, value)
    hopeless = study.ask()
    for step in range(1, first):
        hopeless.report(0.0, step)
        assert not hopeless.should_prune()
    hopeless.report(0.0, first)
    assert hopeless.should_prune()
