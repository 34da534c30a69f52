"""Scores as people and programs read them."""

import csv
import io
import json
import math

import pytest
from rich.console import Console

from lit_decom.scores import Score
from lit_decom.tables import ScoreTable, write_scores

SCORES = [
    Score("mask_iou", "all", "", 0.5, 12, 2, (0.4, 0.7), higher_is_better=True),
    Score("mask_iou", "fixed_correct", "", 0.123, 12),
    Score("mask_iou", "all", "grad_cam", 0.25, 12, 0, (0.2, 0.3), (-0.1, 0.1), higher_is_better=True),
    Score("mask_iou", "all", "random_map", 0.3, 12, 0, (0.2, 0.4), (0.1, 0.3), higher_is_better=True),
    Score("part_purity", "all", "", 0.75, 4, higher_is_better=True),
    Score("part_purity", "all", "random_basis", 0.625, 4, higher_is_better=True),
    Score("entropy", "all", "", 0.9, 12, higher_is_better=False),
    Score("settled_at", "all", "", math.nan, 12, 12, higher_is_better=False),
]


def printed(width, scores=SCORES):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(ScoreTable(scores, caption="how"))
    return console.export_text().splitlines()


def below(lines, heading):
    return lines[lines.index(heading) + 1].split()


def test_every_value_stands_beside_chance_with_its_reach_and_its_mark():
    lines = printed(80)
    # The farther end of the interval: 0.7 is 0.2 away, 0.4 only 0.1.
    assert below(lines, "mask_iou ↑") == ["all", "10/12", "0.500±0.200", "0.250±0.050", "✗", "0.300±0.100"]
    # Of too few images there is neither a reach nor a mark, and what is not there is a dash.
    assert below(lines, "part_purity ↑") == ["all", "4", "0.750", "-", "0.625"]
    assert below(lines, "entropy ↓") == ["all", "12", "0.900", "-", "-"]
    assert "0.123" not in " ".join(lines), "the strata of the reference epoch are for curves"


def test_chance_of_two_kinds_shares_a_column_that_names_both():
    lines = printed(80)
    assert lines[0].split() == ["random_map"]
    assert lines[1].split() == ["images", "DecomCAM", "grad_cam", "random_basis"]
    both = [*SCORES, Score("mask_iou", "all", "random_basis", 0.1, 12)]
    assert printed(80, both)[0].split()[-2:] == ["random_map", "random_basis"], "both have a value there"


def test_undefined_rows_are_folded_and_marks_explained():
    text = " ".join(printed(80))
    assert "Defined for no image: settled_at." in text
    assert text.count("settled_at") == 1
    for sign in ("✗ DecomCAM is not better", "± reaches", "↑ higher is better"):
        assert sign in text


@pytest.mark.parametrize("width", [30, 40, 50, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_value_is_cut(width):
    lines = printed(width)
    assert max(map(len, lines)) <= width
    assert {"0.500±0.200", "0.250±0.050", "0.300±0.100", "0.750", "0.625"} <= set(" ".join(lines).split())


def test_a_narrow_terminal_has_a_line_for_each_explanation():
    lines = printed(40)
    at = lines.index("mask_iou ↑")
    assert [line.split() for line in lines[at + 1 : at + 5]] == [
        ["all", "(10/12)"],
        ["DecomCAM", "0.500±0.200"],
        ["grad_cam", "0.250±0.050", "✗"],
        ["random_map", "0.300±0.100"],
    ]


def test_nothing_defined_is_said():
    assert any("Defined for no image: settled_at" in line for line in printed(80, SCORES[-1:]))


def test_a_file_holds_every_score_with_both_ends(tmp_path):
    write_scores(SCORES, tmp_path / "s.json", {"method": "m"})
    write_scores(SCORES, tmp_path / "s.csv", {"method": "m"})
    kept = json.loads((tmp_path / "s.json").read_text())
    assert kept["settings"] == {"method": "m"}
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(kept["scores"]) == len(rows) == len(SCORES)
    for told, row, score in zip(kept["scores"], rows, SCORES, strict=True):
        assert told["explanation"] == row["explanation"] == (score.explanation or "DecomCAM")
        assert (told["low"], told["high"]) == (score.interval or (None, None))
        assert row["low"] == ("" if score.interval is None else str(score.interval[0]))
        assert told["value"] == (score.value if score.is_defined else None), "JSON has no NaN"
        assert row["value"] == (str(score.value) if score.is_defined else "")
    with pytest.raises(ValueError, match=r"to end in \.json or \.csv, but got .*s\.txt"):
        write_scores(SCORES, tmp_path / "s.txt", {})
