"""Names of a run's decision factors: given from what the run left behind, and shown by its report."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from lit_decom.concepts import ConceptTree, Name, Namer
from lit_decom.records import FactorNames, RunDirectory, RunDirectoryError
from lit_decom.run_names import name_run
from tests.helpers.page import report
from tests.helpers.runs import Plan, factors_at, planted_run, record_of

PLAN = Plan(factors=True)
TREE = ConceptTree({"a": {"fur": {"colour": "red fur"}}, "b": {"fur": {"colour": "blue fur"}}})


class Asked(Namer):
    """Names what it is asked by the sign of the score, and notes the images."""

    def name_factors(self, images, scores, maps, *, states=(), n_images=16):
        self.asked.append((images, scores, maps, states, n_images))
        red, blue = TREE.concepts
        return [(Name(red, 0.975, given=True), Name(blue, 0.6, given=False))] * (scores.shape[1] - 1) + [(None, None)]


@pytest.fixture
def namer():
    made = Asked(nn.Identity(), TREE)
    object.__setattr__(made, "asked", [])
    return made


@pytest.fixture
def run(tmp_path):
    return planted_run(tmp_path / "run", PLAN)


def test_names_are_those_of_the_last_snapshot_and_come_back(run, namer):
    mean, std = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.5, 1.0, 2.0])
    names = name_run(run, namer, mean=mean, std=std, n_images=3)
    first, second = factors_at(PLAN, PLAN.n_epochs - 1)
    assert names.epoch == PLAN.n_epochs - 1
    assert names.sides == {first: ("red fur (98%)", None), second: (None, None)}
    assert RunDirectory(run).names() == names
    ((images, scores, maps, states, n_images),) = namer.asked
    last = record_of(PLAN, PLAN.n_epochs - 1)
    assert torch.equal(scores, last.factor_scores)
    assert torch.equal(maps, last.factor_maps)
    assert (states, n_images) == (last.factor_states, 3)
    shown = RunDirectory(run).probe().images
    torch.testing.assert_close(images * std[:, None, None] + mean[:, None, None], shown)


def test_a_report_shows_names_where_the_factors_are(run):
    first, _ = factors_at(PLAN, PLAN.n_epochs - 1)
    RunDirectory(run).save_names(FactorNames(2, {first: ("pointed ears (98%)", None)}))
    page = report(run)
    frames = page.data["runs"][0]["factors"]["frames"]
    words = {card["key"]: card["words"] for frame in frames for card in frame["factors"] if card}
    assert words.pop(f"a{first}") == ["shows pointed ears (98%)", "no name"]
    assert set(map(tuple, words.values())) == {("", "")}
    assert "given at epoch 2 by an image-text model" in page.words
    assert "shows pointed ears (98%)" in page.words


def test_a_run_that_nobody_named_says_nothing_of_names(run):
    page = report(run)
    assert RunDirectory(run).names() is None
    assert "image-text" not in page.words
    assert all(
        card["words"] == ["", ""] for frame in page.data["runs"][0]["factors"]["frames"] for card in frame["factors"]
    )


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"epoch": 1, "factors": {"0": ["one side"]}})])
def test_broken_names_are_told_and_left_out(run, text):
    (run / "names.json").write_text(text)
    with pytest.raises(RunDirectoryError, match="to name decision factors, but"):
        RunDirectory(run).names()
    page = report(run)
    assert "to name decision factors, but" in page.words
    assert page.data["runs"][0]["factors"]["frames"][0]["factors"][0]["words"] == ["", ""]


def test_a_run_without_factors_cannot_be_named(tmp_path, namer):
    with pytest.raises(RunDirectoryError, match="record with decision factors, but the last one has none"):
        name_run(planted_run(tmp_path / "run", replace(PLAN, factors=False)), namer)
