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


# ----- decision factors


@pytest.fixture
def explained(record):
    """The record with three factors over four classes, the second one with the largest share."""
    generator = torch.Generator().manual_seed(4)
    return replace(
        record,
        factor_codes=torch.randn(4, 3, generator=generator),
        factor_scores=torch.randn(6, 3, generator=generator),
        factor_shares=torch.tensor([0.3, 0.5, 0.1]),
        factor_maps=torch.randn(6, 3, *record.patterns.shape[2:], generator=generator).half(),
        factor_identities=torch.tensor([4, 0, 7]),
        numbers={"completeness": 0.9, "factor_agreement": 0.75},
    )


def panel_of(drawn):
    return drawn[-1]["factors"]


def test_factors_are_named_by_identity_and_stand_in_the_order_of_their_shares(explained, drawn):
    grids_of(explained, probe(), 2)
    panel = panel_of(drawn)
    assert list(panel.heads) == ["factor 01  50%", "factor 05  30%", "factor 08  10%"]
    assert torch.equal(panel.codes, explained.factor_codes[:, [1, 0, 2]])
    assert list(panel.class_names) == list(CLASSES)
    assert "3 decision factors: 90.0%" in panel.title
    assert panel.title.endswith("75.0% of the answers follow from them")


@pytest.mark.parametrize("callable_target", [False, True])
def test_a_factor_is_shown_where_it_speaks_for_the_class_that_is_explained(explained, drawn, callable_target):
    if callable_target:
        explained = replace(explained, targets=torch.full((6,), -1))
    grids_of(explained, probe(), 4)
    panel = panel_of(drawn)
    for image in range(4):
        explained_class = int(explained.logits[image].argmax()) if callable_target else int(explained.targets[image])
        for column, factor in enumerate([1, 0, 2]):
            code = float(explained.factor_codes[explained_class, factor])
            expected = (code * explained.factor_maps[image, factor].float()).clamp(min=0)
            torch.testing.assert_close(panel.maps[image, column], expected)
            support = code * float(explained.factor_scores[image, factor])
            assert panel.captions[image][column] == figures(support, signed=True)


def test_of_many_factors_the_strongest_are_drawn(explained, drawn):
    many = {
        "factor_codes": torch.rand(4, 9),
        "factor_scores": torch.rand(6, 9),
        "factor_shares": torch.arange(9) / 40,
        "factor_maps": torch.rand(6, 9, *explained.patterns.shape[2:]),
        "factor_identities": torch.arange(9),
    }
    grids_of(replace(explained, **many), probe(), 2)
    panel = panel_of(drawn)
    assert [head.split()[1] for head in panel.heads] == ["09", "08", "07", "06", "05", "04"]
    assert panel.title.endswith("the 6 that share most in the decision are drawn")


@pytest.mark.parametrize("state", ["rotation_not_identified", "subspace_not_identified"])
def test_axes_that_mean_nothing_have_no_name_and_only_their_sum_is_drawn(explained, drawn, state):
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turned = {
        "factor_codes": explained.factor_codes @ rotation,
        "factor_scores": explained.factor_scores @ rotation,
        "factor_maps": torch.einsum("nkhw,kj->njhw", explained.factor_maps.float(), rotation),
    }
    for record in (explained, replace(explained, **turned)):
        grids_of(replace(record, factor_states=(state,)), probe(), 2)
    one, other = (call["factors"] for call in drawn)
    assert one.codes is None
    assert list(one.heads) == ["all 3 factors  90%"]
    assert one.cautions[0].lower().startswith(state.replace("_", " "))
    torch.testing.assert_close(one.maps, other.maps, rtol=1e-3, atol=1e-3)
    assert one.captions == other.captions, "whatever the axes"


def test_without_factors_the_picture_is_that_of_the_components(record, explained, drawn):
    grids_of(record, probe(), 2)
    assert panel_of(drawn) is None
    none = {"factor_codes": 4, "factor_scores": 6}
    empty = {name: torch.zeros(size, 0) for name, size in none.items()} | {
        "factor_shares": torch.zeros(0),
        "factor_identities": torch.zeros(0, dtype=torch.long),
        "factor_maps": explained.factor_maps[:, :0],
        "factor_states": ("dead_layer",),
        "numbers": {},
    }
    grids_of(replace(explained, **empty), probe(), 2)
    panel = panel_of(drawn)
    assert panel.codes.shape == (4, 0)
    assert len(panel.heads) == 0
    assert "do not depend on this layer" in panel.cautions[0]


def test_an_image_whose_factors_are_not_finite_is_drawn(explained):
    scores, maps = explained.factor_scores.clone(), explained.factor_maps.clone()
    scores[0], maps[0] = torch.nan, torch.nan
    (picture,), _ = grids_of(replace(explained, factor_scores=scores, factor_maps=maps), probe(), 2)
    (whole,), _ = grids_of(explained, probe(), 2)
    assert picture.size == whole.size
    assert picture.tobytes() != whole.tobytes()


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


def test_objects_are_outlined_where_the_log_says_so(tmp_path):
    masks = torch.zeros(6, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    pages = []
    for outline in (False, True):
        observer = callback(probe=probe(masks=masks), outline=outline)
        fit(tmp_path / str(outline), observer)
        (page,) = (observer.directory.path / "pictures").iterdir()
        pages.append(np.asarray(Image.open(page)).astype(int))
    changed = np.abs(pages[0] - pages[1]).sum(axis=2) > 300
    tiles = 5  # image, integrated map, three OSSMs
    assert changed.sum() > 2 * tiles * 3 * 40, "a square of 48 pixels on each tile, less what JPEG blurs"


def test_an_outline_without_masks_is_warned_about_once(tmp_path):
    with pytest.warns(UserWarning, match=r"masks for `Log\(outline=True\)`, but it has none") as warned:
        fit(tmp_path, callback(outline=True), max_epochs=2)
    assert len([entry for entry in warned if "outline" in str(entry.message)]) == 1
