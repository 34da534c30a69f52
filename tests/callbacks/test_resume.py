"""A resumed run goes on where it was: its curves, its records, its probe."""

import warnings
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_decom import DecomCAM, Probe
from lit_decom.records import RunDirectory
from tests.helpers.modules import Keep, Spots, callback, fit, loader, probe, seed_all, tiny, trainer


def part(root, observer, max_epochs, ckpt_path=None, **arguments):
    """Train to `max_epochs`, from a checkpoint or from the start; returns the last checkpoint."""
    module = tiny()
    # A checkpoint holds no random state, so that a resumed training drops out other units.
    module.drop.p = 0.0
    fit(
        root,
        Keep(root / "checkpoints"),
        observer,
        module=module,
        max_epochs=max_epochs,
        ckpt_path=ckpt_path,
        **arguments,
    )
    return root / "checkpoints" / f"epoch={max_epochs - 1}.ckpt"


def without_time(history):
    return [{key: value for key, value in numbers.items() if not key.startswith("seconds/")} for numbers in history]


def same(left, right) -> bool:
    """Whether two records hold the same, the time they took and where they lie excepted."""
    for name, value in vars(left).items():
        other = vars(right)[name]
        if isinstance(value, torch.Tensor):
            if not torch.equal(value.nan_to_num(7.5), other.nan_to_num(7.5)):
                return False
        elif name == "numbers":
            if without_time([value]) != without_time([other]):
                return False
        elif repr(value) != repr(other):  # NaN is like NaN
            return False
    return True


@pytest.mark.parametrize(("validate", "scored"), [(True, ()), (False, ()), (True, "default")])
def test_two_and_two_epochs_are_four(tmp_path, validate, scored):
    whole = callback(metrics=scored)
    part(tmp_path / "whole", whole, 4, validate=validate)
    first, second = callback(metrics=scored), callback(metrics=scored)
    checkpoint = part(tmp_path / "parts", first, 2, validate=validate)
    part(tmp_path / "parts", second, 4, checkpoint, validate=validate)
    assert second.directory.path == first.directory.path
    assert without_time(second.run_log.history) == without_time(whole.run_log.history)
    halves, entire = list(second.directory.records()), list(whole.directory.records())
    assert len(halves) == len(entire) == 4
    assert all(same(*records) for records in zip(halves, entire, strict=True))


def test_the_comparison_of_records_sees_a_difference(tmp_path):
    observer = callback()
    part(tmp_path, observer, 2)
    first, second = observer.directory.records()
    assert same(first, first)
    assert not same(first, second)


def test_going_on_from_an_earlier_checkpoint_sets_the_later_records_aside(tmp_path):
    first = callback()
    part(tmp_path, first, 4)
    checkpoint = tmp_path / "checkpoints" / "epoch=1.ckpt"
    names = [file.name for file in first.directory.files()]
    second = callback()
    part(tmp_path, second, 3, checkpoint)
    kept = [file.name for file in second.directory.files()]
    assert kept == names[:3]
    aside = sorted(file.name for file in second.directory.path.glob("*.superseded"))
    assert aside == [f"{name}.superseded" for name in names[2:]]
    assert [numbers["epoch"] for numbers in second.run_log.history] == [0, 1, 2]


def test_records_of_manual_optimisation_are_set_aside_by_the_step_they_bear(tmp_path):
    from tests.callbacks.test_trainer_access import TwoOptimizers

    def run(observer, max_epochs, ckpt_path=None):
        module, keep = tiny(TwoOptimizers), Keep(tmp_path / "checkpoints")
        fit(tmp_path, keep, observer, module=module, max_epochs=max_epochs, ckpt_path=ckpt_path)

    first, second = callback(), callback()
    run(first, 4)
    run(second, 3, tmp_path / "checkpoints" / "epoch=0.ckpt")
    # The global step counts two optimizers and is twice as far as the step of a record.
    assert len(list(second.directory.path.glob("*.superseded"))) == 3
    assert len(second.directory.files()) == 3


class Alike(Spots):
    """Four batches of the same images: a run resumed within an epoch begins with the first one and sees the same."""

    def __init__(self):
        super().__init__(4)
        self.images, self.targets = self.images.repeat(4, 1, 1, 1), self.targets * 4


def within_epochs(root, observer, step=None, *others, **arguments):
    """Train on batches that are all alike, from the start or from the checkpoint of a step, and save one at each."""
    module = tiny()
    module.drop.p = 0.0
    keep = ModelCheckpoint(root / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    ckpt_path = None if step is None else root / "checkpoints" / f"step={step}.ckpt"
    run = trainer(root, keep, *others, observer, **({"max_epochs": 2} | arguments))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        run.fit(module, loader(Alike()), loader(Spots(8, seed=2)), ckpt_path=ckpt_path)


# By the Trainer's arguments, a step before whose snapshot a checkpoint is saved, and one that has none.
SCHEDULES = [
    ({}, 4, 5),
    ({"val_check_interval": 0.5}, 6, 3),
    ({"val_check_interval": 3, "check_val_every_n_epoch": None}, 6, 5),
    ({"check_val_every_n_epoch": 2}, 8, 4),
    ({"limit_val_batches": 0}, 4, 2),
    ({"accumulate_grad_batches": 3}, 2, 3),
    ({"max_epochs": 1}, 4, 3),
]


@pytest.mark.parametrize(("schedule", "before_snapshot", "elsewhere"), SCHEDULES)
def test_a_run_resumed_after_any_batch_is_the_uninterrupted_one(tmp_path, schedule, before_snapshot, elsewhere):
    whole = callback(metrics="default")
    within_epochs(tmp_path, whole, **schedule)
    entire = list(whole.directory.records())
    for step in (before_snapshot, elsewhere):
        resumed = callback(metrics="default")
        within_epochs(tmp_path, resumed, step, **schedule)
        again = list(resumed.directory.records())
        assert resumed.directory.path == whole.directory.path
        assert [(each.epoch, each.step) for each in again] == [(each.epoch, each.step) for each in entire]
        if "limit_val_batches" in schedule:  # a mean over an epoch's batches is over those after the checkpoint
            again, entire = ([replace(each, module_values={}) for each in records] for records in (again, entire))
        assert all(same(*records) for records in zip(again, entire, strict=True))
        assert resumed.observer.n_snapshots == len(entire)


@pytest.mark.parametrize("strata", ["correctness", "class_accuracy"])
def test_a_run_that_died_between_checkpoint_and_snapshot_makes_up_for_it(tmp_path, strata):
    def observer():
        return callback(metrics="default", strata=strata)

    whole = observer()
    within_epochs(tmp_path, whole)
    first, second = whole.directory.records()
    for file in whole.directory.files():
        file.unlink()
    resumed = observer()
    within_epochs(tmp_path, resumed, 4)
    made_up, after = resumed.directory.records()
    assert (made_up.epoch, made_up.step) == (first.epoch, first.step)
    assert torch.equal(made_up.identities, first.identities)
    assert torch.equal(made_up.logits, first.logits)
    assert made_up.module_values == {}, "no validation ran"
    assert same(after, second)


@pytest.mark.parametrize("found", [True, False])
def test_a_changed_probe_is_refused_by_name(tmp_path, found):
    checkpoint = part(tmp_path, callback(), 1)
    shown = probe()
    other = Probe.from_tensors(shown.images + 0.01, shown.labels, ids=shown.ids) if found else probe(5)
    words = rf"digest {shown.digest[:12]}.*digest {other.digest[:12]} and {'the same' if found else 'other'} ids"
    with pytest.raises(MisconfigurationException, match=words):
        part(tmp_path, callback(probe=other), 2, checkpoint)


OTHERS = [
    ({"method": DecomCAM(n_components=2)}, "`method` to be DecomCAM.n_components=3, .*got DecomCAM.n_components=2"),
    ({"method": DecomCAM(n_components=3, integration="v25")}, "`method` to be .*'paper'.*, but got .*'v25'"),
    ({"target": "predicted"}, "`target` to be label, but got predicted"),
    ({"n_shared": 3}, "`components` to be .*n_shared=None.*, but got .*n_shared=3"),
]


@pytest.mark.parametrize(("other", "words"), OTHERS)
def test_another_explanation_is_refused_by_name_and_begins_new_curves_under_another_prefix(tmp_path, other, words):
    first = callback()
    checkpoint = part(tmp_path, first, 1)
    with pytest.raises(MisconfigurationException, match=f"{words}.* another `prefix`"):
        part(tmp_path, callback(**other), 2, checkpoint)
    assert len(first.directory.files()) == 1
    second = callback(**other, prefix="second")
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        part(tmp_path, second, 2, checkpoint)
    (record,) = second.directory.records()
    assert record.epoch == 1
    assert torch.equal(record.births, record.identities >= 0), "all are new"


def test_other_scores_and_another_rhythm_are_no_other_explanation(tmp_path):
    checkpoint = part(tmp_path, callback(), 1)
    observer = callback(metrics="default", every_n_epochs=2)
    part(tmp_path, observer, 4, checkpoint)
    assert [numbers["epoch"] for numbers in observer.run_log.history] == [0, 1, 3]


def test_a_probe_found_in_changed_data_is_refused_where_that_of_the_run_is_gone(tmp_path):
    first = callback(probe=4)
    checkpoint = part(tmp_path, first, 1)
    (first.directory.path / "probe_exact.npz").unlink()
    run = trainer(tmp_path, callback(probe=4), max_epochs=2)
    with pytest.raises(MisconfigurationException, match="start a new run"):
        run.fit(tiny(), loader(), loader(Spots(8, seed=99)), ckpt_path=checkpoint)


def test_the_state_is_made_of_tensors_and_primitives(tmp_path):
    checkpoint = part(tmp_path, callback(metrics="default"), 2)
    state = torch.load(checkpoint, weights_only=True)["callbacks"]
    (ours,) = [value for key, value in state.items() if "DecomCAM" in key]
    assert "history" not in ours
    assert ours["probe_digest"] == probe().digest

    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str | int) for key in value)
            for entry in value.values():
                check(entry)
        elif isinstance(value, list | tuple):
            for entry in value:
                check(entry)
        else:
            assert isinstance(value, torch.Tensor | str | int | float | bool | None)

    check(ours)


@pytest.mark.parametrize("shared", ["decision_factors", "svd"])
def test_neither_state_nor_memory_holds_a_snapshot_more(tmp_path, shared):
    sizes = []

    class Sizes(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if observer.observer.n_snapshots:
                sizes.append(size_of(observer.state_dict()))

    observer = callback(metrics="default", shared=shared, one_scale=True)
    fit(tmp_path, observer, Sizes(), module=tiny(), max_epochs=5, val_check_interval=1)
    assert len(sizes) == 19
    # Components come and go; the numbers of one snapshot are half as much as all of this.
    assert max(sizes) < 1.25 * min(sizes[1:])
    # None of what the run log keeps in memory is as long as the run.
    kept = [value for value in vars(observer.run_log).values() if isinstance(value, list | tuple)]
    assert not [value for value in kept if len(value) >= 19]


def size_of(value) -> int:
    """How many numbers, letters and names a state holds."""
    if isinstance(value, dict):
        return sum(len(str(key)) + size_of(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return value.numel() if isinstance(value, torch.Tensor) else len(value) if isinstance(value, str) else 1


def test_a_run_goes_on_in_a_new_directory_where_the_old_one_is_gone_or_anothers(tmp_path):
    first = callback()
    checkpoint = part(tmp_path, first, 1)
    (first.directory.path / "run.json").write_text('{"run_id": "another", "settings": {}}')
    second = callback()
    part(tmp_path, second, 2, checkpoint)
    assert second.directory.path != first.directory.path
    assert [record.epoch for record in second.directory.records()] == [1]
    assert [numbers["epoch"] for numbers in second.run_log.history] == [1], "curves are drawn from these records"
    assert [record.epoch for record in first.directory.records()] == [0]


def test_a_given_directory_goes_on_to_hold_all_records(tmp_path):
    checkpoint = part(tmp_path, callback(dirpath=tmp_path / "maps"), 2)
    part(tmp_path, callback(dirpath=tmp_path / "maps"), 3, checkpoint)
    assert [record.epoch for record in RunDirectory(tmp_path / "maps").records()] == [0, 1, 2]


def test_a_given_directory_of_another_run_is_refused_before_training(tmp_path):
    part(tmp_path, callback(dirpath=tmp_path / "maps"), 1)
    module = tiny()
    with pytest.raises(MisconfigurationException, match="to be this run's own, but it holds records of run"):
        fit(tmp_path, callback(dirpath=tmp_path / "maps"), module=module)
    assert torch.equal(module.head.weight, tiny().head.weight)
    assert len(RunDirectory(tmp_path / "maps").files()) == 1


def test_a_run_resumed_under_another_version_of_the_logger_appends_to_its_records(tmp_path):
    first, second = callback(), callback()
    checkpoint = part(tmp_path, first, 1, logger=CSVLogger(tmp_path, name="logs"))
    part(tmp_path, second, 2, checkpoint, logger=CSVLogger(tmp_path, name="logs"))
    assert second.directory.path == first.directory.path == tmp_path / "logs" / "version_0" / "decomcam"
    assert len(second.directory.files()) == 2


def test_resuming_leaves_training_alone(tmp_path):
    weights = []
    for observers in ([callback()], []):
        folder = tmp_path / str(len(observers))
        seed_all(3)
        fit(tmp_path, Keep(folder), *observers, module=tiny(), max_epochs=2)
        module = tiny()
        seed_all(4)
        fit(tmp_path, *observers, module=module, max_epochs=3, ckpt_path=folder / "epoch=0.ckpt")
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_checkpoint_without_the_callback_starts_new_curves(tmp_path):
    fit(tmp_path, Keep(tmp_path / "checkpoints"), module=tiny(), max_epochs=1)
    observer = callback()
    part(tmp_path, observer, 2, tmp_path / "checkpoints" / "epoch=0.ckpt")
    assert [numbers["epoch"] for numbers in observer.run_log.history] == [1]
