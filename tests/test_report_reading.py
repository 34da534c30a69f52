import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_decom.cli import main
from lit_decom.records import RecordLayoutError, RunDirectory, RunDirectoryError
from lit_decom.render import figures
from lit_decom.report import find_runs, write_report
from lit_decom.report.runs import read_run
from tests.helpers.page import report
from tests.helpers.runs import Plan, gain, identities_at, in_old_layout, planted_run, record_of


def test_one_snapshot_is_reported_without_a_time_line(tmp_path):
    page = report(planted_run(tmp_path / "run", Plan(n_epochs=1)))
    assert "There is one snapshot only" in page.words
    assert "disabled" in next(attributes for attributes in page.all("input") if attributes.get("id") == "slider")


def test_an_untracked_run_is_shown_by_rank_and_says_so(tmp_path):
    plan = Plan(tracked=False)
    page = report(planted_run(tmp_path / "run", plan))
    assert "was not tracked: its columns and curves are by rank" in page.words
    tiles = page.data["runs"][0]["images"][0]["tiles"][1]
    assert [tile[2] for tile in tiles] == ["rank 01", "rank 02", "rank 03"]
    assert [tile[3] for tile in tiles] == [figures(gain(1, 0, name), signed=True) for name in identities_at(plan, 1)]


def test_a_run_without_scores_or_shared_components_says_so(tmp_path):
    page = report(planted_run(tmp_path / "run", Plan(scored=False, shared=0)))
    assert "No scores were recorded." in page.words
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
        ({"numbers": [1.0]}, "`numbers` is not numbers by name: [1.0]"),
        ({"identities": torch.zeros(4, 3, 2, dtype=torch.int64)}, "`identities` is not (n, K)"),
        ({"identities": torch.zeros(4, 3)}, "`identities` holds float32, and not int64"),
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
        name: getattr(record, name).clone() for name in ("patterns", "strengths", "scores", "contributions", "valid")
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


def test_several_snapshots_in_one_epoch_are_told_apart(tmp_path):
    plan = Plan()
    path = planted_run(tmp_path / "run", plan)
    replace(record_of(plan, 1), step=25).save(path)
    page = report(path)
    assert page.data["labels"][1:3] == ["epoch 1, snapshot 1 · step 20", "epoch 1, snapshot 2 · step 25"]


def test_settings_of_nested_values_are_written_out(tmp_path):
    plan = Plan()
    records = {2: record_of(plan, 2)}
    records[2] = replace(
        records[2], settings={**records[2].settings, "metrics": ["One()", "Two()"], "chunk_size": None}
    )
    page = report(planted_run(tmp_path / "run", plan, records=records))
    assert "metrics One() Two()" in page.words
    assert "chunk size default" in page.words


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


def test_a_run_without_a_snapshot_yet_is_refused(tmp_path):
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
    main(["report", str(path), "--output", str(output)])
    assert capsys.readouterr().out == f"{output}\n"
    assert [file.name for file in output.parent.iterdir()] == ["page.html"]


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_run_of_the_old_layout_ends_in_one_message_that_says_what_to_do(tmp_path, capsys):
    path = planted_run(tmp_path / "run")
    for file in RunDirectory(path).files():
        in_old_layout(file)
    with pytest.raises(RecordLayoutError, match=r"None of the 3 records in .* can be read") as refused:
        write_report([path])
    assert str(refused.value).count("lit-decom replay CKPT_DIR --config FILE") == 1
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(path)])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("lit-decom replay CKPT_DIR --config FILE") == 1
    assert "Traceback" not in printed
    assert not (path / "report.html").exists()


def test_records_of_the_old_layout_beside_new_ones_are_left_out_with_one_note(tmp_path):
    path = planted_run(tmp_path / "run", Plan(n_epochs=4))
    for file in RunDirectory(path).files()[:3]:
        in_old_layout(file)
    page = report(path)
    assert "3 records of 4 could not be read and are left out." in page.words
    assert page.words.count("another version of lit-decom wrote it") == 1
