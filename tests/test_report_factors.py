import base64
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_decom.records import RunDirectory
from lit_decom.report.factor_words import classes_of, shown_codes, wrong_sentence
from tests.helpers.page import report
from tests.helpers.runs import CLASSES, FACTOR_CODES, Plan, factors_at, planted_run, record_of

PLAN = Plan(factors=True)
UNNAMED = ("rotation_not_identified", "subspace_not_identified")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report(planted_run(tmp_path_factory.mktemp("runs") / "first", PLAN))


def frames_of(page, run=0):
    return page.data["runs"][run]["factors"]["frames"]


def map_of(page, index):
    """A signed map as the page's script reads it."""
    stored = page.data["runs"][0]["factors"]
    levels = np.frombuffer(zlib.decompress(base64.b64decode(stored["maps"])), dtype=np.int8)
    return torch.from_numpy(levels.reshape(-1, *PLAN.grid)[index] / 127) * stored["limits"][index]


def sections(page):
    return [attributes["id"] for attributes in page.all("details") if attributes.get("class") == "section"]


def with_records(path, plan=PLAN, **changes):
    """A run whose records of some epochs are changed: ``epoch_1={...}``."""
    chosen = {
        int(epoch.removeprefix("epoch_")): record_of(plan, int(epoch[-1]), **each) for epoch, each in changes.items()
    }
    return planted_run(path, plan, records=chosen)


def test_factors_open_the_page_and_take_the_place_of_shared_components(page):
    assert sections(page)[:3] == ["factors", "wrong", "components"]
    assert "shared" not in sections(page)
    assert page.all("a")[0]["href"] == "#factors"


def test_a_run_without_factors_is_reported_without_a_word_of_them(tmp_path):
    page = report(planted_run(tmp_path / "run", Plan()))
    assert not {"factors", "wrong"} & set(sections(page))
    assert "shared" in sections(page)
    assert "actor" not in page.words


def test_each_factor_says_for_and_against_which_classes_it_speaks(page):
    for epoch, frame in enumerate(frames_of(page)):
        cards = {card["name"]: card for card in frame["factors"] if card}
        assert set(cards) == {f"factor {name + 1:02d}" for name in factors_at(PLAN, epoch)}
        assert cards["factor 01"]["for"] == f"{CLASSES[0]}, {CLASSES[1]}"
        assert cards["factor 01"]["against"] == f"{CLASSES[3]}, {CLASSES[2]}"
        assert [code for _, code, _ in cards["factor 01"]["codes"]] == [2.0, 1.0, -1.0, -2.0]
        assert cards["factor 01"]["share"] == f"{0.5 + 0.0625 * epoch:.1%}"
    other = frames_of(page)[-1]["factors"][1]
    assert (other["name"], other["event"]) == ("factor 03", "new")
    assert (other["for"], other["against"]) == (f"{CLASSES[2]}, {CLASSES[0]}", CLASSES[1]), "a small code is left out"
    assert all(card["event"] == "" for card in frames_of(page)[0]["factors"])
    # The last snapshot stands in the page itself, for those without scripts.
    assert f"for {CLASSES[2]}, {CLASSES[0]}" in page.words


def test_the_largest_factor_of_the_last_snapshot_comes_first_and_keeps_its_place(page, tmp_path):
    assert [[card["key"] for card in frame["factors"]] for frame in frames_of(page)] == [
        ["a0", "a1"],
        ["a0", "a1"],
        ["a0", "a2"],
    ]
    turned = report(with_records(tmp_path / "turned", epoch_2={"factor_shares": torch.tensor([0.1, 0.6])}))
    assert [[card["key"] for card in frame["factors"]] for frame in frames_of(turned)] == [
        ["a1", "a0"],
        ["a1", "a0"],
        ["a2", "a0"],
    ]


def test_how_far_the_factors_go_is_said_beside_chance(page, tmp_path):
    assert "2 factors account for 87.5% of the differences" in page.words
    assert "88% of the answers come out the same from them alone." in page.words
    assert "predicts it with R² 0.97, along as many random directions with 0.41." in page.words
    worse = record_of(PLAN, 2).numbers | {"factor_random_r2": 0.97}
    vain = report(with_records(tmp_path / "vain", epoch_2={"numbers": worse})).words
    assert "with 0.97, so they are no more this layer's than chance is." in vain


def test_shares_and_reach_are_curves_with_births_and_ends(page):
    assert "factor 01: 0.500 at epoch 0, 0.625 at epoch 2" in page.words
    assert "factor 02: 0.250 at epoch 0, 0.250 at epoch 1" in page.words
    assert "factor 03: 0.250 at epoch 2" in page.words
    assert "of the answers themselves: 0.875 at epoch 0" in page.words
    assert "completeness" not in page.words, "nothing is drawn twice"
    ended = [each for each in page.all("path") if each.get("class") == "ended"]
    assert len(ended) == PLAN.n_images + 1, "components of the images, and factor 02"


def test_maps_show_what_each_factor_says_for_the_right_class(page):
    for epoch, frame in enumerate(frames_of(page)):
        record = record_of(PLAN, epoch)
        for rank, name in enumerate(factors_at(PLAN, epoch)):
            card = next(card for card in frame["factors"] if card["key"] == f"a{name}")
            for row, support, index in card["tiles"]:
                code = record.factor_codes[record.labels[row], rank]
                assert support == f"{code * record.factor_scores[row, rank]:+.2f}"
                expected = code * record.factor_maps[row, rank].float()
                assert (map_of(page, index) - expected).abs().max() <= expected.abs().max() / 250


def test_crops_show_both_sides_where_the_maps_are_strongest(page):
    record, size = record_of(PLAN, 2), PLAN.size
    for rank, card in enumerate(frames_of(page)[2]["factors"]):
        for side, sign in (("high", 1), ("low", -1)):
            images = [image for image, *_ in card[side]]
            assert images
            assert (record.factor_scores[images, rank] * sign > 0).all()
            assert set(images) == set((record.factor_scores[:, rank] * sign > 0).nonzero().flatten().tolist())
            for image, left, top, right, bottom in card[side]:
                peak = (sign * record.factor_maps[image, rank].float()).flatten().argmax().item()
                row, column = (peak // PLAN.grid[1] + 0.5) * size[0] / 7, (peak % PLAN.grid[1] + 0.5) * size[1] / 7
                assert left <= column <= right
                assert top <= row <= bottom


def test_wrong_decisions_name_the_least_supporting_factor(tmp_path):
    plan = replace(PLAN, n_images=12)
    generator = torch.Generator().manual_seed(5)
    scores, logits = torch.randn(12, 2, generator=generator), torch.randn(12, 4, generator=generator)
    page = report(with_records(tmp_path / "run", plan, epoch_2={"factor_scores": scores, "logits": logits}))
    record, told = record_of(plan, 2), frames_of(page)[2]["wrong"]
    expected = {}
    for image in range(12):
        label, answer = int(record.labels[image]), int(logits[image].argmax())
        if answer != label:
            support = [float(FACTOR_CODES[label, rank] * scores[image, rank]) for rank in range(2)]
            least = 0 if support[0] <= support[1] else 1
            name = f"factor {[0, 2][least] + 1:02d}"
            expected[image] = (CLASSES[label], name, f"{support[least]:+.2f}", support[least])
            sure = float(logits[image].softmax(dim=0)[answer])
            assert next(row for row in told["rows"] if row["row"] == image)["answer"] == f"{CLASSES[answer]} {sure:.0%}"
    assert {row["row"]: (row["true"], row["factor"], row["support"]) for row in told["rows"]} == {
        image: each[:3] for image, each in expected.items()
    }
    assert len(expected) > 3
    assert [row["row"] for row in told["rows"]] == sorted(expected, key=lambda image: expected[image][3]), "worst first"
    assert f"{len(expected)} of 12 images are answered wrong." in page.words
    blamed = [each[1] for each in expected.values()]
    assert all(f"{name} in {blamed.count(name)}" in told["summary"] for name in set(blamed))


def test_where_all_is_right_the_last_wrong_answers_are_pointed_to(tmp_path):
    right = torch.nn.functional.one_hot(record_of(PLAN, 2).labels, 4).float()
    page = report(with_records(tmp_path / "run", epoch_2={"logits": right}))
    assert "All 4 images are answered right. The last wrong ones were at epoch 1" in page.words
    assert frames_of(page)[2]["wrong"]["rows"] == []
    assert wrong_sentence(0, 4, [], None) == "All 4 images are answered right."


@pytest.mark.parametrize("state", UNNAMED)
def test_a_factor_that_is_not_identified_is_never_named(tmp_path, state):
    page = report(with_records(tmp_path / "run", epoch_2={"factor_states": (state,)}))
    frame = frames_of(page)[2]
    assert frame["factors"] == [None, None]
    assert frame["wrong"]["rows"] == []
    assert "factor 0" not in str(frame)
    assert state.split("_")[0].capitalize() + " not identified" in page.words
    assert "2 factors account for 87.5%" in page.words, "what they explain together holds"
    assert "factor 01: 0.500 at epoch 0, 0.562 at epoch 1" in page.words
    alone = report(
        planted_run(
            tmp_path / "all", replace(PLAN, n_epochs=1), records={0: record_of(PLAN, 0, factor_states=(state,))}
        )
    )
    assert "factor 0" not in alone.words


def test_states_that_are_no_result_are_said(tmp_path):
    states = {0: ("untrained",), 1: ("two_classes",), 2: ("no_variation", "dead_layer")}
    names = ("codes", "directions", "scores", "shares", "identities")
    last = record_of(PLAN, 2)
    none = {f"factor_{name}": getattr(last, f"factor_{name}")[..., :0] for name in names}
    none |= {
        "factor_maps": last.factor_maps[:, :0],
        "factor_images": last.factor_images[:0],
        "factor_boxes": last.factor_boxes[:0],
    }
    records = {
        epoch: record_of(PLAN, epoch, factor_states=each, **(none if epoch == 2 else {}))
        for epoch, each in states.items()
    }
    page = report(planted_run(tmp_path / "run", PLAN, records=records))
    frames = frames_of(page)
    assert frames[0]["cautions"][0].startswith("62% of the network's answer is the same in every image")
    assert "With two classes there is one factor by necessity" in frames[1]["cautions"][0]
    assert "same to every image" in frames[2]["cautions"][0]
    assert "do not depend on this layer" in frames[2]["cautions"][1]
    assert frames[2]["facts"] == []
    assert "could not be read" not in page.words


def test_what_is_not_finite_is_left_out(tmp_path):
    record = record_of(PLAN, 2)
    broken = {name: getattr(record, name).clone() for name in ("factor_scores", "factor_maps", "logits")}
    for value in broken.values():
        value[1] = torch.nan
    page = report(with_records(tmp_path / "run", epoch_2=broken))
    frame = frames_of(page)[2]
    row, support, index = frame["factors"][0]["tiles"][1]
    assert (row, support, page.data["runs"][0]["factors"]["limits"][index]) == (1, "not finite", None)
    assert {each["row"]: each.get("factor") for each in frame["wrong"]["rows"]} == {1: None, 3: "factor 01"}
    assert all(crop[0] != 1 for card in frame["factors"] for crop in card["high"] + card["low"])


def test_snapshots_and_runs_without_factors_say_so(tmp_path):
    plain = Plan(run_id="plain")
    mixed = planted_run(tmp_path / "mixed", PLAN, records={0: record_of(plain, 0)})
    page = report(mixed, planted_run(tmp_path / "plain", plain))
    assert frames_of(page)[0]["facts"] == ["No decision factors were found at this snapshot."]
    assert page.data["runs"][1]["factors"] is None
    assert page.words.count("This run has no decision factors.") == 2
    assert "A factor 01" in page.words
    assert "shared" in sections(page)


def test_factors_are_shown_without_the_probe(tmp_path):
    path = planted_run(tmp_path / "run", PLAN)
    (path / "probe.npz").unlink()
    card = frames_of(report(path))[2]["factors"][0]
    assert card["high"] == card["low"] == []
    assert card["for"] == "class 0, class 1"


def test_records_whose_factors_do_not_fit_are_left_out(tmp_path):
    path = with_records(tmp_path / "run", epoch_1={"factor_scores": torch.zeros(4, 3)})
    page = report(path)
    assert "`factor_scores` does not fit to the rest: (4, 3)." in page.words
    assert len(frames_of(page)) == len(RunDirectory(path).files()) - 1


def test_many_classes_are_cut_to_both_ends():
    codes = [float(value) for value in range(-10, 11)]
    names = [f"c{value}" for value in range(21)]
    assert classes_of(codes, names) == "c20, c19, c18, c17, c16 and 3 more", "those below a quarter are not counted"
    shown = shown_codes(codes, names)
    assert [name for name, *_ in shown] == ["c20", "c19", "c18", "c17", "c16", "c4", "c3", "c2", "c1", "c0"]
    assert [relative for *_, relative in shown] == [1.0, 0.9, 0.8, 0.7, 0.6, -0.6, -0.7, -0.8, -0.9, -1.0]
    assert classes_of([0.0, 0.0], ["a", "b"]) == ""
