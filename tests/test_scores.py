"""Scores survive JSON, and rows find their image and their stratum."""

import json
import math

import pytest
import torch

from lit_decom.scores import RowTable, Score, numbers_of


def score(**known):
    return Score(**({"metric": "gini", "stratum": "all", "explanation": "", "value": 0.5, "n": 12} | known))


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"interval": (0.4, 0.6), "higher_is_better": True, "always_there": True},
        {"explanation": "random_map", "paired_difference": (-0.1, 0.1), "higher_is_better": False, "undefined": 3},
    ],
)
def test_a_score_is_the_same_after_json(known):
    before = score(**known)
    assert Score.from_dict(json.loads(json.dumps(before.as_dict()))) == before


@pytest.mark.parametrize(
    ("ends", "beaten"),
    [((0.1, 0.2), True), ((0.0, 0.2), False), ((-0.1, 0.2), False), ((-2.0, -1.0), False), (None, None)],
)
def test_a_baseline_is_beaten_where_the_whole_interval_is_above_zero(ends, beaten):
    assert score(paired_difference=ends).is_beaten is beaten


def test_numbers_are_values_counts_and_what_is_undefined():
    scores = [
        score(undefined=2),
        score(stratum="incorrect", value=math.nan, n=4, undefined=4),
        score(stratum="gap", value=-0.25, n=12),
        score(explanation="grad_cam", value=0.25),
    ]
    assert numbers_of(scores) == {
        "gini/all": 0.5,
        "gini/gap": -0.25,
        "gini/all/grad_cam": 0.25,
        "count/all": 12.0,
        "count/incorrect": 4.0,
        "undefined/gini": 2.0,
    }


def table(ids, codes, **columns):
    rows = {(name, ""): torch.tensor(values)[:, None] for name, values in columns.items()}
    return RowTable(tuple(ids), torch.tensor(codes), rows, ("correct", "incorrect"))


def test_tables_are_joined_below_one_another_and_brought_into_order():
    joined = RowTable.joined([table("ac", [0, 1], gini=[1.0, 3.0]), table("b", [-1], gini=[2.0])]).ordered("abc")
    assert joined.ids == ("a", "b", "c")
    assert joined.codes.tolist() == [0, -1, 1]
    assert joined.columns["gini", ""].flatten().tolist() == [1.0, 2.0, 3.0]
    assert joined.names_by_id() == {"a": "correct", "c": "incorrect"}


def test_a_column_that_one_part_lacks_is_left_out():
    joined = RowTable.joined([table("a", [0], gini=[1.0], energy=[1.0]), table("b", [0], gini=[2.0])])
    assert set(joined.columns) == {("gini", "")}


def test_strata_are_named_and_fixed_ones_follow():
    found = table("abcd", [1, 0, -1, 1], gini=[0.0] * 4).strata({"a": "correct", "d": "incorrect", "c": "correct"})
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "all": [0, 1, 2, 3],
        "correct": [1],
        "incorrect": [0, 3],
        "fixed_correct": [0, 2],
        "fixed_incorrect": [3],
    }


def test_strata_without_images_may_be_kept_and_those_without_names_are_numbers():
    few = table("a", [0], gini=[1.0])
    assert set(few.strata()) == {"all", "correct"}
    assert set(few.strata(keep_empty=True)) == {"all", "correct", "incorrect"}
    assert set(RowTable((), torch.tensor([7, 2]), {}).strata()) == {"all", "2", "7"}
