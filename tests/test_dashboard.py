"""The W&B workspace: each panel shows what its title says."""

import re

import pytest

from lit_decom import keys
from lit_decom.callbacks.settings import KeyFilter
from lit_decom.dashboard import CHARTS, workspace
from lit_decom.scoring.options import _every_default, named_metrics

METRICS = named_metrics(_every_default())
SINGLES = ("accuracy", "births", "deaths", "flips", "swaps", "confidence", "similarity", "drift", "effective_rank")
COUNTS = ("errors", "blank_maps", "nonfinite_images", "uniform_weights", "dropped/gini")
KEYS = {
    *keys.possible_keys(METRICS, ["correct", "incorrect"], ["grad_cam", *keys.CHANCE]),
    *(keys.count_key(stratum) for stratum in ("all", "correct", "incorrect", "fixed_correct", "fixed_incorrect")),
    *(keys.component_key(name, one) for name in ("score_gain", "explained_energy", "count") for one in range(8)),
    *(keys.rank_key(name, one) for name in ("score_gain", "explained_energy") for one in range(8)),
    *(keys.class_component_key("drift", one) for one in range(3)),
    *(keys.shared_key(name, one) for name in ("gain", "energy") for one in range(6)),
    *(keys.factor_key("share", one) for one in range(9)),
    *(keys.factor_key("score", one, stratum) for one in range(9) for stratum in ("all", "correct", "incorrect")),
    *(f"factor_{name}" for name in ("births", "deaths", "confidence", "drift", "agreement", "constant_share")),
    "completeness",
    *(keys.seconds_key(part) for part in ("explain", "score", "track", "report", "total")),
    *SINGLES,
    *COUNTS,
}
"""What a run with masks and parts may log."""


def unit_of(key):
    """In what a value is measured, as its definition says."""
    word = key.split("/")[0]
    if word in {"score_gain", "class_gain", "shared_gain", "factor_score"}:
        return "logit"
    if word == "count":
        return "components" if "component" in key else "images"
    if key.endswith("/gap") and word != "settled_at":
        return "difference of shares"
    units = {"settled_at": "epochs", "seconds": "seconds", "effective_rank": "components", "entropy": "nats"}
    units |= dict.fromkeys(("births", "deaths", "flips", "swaps"), "per image") | {
        "factor_births": "factors",
        "factor_deaths": "factors",
        "dropped": "times",
        "errors": "times",
    }
    return units.get(word, "share")


def drawn(pattern):
    return {key for key in KEYS if re.fullmatch(pattern, key)}


@pytest.mark.parametrize("question", CHARTS)
def test_a_section_answers_its_question_with_what_is_sent_by_default(question):
    asked = {key for key in KEYS if keys.matched(key, keys.ESSENTIAL[question])}
    shown = [drawn(pattern) for pattern in CHARTS[question].values()]
    assert asked <= set().union(*shown), "each essential key has its place"
    assert all(found & asked for found in shown), "no panel is empty by default"
    components = re.compile(r".*/component_\d+")
    assert {key for key in set().union(*shown) - asked if not components.fullmatch(key)} == set()


def test_a_chart_has_one_unit():
    units = {title: {unit_of(key) for key in drawn(p)} for charts in CHARTS.values() for title, p in charts.items()}
    assert {title: found for title, found in units.items() if len(found) != 1} == {}


def test_the_essential_keys_are_about_twenty():
    chosen = KeyFilter(keys.essential(), "decomcam", keys.MOST_AT_ONCE)
    sent = chosen.shown(dict.fromkeys(KEYS, 0.5))
    assert 18 <= len([key for key in sent if not key.startswith("dropped")]) <= 23, "with epoch and step at most 25"
    assert len([key for key in sent if key.startswith("factor_share/")]) == 6


def test_no_essential_key_is_the_folder_of_another_one():
    sent = {key for key in KEYS if keys.matched(key, keys.essential())}
    assert [key for key in sent if any(other.startswith(f"{key}/") for other in sent)] == []


def test_the_workspace_has_the_picture_and_the_charts_under_the_prefix():
    pytest.importorskip("wandb_workspaces", reason="needs the extra `dashboard`")
    made = workspace("somebody", "something", "mine")
    assert [section.name for section in made.sections] == list(keys.ESSENTIAL)
    media, *lines = made.sections[0].panels
    assert media.media_keys == ["mine/ossms"]
    assert re.fullmatch(lines[0].metric_regex, "mine/factor_share/02"), "factors lead"
    assert re.fullmatch(lines[1].metric_regex, "mine/energy_pointing_game/all")
    assert not re.fullmatch(lines[1].metric_regex, "mine/energy_pointing_game/correct")
