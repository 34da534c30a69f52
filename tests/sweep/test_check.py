"""What is refused before the first trial; the parser is the command line's own."""

import re

import pytest
from jsonargparse import Namespace, dict_to_namespace

from lit_decom.sweep import SweepError, near
from lit_decom.sweep.check import check_objectives, check_parameters, parse
from lit_decom.sweep.trial import filled, fit_words

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
        assert filled(spec_of(), config, file, [word]) == expected, word
    with pytest.raises(SweepError, match=re.escape("but got ${args_yaml}")):
        filled(spec_of(), config, file, ["${args_yaml}"])


def test_near_names_are_told_best_first():
    known = ["callback.method.init_args.n_components", "callback.probe", "callback.prefix"]
    assert near("callback.probee", known).startswith(" Did you mean `callback.probe`")
    assert "`callback.method.init_args.n_components`" in near("callback.method.n_components", known)
    assert near("zzz", known) == ""


def test_a_trial_keeps_to_its_directory_and_its_configuration_stays_as_it_was_given(tmp_path):
    from lit_decom.sweep.trial_log import _within

    logger = {"class_path": "Wandb", "init_args": {"save_dir": "runs", "offline": False, "project": "mine"}}
    config = {"callback": {"dirpath": None}, "trainer": {"default_root_dir": "runs", "enable_progress_bar": None}}
    for logger_config in (logger, False):
        settings = Namespace(fit=dict_to_namespace(config | {"trainer": config["trainer"] | {"logger": logger_config}}))
        before = settings.as_dict()
        placed = _within(tmp_path, settings).as_dict()["fit"]
        assert settings.as_dict() == before
        assert placed["callback"]["dirpath"].startswith(str(tmp_path))
        assert placed["trainer"]["default_root_dir"] == str(tmp_path)
        if logger_config:
            ours = {"save_dir": str(tmp_path), "offline": True, "project": "mine"}
            assert placed["trainer"]["logger"]["init_args"] == ours, "no account is needed"
        else:
            assert placed["trainer"]["logger"] is False


def test_the_shipped_parameters_and_every_choice_of_them_parse(monkeypatch):
    from lit_decom.sweep.spec import read_sweep

    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "configs" / "sweep").glob("*.yaml")):
        sweep = read_sweep(path)
        check_parameters(sweep)
        words = [word for word in fit_words(sweep.command) if "$" not in word][:2]
        assert parse(words)["model.init_args.model"] == "small_resnet"


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
    check_parameters(spec_of())


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
