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

from lit_decom import DecomCAM, keys
from lit_decom.explainer import Explainer
from lit_decom.functional.intervals import mean_intervals
from lit_decom.functional.shares import share_intervals
from lit_decom.metrics import AverageDrop, EnergyPointingGame
from lit_decom.observer import Observer
from lit_decom.records import RunDirectory
from lit_decom.render import figures
from lit_decom.report import write_report
from lit_decom.report.page import SECTIONS
from lit_decom.scores import Score
from lit_decom.scoring import Scoring
from tests.helpers.modules import probe as spots
from tests.helpers.modules import tiny
from tests.helpers.page import report
from tests.helpers.runs import CLASSES, Plan, gain, identities_at, planted_run, probe_of, record_of, score, scores_of

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
                tile = shown[f"component {name + 1:02d}"]
                assert tile[0] == rank
                assert tile[3] == figures(gain(epoch, image, name), signed=True)
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
    per_snapshot = 1 + plan.n_components
    expected = torch.cat([record.decomposition.cam[2, None], record.decomposition.ossms[2]])
    found = torch.from_numpy(maps[per_snapshot : 2 * per_snapshot].copy()).float() / 255
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
    own = [
        f"{score(2, name):.3f} {score(2, name) - 0.0625:.3f} to {score(2, name) + 0.0625:.3f}" for name in STRATA[:2]
    ]
    own += [f"{score(2, 'incorrect'):.3f} too few images", "0.719 too few images undefined in 1 of 2"]
    margins = {"0.250": "+0.281 to +0.344", "0.375": "-0.06 to +0.44", "0.438": "+0.094 to +0.156"}
    rivals = [f"{value} better by {ends}" for value, ends in margins.items()]
    assert first.split() == " ".join([*own, *rivals, "+0.312 +0.250 to +0.375"]).split()
    assert second.split()[:4] == [f"{score(2, 'all'):.3f}", "too", "few", "images"]
    assert "\N{EN DASH} 0.250 better by -0.344 to -0.281" in second, "never scored over the fixed images"


def test_what_does_not_beat_chance_is_said_with_its_interval(page):
    assert "At epoch 2 the explanation does not beat chance in 3 of 4 comparisons:" in page.words
    assert "energy pointing game: 0.562 against 0.375 of a centred blob; the difference may be 0" in page.words
    assert "average drop: 0.562 against 0.250 of random maps; chance is better by 0.281 to 0.344." in page.words
    assert "Nobody can tell from the images of these strata alone: incorrect (1 image)." in page.words
    assert "of grad CAM;" not in page.words, "another method is not chance"


def test_beating_chance_is_decided_by_paired_differences(tmp_path):
    """Not by the interval of the value: here 0.531 lies within it, and the explanation is better all the same."""
    plan = Plan()

    def words_with(name, paired):
        found = [each for each in scores_of(plan, 2) if each.metric != "average_drop"]
        found = [each for each in found if each.explanation != "center_map" or each.stratum != "all"]
        blob = Score("energy_pointing_game", "all", "center_map", 0.53125, 4, higher_is_better=True)
        scores = (*found, replace(blob, paired_difference=paired))
        return report(planted_run(tmp_path / name, plan, records={2: record_of(plan, 2, metric_scores=scores)})).words

    assert "beats chance in 2 of 2 comparisons (1 score)." in words_with("won", (0.015625, 0.046875))
    near = words_with("near", (-0.015625, 0.078125))
    assert "0.562 against 0.531 of a centred blob; the difference may be 0, its interval is -0.016 to +0.078." in near
    unknown = words_with("unknown", None)
    assert "beats chance in 1 of 1 comparisons (1 score)." in unknown
    assert "Nobody can tell: energy pointing game against a centred blob." in unknown


def test_with_too_few_images_nobody_can_tell(tmp_path):
    plan = Plan()
    scores = tuple(replace(each, interval=None, paired_difference=None) for each in scores_of(plan, 2))
    page = report(planted_run(tmp_path / "few", plan, records={2: record_of(plan, 2, metric_scores=scores)}))
    assert "nobody can tell whether the explanation beats chance" in page.words
    assert "does not beat chance" not in page.words


def test_bands_are_the_intervals_of_the_scores(page, plan):
    with_band = [attributes for attributes in page.all("path") if attributes.get("class") == "band"]
    # The energy pointing game over all and over the correct images, the average drop over the correct ones.
    assert len(with_band) == 3


def test_a_renamed_metric_keeps_its_direction_and_its_verdict(tmp_path):
    shown = spots(10, masks=torch.ones(10, 32, 32, dtype=torch.bool).triu())
    metrics = {"my_name": EnergyPointingGame(), "energy_of_ours": AverageDrop()}
    observer = Observer(Explainer(DecomCAM(n_components=2), "second"), Scoring(metrics=metrics))
    network = tiny()
    observer.prepare(network, shown)
    directory = RunDirectory(tmp_path)
    directory.open("mine", shown, observer.settings)
    snapshot = observer.observe(network, epoch=0, step=1)
    snapshot.save(directory.path)
    page = report(directory.path)
    rivals = [each for each in snapshot.metric_scores if each.stratum == "all" and each.explanation in keys.CHANCE]
    lost = [each for each in rivals if each.is_beaten is False]
    told = [each for each in rivals if each.is_beaten is not None]
    assert {each.metric for each in told} == {"my_name"}, "chance is not shown to the network"
    assert "my name ↑" in page.words
    assert "energy of ours ↓" in page.words
    counted = len(lost) or len(told)
    assert f"{'does not beat' if lost else 'beats'} chance in {counted} of {len(told)} comparisons" in page.words
    for each in lost:
        assert f"{each.metric.replace('_', ' ')}: " in page.words


def test_metrics_that_were_dropped_are_named(tmp_path):
    plan = Plan()
    dropped = record_of(plan, 1, dropped={"road": "ValueError('no <b>gradient</b>')"})
    page = report(planted_run(tmp_path / "run", plan, records={1: dropped}))
    assert (
        "ROAD raised an error in 1 of 3 snapshots and has no score there: ValueError('no <b>gradient</b>')"
        in page.words
    )


def test_settings_cost_and_answers_are_named(page, plan):
    settings = record_of(plan, 0).settings
    for expected in (settings["method"], settings["target_layer"], settings["probe_digest"]):
        assert expected in page.text
    assert "1.50 s per snapshot (explain 1.00, score 0.25, track 0.25), 4.5 s in total" in page.words
    assert "seconds to score: 0.250 at epoch 0, 0.250 at epoch 2" in page.words
    assert "4 images, 3 classified right at the end" in page.words
    verdicts = [block["verdicts"][0] for block in page.data["runs"][0]["images"]]
    sure = f"{torch.tensor([3.0, 0, 0, 0]).softmax(0)[0]:.0%}"
    assert verdicts == [f"✓ {name} {sure}" for name in CLASSES[:3]] + [f"✗ {CLASSES[0]} {sure}"]


def test_accuracy_and_loss_stand_beside_the_components(tmp_path):
    plan = Plan(n_images=12)
    path = planted_run(
        tmp_path / "run",
        plan,
        records={
            epoch: record_of(plan, epoch, module_values={"val/acc": 0.5 + 0.1 * epoch, "val/loss": 2.0, "lr": 0.1})
            for epoch in range(plan.n_epochs)
        },
    )
    page = report(path)
    low, high = share_intervals(torch.tensor([[1.0]] * 11 + [[0.0]]))[0].tolist()
    right = f"the probe's images: 0.92 ({low:.2f} to {high:.2f}) at epoch 0"
    assert right in page.words
    assert f"11 classified right at the end (92%, {low:.0%} to {high:.0%})" in page.words
    sure = torch.tensor([3.0, 0, 0, 0]).log_softmax(0)
    loss = -(11 * sure[0] + sure[1]).item() / 12
    assert f"the probe's images: {loss:.3f} at epoch 0" in page.words, "alike in all images but one: no interval"
    assert "val/acc: 0.500 at epoch 0, 0.700 at epoch 2" in page.words
    assert "val/loss: 2.00 at epoch 0, 2.00 at epoch 2" in page.words
    assert "lr" not in [attributes.get("data-c") for attributes in page.all("g")]


def test_a_module_that_logged_nothing_leaves_the_accuracy_of_the_probe(page):
    assert [words for words in ("accuracy ↑", "cross-entropy ↓") if words in page.words] == [
        "accuracy ↑",
        "cross-entropy ↓",
    ]


def test_means_over_the_probe_come_with_their_intervals(tmp_path):
    plan = Plan(n_images=12)
    page = report(planted_run(tmp_path / "run", plan))
    gains = torch.tensor([[gain(2, image, 0)] for image in range(plan.n_images)])
    low, high = mean_intervals(gains)[0].tolist()
    assert f", {gains.mean():.2f} ({low:.2f} to {high:.2f}) at epoch 2" in page.words


def test_sections_fold_in_the_order_of_their_list(page):
    sections = [attributes for attributes in page.all("details") if attributes.get("class") == "section"]
    not_planted = {"factors", "wrong", "classes"}
    assert [attributes["id"] for attributes in sections] == [
        section.name for section in SECTIONS if section.name not in not_planted
    ]
    assert all("open" in attributes for attributes in sections), "without scripts nothing is hidden"
    assert page.all("a")[0]["href"] == "#components"


def test_gain_curves_are_drawn_by_identity(page, plan):
    curves = [
        attributes["aria-label"]
        for attributes in page.all("svg")
        if "Score gain of" in attributes.get("aria-label", "")
    ]
    assert len(curves) == plan.n_images
    assert f"component 02: {figures(gain(0, 0, 1))} at epoch 0, {figures(gain(2, 0, 1))} at epoch 2" in page.words
    assert f"component 03: {figures(gain(0, 0, 2))} at epoch 0, {figures(gain(1, 0, 2))} at epoch 1" in page.words
    ended = [attributes for attributes in page.all("path") if attributes.get("class") == "ended"]
    assert len(ended) == plan.n_images


def test_the_swap_makes_curves_by_rank_change_more(page):
    # by identity every gain moves by 0.25; by rank two of three also swap, by 0.75
    assert "changes by 0.250 on average; by rank it would be" in page.words
    by_rank = float(re.search(r"by rank it would be (\d\.\d+)", page.words)[1])
    assert by_rank > 0.5


def test_births_and_deaths_are_counted_on_the_time_line(page, plan):
    assert f"epoch 2 · step 30: {plan.n_images} born, {plan.n_images} ended, 0 turned" in page.words
    assert "epoch 0 · step 10:" not in page.words  # where everything is new, nothing is


def test_exemplars_follow_the_snapshots(page, plan):
    frames = page.data["runs"][0]["shared"]
    assert frames[0][0][:3] == ["a0", "shared 01", "50.0%"]
    assert [crop[1:] for crop in frames[2][1][3]] == [[6, 6, 30, 30]] * 3


def test_everything_from_outside_is_escaped(page):
    # the parser would have met a script element of the class name
    assert [attributes.get("type") for attributes in page.all("script")] == ["application/json"] + 4 * [None]
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
