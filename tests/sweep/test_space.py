import json
import math
import random

import optuna
import pytest
from scipy import stats

from lit_decom.sweep import SweepError
from lit_decom.sweep.space import covering_points, grid_points, nested, read_parameters

from .tiny import spec_of

ALL = read_parameters(
    {
        "kind": {"values": ["a", None, [1, 2]]},
        "k": {"min": 1, "max": 3},
        "alpha": {"min": 0.5, "max": 1.5},
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
        "decay": {"distribution": "log_uniform", "min": -4, "max": -2},
        "p": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
        "fixed": {"value": True},
        "net": {"parameters": {"width": {"values": [8, 16]}, "deep": {"parameters": {"depth": {"value": 3}}}}},
    }
)


class Drawn:
    """Stands in for an ``optuna.Trial``: uniform draws within what is asked for."""

    def __init__(self, seed):
        self.generator = random.Random(seed)

    def suggest_categorical(self, name, choices):
        return self.generator.choice(choices)

    def suggest_int(self, name, low, high):
        return self.generator.randint(low, high)

    def suggest_float(self, name, low, high, log=False):
        if log:
            return math.exp(self.generator.uniform(math.log(low), math.log(high)))
        return self.generator.uniform(low, high)


def draws(described, count=2000):
    (parameter,) = read_parameters({"x": described})
    trial = Drawn(0)
    return [parameter.suggest(trial) for _ in range(count)]


def grid_of(described):
    points = grid_points([parameter.counted() for parameter in read_parameters(described)])
    return [tuple(json.loads(value) for value in point.values()) for point in points]


def test_a_grid_goes_through_all_combinations_the_last_parameter_fastest():
    points = grid_of({"a": {"values": [1, 2]}, "b": {"min": 0, "max": 1}, "c": {"value": None}})
    assert points == [(1, 0, None), (1, 1, None), (2, 0, None), (2, 1, None)]


def test_a_grid_counts_quantized_values_from_the_least():
    points = grid_of({"p": {"distribution": "q_uniform", "min": 0.1, "max": 0.75, "q": 0.3}})
    assert [p for (p,) in points] == pytest.approx([0.1, 0.4, 0.7])


def test_whole_numbers_of_a_grid_stay_whole():
    points = grid_of({"p": {"distribution": "q_uniform", "min": 0, "max": 32, "q": 8}, "k": {"min": 1, "max": 2}})
    assert points[-2:] == [(32, 1), (32, 2)]
    assert {type(value) for point in points for value in point} == {int}


# The definitions of W&B's documentation, by the quantile functions of SciPy.
@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"distribution": "uniform", "min": 2, "max": 5}, stats.uniform(2, 3)),
        ({"min": 0.5, "max": 1.5}, stats.uniform(0.5, 1)),
        ({"distribution": "log_uniform", "min": -4, "max": 1}, stats.loguniform(math.exp(-4), math.exp(1))),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 10}, stats.loguniform(0.01, 10)),
        ({"distribution": "inv_log_uniform", "min": -1, "max": 4}, stats.loguniform(math.exp(-4), math.exp(1))),
        ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 10}, stats.loguniform(0.01, 10)),
        ({"distribution": "normal"}, stats.norm()),
        ({"distribution": "normal", "mu": 3, "sigma": 0.5}, stats.norm(3, 0.5)),
        ({"distribution": "log_normal", "mu": -2, "sigma": 0.7}, stats.lognorm(0.7, scale=math.exp(-2))),
        ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
        ({"distribution": "beta"}, stats.uniform()),
    ],
)
def test_draws_have_the_distribution_that_wandb_documents(described, expected):
    assert stats.kstest(draws(described), expected.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("described", "whole"),
    [
        ({"distribution": "q_uniform", "min": 0, "max": 10}, True),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}, False),
        ({"distribution": "q_log_uniform", "min": 0, "max": 4, "q": 5}, True),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 0.5}, False),
        ({"distribution": "q_normal", "mu": 20, "sigma": 8, "q": 2}, True),
        ({"distribution": "q_log_normal", "mu": 2, "q": 0.1}, False),
        ({"distribution": "q_beta", "a": 2, "b": 2, "q": 0.1}, False),
    ],
)
def test_quantized_draws_are_the_nearest_multiples(described, whole):
    base = {key: value for key, value in described.items() if key != "q"}
    base["distribution"] = base["distribution"].removeprefix("q_")
    q = described.get("q", 1)
    drawn = draws(described, 200)
    assert drawn == pytest.approx([round(value / q) * q for value in draws(base, 200)], abs=1e-9)
    assert {type(value) for value in drawn} == {int if whole else float}


def test_weighted_choices_come_as_often_as_they_weigh():
    for distribution in ({}, {"distribution": "categorical"}, {"distribution": "categorical_w_probabilities"}):
        drawn = draws({"values": ["a", None, [1]], "probabilities": [0.7, 0.0, 0.3], **distribution})
        assert {json.dumps(value) for value in drawn} == {'"a"', "[1]"}
        assert drawn.count("a") == pytest.approx(1400, abs=60)


def test_nested_parameters_become_nested_values():
    point = {parameter.name: parameter.ends[0] for parameter in ALL}
    assert {"net.width", "net.deep.depth"} <= set(point)
    arranged = nested(ALL, point)
    assert arranged["net"] == {"width": point["net.width"], "deep": {"depth": 3}}
    assert "net.width" not in arranged


def test_covering_points_show_every_choice_and_both_ends():
    points = covering_points(ALL)
    assert len(points) == 3
    for parameter in ALL:
        assert {json.dumps(point[parameter.name]) for point in points} >= {json.dumps(end) for end in parameter.ends}


def test_optuna_suggests_within_the_space_and_keeps_types():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = []
    for _ in range(60):
        trial = study.ask()
        points.append({parameter.name: parameter.suggest(trial) for parameter in ALL})
        study.tell(trial, 0.0)
    assert {json.dumps(point["kind"]) for point in points} == {'"a"', "null", "[1, 2]"}
    assert {type(point["k"]) for point in points} == {int}
    assert all(point["fixed"] is True for point in points)
    assert {point["p"] for point in points} == {0, 0.25, 0.5, 0.75, 1}


@pytest.mark.parametrize(
    ("described", "told"),
    [
        (None, "mapping with at least one parameter"),
        ({}, "mapping with at least one parameter"),
        ({"x": 3}, "`x` to be described by a mapping"),
        ({"x": {"values": []}}, "one or more elements"),
        ({"x": {"min": 1}}, "`value`, `values`, `min` and `max`, or a distribution of constant"),
        ({"x": {"min": 2, "max": 2}}, "less than `max`"),
        ({"x": {"min": "1e-4", "max": 1}}, "Write 1.0e-4"),
        ({"x": {"min": True, "max": 3}}, "finite numbers"),
        ({"x": {"min": 0.0, "max": float("inf")}}, "finite number"),
        ({"x": {"distribution": "log_uniform_valuse", "min": 1, "max": 2}}, "Did you mean `log_uniform_values`"),
        ({"x": {"distribution": "log_uniform_values", "min": 0, "max": 2}}, "`low > 0`"),
        ({"x": {"distribution": "int_uniform", "min": 0, "max": 2.5}}, "as an integer"),
        ({"x": {"distribution": "q_uniform", "min": 0, "max": 2, "q": 3}}, "`q` must be positive, and not longer"),
        ({"x": {"distribution": "q_uniform", "min": 0, "max": 2, "q": 0}}, "`q` must be positive, and not longer"),
        ({"x": {"distribution": "uniform", "min": 0, "max": 2, "q": 1}}, "as uniform to have min, max, but got {"),
        ({"x": {"values": [1, 2], "probabilities": [0.5, 0.6]}}, "as many shares, with the sum 1"),
        ({"x": {"values": [1, 2], "probabilities": [1]}}, "as many shares, with the sum 1"),
        ({"x": {"values": [1, 2], "probabilities": [1.5, -0.5]}}, "as many shares, with the sum 1"),
        ({"x": {"distribution": "normal", "sigma": 0}}, "`sigma` must be positive"),
        ({"x": {"distribution": "beta", "a": -1}}, "`a` and `b` must be positive"),
        ({"x": {"distribution": "normal", "a": 1}}, "as normal to have mu, sigma, but got {"),
        ({"x": {"distribution": "log_uniform", "min": 0, "max": 1000}}, "math range error"),
        ({"x": {"distribution": "gamma"}}, "but got {'distribution': 'gamma'}"),
        ({"x": {"distribution": "inv_log_uniform_values", "min": 0, "max": 2}}, "`low > 0`"),
        ({"net": {"parameters": {}}}, "`parameters` of `net`"),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_name(described, told):
    with pytest.raises(SweepError) as raised:
        read_parameters(described)
    assert told in str(raised.value)


def test_a_space_of_one_point_is_empty():
    with pytest.raises(SweepError, match="nothing varies: `a`, `b`"):
        spec_of(parameters={"a": {"value": 1}, "b": {"values": [2]}})


@pytest.mark.parametrize(
    "described",
    [{"min": 0.0, "max": 1.0}, {"distribution": "normal"}, {"values": [1, 2], "probabilities": [0.5, 0.5]}],
)
def test_a_grid_of_what_cannot_be_counted_is_refused(described):
    with pytest.raises(SweepError, match="`alpha` to have `values`"):
        grid_of({"alpha": described})
