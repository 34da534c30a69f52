"""What is refused before the first trial; the parser is the command line's own."""

import re

import pytest

from lit_decom.sweep import SweepError
from lit_decom.sweep.check import check_objectives, check_parameters
from lit_decom.sweep.errors import near
from lit_decom.sweep.program import at, filled, fit_words, overrides, without_overrides

from .tiny import ROOT, spec_of

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SCORE = "decomcam/energy_pointing_game/all"


def fit_sweep(more=(), **changed):
    command = [
        "${env}",
        "python",
        "-m",
        "lit_decom",
        "fit",
        "--config",
        QUICKSTART,
        *more,
        "--config",
        "${args_json_file}",
    ]
    return spec_of(**{"metric": {"name": SCORE, "goal": "maximize"}, "command": command} | changed)


def test_the_words_of_fit_are_found_in_every_form_of_the_command():
    assert fit_words(["${env}", "python", "-m", "lit_decom", "fit", "--a"]) == ["--a"]
    assert fit_words(["/opt/bin/lit-decom", "fit"]) == []
    assert fit_words(["python", "lit_decom", "fit"]) is None
    assert fit_words(["lit-decom", "validate"]) is None


def test_macros_are_filled_in_as_wandb_does(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "here")
    config, file = {"a.b": 1, "on": True, "off": False, "none": None}, tmp_path / "c.json"
    cases = {
        "${args}": ["--a.b=1", "--on=True", "--off=False", "--none=None"],
        "${args_no_hyphens}": ["a.b=1", "on=True", "off=False", "none=None"],
        "${args_no_boolean_flags}": ["--a.b=1", "--on", "--none=None"],
        "${args_json}": ['{"a.b": 1, "on": true, "off": false, "none": null}'],
        "${args_json_file}": [str(file)],
        "${program}": ["program.py"],
        "${interpreter}": ["python"],
        "${envvar:PLACE}": ["here"],
        "plain": ["plain"],
    }
    for word, expected in cases.items():
        assert filled(spec_of(), config, file, [word]) == expected
    with pytest.raises(SweepError, match=re.escape("but got ${args_yaml}")):
        filled(spec_of(), config, file, ["${args_yaml}"])


def test_near_names_are_told_best_first():
    known = ["callback.method.init_args.n_components", "callback.probe", "callback.prefix"]
    assert near("callback.probee", known).startswith(" Did you mean `callback.probe`")
    assert "`callback.method.init_args.n_components`" in near("callback.method.n_components", known)
    assert near("zzz", known) == ""


def test_the_settings_that_a_sweep_makes_in_a_trial_can_be_removed_again(tmp_path):
    composed = {
        "callback": {"dirpath": None},
        "trainer": {
            "default_root_dir": "runs",
            "enable_progress_bar": None,
            "callbacks": None,
            "logger": {"init_args": {"save_dir": "runs", "offline": False}},
        },
    }
    sweep = fit_sweep()
    settings = overrides(sweep, tmp_path, composed)
    assert settings["trainer.logger.init_args.offline"] is True, "no account is needed"
    ours = settings["trainer.callbacks+"]
    trained = {
        "callback": {"dirpath": settings["callback.dirpath"]},
        "trainer": {
            "default_root_dir": str(tmp_path),
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "users.Own"}, *ours],
            "logger": {"init_args": {"save_dir": str(tmp_path), "offline": True}},
        },
    }
    back = without_overrides(sweep, trained, composed)
    assert back["trainer"].pop("callbacks") == [{"class_path": "users.Own"}]
    composed["trainer"].pop("callbacks")
    assert back == composed
    without_logger = overrides(sweep, tmp_path, {"trainer": {"logger": False}})
    assert not any(key.startswith("trainer.logger") for key in without_logger)


def test_the_shipped_parameters_and_every_choice_of_them_parse(monkeypatch):
    from lit_decom.sweep.spec import read_sweep

    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "configs" / "sweep").glob("*.yaml")):
        composed = check_parameters(read_sweep(path))
        assert at(composed, "model.init_args.model") == "small_resnet"


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (
            {"callback.method.init_args.n_componentz": {"values": [2, 3]}},
            "Did you mean `callback.method.init_args.n_components`",
        ),
        (
            {"model.init_args.optimizer.init_args.lrr": {"values": [0.1, 0.2]}},
            "`model.init_args.optimizer.init_args.lr`",
        ),
        ({"callback.n_components": {"values": [2, 3]}}, "`callback.method.init_args.n_components`"),
        ({"optimizer.lr": {"min": 0.1, "max": 0.2}}, "`model.init_args.optimizer.init_args.lr`"),
        ({"callback.method.init_args.integration": {"values": ["paper", "papr"]}}, "papr"),
        ({"data.init_args.batch_size": {"values": [8, "many"]}}, "many"),
    ],
)
def test_a_parameter_that_the_command_does_not_take_is_refused_with_near_ones(parameters, told):
    with pytest.raises(SweepError) as raised:
        check_parameters(fit_sweep(parameters=parameters))
    assert told in str(raised.value)


def test_checking_leaves_the_random_state_alone():
    import torch

    before = torch.random.get_rng_state()
    check_parameters(fit_sweep(parameters={"seed_everything": {"values": [1, 2]}}))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_program_is_not_looked_at():
    assert check_parameters(spec_of()) == {}


DIRECTIONS = {
    "val/acc": True,
    "val/loss": False,
    SCORE: True,
    "decomcam/average_drop/all": False,
    "decomcam/seconds/explain": False,
    "decomcam/drift": None,
    # What a longer run may log: one batch of an untrained network may have no image right, or none wrong.
    "decomcam/energy_pointing_game/correct": True,
    "decomcam/average_drop/correct": False,
    "decomcam/average_drop/incorrect": False,
}


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        ("val/acc", "maximize"),
        ("val/loss", "minimize"),
        ("decomcam/energy_pointing_game/correct", "maximize"),
        ("decomcam/average_drop/incorrect", "minimize"),
        ("decomcam/seconds/explain", "minimize"),
        ("decomcam/drift", "minimize"),
        ("decomcam/drift", "maximize"),
    ],
)
def test_objectives_that_are_logged_pass(name, goal):
    check_objectives(fit_sweep(metric={"name": name, "goal": goal}), DIRECTIONS)


@pytest.mark.parametrize(
    ("name", "goal", "told"),
    [
        ("val/accuracy", "maximize", "nothing logs `val/accuracy`. Did you mean `val/acc`"),
        ("decomcam/energy_pointing_gam/all", "maximize", f"Did you mean `{SCORE}`"),
        ("decomcam/drift/correct", "minimize", "nothing logs"),
        ("zzz", "maximize", "Logged are decomcam/average_drop/all"),
        ("val/acc", "minimize", "`val/acc` to be maximize, since more is better, but got minimize"),
        ("val/loss", "maximize", "since less is better"),
        ("decomcam/average_drop/correct", "maximize", "to be minimize"),
        ("decomcam/energy_pointing_game/correct", "minimize", "to be maximize"),
    ],
)
def test_objectives_that_cannot_be_meant_are_refused(name, goal, told):
    with pytest.raises(SweepError) as raised:
        check_objectives(fit_sweep(metric={"name": name, "goal": goal}), DIRECTIONS)
    assert told in str(raised.value)


def test_every_objective_is_checked():
    described = {"type": "cloud", "lit_decom": {"metrics": [{"name": "val/loss", "goal": "maximize"}]}}
    with pytest.raises(SweepError, match="val/loss"):
        check_objectives(fit_sweep(controller=described), DIRECTIONS)
