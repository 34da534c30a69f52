"""When the callback fires, what it logs, and who sees it."""

import inspect
import json
import pickle
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional as F

from lit_decom import DecomCAM, DecomCAMCallback, Probe, capture, find_target_layer
from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.explainer import summary
from tests.helpers.modules import Spots, Tiny, callback, fit, loader, probe, tiny, trainer


def epochs_of(observer: DecomCAMCallback) -> list[int]:
    return [record.epoch for record in observer.directory.records()]


# ----- when


@pytest.mark.parametrize(
    ("every_n_epochs", "arguments", "epochs"),
    [
        pytest.param(1, {"max_epochs": 3}, [0, 1, 2], id="every epoch"),
        pytest.param(2, {"max_epochs": 5}, [1, 3], id="every second epoch"),
        pytest.param(2, {"max_epochs": 5, "validate": False}, [1, 3], id="every second epoch, no validation loop"),
        pytest.param(1, {"max_epochs": 4, "check_val_every_n_epoch": 2}, [1, 3], id="validation every second epoch"),
        pytest.param(3, {"max_epochs": 7, "check_val_every_n_epoch": 2}, [5], id="both, where they meet"),
        pytest.param(1, {"max_epochs": 2, "val_check_interval": 0.5}, [0, 0, 1, 1], id="twice an epoch"),
        pytest.param(
            1,
            {"max_epochs": 2, "val_check_interval": 3, "check_val_every_n_epoch": None},
            [0, 1],
            id="every three batches",
        ),
        pytest.param(1, {"max_epochs": 2, "num_sanity_val_steps": 2}, [0, 1], id="not in the sanity check"),
        pytest.param(1, {"max_epochs": 2, "num_sanity_val_steps": 0}, [0, 1], id="without a sanity check"),
    ],
)
def test_it_takes_a_snapshot_at_the_end_of_each_validation_that_is_due(tmp_path, every_n_epochs, arguments, epochs):
    observer = callback(every_n_epochs=every_n_epochs)
    fit(tmp_path, observer, **arguments)
    assert epochs_of(observer) == epochs
    assert [numbers["epoch"] for numbers in observer.run_log.history] == epochs
    steps = [record.step for record in observer.directory.records()]
    assert steps == sorted(set(steps))


def test_two_snapshots_within_one_accumulation_keep_the_later_record(tmp_path):
    observer, numbers = callback(), NumbersOfEpoch()
    fit(tmp_path, observer, numbers, accumulate_grad_batches=2, val_check_interval=1)
    # Batches 1 and 2 are both logged at step 0: Lightning advances it after the validation.
    assert [entry["step"] for entry in observer.run_log.history] == [0, 1]
    kept = [record.numbers["score_gain/rank_01"] for record in observer.directory.records()]
    assert len(numbers.gains) == 4
    assert kept == pytest.approx([numbers.gains[1], numbers.gains[3]])


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("name", ["validate", "test"])
def test_validate_and_test_log_it_and_write_nothing(tmp_path, name, inference_mode):
    observer, module = callback(), tiny()
    run = trainer(tmp_path, observer, inference_mode=inference_mode)
    (numbers,) = getattr(run, name)(module, loader(Spots(8, seed=2)), verbose=False)
    expected = expected_numbers(module)
    assert {key: numbers[key] for key in expected} == pytest.approx(expected)
    assert list(tmp_path.iterdir()) == []
    assert observer.run_log.history == []
    module.train()
    F.cross_entropy(module(Spots(4).images), torch.tensor([0, 1, 2, 3])).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_validation_after_the_training_leaves_what_was_followed_alone(tmp_path):
    observer, module = callback(probe=6), tiny()
    run = fit(tmp_path, observer, module=module, max_epochs=2)
    before, files = pickle.dumps(observer.state_dict()), sorted(tmp_path.rglob("*"))
    run.validate(module, loader(Spots(8, seed=5)), verbose=False)
    run.test(module, loader(Spots(8, seed=6)), verbose=False)
    assert pickle.dumps(observer.state_dict()) == before
    assert sorted(tmp_path.rglob("*")) == files
    run.fit_loop.max_epochs = 3
    run.fit(module, loader(), loader(Spots(8, seed=2)))
    assert epochs_of(observer) == [0, 1, 2]


def test_fast_dev_run_explains_and_writes_nothing(tmp_path):
    observer = callback()
    run = fit(tmp_path, observer, fast_dev_run=True)
    assert "decomcam/score_gain/rank_01" in run.callback_metrics
    assert list(tmp_path.iterdir()) == []


def test_the_way_from_the_hook_to_the_core_is_short(tmp_path, monkeypatch):
    ways, decompose = [], DecomCAM.decompose

    def noting(method, evidence):
        frames = [frame for frame in inspect.stack() if "lit_decom" in Path(frame.filename).parts]
        names = [frame.function for frame in reversed(frames)]
        if "on_validation_epoch_end" in names:
            ways.append([*names[names.index("on_validation_epoch_end") :], "decompose"])
        return decompose(method, evidence)

    monkeypatch.setattr(DecomCAM, "decompose", noting)
    fit(tmp_path, callback())
    shared = ("observe", "share", "_explain_share")
    as_much_as_fits = ("pieces", "over", "explained")
    assert ways[0] == ["on_validation_epoch_end", "_take_snapshot", *shared, *as_much_as_fits, "decompose"]


# ----- what


def expected_numbers(module: Tiny, shown: Probe | None = None) -> dict[str, float]:
    """What the callback must log for `module` as it is now, from the parts it is made of."""
    shown = probe() if shown is None else shown
    evidence = capture(module, find_target_layer(module, "second"), shown.images, shown.labels)
    numbers = summary(DecomCAM(n_components=3).decompose(evidence))
    return {f"decomcam/{name}": value for name, value in numbers.items()}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"batch_size": 1, "chunk_size": 1}, {"batch_size": 4}])
def test_logged_numbers_are_those_of_the_network_at_the_end_of_the_epoch(tmp_path, validate, sizes):
    observer, module = callback(**sizes), tiny()
    run = fit(tmp_path, observer, module=module, max_epochs=2, validate=validate)
    logged = {key: value.item() for key, value in run.callback_metrics.items() if key.startswith("decomcam/")}
    expected = expected_numbers(module)
    assert {key: logged[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert logged["decomcam/errors"] == 0
    assert 0 < logged["decomcam/seconds/explain"] < 60


def test_the_keys_are_those_of_the_documentation(tmp_path):
    run = fit(tmp_path, callback())
    ranks = [f"decomcam/{kind}/rank_0{rank}" for kind in ("score_gain", "explained_energy") for rank in (1, 2, 3)]
    single = ("effective_rank", "valid_components", "positive_gain_share", "blank_maps", "seconds/explain", "errors")
    assert {*ranks, *(f"decomcam/{name}" for name in single)} <= set(run.callback_metrics)


def test_a_frozen_backbone_works(tmp_path):
    module = tiny()
    module.first.requires_grad_(requires_grad=False)
    module.second.requires_grad_(requires_grad=False)
    run = fit(tmp_path, callback(), module=module)
    assert run.callback_metrics["decomcam/explained_energy/rank_01"] > 0.1
    assert not any(parameter.requires_grad for parameter in module.second.parameters())


@pytest.mark.parametrize("target", ["predicted", "contrast", 2])
def test_other_targets_explain_other_classes(tmp_path, target):
    observer = callback(target=target)
    fit(tmp_path, observer)
    (record,) = observer.directory.records()
    expected = torch.full((6,), 2) if target == 2 else record.logits.argmax(dim=1)
    assert record.targets.tolist() == expected.tolist()
    assert record.settings["target"] == target


def test_a_callable_target_sees_the_probes_labels(tmp_path):
    def margin(logits, labels):
        return logits.gather(1, labels[:, None]).squeeze(1) - logits.mean(dim=1)

    observer = callback(target=margin, batch_size=4)
    fit(tmp_path, observer)
    (record,) = observer.directory.records()
    assert record.targets.tolist() == [-1] * 6
    margins = margin(record.logits, record.labels)
    # Seen through its components an image scores between its blurred self and a little above itself.
    assert record.scores[record.valid].isfinite().all()
    assert (record.reference_scores - margins).abs().max() < 1


def test_mixed_precision_is_left_to_the_training(tmp_path):
    module = tiny()
    run = fit(tmp_path, callback(), module=module, precision="bf16-mixed")
    expected = expected_numbers(module)
    assert {key: run.callback_metrics[key].item() for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_classes_are_counted_in_the_validations_that_are_followed_by_a_snapshot(tmp_path, monkeypatch):
    counted, count = [], ClassAccuracy.count

    def noting(answers, module, *rest):
        counted.append(module.current_epoch)
        count(answers, module, *rest)

    monkeypatch.setattr(ClassAccuracy, "count", noting)
    observer = callback(every_n_epochs=2, metrics="default", strata="class_accuracy")
    run = fit(tmp_path, observer, max_epochs=4)
    # Two batches each: an answer of an earlier epoch would be counted as one of this network's.
    assert counted == [1, 1, 3, 3]
    assert run.callback_metrics["decomcam/errors"] == 0


# ----- who sees it


class NumbersOfEpoch(pl.Callback):
    def __init__(self) -> None:
        self.gains: list[float] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self.gains.append(trainer.callback_metrics["decomcam/score_gain/rank_01"].item())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"val_check_interval": 0.5}])
def test_checkpoints_are_ranked_by_it(tmp_path, first, arguments):
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", monitor="decomcam/score_gain/rank_01", mode="max")
    observer, numbers = callback(), NumbersOfEpoch()
    fit(tmp_path, *([checkpoint, observer] if first else [observer, checkpoint]), numbers, max_epochs=4, **arguments)
    gains = [entry["score_gain/rank_01"] for entry in observer.run_log.history]
    assert checkpoint.best_model_score.item() == pytest.approx(max(gains))
    assert numbers.gains == pytest.approx(gains)
    state = torch.load(checkpoint.best_model_path, weights_only=True)
    best = observer.run_log.history[gains.index(max(gains))]
    assert state["callbacks"][observer.state_key]["last_step"] == best["step"]


def test_checkpoints_are_ranked_by_it_without_a_validation_loop(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", monitor="decomcam/score_gain/rank_01", mode="min")
    observer = callback()
    fit(tmp_path, checkpoint, observer, max_epochs=3, validate=False)
    gains = [entry["score_gain/rank_01"] for entry in observer.run_log.history]
    assert checkpoint.best_model_score.item() == pytest.approx(min(gains))


def test_a_checkpoint_between_two_snapshots_is_not_ranked_by_a_stale_number(tmp_path):
    checkpoint = ModelCheckpoint(
        tmp_path / "checkpoints", monitor="decomcam/explained_energy/rank_01", mode="max", save_top_k=-1
    )
    observer = callback(every_n_epochs=2)
    fit(tmp_path, checkpoint, observer, max_epochs=4)
    scores = [score.item() for score in checkpoint.best_k_models.values()]
    assert len(scores) == 4
    energies = [entry["explained_energy/rank_01"] for entry in observer.run_log.history]
    assert sorted(score for score in scores if score != float("-inf")) == pytest.approx(sorted(energies))


def test_early_stopping_sees_it(tmp_path):
    # Blank maps never get fewer than none, so that patience is over after one more epoch.
    run = fit(tmp_path, callback(), EarlyStopping("decomcam/blank_maps", mode="min", patience=1), max_epochs=6)
    assert run.current_epoch == 2


def test_two_callbacks_live_side_by_side(tmp_path):
    one, other = callback(), callback(prefix="other", method=DecomCAM(n_components=2), target="predicted")
    run = fit(tmp_path, one, other, max_epochs=2, logger=CSVLogger(tmp_path, name="run"))
    assert {"decomcam/score_gain/rank_01", "other/score_gain/rank_01"} <= set(run.callback_metrics)
    assert "other/score_gain/rank_03" not in run.callback_metrics
    assert one.directory.path == tmp_path / "run" / "version_0" / "decomcam"
    assert other.directory.path == tmp_path / "run" / "version_0" / "other"
    assert one.state_key != other.state_key
    assert [len(list(entry.directory.records())) for entry in (one, other)] == [2, 2]


def test_one_callback_serves_several_runs(tmp_path):
    observer = callback()
    fit(tmp_path, observer, max_epochs=2)
    first, identity = observer.directory, observer.state_dict()["run_id"]
    fit(tmp_path, observer, max_epochs=3)
    assert observer.directory.path != first.path
    assert observer.state_dict()["run_id"] != identity
    assert [len(first.files()), len(observer.directory.files())] == [2, 3]
    assert len(observer.run_log.history) == 3
    assert observer.observer.n_snapshots == 3


def test_one_callback_does_not_mix_two_runs_in_one_directory(tmp_path):
    observer = callback(dirpath=tmp_path / "maps")
    fit(tmp_path, observer)
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match="to be this run's own"):
        fit(tmp_path, observer)


def test_a_callback_can_be_pickled_before_and_after_a_run(tmp_path):
    observer = callback()
    assert pickle.loads(pickle.dumps(observer)).log_options.n_images == 2
    fit(tmp_path, observer)
    assert pickle.loads(pickle.dumps(observer.state_dict()))["last_step"] == observer.run_log.history[-1]["step"]


def test_the_run_file_says_how_the_numbers_came_to_be(tmp_path):
    observer = callback()
    fit(tmp_path, observer)
    settings = json.loads((observer.directory.path / "run.json").read_text())["settings"]
    assert settings["method"] == "DecomCAM(n_components=3, integration='paper')"
    assert settings["target_layer"] == "second"
    assert settings["target"] == "label"
    assert settings["probe_digest"] == probe().digest
    assert settings["torch"] == torch.__version__
    assert settings["every_n_epochs"] == 1


def test_a_run_without_a_snapshot_says_why(tmp_path):
    with pytest.warns(UserWarning, match=r"no snapshot in 2 epochs: `every_n_epochs` is 3, .*_n_epoch` 1\.$"):
        fit(tmp_path, callback(every_n_epochs=3), max_epochs=2)
    observer = callback(every_n_epochs=2)
    assert len(fit(tmp_path, observer, max_epochs=2).callback_metrics) > 2, "no warning where there is one"
    # A dry run is too short for it.
    fit(tmp_path, callback(every_n_epochs=3), fast_dev_run=True)
