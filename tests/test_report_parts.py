import colorsys
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_decom.records import RunDirectory, RunDirectoryError
from lit_decom.report import write_report
from lit_decom.report.cards import RunFindings, cards, pair
from lit_decom.report.charts import Chart, Line, interval_text, limits_of, nice_ticks, value_text
from lit_decom.report.columns import follow_columns, keep_columns
from lit_decom.report.pictures import common_limit
from lit_decom.report.runs import read_run
from lit_decom.report.timeline import Timeline, events_of
from tests.helpers.page import report
from tests.helpers.runs import Plan, planted_run, record_of


def test_partners_of_two_runs_have_the_same_column_and_key(tmp_path):
    plan = Plan()
    first = planted_run(tmp_path / "first", plan)
    second = planted_run(tmp_path / "second", replace(plan, turned=True, run_id="second"))
    # turned: the ranks the other way round and each pattern negated, which matching must see through
    page = report(first, second, match_epoch=1)
    assert "at epoch 1: 12 of 12 have a partner in the other run, with a mean similarity of 1.00" in page.words
    for mine, theirs in zip(*(run["images"] for run in page.data["runs"]), strict=True):
        for epoch in (0, 1):
            assert [tile[1] for tile in mine["tiles"][epoch]] == [tile[1] for tile in theirs["tiles"][epoch]]
            assert [tile[2] for tile in mine["tiles"][epoch]] == [tile[2] for tile in theirs["tiles"][epoch]]


def test_components_without_a_partner_get_a_key_of_their_own(tmp_path):
    plan = Plan()
    first, second = read_run(planted_run(tmp_path / "a", plan)), read_run(planted_run(tmp_path / "b", plan))
    pairs = pair(RunFindings.of(first), RunFindings.of(second), (1, 2))
    # component 2 of the first has ended in the second, where 3 was born
    assert list(pairs.partners) == [{0: 0, 1: 1}] * plan.n_images
    page = report(first.path, second.path)
    assert page.data["matched"]
    first_tiles = page.data["runs"][0]["images"][0]["tiles"][0]
    assert [tile[7] for tile in first_tiles] == ["B component 01 · 1.00", "B component 02 · 1.00", ""]
    assert {tile[1] for tile in page.data["runs"][1]["images"][0]["tiles"][1]} == {"0", "1", "b2"}


def test_two_runs_share_their_scales(tmp_path):
    plan = Plan()
    first = planted_run(tmp_path / "first", plan)
    shifted = record_of(plan, 2, scores=record_of(plan, 2).scores + 10)
    second = planted_run(tmp_path / "second", replace(plan, run_id="second"), records={2: shifted})
    runs = [read_run(path) for path in (first, second)]
    for card in cards([RunFindings.of(run) for run in runs], Timeline.of(runs), [0], None):
        assert card.blocks[0].chart.limits == card.blocks[1].chart.limits
        assert card.blocks[0].n_columns == card.blocks[1].n_columns


def test_the_common_scale_leaves_nine_of_ten_maps_below_it(tmp_path):
    plan = Plan(n_images=6)
    page = report(planted_run(tmp_path / "a", plan), planted_run(tmp_path / "b", replace(plan, run_id="b")))
    every = [record_of(plan, epoch).decomposition for epoch in range(plan.n_epochs)] * 2
    maps = [each.cam[row].max().item() for each in every for row in range(6)]
    components = [each.ossms[row].max().item() for each in every for row in range(6)]
    # patterns are kept in half precision
    assert page.data["common"] == pytest.approx([np.percentile(maps, 90), np.percentile(components, 90)], rel=2e-3)


def test_maps_that_are_not_finite_have_no_part_in_the_common_scale():
    assert common_limit(torch.tensor([*range(11), float("nan"), float("inf")])) == 9.0
    assert common_limit(torch.tensor([float("nan")])) == 0.0
    assert common_limit(torch.zeros(0)) == 0.0


def test_shared_components_of_two_runs_are_kept_apart(tmp_path):
    page = report(planted_run(tmp_path / "a"), planted_run(tmp_path / "b", Plan(run_id="b")))
    keys = [{item[0] for item in run["shared"][0]} for run in page.data["runs"]]
    assert keys == [{"a0", "a1"}, {"b0", "b1"}]
    assert "Those of the two runs are not matched" in page.words


def test_runs_of_different_probes_are_refused(tmp_path):
    first = planted_run(tmp_path / "first", Plan())
    second = planted_run(tmp_path / "second", Plan(n_images=5))
    with pytest.raises(RunDirectoryError, match="Expected both runs to explain the same probe"):
        write_report([first, second])


def test_runs_that_fired_at_other_epochs_are_laid_out_on_one_line(tmp_path):
    plan = Plan(n_epochs=3)
    often = planted_run(tmp_path / "often", plan)
    rarely = planted_run(tmp_path / "rarely", replace(plan, run_id="rarely"))
    for file in RunDirectory(rarely).files()[:2]:
        file.unlink()
    timeline = Timeline.of([read_run(often), read_run(rarely)])
    assert timeline.labels == ("epoch 0", "epoch 1", "epoch 2")
    assert timeline.frames == ((0, 1, 2), (None, None, 0))
    assert timeline.common() == (2, 0)
    assert timeline.common(0) is None
    with pytest.raises(RunDirectoryError, match="`match_epoch`"):
        write_report([often, rarely], match_epoch=0)
    assert write_report([often, rarely]).name == "report_rarely.html"


def test_runs_without_a_common_epoch_or_grid_are_shown_unmatched(tmp_path):
    plan = Plan(n_epochs=2)
    first = planted_run(tmp_path / "first", plan)
    second = planted_run(tmp_path / "second", replace(plan, run_id="second"))
    RunDirectory(first).files()[1].unlink()
    RunDirectory(second).files()[0].unlink()
    assert "no epoch in common" in report(first, second).words
    third = planted_run(tmp_path / "third", replace(plan, grid=(5, 5), run_id="third"))
    assert "different grids" in report(second, third).words


def test_columns_are_never_shared_at_one_snapshot():
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        names = torch.stack([torch.randperm(9, generator=generator)[:4] for _ in range(6)])
        columns = keep_columns(names)
        first = {name: next(t for t, row in enumerate(names.tolist()) if name in row) for name in columns}
        last = {name: max(t for t, row in enumerate(names.tolist()) if name in row) for name in columns}
        alive = [[name for name in columns if first[name] <= t <= last[name]] for t in range(6)]
        assert all(len({columns[name] for name in now}) == len(now) for now in alive)
        assert max(columns.values()) + 1 == max(map(len, alive))  # and no more columns than that needs


def test_following_exchanges_columns_one_for_one():
    columns = {10: 0, 11: 1, 12: 2, 13: 1}
    moved = follow_columns(columns, {10: 2, 11: 0})
    assert moved == {10: 2, 11: 0, 12: 1, 13: 0}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.2, 4.4, [-2.0, 0.0, 2.0, 4.0]),
        (0.001, 0.0042, [0.001, 0.002, 0.003, 0.004]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert nice_ticks(low, high, most=6 if high == 1.0 else 5) == pytest.approx(expected)


def test_a_line_breaks_where_there_is_no_value():
    line = Line("a", (1.0, 2.0, None, 3.0), "c0")
    chart = Chart("", (line,), (0, 1, 2, 3), ("epoch 0", "epoch 1", "epoch 2", "epoch 3"), (0.0, 4.0))
    pieces = chart.points(line)
    assert [len(piece) for piece in pieces] == [2, 1]
    assert chart.dots(line) == [(chart.right, chart.y(3.0))]
    assert chart.y(0.0) == chart.bottom
    assert chart.y(4.0) == chart.top
    assert chart.x(0) == chart.left


def test_a_line_goes_on_where_another_run_fired_alone():
    line = Line("a", (1.0, 2.0), "c0")
    chart = Chart("", (line,), (0, 2), ("epoch 0", "epoch 1", "epoch 2"), (0.0, 4.0))
    assert chart.path(line) == f"M{chart.left} {chart.y(1.0):g}L{chart.right} {chart.y(2.0):g}"


@pytest.mark.parametrize("values", [(0.0,), (5.0, 5.0), (1e-12,), (-2.0,)])
def test_limits_have_room_for_values_that_do_not_change(values):
    low, high = limits_of([Line("a", values, "c0")])
    assert low < min(values) < high or low == min(values) == 0.0
    assert high - low > 0


def test_events_leave_out_images_seen_for_the_first_time(tmp_path):
    plan = Plan()
    late = record_of(plan, 0)
    unseen = late.identities.clone()
    unseen[0] = -1
    births = record_of(plan, 1).births.clone()
    births[0] = True
    records = {0: replace(late, identities=unseen), 1: replace(record_of(plan, 1), births=births)}
    counted = events_of(read_run(planted_run(tmp_path / "run", plan, records=records)))
    assert [event.born for event in counted] == [0, 0, plan.n_images]


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (0.0012345, None, "0.0012"),
        (123.456, None, "123"),
        (0.73149, (0.682, 0.781), "0.731 (0.682 to 0.781)"),
        (0.5, (0.2, 0.8), "0.50 (0.20 to 0.80)"),
        (0.98765, (0.98761, 0.98769), "0.987650 (0.987610 to 0.987690)"),
        (31.6, (20.0, 43.0), "32 (20 to 43)"),
        (1.0, (1.0, 1.0), "1.000 (1.000 to 1.000)"),
        (None, None, "\N{EN DASH}"),
    ],
)
def test_numbers_have_as_many_digits_as_their_interval_can_tell_apart(value, interval, expected):
    ends = "" if interval is None else f" ({interval_text(interval)})"
    assert value_text(value, interval) + ends == expected


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_texts_and_lines_stand_out_in_light_and_dark(scheme):
    style = (Path(write_report.__code__.co_filename).parents[1] / "templates" / "report.css").read_text()
    colours = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)}
    shown = {name: pair[scheme] for name, pair in colours.items()}
    for ground in ("page", "card", "warn"):
        assert contrast(shown["ink"], shown[ground]) >= 7
        assert contrast(shown["quiet"], shown[ground]) >= 4.5
    # captions are written in these, too
    for name in ("accent", *(f"c{index}" for index in range(10))):
        assert contrast(shown[name], shown["card"]) >= 4.5, name
    hues = [colorsys.rgb_to_hsv(*(int(shown[f"c{i}"][j : j + 2], 16) / 255 for j in (1, 3, 5)))[0] for i in range(10)]
    assert len({round(hue, 2) for hue in hues}) == 10
