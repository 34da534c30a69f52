"""The grids and the curves of a snapshot."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lit_decom import DecomCAM, capture
from lit_decom.callbacks import pictures
from lit_decom.callbacks.pictures import grids_of, peaks_of
from lit_decom.callbacks.reporting import curves_of
from lit_decom.records import Snapshot
from lit_decom.render import figures
from tests.helpers.modules import CLASSES, callback, fit, probe, tiny


@pytest.fixture
def record():
    shown = probe()
    evidence = capture(tiny(), "second", shown.images, shown.labels)
    return Snapshot.of(
        DecomCAM(n_components=3).decompose(evidence),
        epoch=4,
        step=70,
        ids=shown.ids,
        labels=shown.labels,
        targets=evidence.targets,
        logits=torch.eye(4)[[0, 1, 2, 0, 0, 1]] * 3,
        numbers={},
        settings={"method": "DecomCAM()", "target_layer": "second"},
    )


@pytest.fixture
def drawn(monkeypatch):
    """What reaches the renderer."""
    calls = []

    def grid(images, cams, ossms, **texts):
        calls.append({"images": images, "cams": cams, "ossms": ossms} | texts)
        return [Image.new("RGB", (1, 1))] * len(texts["scales"])

    monkeypatch.setattr(pictures, "ossm_grids", grid)
    return calls


def test_rows_are_the_first_images_with_their_maps(record, drawn):
    grids_of(record, probe(), 2)
    (call,) = drawn
    assert call["images"].shape == (2, 3, 32, 32)
    assert torch.equal(call["cams"], record.decomposition.cam[:2])
    assert torch.equal(call["ossms"], record.decomposition.ossms[:2])


def test_no_more_rows_than_images(record, drawn):
    grids_of(record, probe(), 99)
    assert len(drawn[0]["cams"]) == len(drawn[0]["row_captions"]) == 6


def test_a_row_says_the_class_the_prediction_and_how_sure_it_is(record, drawn):
    grids_of(record, probe(), 6)
    sure = math.exp(3) / (math.exp(3) + 3)
    right, wrong = drawn[0]["row_captions"][0], drawn[0]["row_captions"][3]
    assert right == f"✓ {CLASSES[0]} {sure:.0%}"
    assert wrong == f"✗ {CLASSES[0]} {sure:.0%}\ntrue: {CLASSES[3]}"


def test_classes_without_names_are_numbers(record, drawn):
    grids_of(record, probe(class_names=None), 4)
    assert drawn[0]["row_captions"][3].startswith("✗ 0 ")
    assert drawn[0]["row_captions"][3].endswith("true: 3")


def test_a_class_past_the_names_is_a_number(record, drawn):
    grids_of(replace(record, logits=torch.eye(9)[[8] * 6]), probe(), 1)
    assert drawn[0]["row_captions"][0].startswith("✗ 8 ")
    assert drawn[0]["row_captions"][0].endswith("true: north")


def test_an_ossm_says_its_gain_and_its_share_and_nothing_where_there_is_none(record, drawn):
    valid = record.valid.clone()
    valid[0], valid[1, 2] = torch.tensor([True, True, True]), False
    record = replace(record, valid=valid)
    grids_of(record, probe(), 2)
    gains, shares = record.decomposition.score_gains[0], record.decomposition.explained_energy[0]
    first = drawn[0]["ossm_captions"][0]
    assert first[0] == f"{figures(float(gains[0]), signed=True)} {shares[0]:.0%}"
    assert drawn[0]["ossm_captions"][1][2] == ""


def test_an_ossm_of_a_followed_component_has_the_number_of_its_key(record, drawn):
    identities = torch.arange(3).flip(0).expand(6, 3)
    grids_of(replace(record, identities=identities), probe(), 1)
    assert [text.split()[0] for text in drawn[0]["ossm_captions"][0]] == ["03", "02", "01"]
    assert "(component, score gain, share of energy; own scales)" in next(iter(drawn[0]["scales"]))


def test_the_caption_says_when_and_how(record, drawn):
    _, caption = grids_of(record, probe(), 1)
    assert caption == "epoch 4, step 70: DecomCAM() at second"
    assert [title.startswith(caption) for title in drawn[0]["scales"]] == [True]


def test_a_second_grid_is_on_the_scale_of_the_run(record, drawn):
    peaks = peaks_of(record, None)
    pictures_of_both, _ = grids_of(record, probe(), 2, peaks)
    assert len(pictures_of_both) == 2
    (own, no_limits), (alike, limits) = drawn[0]["scales"].items()
    assert (own.endswith("own scales)"), alike.endswith("scale of the run)")) == (True, True)
    assert no_limits is None
    assert torch.equal(limits, peaks[:2])


def test_an_image_whose_evidence_is_broken_is_drawn_beside_its_whole_neighbours(record):
    spoiled = record.patterns.clone()
    spoiled[0] = torch.nan
    broken = replace(record, patterns=spoiled, valid=record.valid & torch.tensor([False, *[True] * 5])[:, None])
    (picture,), _ = grids_of(broken, probe(), 2)
    (whole,), _ = grids_of(record, probe(), 2)
    assert picture.size == whole.size
    half = picture.size[1] // 2 + 20
    below = (0, half, *picture.size)
    assert picture.crop(below).tobytes() == whole.crop(below).tobytes()
    assert picture.tobytes() != whole.tobytes()


def test_curves_have_one_line_per_rank_with_gaps_where_a_rank_was_missing():
    history = [
        {"step": 3, "score_gain/rank_01": 0.5, "score_gain/rank_02": 0.1, "explained_energy/rank_01": 0.9},
        {"step": 7, "score_gain/rank_01": 0.25},
    ]
    steps, series = curves_of(history, "score_gain/rank")
    assert steps == [3, 7]
    assert list(series) == ["rank_01", "rank_02"]
    assert series["rank_01"] == [0.5, 0.25]
    assert series["rank_02"][0] == 0.1
    assert math.isnan(series["rank_02"][1])


def test_the_picture_of_each_snapshot_lies_beside_its_record(tmp_path):
    observer = callback()
    fit(tmp_path, observer, max_epochs=2)
    names = [path.stem for path in observer.directory.files()]
    drawn = sorted((observer.directory.path / "pictures").iterdir())
    assert [path.name for path in drawn] == [f"{name}.jpg" for name in names]
    with Image.open(drawn[0]) as picture:
        assert picture.format == "JPEG"
        assert picture.size[0] > 5 * 96


def test_nothing_is_drawn_where_nothing_shall_be(tmp_path):
    observer = callback(n_images=0)
    fit(tmp_path, observer)
    assert len(observer.directory.files()) == 1
    assert not (observer.directory.path / "pictures").exists()


def test_on_one_scale_a_map_that_shrinks_gets_darker(record):
    weaker = replace(record, strengths=record.strengths / 4)
    peaks = peaks_of(record, None)
    assert torch.equal(peaks_of(weaker, peaks), peaks), "what counts is the largest value so far"
    bright, dark = (np.asarray(grids_of(one, probe(), 2, peaks)[0][1]).astype(float) for one in (record, weaker))
    assert dark.mean() < bright.mean() - 1
    own = [np.asarray(grids_of(one, probe(), 2)[0][0]) for one in (record, weaker)]
    assert np.abs(own[0].astype(float) - own[1]).mean() < 1, "on its own scale it looks the same"
