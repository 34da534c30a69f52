import json
import math

import pytest

from lit_decom.sweep import SweepError
from lit_decom.sweep.space import covering_points, grid_points, nested, random_point, read_parameters, refuse_empty

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


def test_a_grid_goes_through_all_combinations_the_last_parameter_fastest():
    parameters = read_parameters({"a": {"values": [1, 2]}, "b": {"min": 0, "max": 1}, "c": {"value": None}})
    points = [tuple(point.values()) for point in grid_points(parameters)]
    assert points == [(1, 0, None), (1, 1, None), (2, 0, None), (2, 1, None)]


def test_quantized_values_are_counted_from_the_least():
    parameters = read_parameters({"p": {"distribution": "q_uniform", "min": 0.1, "max": 0.75, "q": 0.3}})
    assert [point["p"] for point in grid_points(parameters)] == pytest.approx([0.1, 0.4, 0.7])


def test_draws_stay_in_their_ranges_and_fill_them():
    points = [random_point(ALL, seed=0, number=number) for number in range(300)]
    assert {point["k"] for point in points} == {1, 2, 3}
    assert {json.dumps(point["kind"]) for point in points} == {'"a"', "null", "[1, 2]"}
    assert {point["p"] for point in points} == {0, 0.25, 0.5, 0.75, 1}
    assert {point["fixed"] for point in points} == {True}
    assert all(0.5 <= point["alpha"] <= 1.5 and 1e-4 <= point["lr"] <= 1e-1 for point in points)
    assert all(math.exp(-4) <= point["decay"] <= math.exp(-2) for point in points)
    below = sum(point["lr"] < 10**-2.5 for point in points)  # the middle of the range in logarithms
    assert 120 < below < 180


def test_a_draw_depends_on_the_seed_and_the_number_only():
    assert random_point(ALL, 3, 5) == random_point(ALL, 3, 5)
    assert len({json.dumps(random_point(ALL, seed, number)) for seed in (0, 1) for number in range(5)}) == 10


def test_nested_parameters_become_nested_values():
    point = next(iter([random_point(ALL, 0, 0)]))
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
    optuna = pytest.importorskip("optuna", reason="needs the extra `sweep`")
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
        ({"x": {"values": []}}, "at least one value"),
        ({"x": {"min": 1}}, "`value`, `values`, or `min` and `max`, but got `min`"),
        ({"x": {"min": 2, "max": 2}}, "less than `max`"),
        ({"x": {"min": "1e-4", "max": 1}}, "Write 1.0e-4"),
        ({"x": {"min": True, "max": 3}}, "finite number, but got True"),
        ({"x": {"min": 0.0, "max": float("inf")}}, "finite number"),
        ({"x": {"distribution": "log_uniform_valuse", "min": 1, "max": 2}}, "Did you mean `log_uniform_values`"),
        ({"x": {"distribution": "log_uniform_values", "min": 0, "max": 2}}, "positive"),
        ({"x": {"distribution": "int_uniform", "min": 0, "max": 2.5}}, "integers"),
        ({"x": {"distribution": "q_uniform", "min": 0, "max": 2, "q": 3}}, "`q` of `x`"),
        ({"x": {"values": [1, 2], "probabilities": [0.5, 0.5]}}, "`values`, but got `probabilities`, `values`"),
        ({"net": {"parameters": {}}}, "`parameters` of `net`"),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_name(described, told):
    with pytest.raises(SweepError) as raised:
        read_parameters(described)
    assert told in str(raised.value)


def test_a_space_of_one_point_is_empty():
    with pytest.raises(SweepError, match="nothing varies: `a`, `b`"):
        refuse_empty(read_parameters({"a": {"value": 1}, "b": {"values": [2]}}))


def test_a_grid_of_a_continuous_range_is_refused():
    with pytest.raises(SweepError, match="`alpha` to have `values`"):
        list(grid_points(read_parameters({"alpha": {"min": 0.0, "max": 1.0}})))
