"""What is kept of a snapshot, and the directory it is kept in."""

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import MISSING, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_decom import DecomCAM, Decomposition, Probe, capture
from lit_decom.records import (
    RecordLayoutError,
    RunDirectory,
    RunDirectoryError,
    Snapshot,
    checking,
    displayed,
    files,
    snapshot,
)
from lit_decom.records.exact import exact_probe, keep_exactly
from lit_decom.scores import Score
from tests.helpers.modules import probe, tiny
from tests.helpers.runs import in_old_layout

SETTINGS = {"method": "DecomCAM()", "target_layer": "second"}


@pytest.fixture(scope="module")
def decomposition():
    shown = probe()
    return DecomCAM(n_components=3).decompose(capture(tiny(), "second", shown.images, shown.labels))


@pytest.fixture
def record(decomposition):
    shown = probe()
    return Snapshot.of(
        decomposition,
        epoch=2,
        step=11,
        ids=shown.ids,
        labels=shown.labels,
        targets=shown.labels,
        logits=torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
        numbers={"score_gain/rank_01": 0.5, "seconds/explain": 0.1},
        settings=SETTINGS,
        metric_scores=SCORES,
        dropped={"road": "ValueError('no')"},
    )


SCORES = (
    Score("gini", "all", "", 0.25, 6, interval=(0.125, 0.375), higher_is_better=None, always_there=True),
    Score("gini", "correct", "", float("nan"), 0),
    Score("iou", "all", "grad_cam", 0.5, 6, 1, paired_difference=(-0.5, 0.25), higher_is_better=True),
)


def opened(path, run_id="mine", **arguments):
    directory = RunDirectory(path)
    directory.open(run_id, probe(), SETTINGS, **arguments)
    return directory


# ----- the record


def test_patterns_have_unit_norm_in_half_precision(record):
    assert record.patterns.dtype == torch.float16
    norms = record.patterns.float().flatten(2).norm(dim=2)
    torch.testing.assert_close(norms[record.valid], torch.ones_like(norms[record.valid]), rtol=0, atol=2e-3)
    assert (norms[~record.valid] == 0).all()


def test_a_decomposition_comes_back_to_half_precision(record, decomposition, tmp_path):
    back = Snapshot.load(record.save(tmp_path)).decomposition
    scale = decomposition.strengths[:, :, None, None]
    assert ((back.components - decomposition.components).abs() <= 5e-4 * scale + 1e-12).all()
    for entry in fields(Decomposition):
        if entry.name != "components":
            one, other = getattr(back, entry.name), getattr(decomposition, entry.name)
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_record_comes_back_whole(record, tmp_path):
    back = Snapshot.load(record.save(tmp_path))
    for name, value in vars(record).items():
        other = getattr(back, name)
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype
            torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
        elif name != "metric_scores":
            assert value == other, name
    # NaN is not equal to itself, and lists are not tuples
    assert [str(score.as_dict()) for score in back.metric_scores] == [str(score.as_dict()) for score in SCORES]


def test_floats_are_stored_and_the_rest_is_compressed(record, tmp_path):
    """Compressing noise took two thirds of the time of a record."""
    with zipfile.ZipFile(record.save(tmp_path)) as archive:
        kinds = {member.filename: member.compress_type for member in archive.infolist()}
    assert kinds["patterns.npy"] == kinds["loadings.npy"] == zipfile.ZIP_STORED
    assert kinds["json.npy"] == kinds["channels.npy"] == zipfile.ZIP_DEFLATED


def test_a_record_of_the_old_layout_says_what_to_do(record, tmp_path):
    path = in_old_layout(record.save(tmp_path))
    with pytest.raises(RunDirectoryError, match=r"has 1: another version.*lit-decom replay CKPT_DIR --config FILE"):
        Snapshot.load(path)


def test_a_record_from_before_components_had_strengths_says_what_to_do(record, tmp_path):
    path = record.save(tmp_path)
    with path.open("rb") as file, np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    texts = json.loads(arrays.pop("json").item()) | {"layout": 2}
    arrays["singular_values"] = arrays.pop("strengths")
    del arrays["removed"]
    with path.open("wb") as file:
        np.savez(file, **arrays, json=np.array(json.dumps(texts)))
    with pytest.raises(RecordLayoutError, match=r"has 2: another version.*lit-decom replay CKPT_DIR --config FILE"):
        Snapshot.load(path)


def test_the_layout_is_raised_with_the_fields():
    """A record of other fields is none of this layout: whoever changes this number raises `_LAYOUT`, too."""
    required = {
        entry.name for entry in fields(Snapshot) if entry.default is MISSING and entry.default_factory is MISSING
    }
    assert (snapshot._LAYOUT, len(required)) == (3, 19)


def test_an_image_whose_evidence_is_broken_comes_back_as_such(record, decomposition, tmp_path):
    spoiled = replace(
        decomposition,
        components=decomposition.components.clone().index_fill_(0, torch.tensor([1]), torch.nan),
        strengths=decomposition.strengths.clone().index_fill_(0, torch.tensor([1]), torch.nan),
    )
    rest = {name: getattr(record, name) for name in ("epoch", "step", "ids", "labels", "targets", "logits", "settings")}
    back = Snapshot.load(Snapshot.of(spoiled, numbers={"x": float("nan")}, **rest).save(tmp_path))
    assert back.patterns[1].isnan().all()
    assert back.patterns[[0, 2, 3, 4, 5]].isfinite().all()
    assert np.isnan(back.numbers["x"])


def test_a_record_owes_nothing_to_the_graph_it_came_from(decomposition):
    tracked = replace(decomposition, scores=decomposition.scores.clone().requires_grad_())
    record = Snapshot.of(
        tracked,
        epoch=0,
        step=0,
        ids=("a",),
        labels=torch.zeros(1),
        targets=torch.zeros(1),
        logits=torch.zeros(1, 2),
        numbers={},
        settings={},
    )
    assert not record.scores.requires_grad


def test_files_are_named_by_step_and_epoch_and_sorted_as_steps_however_many_digits_they_have(record, tmp_path):
    steps = [9, 10, 123_456, 999_999_999, 1_000_000_000, 9_999_999_999, 10_000_000_000]
    for step in steps:
        replace(record, step=step, epoch=step // 1000).save(tmp_path)
    assert replace(record, step=9).filename == "step-000000009_epoch-00002.npz"
    assert [kept.step for kept in RunDirectory(tmp_path).records()] == steps


# ----- whole or not at all


def test_an_exception_in_the_middle_of_writing_leaves_the_old_record_and_nothing_else(record, tmp_path, monkeypatch):
    path = record.save(tmp_path)
    before = path.read_bytes()

    members = []

    def full_after_three(self, member, *rest):
        members.append(member)
        if len(members) > 3:
            raise OSError(28, "No space left on device")
        write(self, member, *rest)

    write = zipfile.ZipFile.writestr
    monkeypatch.setattr(zipfile.ZipFile, "writestr", full_after_three)
    with pytest.raises(OSError, match="No space left"):
        record.save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_process_that_dies_while_writing_leaves_no_half_record_and_what_it_leaves_is_removed(record, tmp_path):
    path = record.save(opened(tmp_path).path)
    script = textwrap.dedent(f"""
        import os
        import zipfile
        from pathlib import Path
        from lit_decom import records
        record = records.Snapshot.load(Path({str(path)!r}))
        write = zipfile.ZipFile.writestr
        def dying(archive, member, *rest):
            write(archive, member, *rest)
            archive.fp.flush()
            os.kill(os.getpid(), 9)
        zipfile.ZipFile.writestr = dying
        object.__setattr__(record, "step", 12)
        record.save(Path({str(tmp_path)!r}))
    """)
    died = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[1])
    assert died.returncode == -9
    directory = RunDirectory(tmp_path)
    assert [kept.step for kept in directory.records()] == [11]
    (left,) = tmp_path.glob(".*")
    assert left.name.startswith(".step-000000012")
    opened(tmp_path)
    assert not left.exists()
    assert [kept.step for kept in directory.records()] == [11]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "another archive"])
def test_a_file_that_is_no_whole_record_is_refused_by_name(record, tmp_path, damage):
    path = record.save(tmp_path)
    whole = path.read_bytes()
    if damage == "another archive":
        with path.open("wb") as file:
            np.savez(file, images=np.zeros(3))
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not an archive"}[damage])
    with pytest.raises(RunDirectoryError, match=f"Expected {path.name} to be a whole record"):
        Snapshot.load(path)


def test_pickles_are_never_loaded(record, tmp_path):
    path = tmp_path / record.filename
    with path.open("wb") as file:
        np.savez(file, json=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunDirectoryError, match="allow_pickle=False"):
        Snapshot.load(path)


# ----- edited by hand, or by somebody who means no good


def test_every_field_of_a_record_has_a_kind():
    known = set(checking._ARRAYS) | set(checking._TEXTS)
    assert known == {entry.name for entry in fields(Snapshot)}
    assert set(checking._SCORE) == {entry.name for entry in fields(Score)}


def edited(path, arrays=None, texts=None, without=()):
    """Write other fields into a record."""
    with path.open("rb") as file, np.load(file) as stored:
        known = {name: stored[name] for name in stored.files} | (arrays or {})
    told = json.loads(known.pop("json").item()) | (texts or {})
    kept = {name: value for name, value in told.items() if name not in without}
    with path.open("wb") as file:
        np.savez(
            file,
            **{name: value for name, value in known.items() if name not in without},
            json=np.array(json.dumps(kept).encode()),
        )
    return path


HUGE = 10**400
WRONG_TEXTS = {
    "epoch": ["three", None, 1.5, -1, True, [], HUGE],
    "step": ["3", None, -1, {}, HUGE],
    "ids": ["abcdef", [], [1, 2, 3, 4, 5, 6], None, {"a": 1}],
    "numbers": [[1.0], None, {"x": "high"}, {"x": None}, {"x": True}, {"x": HUGE}, "none"],
    "settings": [[], None, 3, "a"],
    "metric_scores": [{}, None, [3], ["a"], [[]], [{}]],
    "module_values": [[1.0], {"val/loss": "low"}, None],
    "dropped": [{"road": 1}, ["road"], None],
    "factor_states": ["untrained", [1], None, {}],
    "layout": ["3", None, 3.5, []],
    "another": [1],
    "labels": [[0, 1]],
}
WRONG_SCORES = {
    "metric": [3, None, ["gini"]],
    "stratum": [1],
    "explanation": [None],
    "value": ["high", None, HUGE],
    "n": ["6", -1, 1.5],
    "undefined": [None],
    "interval": [3, [1], ["a", "b"], [1, 2, 3]],
    "paired_difference": ["ab", {}],
    "higher_is_better": ["yes", 0.5],
    "always_there": [None, "no"],
    "another": [1],
}
BROKEN = [
    *((name, {"texts": {name: value}}) for name, values in WRONG_TEXTS.items() for value in values),
    *((name, {"score": {name: value}}) for name, values in WRONG_SCORES.items() for value in values),
    *((name, {"without": [name]}) for name in ("epoch", "ids", "numbers", "labels", "patterns", "strengths", "valid")),
    *(
        (name, {"arrays": {name: np.array(value)}})
        for name in ("labels", "valid", "patterns", "channels", "logits", "fallback")
        for value in (["a"] * 6, 3.0, [[[[[1.0]]]]], np.zeros(6, "complex64"), np.zeros((6, 4), ">f4"), "text")
    ),
    ("targets", {"arrays": {"targets": np.full(6, 99)}}),
    ("shared_images", {"arrays": {"shared_images": np.full((2, 3), 6)}}),
    ("identities", {"arrays": {"identities": np.zeros((6, 3))}}),
    ("similarity", {"arrays": {"similarity": np.zeros((6, 2), "float32")}}),
    ("another", {"arrays": {"another": np.zeros(3)}}),
]


@pytest.mark.parametrize(("name", "edit"), BROKEN, ids=str)
def test_a_field_of_another_kind_is_named_with_its_file(record, tmp_path, name, edit):
    if "score" in edit:
        edit = {"texts": {"metric_scores": [SCORES[0].as_dict() | edit["score"]]}}
    path = edited(record.save(tmp_path), **edit)
    with pytest.raises(RunDirectoryError, match=rf"Expected {path.name} to .*\b{name}\b"):
        Snapshot.load(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"a"', "[" * 9999, "{", ""])
def test_texts_that_are_none_are_refused(record, tmp_path, text):
    path = record.save(tmp_path)
    with path.open("rb") as file, np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    with path.open("wb") as file:
        np.savez(file, **(arrays | {"json": np.array(text.encode())}))
    with pytest.raises(RunDirectoryError, match=rf"Expected {path.name} to"):
        Snapshot.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", np.zeros((6, 3, 8, 8))),
        ("images", np.array(["a"])),
        ("images", np.zeros((6, 3), "uint8")),
        ("labels", np.zeros(6)),
        ("labels", np.zeros(5, "int64")),
        ("masks", np.zeros((2, 2), "bool")),
        ("another", np.zeros(3, "int64")),
        ("ids", "abcdef"),
        ("class_names", 3),
        ("class_names", [1, 2]),
        ("boxes", "a"),
        ("boxes", [[["a"]]]),
        ("boxes", [[1, 2, 3]] * 6),
    ],
)
def test_a_field_of_the_probe_of_another_kind_is_named_with_its_file(tmp_path, name, value):
    path = opened(tmp_path).path / "probe.npz"
    edited(path, **({"arrays": {name: value}} if isinstance(value, np.ndarray) else {"texts": {name: value}}))
    with pytest.raises(RunDirectoryError, match=rf"probe\.npz to hold a probe, but: .*\b{name}\b"):
        RunDirectory(tmp_path).probe()


# ----- the directory


def test_a_new_directory_knows_its_run_and_its_probe(tmp_path):
    directory = opened(tmp_path / "a" / "b")
    assert directory.owner() == "mine"
    assert json.loads((directory.path / "run.json").read_text())["settings"] == SETTINGS
    assert directory.files() == []
    assert sorted(entry.name for entry in directory.path.iterdir()) == ["probe.npz", "run.json"]


def test_a_directory_of_another_run_is_refused_and_left_as_it_is(record, tmp_path):
    record.save(opened(tmp_path).path)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(RunDirectoryError, match=r"to be this run's own, but it holds records of run mine\..*remove it"):
        opened(tmp_path, run_id="other")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_records_of_an_unknown_run_are_refused(record, tmp_path):
    record.save(tmp_path)
    with pytest.raises(RunDirectoryError, match="records of an unknown run"):
        opened(tmp_path)


def test_files_of_the_users_own_are_no_records(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-one.npz").write_text("mine")
    directory = opened(tmp_path)
    assert directory.files() == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_that_goes_on_from_a_checkpoint_knows_what_is_missing_up_to_there(record, tmp_path):
    directory = opened(tmp_path)
    for step in (3, 7):
        with pytest.raises(TypeError, match="not JSON serializable"):
            directory.keep(replace(record, step=step, settings={"a": object()}))
    assert [each.step for each in RunDirectory(tmp_path).missing()] == [3, 7]
    assert [each.step for each in opened(tmp_path).missing()] == [3, 7]
    assert [each.step for each in opened(tmp_path, from_step=4).missing()] == [3]
    opened(tmp_path, from_step=0)
    assert RunDirectory(tmp_path).missing() == []


@pytest.mark.parametrize("text", ["", "{", "3", '[{"epoch": 1}]', '[{"epoch": "a", "step": 1, "why": ""}]', "[" * 9999])
def test_a_list_of_missing_records_that_cannot_be_read_is_none(tmp_path, text):
    (opened(tmp_path).path / "missing.json").write_text(text)
    assert RunDirectory(tmp_path).missing() == []


def test_the_same_run_goes_on(record, tmp_path):
    record.save(opened(tmp_path).path)
    assert len(opened(tmp_path).files()) == 1


def test_records_after_the_step_a_run_resumes_from_are_set_aside(record, tmp_path):
    directory = opened(tmp_path)
    for step in (3, 7, 11):
        replace(record, step=step).save(tmp_path)
    opened(tmp_path, from_step=7)
    assert [kept.step for kept in directory.records()] == [3, 7]
    aside = tmp_path / "step-000000011_epoch-00002.npz.superseded"
    assert aside.exists()
    assert Snapshot.load(aside).step == 11


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", '{"settings": {}}', "[]", "3", "null", "[" * 9999, "\ud800"),
        *('{"run_id": 3, "settings": {}}', '{"run_id": ["a"], "settings": {}}'),
    ],
)
def test_a_run_file_that_cannot_be_read_is_said(tmp_path, text):
    opened(tmp_path)
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunDirectoryError, match=r"run\.json to name a run"):
        RunDirectory(tmp_path).owner()
    with pytest.raises(RunDirectoryError, match=r"run\.json to name a run"):
        RunDirectory(tmp_path).begun()


@pytest.mark.parametrize(
    ("text", "why"), [('{"run_id": "a"}', "is missing"), ('{"run_id": "a", "settings": 3}', "is int, and not dict")]
)
def test_settings_that_cannot_be_read_are_said_and_hide_no_owner(tmp_path, text, why):
    opened(tmp_path)
    (tmp_path / "run.json").write_text(text)
    assert RunDirectory(tmp_path).owner() == "a"
    with pytest.raises(RunDirectoryError, match=f"run\\.json to name a run, but it cannot be read: `settings` {why}"):
        RunDirectory(tmp_path).begun()


def test_a_probe_comes_back_with_all_that_is_known_of_it(tmp_path):
    generator = torch.Generator().manual_seed(1)
    shown = Probe.from_tensors(
        torch.randn(3, 3, 8, 10, generator=generator),
        torch.tensor([1, 0, 2]),
        ids=("a", "b", "c"),
        masks=torch.rand(3, 8, 10, generator=generator) > 0.5,
        parts=torch.rand(3, 2, 8, 10, generator=generator) > 0.5,
        boxes=[[[1, 2, 3, 4]], torch.zeros(0, 4), [[0, 0, 5, 5], [1, 1, 2, 2]]],
        part_names=("eye", "nose"),
        class_names=("x", "y", "z"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    RunDirectory(tmp_path).open("mine", shown, {})
    back = RunDirectory(tmp_path).probe()
    expected = (shown.images * 0.25 + 0.5).clamp(0, 1)
    assert (back.images - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(back.masks, shown.masks)
    assert torch.equal(back.parts, shown.parts)
    assert all(torch.equal(one, other) for one, other in zip(back.boxes, shown.boxes, strict=True))
    for name in ("ids", "part_names", "class_names"):
        assert getattr(back, name) == getattr(shown, name)
    assert back.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_probe_that_is_kept_exactly_comes_back_bit_by_bit(tmp_path, dtype):
    generator = torch.Generator().manual_seed(1)
    shown = Probe.from_tensors(
        torch.randn(3, 1, 8, 10, generator=generator).to(dtype),
        torch.tensor([1, 0, 2]),
        masks=torch.rand(3, 8, 10, generator=generator) > 0.5,
        boxes=[[[1, 2, 3.3, 4]], torch.zeros(0, 4), [[0, 0, 5, 5], [1, 1, 2, 2]]],
        mean=(0.485,),
        std=(0.229,),
    )
    directory = RunDirectory(tmp_path)
    directory.open("mine", shown, {})
    with pytest.raises(RunDirectoryError, match="to hold the images"):
        exact_probe(directory)
    keep_exactly(directory, shown)
    back = exact_probe(directory)
    assert back.digest == shown.digest
    assert torch.equal(back.images, shown.images)
    assert back.images.dtype == dtype
    assert torch.equal(back.mean, shown.mean)
    assert torch.equal(back.std, shown.std)


def test_a_probe_is_kept_exactly_once(tmp_path):
    directory = opened(tmp_path)
    keep_exactly(directory, probe())
    file = tmp_path / "probe_exact.npz"
    before = file.stat().st_ino
    keep_exactly(directory, probe())
    assert file.stat().st_ino == before
    file.write_bytes(file.read_bytes()[:100])
    keep_exactly(directory, probe())
    assert exact_probe(directory).digest == probe().digest
    np.savez(file, images=np.zeros((6, 2), dtype=np.uint8), json=np.array(b'{"dtype": "load"}'))
    with pytest.raises(RunDirectoryError, match="to hold the images"):
        exact_probe(directory)


def test_images_that_had_eight_bits_take_about_as_many_when_kept_exactly(tmp_path):
    noise = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    shown = Probe.from_tensors((noise / 255 - 0.45) / 0.22, torch.arange(4))
    opened(tmp_path)
    keep_exactly(RunDirectory(tmp_path), shown)
    assert (tmp_path / "probe_exact.npz").stat().st_size < 2 * noise.numel()


def test_a_directory_without_a_probe_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="to hold a probe"):
        RunDirectory(tmp_path).probe()
    opened(tmp_path)
    (tmp_path / "probe.npz").write_bytes(b"PK")
    with pytest.raises(RunDirectoryError, match="to hold a probe"):
        RunDirectory(tmp_path).probe()


def test_a_picture_lies_beside_its_record(record, tmp_path):
    path = opened(tmp_path).save_picture(b"encoded", record)
    assert path == tmp_path / "pictures" / "step-000000011_epoch-00002.jpg"
    assert path.read_bytes() == b"encoded"


def test_two_processes_write_side_by_side(record, tmp_path):
    # Each under a temporary name of its own.
    with files.replacing(tmp_path / "x") as one:
        assert str(os.getpid()) in one.name
        one.write_text("whole")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_text() == "whole"


# ----- for the eye


def test_normalised_images_are_shown_as_they_were():
    original = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    normalised = (original - mean[:, None, None]) / std[:, None, None]
    shown = displayed(Probe.from_tensors(normalised, torch.zeros(2, dtype=torch.long), mean=mean, std=std))
    torch.testing.assert_close(shown, original)


def test_images_of_unknown_range_are_each_stretched_to_their_own():
    images = torch.stack([torch.linspace(-3, 5, 48).reshape(3, 4, 4), torch.full((3, 4, 4), 7.0)])
    shown = displayed(Probe.from_tensors(images, torch.zeros(2, dtype=torch.long)))
    assert shown[0].min() == 0
    assert shown[0].max() == 1
    assert (shown[1] == 0).all()


@pytest.mark.parametrize(("channels", "expected"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_any_number_of_channels_is_shown_as_three(channels, expected):
    images = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(3))
    mean, std = torch.zeros(channels), torch.ones(channels)
    shown = displayed(Probe.from_tensors(images, torch.zeros(1, dtype=torch.long), mean=mean, std=std))
    torch.testing.assert_close(shown, images[:, expected])
