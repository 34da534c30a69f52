"""Promise 1: a training with the callback is bit for bit the one without it."""

import warnings

import lightning.pytorch as pl
import pytest

from lit_decom import DecomCAM
from tests.helpers.modules import Spots, TinyFaulty, callback, tiny
from tests.helpers.training import assert_same, train


@pytest.mark.parametrize(
    ("workers", "validate", "accumulate"),
    [(0, True, 1), (0, True, 3), (0, False, 1), (0, False, 3), (2, True, 3), (2, False, 1)],
)
def test_training_is_bit_identical_with_the_callback(tmp_path, workers, validate, accumulate):
    observer, arguments = callback(), {"workers": workers, "validate": validate, "accumulate_grad_batches": accumulate}
    watched = train(tmp_path / "watched", observer, **arguments)
    alone = train(tmp_path / "alone", **arguments)
    assert len(observer.run_log.history) == 3
    assert observer.errors == 0
    assert_same(watched, alone)
    # The comparison sees what it must: training did change the weights, and the frozen norm stayed frozen.
    assert len({page["weights"] for page in alone}) > 3


@pytest.mark.parametrize(("score_dtype", "strata"), [("float32", "correctness"), ("bfloat16", "class_accuracy")])
def test_scoring_the_explanations_leaves_training_alone(tmp_path, score_dtype, strata):
    method = DecomCAM(n_components=3, score_dtype=score_dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`score_dtype='bfloat16'` is slower")
        watched = train(tmp_path / "watched", callback(method=method, metrics="default", strata=strata))
    assert_same(watched, train(tmp_path / "alone"))


def test_baselines_that_ask_the_network_again_leave_training_alone(tmp_path):
    baselines = ["score_cam", "score_cam_pp", "ablation_cam", "opti_cam"]
    observer = callback(metrics="default", baselines=baselines)
    watched = train(tmp_path / "watched", observer, accumulate_grad_batches=3, max_epochs=2)
    assert observer.errors == 0
    assert_same(watched, train(tmp_path / "alone", accumulate_grad_batches=3, max_epochs=2))


def test_a_snapshot_in_the_middle_of_an_accumulation_leaves_its_gradients(tmp_path):
    arguments = {"accumulate_grad_batches": 4, "val_check_interval": 1}
    observer, module = callback(), tiny(freeze_first_norm=True)
    watched = train(tmp_path / "watched", observer, module=module, **arguments)
    alone = train(tmp_path / "alone", **arguments)
    assert observer.observer.n_snapshots == 12
    assert len(observer.run_log.history) == 3, "of those between two steps of the optimizer the last one is kept"
    assert_same(watched, alone)
    # Gradients were there to be spoiled: they differ from batch to batch inside one accumulation.
    assert len({page["gradients"] for page in alone[:4]}) == 4


def test_a_probe_chosen_from_the_training_data_leaves_the_augmentation_alone(tmp_path):
    with pytest.warns(UserWarning, match="another image at the second reading"):
        watched = train(tmp_path / "watched", callback(probe=4), validate=False)
    assert_same(watched, train(tmp_path / "alone", validate=False))


def test_a_probe_chosen_from_validation_data_not_yet_loaded_leaves_training_alone(tmp_path):
    with pytest.warns(UserWarning, match="another image at the second reading"):
        watched = train(tmp_path / "watched", callback(probe=4), num_sanity_val_steps=0)
    assert_same(watched, train(tmp_path / "alone", num_sanity_val_steps=0))


def test_a_search_for_the_layer_leaves_training_alone(tmp_path):
    watched = train(tmp_path / "watched", callback(target_layer=None))
    assert_same(watched, train(tmp_path / "alone"))


def test_snapshots_that_fail_leave_training_alone(tmp_path):
    module = tiny(TinyFaulty, freeze_first_norm=True)
    observer = callback(strict=False)

    class Arm(pl.Callback):
        def on_validation_epoch_start(self, trainer, pl_module):
            module.fault.armed = trainer.current_epoch > 0

        def on_validation_end(self, trainer, pl_module):
            module.fault.armed = False

    with pytest.warns(UserWarning, match="the network is broken"):
        watched = train(tmp_path / "watched", Arm(), observer, module=module)
    assert observer.errors == 2
    assert_same(watched, train(tmp_path / "alone", module=tiny(TinyFaulty, freeze_first_norm=True)))


def test_the_comparison_notices_an_observer_that_does_not_care(tmp_path):
    class Careless(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.train()
            pl_module(Spots(2).images)
            pl_module.eval()

    watched = train(tmp_path / "watched", Careless(), max_epochs=1)
    alone = train(tmp_path / "alone", max_epochs=1)
    assert {key for key in alone[-1] if watched[-1][key] != alone[-1][key]} >= {"buffers", "torch"}
