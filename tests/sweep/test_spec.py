from pathlib import Path

import pytest
import yaml

from lit_decom.sweep import SweepError
from lit_decom.sweep.spec import read_sweep

from .tiny import ROOT, spec_of, write_sweep

# The keys that W&B's published schema allows at the top of a sweep; any other is reported as malformed.
WANDB_KEYS = {
    "apiVersion", "kind", "controller", "description", "program", "job", "image_uri", "entity", "project", "method",
    "command", "name", "run_cap", "metric", "early_terminate", "parameters",
}  # fmt: skip
OURS = {"metrics": [{"name": "acc", "goal": "maximize"}], "summary": "last"}


def test_our_keys_stand_where_wandb_does_not_look():
    sweep = spec_of(controller={"type": "cloud", "lit_decom": OURS})
    assert [(objective.name, objective.sign) for objective in sweep.objectives] == [("score", 1), ("acc", 1)]
    assert sweep.ours.summary == "last"
    assert spec_of().ours.summary == "best"


def test_what_wandb_leaves_out_is_taken_as_wandb_takes_it():
    (objective,) = spec_of(metric={"name": "loss", "target": 0.1}).objectives
    assert (objective.goal, objective.target) == ("minimize", 0.1)


def test_words_of_the_command_may_be_numbers():
    assert spec_of(command=["nice", "-n", 5, "${args}"]).command == ["nice", "-n", "5", "${args}"]


def test_the_parser_of_the_file_leaves_parameters_as_they_are():
    values = [{"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}, "null", "1e-4", "${here}", [1, "true"]]
    sweep = spec_of(
        parameters={"model.init_args.optimizer": {"values": values}, "a": {"parameters": {"b.c": {"value": "on"}}}}
    )
    assert [(parameter.name, list(parameter.ends)) for parameter in sweep.space] == [
        ("model.init_args.optimizer", values),
        ("a.b.c", ["on"]),
    ]


def test_a_shipped_sweep_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_sweep(Path("sweep/critters.yaml")).raw["name"] == "critters"
    with pytest.raises(SweepError, match=r"Did you mean `sweep/critters\.yaml`"):
        read_sweep(Path("sweep/criters.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_sweep_is_read_and_has_only_keys_that_wandb_knows(path):
    sweep = read_sweep(path)
    raw = yaml.safe_load(path.read_text())
    assert set(raw) <= WANDB_KEYS
    assert raw["controller"]["type"] == "cloud"
    assert sweep.objectives[0].name.startswith("decomcam/energy_pointing_game/")
    assert sweep.command[-1] == "${args_json_file}"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"parametrs": {}}, "got `parametrs`. Did you mean `parameters`?"),
        ({"method": "gird"}, "['bayes', 'grid', 'random']. Got value: gird"),
        ({"method": None}, "required: method"),
        ({"metric": None}, "required: metric"),
        ({"metric": {"name": "score", "impute": "best"}}, "`metric` to have name, goal, target, but got `impute`"),
        ({"metric": {"name": "score", "target": "high"}}, "Given value: high"),
        ({"metric": {"name": "score", "goal": "maximise"}}, "['maximize', 'minimize']. Got value: maximise"),
        ({"metrics": []}, "but got `metrics`. Did you mean `metric`"),
        ({"controller": {"lit_decom": OURS}}, "`controller` to be a mapping with `type: cloud`"),
        (
            {"controller": {"type": "cloud", "lit_decom": {"sumary": "best"}}},
            "to have metrics, summary, early_terminate, but got `sumary`",
        ),
        ({"controller": {"type": "cloud", "lit_decom": 3}}, "`controller.lit_decom` to be a mapping"),
        ({"controller": {"type": "cloud", "lit_decom": {"summary": "first"}}}, "['best', 'last']. Got value: first"),
        (
            {"controller": {"type": "cloud", "lit_decom": {"metrics": [{"name": "score", "goal": "minimize"}]}}},
            "named again",
        ),
        ({"run_cap": 0}, "Not of type PositiveInt"),
        ({"parameters": {"x": {"value": 1}}}, "nothing varies"),
        ({"command": ["python", "program.py"]}, "hand on the parameters"),
        ({"program": None}, "`program` to be named"),
        ({"early_terminate": {"type": "median_stop"}}, "Did you mean `median`?"),
        ({"early_terminate": {"type": "hyperband"}}, "`min_iter`, or `max_iter` and `s`"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "Not of type PositiveInt"),
        ({"early_terminate": {"type": "median", "eta": 3}}, "to have min_iter, min_trials, but got `eta`"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path, changed, told):
    with pytest.raises(SweepError) as raised:
        read_sweep(write_sweep(tmp_path, **changed))
    assert told in str(raised.value)


def test_what_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "broken.yaml").write_text("a: [1")
    for name, told in [("list", "to be a mapping"), ("broken", "YAML file"), ("absent", "YAML file")]:
        with pytest.raises(SweepError, match=told):
            read_sweep(tmp_path / f"{name}.yaml")
