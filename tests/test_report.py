import base64
import colorsys
import io
import json
import os
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import CLASSES, Plan, gain, identities_at, numbers_of, planted_run, probe_of, record_of, score
from PIL import Image

from lit_decom.records import RunDirectory, RunDirectoryError
from lit_decom.report import find_runs, main, write_report
from lit_decom.report.cards import Findings, cards, pair
from lit_decom.report.charts import Chart, Line, limits_of, nice_ticks
from lit_decom.report.columns import follow_columns, keep_columns
from lit_decom.report.runs import read_run
from lit_decom.report.scores import better_is_higher
from lit_decom.report.timeline import Timeline, events_of

VOID = {"meta", "link", "input", "img", "br", "hr"}
STRATA = ("all", "correct", "incorrect")
APART = {"td", "th", "dt", "dd", "p", "li", "h1", "h2", "h3", "small", "caption", "title", "desc", "figcaption"}


class Page(HTMLParser):
    """Reads a page and fails on what browsers forgive: unclosed and crossed elements, ids given twice."""

    def __init__(self, path):
        super().__init__()
        self.text, self.elements, self._open, self.data = "", [], [], None
        source = path.read_text(encoding="utf-8")
        self.feed(source)
        assert not self._open
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.text += " " if tag == "br" else ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self.text += " " if tag in APART else ""

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside == "script" and self.elements[-1][1].get("id") == "data":
            self.data = json.loads(data)
        elif inside not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(self.text.split())


def report(*run_dirs, **options):
    return Page(write_report(run_dirs, **options))


def maps_of(block, grid):
    levels = np.frombuffer(zlib.decompress(base64.b64decode(block["maps"])), dtype=np.uint8)
    return levels.reshape(-1, *grid)


# ----- one run


@pytest.fixture(scope="module")
def plan():
    return Plan()


@pytest.fixture(scope="module")
def page(tmp_path_factory, plan):
    return report(planted_run(tmp_path_factory.mktemp("runs") / "first", plan))


def test_captions_show_the_planted_gains_energy_and_confidence(page, plan):
    for image, block in enumerate(page.data["runs"][0]["images"]):
        for epoch, tiles in enumerate(block["tiles"]):
            shown = {tile[2]: tile for tile in tiles if tile}
            for rank, name in enumerate(identities_at(plan, epoch)):
                values = torch.arange(plan.n_components, 0, -1).square().float()
                tile = shown[f"no. {name}"]
                assert tile[0] == rank
                assert tile[3] == f"{gain(epoch, image, name):+.2f}"
                assert tile[4] == f"{values[rank] / values.sum() / 1.25:.0%}"
                is_new = epoch == 0 or name not in identities_at(plan, epoch - 1)
                assert tile[5] == ("" if is_new else "0.75")
                assert tile[6] == ("new" if is_new and epoch else "")


def test_a_component_keeps_its_column_when_ranks_swap(page, plan):
    for block in page.data["runs"][0]["images"]:
        columns = [{tile[1]: index for index, tile in enumerate(tiles) if tile} for tiles in block["tiles"]]
        assert columns[0] == {"0": 0, "1": 1, "2": 2}
        assert columns[1] == columns[0]
        assert columns[2] == {"0": 0, "1": 1, "3": 2}  # born into the column of the one that ended


def test_maps_survive_as_eight_bits_with_their_maximum(page, plan):
    record = record_of(plan, 1)
    block = page.data["runs"][0]["images"][2]
    maps = maps_of(block, plan.grid)
    per_firing = 1 + plan.n_components
    expected = torch.cat([record.decomposition.cam[2, None], record.decomposition.ossms[2]])
    found = torch.from_numpy(maps[per_firing : 2 * per_firing].copy()).float() / 255
    limits = torch.tensor(block["limits"][1])[:, None, None]
    assert torch.allclose(found * limits, expected, atol=float(limits.max()) / 255)
    assert block["shared"][1] == pytest.approx(record_of(plan, 2).decomposition.ossms[2].max().item(), rel=1e-3)


def test_images_are_shown_as_they_are(page, plan):
    expected = probe_of(plan).images
    for attributes in page.all("img")[1:]:  # the first one is the still picture for those without scripts
        picture = Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1])))
        shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        assert (shown - expected[int(attributes["data-row"])]).abs().mean() < 0.03


def test_the_last_scores_stand_in_the_table(page):
    head, first, second = re.split(
        "energy pointing game ↑|average drop ↓", page.words.split("Scores at epoch 2, step 30")[1]
    )
    assert head.split("score", 1)[1].split("correct less")[0].split() == (
        [
            "all",
            "(n",
            "=",
            "4)",
            "correct",
            "(n",
            "=",
            "3)",
            "incorrect",
            "(n",
            "=",
            "1)",
            "fixed",
            "correct",
            "(n",
            "=",
            "2)",
            "random",
            "maps",
            "a",
            "centred",
            "blob",
            "grad",
            "CAM",
        ]
    )
    own = [f"{score(2, name):.3f} {score(2, name) - 0.0625:.3f} to {score(2, name) + 0.0625:.3f}" for name in STRATA]
    assert first.split() == " ".join([*own, "0.719", "0.250", "0.375", "0.438", "+0.312"]).split()
    assert second.split()[:5] == [*(f"{score(2, name):.3f}" for name in STRATA), "\N{EN DASH}", "0.250"]


def test_losing_to_chance_is_said_in_a_sentence(page):
    assert "does not beat chance in 1 of 3 comparisons" in page.words
    assert "average drop: 0.562 against 0.250 of random maps." in page.words


def test_beating_chance_is_said_only_outside_the_interval(tmp_path):
    plan = Plan()
    numbers = {key: value for key, value in numbers_of(plan, 2).items() if not key.startswith("average_drop")}
    won = planted_run(tmp_path / "won", plan, records={2: record_of(plan, 2, numbers=numbers)})
    assert "beats chance in all 2 comparisons (1 scores)" in report(won).words
    close = numbers | {"energy_pointing_game/all/center_map": score(2, "all") - 0.03125}
    near = planted_run(tmp_path / "near", plan, records={2: record_of(plan, 2, numbers=close)})
    assert "0.562 against 0.531 of a centred blob, which is within the interval." in report(near).words


def test_settings_cost_and_answers_are_named(page, plan):
    settings = record_of(plan, 0).settings
    for expected in (settings["method"], settings["target_layer"], settings["probe_digest"]):
        assert expected in page.text
    assert "1.50 s per firing, 4.5 s in total" in page.words
    assert "4 images, 3 classified right at the end" in page.words
    verdicts = [block["verdicts"][0] for block in page.data["runs"][0]["images"]]
    sure = f"{torch.tensor([3.0, 0, 0, 0]).softmax(0)[0]:.0%}"
    assert verdicts == [f"✓ {sure}"] * 3 + [f"✗ {CLASSES[0]} {sure}"]


def test_gain_curves_are_drawn_by_identity(page, plan):
    curves = [
        attributes["aria-label"]
        for attributes in page.all("svg")
        if "Score gain of" in attributes.get("aria-label", "")
    ]
    assert len(curves) == plan.n_images
    assert f"no. 1: {gain(0, 0, 1):.3g} at epoch 0, {gain(2, 0, 1):.3g} at epoch 2" in page.words
    assert f"no. 2: {gain(0, 0, 2):.3g} at epoch 0, {gain(1, 0, 2):.3g} at epoch 1" in page.words
    ended = [attributes for attributes in page.all("path") if attributes.get("class") == "ended"]
    assert len(ended) == plan.n_images


def test_the_swap_makes_curves_by_rank_change_more(page):
    # by identity every gain moves by 0.25; by rank two of three also swap, by 0.75
    assert "changes by 0.25 on average; by rank it would be" in page.words
    by_rank = float(re.search(r"by rank it would be (\d\.\d\d)", page.words)[1])
    assert by_rank > 0.5


def test_births_and_deaths_are_counted_on_the_time_line(page, plan):
    assert f"epoch 2 · step 30: {plan.n_images} born, {plan.n_images} ended, 0 turned" in page.words
    assert "epoch 0 · step 10:" not in page.words  # where everything is new, nothing is


def test_exemplars_follow_the_firings(page, plan):
    frames = page.data["runs"][0]["shared"]
    assert frames[0][0][:3] == ["a0", "shared 0", "50.0%"]
    assert [crop[1:] for crop in frames[2][1][3]] == [[6, 6, 30, 30]] * 3


def test_everything_from_outside_is_escaped(page):
    # the parser would have met a script element of the class name
    assert [attributes.get("type") for attributes in page.all("script")] == ["application/json", None]
    assert "cat <script>alert('x')</script> · image 1" in page.text
    assert 'dog "rex" · image 3' in [attributes.get("alt") for attributes in page.all("img")]


def test_nothing_is_fetched(page):
    policy = next(attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:;")
    addresses = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_every_picture_has_a_text(page):
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("aria-label") for attributes in page.all("canvas"))
    silent = [attributes for attributes in page.all("svg") if "aria-label" not in attributes]
    assert all(attributes.get("aria-hidden") == "true" for attributes in silent)


def test_headings_go_down_one_level_at_a_time(page):
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_a_quickstart_stays_below_three_megabytes(tmp_path):
    plan = Plan(n_epochs=10, n_images=64, n_components=8, grid=(14, 14), size=(112, 112))
    generator = torch.Generator().manual_seed(0)
    noisy = {}
    for epoch in range(plan.n_epochs):  # noise cannot be compressed
        record = record_of(plan, epoch)
        noisy[epoch] = replace(record, patterns=torch.rand(record.patterns.shape, generator=generator).half())
    assert write_report([planted_run(tmp_path / "run", plan, records=noisy)]).stat().st_size < 3_000_000


# ----- what may be missing


def test_one_firing_is_reported_without_a_time_line(tmp_path):
    page = report(planted_run(tmp_path / "run", Plan(n_epochs=1)))
    assert "There is one firing only" in page.words
    assert "disabled" in next(attributes for attributes in page.all("input") if attributes.get("id") == "slider")


def test_an_untracked_run_is_shown_by_rank_and_says_so(tmp_path):
    plan = Plan(tracked=False)
    page = report(planted_run(tmp_path / "run", plan))
    assert "was not tracked: its columns and curves are by rank" in page.words
    tiles = page.data["runs"][0]["images"][0]["tiles"][1]
    assert [tile[2] for tile in tiles] == ["rank 1", "rank 2", "rank 3"]
    assert [tile[3] for tile in tiles] == [f"{gain(1, 0, name):+.2f}" for name in identities_at(plan, 1)]


def test_a_run_without_scores_or_shared_components_says_so(tmp_path):
    page = report(planted_run(tmp_path / "run", Plan(scored=False, shared=0)))
    assert "No stratified scores were logged." in page.words
    assert "No shared components were recorded." in page.words


def test_broken_records_are_left_out_and_counted(tmp_path):
    path = planted_run(tmp_path / "run", Plan(n_epochs=5))
    files = RunDirectory(path).files()
    files[1].write_bytes(files[1].read_bytes()[:500])
    files[3].write_bytes(b"")
    page = report(path)
    assert "2 records of 5 could not be read and are left out." in page.words
    assert files[1].name in page.text
    assert page.data["labels"] == ["epoch 0 · step 10", "epoch 2 · step 30", "epoch 4 · step 50"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": torch.zeros(4, 2)}, "`scores` does not fit to the rest"),
        ({"valid": torch.ones(4, dtype=torch.bool)}, "`valid` is not (n, K)"),
        ({"ids": ("a", "b", "c", "d")}, "it is of other images"),
        ({"numbers": [1.0]}, "its numbers or settings are missing"),
        ({"identities": torch.zeros(4, 3, 2)}, "`identities` is not (n, K)"),
    ],
)
def test_a_record_that_does_not_fit_is_left_out(tmp_path, changes, reason):
    plan = Plan()
    path = planted_run(tmp_path / "run", plan, records={1: record_of(plan, 1, **changes)})
    page = report(path)
    assert "1 record of 3 could not be read and is left out." in page.words
    assert reason in page.words
    assert len(page.data["labels"]) == 2


def test_a_record_of_another_layer_is_left_out(tmp_path):
    plan = Plan()
    other = record_of(replace(plan, grid=(5, 5), shared=0), 0)
    page = report(planted_run(tmp_path / "run", plan, records={0: other}))
    assert "its components are 3 x 5 x 5, those of the last record 3 x 7 x 7." in page.words


def test_images_that_are_not_finite_are_named_and_spoil_nothing(tmp_path):
    plan = Plan(shared=0, tracked=False)
    record = record_of(plan, 2)
    spoilt = {
        name: getattr(record, name).clone()
        for name in ("patterns", "singular_values", "scores", "contributions", "valid")
    }
    for name, value in spoilt.items():
        value[0] = False if name == "valid" else torch.nan
    logits = record.logits.clone()
    logits[0] = torch.nan
    record = replace(
        record, **spoilt, logits=logits, energy=record.energy.clone().index_fill(0, torch.tensor(0), torch.nan)
    )
    page = report(planted_run(tmp_path / "run", plan, records={2: record}))
    first, second = page.data["runs"][0]["images"][:2]
    assert first["limits"][2][0] is None
    assert first["tiles"][2] == [None, None, None]
    assert first["verdicts"][2] == "the network's answer is not finite"
    assert None not in second["limits"][2]


def test_without_its_probe_a_run_is_shown_without_images(tmp_path):
    path = planted_run(tmp_path / "run")
    (path / "probe.npz").write_bytes(b"nothing")
    page = report(path)
    assert "maps are shown without their images" in page.words
    assert len(page.all("img")) == 1  # the still picture for those without scripts
    assert "class 0 · image 0" in page.text


@pytest.mark.parametrize("text", [None, "{", "[]", '{"run_id": "x"}', '{"run_id": "x", "settings": 3}'])
def test_without_its_run_file_a_run_is_shown_with_a_note(tmp_path, text):
    path = planted_run(tmp_path / "run")
    (path / "run.json").unlink()
    if text is not None:
        (path / "run.json").write_text(text)
    page = report(path)
    assert "settings are those of the last record" in page.words
    assert "backbone.layer3" in page.text


def test_records_with_and_without_identities_are_shown_by_rank(tmp_path):
    plan = Plan()
    untracked = record_of(replace(plan, tracked=False), 0)
    page = report(planted_run(tmp_path / "run", plan, records={0: untracked}))
    assert "was not tracked" in page.words


def test_several_firings_in_one_epoch_are_told_apart(tmp_path):
    plan = Plan()
    path = planted_run(tmp_path / "run", plan)
    replace(record_of(plan, 1), step=25).save(path)
    page = report(path)
    assert page.data["labels"][1:3] == ["epoch 1, firing 1 · step 20", "epoch 1, firing 2 · step 25"]


def test_settings_of_nested_values_are_written_out(tmp_path):
    plan = Plan()
    records = {2: record_of(plan, 2)}
    records[2] = replace(
        records[2], settings={**records[2].settings, "metrics": ["One()", "Two()"], "chunk_size": None}
    )
    page = report(planted_run(tmp_path / "run", plan, records=records))
    assert "metrics One() Two()" in page.words
    assert "chunk size default" in page.words


# ----- which runs


def test_runs_are_found_from_above_newest_first(tmp_path):
    old, new = planted_run(tmp_path / "a" / "decomcam"), planted_run(tmp_path / "b" / "decomcam")
    for file in old.iterdir():
        os.utime(file, (1, 1))
    assert find_runs(tmp_path) == [new, old]
    assert find_runs(tmp_path / "a") == [old]
    assert find_runs(old) == [old]
    assert read_run(tmp_path / "a").name == "a"


def test_the_folder_above_a_run_does_as_well(tmp_path):
    path = planted_run(tmp_path / "a" / "decomcam")
    assert write_report([tmp_path / "a"]) == path / "report.html"


def test_of_several_runs_one_must_be_chosen(tmp_path):
    planted_run(tmp_path / "a"), planted_run(tmp_path / "b")
    with pytest.raises(RunDirectoryError, match="it holds 2: choose one of"):
        write_report([tmp_path])


@pytest.mark.parametrize("content", ["missing", "empty", "foreign"])
def test_what_is_no_run_is_refused(tmp_path, content):
    path = tmp_path / "somewhere"
    if content != "missing":
        path.mkdir()
    if content == "foreign":
        (path / "run.json").write_text('{"program": "another"}')
        np.savez(path / "step-1.npz", a=np.zeros(1))
    with pytest.raises(RunDirectoryError, match="to be a run directory, but"):
        write_report([path])


def test_a_run_without_any_whole_record_is_refused(tmp_path):
    path = planted_run(tmp_path / "run", Plan(n_epochs=2))
    for file in RunDirectory(path).files():
        file.write_bytes(b"half")
    with pytest.raises(RunDirectoryError, match="2 records of 2 could not be read"):
        write_report([path])


def test_a_run_that_has_not_fired_yet_is_refused(tmp_path):
    path = planted_run(tmp_path / "run", Plan(n_epochs=0))
    with pytest.raises(RunDirectoryError, match="none yet"):
        write_report([path])


def test_wrong_numbers_are_refused(tmp_path):
    path = planted_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"`run_dirs` to be one run or two, but got 0"):
        write_report([])
    with pytest.raises(ValueError, match=r"`n_drawn` to be at least 1, but got 0"):
        write_report([path], n_drawn=0)


def test_only_as_many_images_are_drawn_as_asked_for(tmp_path):
    page = report(planted_run(tmp_path / "run"), n_drawn=2)
    assert len(page.all("article")) == 2


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    path = planted_run(tmp_path / "run")
    output = tmp_path / "new" / "page.html"
    assert main([str(path), "--output", str(output)]) == output
    assert capsys.readouterr().out == f"{output}\n"
    assert [file.name for file in output.parent.iterdir()] == ["page.html"]


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "there is no such folder" in capsys.readouterr().err


# ----- two runs


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
    pairs = pair(Findings.of(first), Findings.of(second), (1, 2))
    # component 2 of the first has ended in the second, where 3 was born
    assert list(pairs.partners) == [{0: 0, 1: 1}] * plan.n_images
    page = report(first.path, second.path)
    assert page.data["matched"]
    first_tiles = page.data["runs"][0]["images"][0]["tiles"][0]
    assert [tile[7] for tile in first_tiles] == ["B no. 0 · 1.00", "B no. 1 · 1.00", ""]
    assert {tile[1] for tile in page.data["runs"][1]["images"][0]["tiles"][1]} == {"0", "1", "b2"}


def test_two_runs_share_their_scales(tmp_path):
    plan = Plan()
    first = planted_run(tmp_path / "first", plan)
    shifted = record_of(plan, 2, scores=record_of(plan, 2).scores + 10)
    second = planted_run(tmp_path / "second", replace(plan, run_id="second"), records={2: shifted})
    runs = [read_run(path) for path in (first, second)]
    for card in cards([Findings.of(run) for run in runs], Timeline.of(runs), [0], None):
        assert card.blocks[0].chart.limits == card.blocks[1].chart.limits
        assert card.blocks[0].n_columns == card.blocks[1].n_columns


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


# ----- the parts


def test_columns_are_never_shared_at_one_firing():
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


def test_directions_are_those_of_the_metrics(tmp_path):
    run = read_run(planted_run(tmp_path / "run"))
    assert better_is_higher(run, "energy_pointing_game") is True
    assert better_is_higher(run, "average_drop") is False
    assert better_is_higher(run, "deletion_auc_16") is False
    assert better_is_higher(run, "effective_rank") is None
    assert better_is_higher(run, "my_own") is None
    said = replace(run, settings={"higher_is_better": {"my_own": False}})
    assert better_is_higher(said, "my_own") is False


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


# ----- the style sheet


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
