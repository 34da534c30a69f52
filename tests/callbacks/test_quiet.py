"""Which values go to the trackers, and that all others stay where checkpoints find them."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_decom import keys
from lit_decom.callbacks.settings import KeyFilter
from lit_decom.metrics import AverageGain, Gini
from tests.helpers.modules import callback, fit, loader, tiny, trainer


class Notes(CSVLogger):
    """A tracker that remembers which of our keys it got."""

    def __init__(self, folder):
        super().__init__(folder)
        self.got = []

    def log_metrics(self, metrics, step=None):
        self.got.append({key.removeprefix("decomcam/") for key in metrics if key.startswith("decomcam/")})

    @property
    def keys(self):
        return set().union(*self.got)


def sent(folder, *callbacks, **arguments):
    """Keys that a tracker gets, and those in `callback_metrics`."""
    notes = Notes(folder)
    run = fit(folder, callback(**arguments), *callbacks, logger=notes, max_epochs=2)
    return notes.keys, {key.removeprefix("decomcam/") for key in run.callback_metrics if key.startswith("decomcam/")}


def test_patterns_say_what_is_sent_and_everything_stays_known(tmp_path):
    some, known = sent(tmp_path, keys=["score_gain/rank_*", "decomcam/drift"], metrics=[Gini()])
    assert some == {"score_gain/rank_01", "score_gain/rank_02", "score_gain/rank_03", "drift"}
    assert {"gini/all", "gini/all/grad_cam", "seconds/explain", "accuracy", "errors"} <= known


def test_the_essential_ones_are_those_of_the_list_and_of_the_metrics_that_were_asked_for(tmp_path):
    some, known = sent(tmp_path, keys="essential", metrics=[Gini(), AverageGain()])
    assert {"gini/all", "average_gain/all", "accuracy", "seconds/total", "score_gain/component_01"} <= some
    assert all(keys.matched(key, keys.essential(["gini", "average_gain"])) for key in some)
    assert len(known) > 2 * len(some)


def test_what_a_checkpoint_is_chosen_by_is_sent_too(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", monitor="decomcam/gini/all/grad_cam", mode="max")
    some, _ = sent(tmp_path, keep, keys=["drift"], metrics=[Gini()])
    assert some == {"drift", "gini/all/grad_cam"}
    assert keep.best_model_score is not None


def test_a_checkpoint_finds_what_is_not_sent(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", filename="{decomcam/effective_rank:.3f}", monitor=None)
    some, _ = sent(tmp_path, keep, keys=["drift"])
    assert some == {"drift"}
    assert "effective_rank=0.000" not in keep.best_model_path
    assert "effective_rank=" in keep.best_model_path


def test_validate_sends_no_more_than_fit(tmp_path):
    notes = Notes(tmp_path)
    run = trainer(tmp_path, callback(keys=["score_gain/*"], metrics=[Gini()]), logger=notes)
    (returned,) = run.validate(tiny(), loader(), verbose=False)
    assert {key.removeprefix("decomcam/") for key in returned if key.startswith("decomcam/")} == notes.keys
    assert notes.keys
    assert all(key.startswith("score_gain/") for key in notes.keys)
    assert "decomcam/gini/all" in run.callback_metrics


def test_a_pattern_that_never_matches_is_named_once(tmp_path):
    observer = callback(keys=["drift", "ginni/*"], metrics=[Gini()])
    with pytest.warns(UserWarning, match=r"none matched \['ginni/\*'\]") as warned:
        fit(tmp_path, observer, max_epochs=2)
    assert len([entry for entry in warned if "none matched" in str(entry.message)]) == 1


def test_one_that_matches_late_is_not(tmp_path):
    fit(tmp_path, callback(keys=["drift"]), max_epochs=2)  # a warning would be an error


def test_a_filter_knows_which_patterns_are_idle():
    chosen = KeyFilter(["gini/*", "decomcam/drift", "never"], "decomcam")
    assert chosen.shown({"gini/all": 0.1, "entropy/all": 0.2}) == {"gini/all"}
    assert chosen.idle == ["decomcam/drift", "never"]
    assert chosen.shown({"drift": 0.1, "gini/all": 0.2}) == {"drift", "gini/all"}
    assert chosen.idle == ["never"]


def test_of_many_factors_the_strongest_are_sent_and_a_curve_that_began_goes_on():
    chosen = KeyFilter(["share/*", "drift"], "decomcam", {"share/*": 2})
    first = {"share/01": 0.1, "share/02": 0.5, "share/03": 0.3, "drift": 0.0}
    assert chosen.shown(first) == {"share/02", "share/03", "drift"}
    later = first | {"share/01": 0.9, "share/03": 0.2}
    assert chosen.shown(later) == {"share/02", "share/03", "drift"}
    del later["share/02"]
    assert chosen.shown(later) == {"share/01", "share/03", "drift"}, "one that ended leaves its place"


def test_what_a_pattern_without_a_limit_names_is_sent_in_any_case():
    chosen = KeyFilter(["share/*", "share/02"], "decomcam", {"share/*": 1})
    assert chosen.shown({"share/01": 0.9, "share/02": 0.1}) == {"share/01", "share/02"}
