import base64
import io
import re
import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from lit_decom.report import write_report
from tests.helpers.page import report
from tests.helpers.runs import CLASSES, Plan, gain, identities_at, numbers_of, planted_run, probe_of, record_of, score

STRATA = ("all", "correct", "incorrect")


def maps_of(block, grid):
    levels = np.frombuffer(zlib.decompress(base64.b64decode(block["maps"])), dtype=np.uint8)
    return levels.reshape(-1, *grid)


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
