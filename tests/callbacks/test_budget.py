"""Snapshots within epochs, and snapshots that are left out to keep within a budget of time."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_decom import Execution
from lit_decom.callbacks import budget
from lit_decom.callbacks.budget import Schedule
from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.process import Process
from tests.helpers.modules import Keep, callback, fit, tiny

CPU = torch.device("cpu")


class Clock:
    """Tells the time that it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    one = Clock()
    monkeypatch.setattr(budget, "monotonic", one)
    return one


def training(epoch=0):
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(state=state, sanity_checking=False, current_epoch=epoch, global_step=0, world_size=1)


def trained(schedule, clock, epochs, *, seconds=10.1, cost=1.0):
    """Epochs of so many seconds, and a snapshot of another one at the end of each where it is taken."""
    taken = []
    for epoch in range(epochs):
        clock.now += seconds
        run = training(epoch)
        schedule.decide(run)
        # The callback also asks where it does nothing.
        with schedule.spending(run, CPU):
            clock.now += 1e-6
            if schedule.is_due(run):
                taken.append(epoch)
                clock.now += cost(epoch) if callable(cost) else cost
    return taken


# ----- a budget


def test_without_a_budget_every_snapshot_is_taken(clock):
    schedule = Schedule(1, Execution())
    schedule.begin(training())
    assert trained(schedule, clock, 5, cost=1000) == [0, 1, 2, 3, 4]
    assert schedule.is_regular


def test_snapshots_take_at_most_the_share_of_training_that_they_may(clock):
    schedule = Schedule(1, Execution(max_overhead=0.02))
    schedule.begin(training())
    # A second each, of which 50 seconds of training allow one: the first costs more than there is room for.
    assert trained(schedule, clock, 31) == [0, 9, 14, 19, 24, 29]
    assert schedule.spent <= 0.02 * 10.1 * 31
    assert schedule.left_out == 25
    assert not schedule.is_regular


def test_each_is_expected_to_take_what_the_last_one_took(clock):
    schedule = Schedule(1, Execution(max_overhead=0.1))
    schedule.begin(training())
    # The first one is dear, as where caches are filled, and makes no later one dear.
    assert trained(schedule, clock, 12, cost=lambda epoch: 5.0 if epoch == 0 else 1.0) == [0, 9, 10, 11]
    assert schedule.spent == pytest.approx(8.0, abs=1e-3)


def test_seconds_are_those_of_the_whole_run(clock):
    schedule = Schedule(1, Execution(max_seconds=3.5))
    schedule.begin(training())
    assert trained(schedule, clock, 9) == [0, 1, 2]


def test_epochs_without_a_snapshot_of_their_own_cost_nothing(clock):
    schedule = Schedule(3, Execution(max_seconds=3.5))
    schedule.begin(training())
    assert trained(schedule, clock, 20) == [2, 5, 8]
    assert schedule.left_out == 3


def test_a_resumed_run_goes_on_with_what_is_left(clock):
    first, second = (Schedule(1, Execution(max_overhead=0.02)) for _ in range(2))
    first.begin(training())
    trained(first, clock, 8)
    state = first.state_dict()
    clock.now += 1e6  # between the sessions nobody trains
    second.load_state_dict(state)
    second.begin(training())
    assert trained(second, clock, 12) == [1, 6, 11]
    assert all(isinstance(value, float) for value in state.values())


def test_a_second_fit_goes_on_and_what_lies_between_is_no_training(clock):
    schedule = Schedule(1, Execution(max_overhead=0.02))
    schedule.begin(training())
    trained(schedule, clock, 8)
    schedule.end()
    clock.now += 1e6
    schedule.begin(training())
    assert trained(schedule, clock, 12) == [1, 6, 11]


def test_the_first_process_decides(clock, monkeypatch):
    answers = []

    def exchange(mine):
        answers.append(mine[0])
        return [(False, None), mine]  # what, and whether there was an error

    monkeypatch.setattr(budget, "this_process", lambda _trainer: Process(1, 2, exchange))
    schedule = Schedule(1, Execution(max_seconds=100))
    schedule.begin(training())
    assert trained(schedule, clock, 3) == []
    assert answers == [True, True, True]


def test_it_says_what_is_left_out(clock, caplog):
    schedule = Schedule(1, Execution(max_overhead=0.02))
    schedule.begin(training())
    with caplog.at_level("INFO"):
        trained(schedule, clock, 12)
        schedule.end()
    first, last = (record.message for record in caplog.records)
    assert "leaves out a snapshot, to keep within its budget (max_overhead=0.02): those so far took 1.0 s" in first
    assert "left out 10 snapshots, to keep within its budget (max_overhead=0.02): those taken cost 2.0 s" in last


def test_a_training_keeps_within_it_and_monitors_see_no_old_value(tmp_path):
    observer, seen = callback(max_seconds=1e-3), []

    class Look(ModelCheckpoint):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen.append(trainer.callback_metrics["decomcam/score_gain/rank_01"].isnan().item())

    look = Look(tmp_path / "checkpoints", monitor="decomcam/score_gain/rank_01")
    fit(tmp_path, observer, look, max_epochs=3)
    assert seen == [False, True, True]
    assert [record.epoch for record in observer.directory.records()] == [0]
    assert observer.last_snapshot.decomposition.components.shape[0] == 6  # all images of it


def test_answers_are_not_counted_for_a_snapshot_that_is_left_out(tmp_path, monkeypatch):
    counted, count = [], ClassAccuracy.count
    monkeypatch.setattr(ClassAccuracy, "count", lambda *given: counted.append(1) or count(*given))
    fit(tmp_path, callback(max_seconds=1e-3, metrics="default", strata="class_accuracy"), max_epochs=3)
    assert len(counted) == 2  # the batches of the first validation


@pytest.mark.parametrize("limit", [{"max_overhead": 0.02}, {"max_seconds": 60.0}])
def test_under_a_budget_no_value_counts_as_always_there(tmp_path, limit):
    stopping = EarlyStopping("decomcam/score_gain/rank_01", mode="max")
    with pytest.raises(MisconfigurationException, match="check_finite=False"):
        fit(tmp_path, callback(**limit), stopping)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"every_n_steps": 0}, "`every_n_steps` to be at least 1, but got 0"),
        ({"max_overhead": 0.0}, r"`max_overhead` to be above 0, but got 0\.0"),
        ({"max_overhead": float("nan")}, "`max_overhead` to be above 0, but got nan"),
        ({"max_seconds": -1}, "`max_seconds` to be above 0, but got -1"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Execution(**given)


# ----- steps


@pytest.mark.parametrize(
    ("options", "arguments", "steps"),
    [
        ({"every_n_steps": 3}, {}, [2, 3, 5, 7, 8, 11]),
        # A batch that ends in a validation with a snapshot has no second one.
        ({"every_n_steps": 2}, {}, [1, 3, 5, 7, 9, 11]),
        ({"every_n_steps": 2}, {"limit_val_batches": 0}, [1, 3, 5, 7, 9, 11]),
        ({"every_n_steps": 1}, {"limit_val_batches": 0, "limit_train_batches": 2}, [0, 1, 2, 3, 4, 5]),
        ({"every_n_steps": 3}, {"val_check_interval": 0.5}, [1, 2, 3, 5, 7, 8, 9, 11]),
        # The validation of the first epoch has none.
        ({"every_n_steps": 4, "every_n_epochs": 2}, {}, [3, 7, 11]),
        ({"every_n_steps": 100}, {}, [3, 7, 11]),
        # Two steps an epoch: after three batches, and after the last one.
        ({"every_n_steps": 1}, {"accumulate_grad_batches": 3}, [0, 1, 2, 3, 4, 5]),
        ({"every_n_steps": 3}, {"accumulate_grad_batches": 3}, [1, 2, 3, 5]),
    ],
)
def test_snapshots_are_taken_at_steps_beside_those_of_epochs(tmp_path, options, arguments, steps):
    observer = callback(**options)
    fit(tmp_path, observer, max_epochs=3, **arguments)
    assert [numbers["step"] for numbers in observer.run_log.history] == steps
    assert [record.step for record in observer.directory.records()] == steps


def test_each_of_several_optimizers_makes_steps(tmp_path):
    from tests.callbacks.test_trainer_access import TwoOptimizers

    observer = callback(every_n_steps=3)
    fit(tmp_path, observer, module=tiny(TwoOptimizers), max_epochs=1)
    # Two a batch: 2, 4, 6, 8; records bear the numbers that trackers count batches by.
    assert [record.step for record in observer.directory.records()] == [1, 2, 3]


def test_values_stand_beside_those_of_the_batch(tmp_path):
    logger = CSVLogger(tmp_path)
    module, observer = tiny(), callback(every_n_steps=3)
    step = module.training_step

    def logging(batch, batch_idx):
        module.log("train/now", step(batch, batch_idx))
        return step(batch, batch_idx)

    module.training_step = logging
    fit(tmp_path, observer, module=module, logger=logger)
    logger.save()
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["step"] == "2"]
    assert any(row["train/now"] for row in rows)
    assert any(row["decomcam/score_gain/rank_01"] for row in rows)
    first = next(iter(observer.directory.records()))
    assert (first.step, first.epoch, first.module_values) == (2, 0, {})  # of a single batch: nothing


def test_a_value_of_this_very_step_is_not_taken_back(tmp_path):
    seen = []

    class Look(ModelCheckpoint):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen.append(trainer.callback_metrics["decomcam/score_gain/rank_01"].isnan().item())

    look = Look(tmp_path / "checkpoints", monitor="decomcam/score_gain/rank_01")
    fit(tmp_path, callback(every_n_steps=8, every_n_epochs=100), look, max_epochs=3)
    assert seen == [True, False, True]


@pytest.mark.skipif(not hasattr(pl.callbacks, "EMAWeightAveraging"), reason="Lightning is older")
def test_records_say_which_weights_they_are_of(tmp_path):
    observer = callback(every_n_steps=3)
    fit(tmp_path, pl.callbacks.EMAWeightAveraging(decay=0.7), observer, max_epochs=2)
    weights = {record.step: record.settings["weights"] for record in observer.directory.records()}
    # Within an epoch those that training goes on with, at its end those that the validation uses.
    assert weights == {2: "raw", 3: "averaged", 5: "raw", 7: "averaged"}


def test_strata_by_class_accuracy_are_those_of_the_last_validation(tmp_path):
    observer = callback(every_n_steps=3, metrics="default", strata="class_accuracy")
    fit(tmp_path, observer, max_epochs=2)
    # Before the first validation nobody knows them.
    assert [record.step for record in observer.directory.records()] == [3, 5, 7]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("step", [3, 4])
def test_a_run_resumed_within_an_epoch_takes_those_that_are_left(tmp_path, step):
    fit(tmp_path, callback(every_n_steps=3), Keep(tmp_path / "checkpoints", every_batch=True), max_epochs=2)
    observer = callback(every_n_steps=3)
    fit(tmp_path, observer, max_epochs=3, ckpt_path=tmp_path / "checkpoints" / f"step={step}.ckpt")
    assert [numbers["step"] for numbers in observer.run_log.history] == [2, 3, 5, 7, 8, 11]
    assert [record.step for record in observer.directory.records()] == [2, 3, 5, 7, 8, 11]


def test_settings_say_when_and_within_what_budget(tmp_path):
    observer = callback(every_n_steps=3, max_overhead=0.5)
    fit(tmp_path, observer)
    settings = json.loads((observer.directory.path / "run.json").read_text())["settings"]
    wanted = {"every_n_epochs": 1, "every_n_steps": 3, "max_overhead": 0.5}
    assert wanted.items() <= settings.items()
    assert wanted.items() <= observer._settings().items()
    assert "max_seconds" not in settings


# ----- memory


def test_memory_is_what_the_snapshot_adds_to_the_peak(tmp_path, monkeypatch):
    first, sent = [100, 100 + 3 * 2**20], [0, 0]
    peaks = iter([*first, *sent, *[200 * 2**20] * 2, *sent])
    monkeypatch.setattr(budget, "peak_memory", lambda _device: next(peaks))
    added = []

    class Look(Keep):
        def on_train_epoch_end(self, trainer, pl_module):
            added.append(trainer.callback_metrics["decomcam/memory/added"].item())

    fit(tmp_path, callback(), Look(tmp_path), max_epochs=2)
    assert added == [3.0, 0.0]


def test_where_nobody_knows_there_is_no_value(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "peak_memory", lambda _device: None)
    run = fit(tmp_path, callback())
    assert "decomcam/memory/added" not in run.callback_metrics
    assert "decomcam/seconds/total" in run.callback_metrics


def test_the_peak_is_the_processs_and_grows_with_what_is_held():
    before = budget.peak_memory(CPU)
    if before is None:
        pytest.skip("no /proc here")
    resident = budget.peak_memory(CPU)
    held = torch.ones(2**26)  # 256 MiB, touched
    grown = budget.peak_memory(CPU) - resident
    assert held.sum() == 2**26
    assert 0 <= grown <= 300 * 2**20
    assert budget.peak_memory(CPU) >= 256 * 2**20
    assert budget.peak_memory(torch.device("meta")) is None


def test_on_cuda_it_is_the_allocators_and_nothing_is_reset(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 7)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: pytest.fail("the user's own statistics"))
    assert budget.peak_memory(torch.device("cuda:1")) == 7
    assert asked == [torch.device("cuda:1")]
