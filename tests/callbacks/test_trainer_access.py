"""What the callback asks of a Trainer: its data, steps, directories and progress bar."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch.utils.data import Dataset, Subset

from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.callbacks.trainer_access import Monitors, refuse_sharded, run_directory
from tests.helpers.modules import CLASSES, Spots, Tiny, callback, fit, loader, tiny, trainer

# ----- steps


def rows_of(run: pl.Trainer) -> list[dict[str, str]]:
    with Path(run.logger.log_dir, "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["decomcam/errors"]]


class TwoOptimizers(Tiny):
    """Steps two optimizers by hand: the global step counts both, the logged step counts batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.first.parameters(), lr=0.01), torch.optim.SGD(self.head.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("module", "arguments", "steps"),
    [
        pytest.param(Tiny, {}, [3, 7, 11], id="validation"),
        pytest.param(Tiny, {"validate": False}, [3, 7, 11], id="no validation"),
        pytest.param(Tiny, {"val_check_interval": 0.5}, [1, 3, 5, 7, 9, 11], id="twice an epoch"),
        pytest.param(Tiny, {"accumulate_grad_batches": 2}, [1, 3, 5], id="accumulation"),
        pytest.param(
            Tiny, {"accumulate_grad_batches": 2, "validate": False}, [1, 3, 5], id="accumulation, no validation"
        ),
        pytest.param(TwoOptimizers, {}, [3, 7, 11], id="two optimizers"),
        pytest.param(TwoOptimizers, {"validate": False}, [3, 7, 11], id="two optimizers, no validation"),
    ],
)
def test_records_carry_the_step_under_which_lightning_logs_their_numbers(tmp_path, module, arguments, steps):
    observer = callback()
    run = fit(tmp_path, observer, module=tiny(module), max_epochs=3, logger=CSVLogger(tmp_path), **arguments)
    rows = rows_of(run)
    assert [int(row["step"]) for row in rows] == steps
    records = list(observer.directory.records())
    assert [record.step for record in records] == steps
    assert [numbers["step"] for numbers in observer.run_log.history] == steps
    logged = [float(row["decomcam/score_gain/rank_01"]) for row in rows]
    assert [record.numbers["score_gain/rank_01"] for record in records] == pytest.approx(logged, rel=1e-5)


# ----- the probe from the Trainer's data


def found_probe(tmp_path, module=None, data=None, **arguments):
    """The probe that the callback finds by itself, in a training on `data` (or a datamodule)."""
    observer = callback(**({"probe": 6} | arguments))
    run = trainer(tmp_path, observer, num_sanity_val_steps=0)
    module = tiny() if module is None else module
    run.fit(module, datamodule=data) if isinstance(data, pl.LightningDataModule) else run.fit(module, loader(), data)
    return observer.probe


def test_the_probe_comes_from_the_validation_data_in_turns_of_classes(tmp_path):
    data = Spots(8, seed=2)
    probe = found_probe(tmp_path, data=loader(data))
    assert sorted(probe.labels[:4].tolist()) == [0, 1, 2, 3]
    assert probe.class_names == CLASSES
    for image, label, index in zip(probe.images, probe.labels, map(int, probe.ids), strict=True):
        assert torch.equal(image, data.images[index])
        assert label == data.targets[index]


def test_the_probe_comes_from_the_training_data_where_there_is_no_validation(tmp_path):
    observer = callback(probe=4)
    fit(tmp_path, observer, validate=False)
    assert all(
        torch.equal(observer.probe.images[row], Spots().images[int(observer.probe.ids[row])]) for row in range(4)
    )


def test_the_probe_is_no_larger_than_the_data(tmp_path):
    assert len(found_probe(tmp_path, data=loader(Spots(3)))) == 3


def test_the_first_of_several_validation_loaders_is_read(tmp_path):
    first, second = Spots(8, seed=3), Spots(8, seed=4)
    probe = found_probe(tmp_path, data=[loader(first), loader(second)])
    assert torch.equal(probe.images[0], first.images[int(probe.ids[0])])


def test_the_loaders_collate_fn_is_applied(tmp_path):
    def darker(samples):
        return torch.stack([image for image, _ in samples]) * 0.25, torch.tensor([label for _, label in samples])

    data = Spots(8, seed=2)
    probe = found_probe(tmp_path, data=loader(data, collate_fn=darker))
    assert torch.equal(probe.images[0], data.images[int(probe.ids[0])] * 0.25)


class OnDevice(Tiny):
    """Normalises after the transfer, and augments there while it is training, as GPU augmentation does."""

    by_module = False

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        images = (images - 0.5) / 0.25
        training = self.training if self.by_module else self.trainer.training
        return (images.flip(-1) if training else images), labels


@pytest.mark.parametrize("by_module", [True, False])
@pytest.mark.parametrize("validate", [True, False])
def test_batch_transfer_hooks_see_the_probe_as_in_validation(tmp_path, by_module, validate):
    module, observer = tiny(OnDevice), callback(probe=4)
    module.by_module = by_module
    run = fit(tmp_path, observer, module=module, validate=validate, max_epochs=1)
    data = Spots(8, seed=2) if validate else Spots()
    for image, index in zip(observer.probe.images, map(int, observer.probe.ids), strict=True):
        assert torch.equal(image, (data.images[index] - 0.5) / 0.25)
    assert run.state.stage is None or not run.validating


class Mappings(Dataset):
    """Samples are mappings whose names only the user knows."""

    def __init__(self) -> None:
        self.spots = Spots(8, seed=2)

    def __len__(self) -> int:
        return len(self.spots)

    def __getitem__(self, index):
        image, label = self.spots[index]
        return {"pixels": image, "species": label}


class OfMappings(Tiny):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch["pixels"], batch["species"]), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step((batch["pixels"], batch["species"]), batch_idx)


def test_unpack_reads_samples_of_any_kind(tmp_path):
    observer = callback(probe=4, unpack=lambda batch: (batch["pixels"], batch["species"]))
    data = loader(Mappings())
    trainer(tmp_path, observer).fit(tiny(OfMappings), data, data)
    assert observer.probe.labels.tolist() == [Mappings()[int(index)]["species"] for index in observer.probe.ids]


def test_samples_of_an_unknown_kind_are_refused_before_training_with_the_remedy(tmp_path):
    data = loader(Mappings())
    with pytest.raises(MisconfigurationException, match=r"keys \['pixels', 'species'\]. Pass `unpack=`"):
        trainer(tmp_path, callback(probe=4), num_sanity_val_steps=0).fit(tiny(OfMappings), data, data)


class Module(pl.LightningDataModule):
    """Data that tell how they were normalised and what their classes are called."""

    class_names = ("a", "b", "c", "d")
    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        # Drawing from the global generator, as an unseeded random split does.
        order = torch.randperm(8).tolist()
        return loader(Subset(Spots(8, seed=2), order))

    def test_dataloader(self):
        return loader(Spots(8, seed=9))


def test_a_datamodule_tells_class_names_mean_and_std(tmp_path):
    probe = found_probe(tmp_path, data=Module())
    assert probe.class_names == Module.class_names
    assert probe.mean.tolist() == list(Module.mean)
    assert probe.std.tolist() == list(Module.std)


class Scaling(Module):
    """A datamodule whose own hook has the last word on the batch."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 0.5, batch[1]


def test_batch_transfer_hooks_of_a_datamodule_are_applied(tmp_path):
    torch.manual_seed(0)
    probe = found_probe(tmp_path, data=Scaling())
    stored = {round(image.sum().item() * 0.5, 2) for image in Spots(8, seed=2).images}
    assert {round(image.sum().item(), 2) for image in probe.images} <= stored


def test_names_of_the_network_are_not_taken_for_facts_about_the_data(tmp_path):
    module = tiny()
    module.std = 0.1
    module.register_buffer("mean", torch.zeros(1, 3, 1, 1))
    probe = found_probe(tmp_path, module=module, data=loader(Spots(8, seed=2)))
    assert probe.mean is None
    assert probe.std is None


def test_test_reads_the_test_data(tmp_path):
    observer, module = callback(probe=8), tiny()
    trainer(tmp_path, observer).test(module, datamodule=Module(), verbose=False)
    record = observer.last_snapshot
    expected = module.eval()(Spots(8, seed=9).images[[int(index) for index in record.ids]])
    assert torch.allclose(record.logits, expected, atol=1e-5)


# ----- run directories


def loggers_of(root) -> dict[str, tuple[list, str]]:
    csv_logger, board = CSVLogger(root, name="mine", version=3), TensorBoardLogger(root, name="board", version="a")
    return {
        "none": ([], ""),
        "csv": ([csv_logger], "mine/version_3"),
        "tensorboard": ([board], "board/a"),
        "first of two": ([board, csv_logger], "board/a"),
    }


@pytest.mark.parametrize("name", ["csv", "tensorboard", "first of two"])
def test_the_run_directory_is_the_loggers_own(tmp_path, name):
    loggers, path = loggers_of(tmp_path)[name]
    run = SimpleNamespace(loggers=loggers, default_root_dir="elsewhere")
    assert run_directory(run, "decomcam", Tolerance(strict=True)) == tmp_path / path / "decomcam"


def test_the_run_directory_under_wandb_bears_the_runs_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger(project="zoo", save_dir=tmp_path)
    run = SimpleNamespace(loggers=[logger], default_root_dir="elsewhere")
    assert (
        run_directory(run, "decomcam", Tolerance(strict=True)) == tmp_path / "zoo" / logger.experiment.id / "decomcam"
    )
    logger.experiment.finish()


def test_runs_without_a_logger_that_start_together_have_directories_of_their_own(tmp_path):
    run = SimpleNamespace(loggers=[], default_root_dir=tmp_path)
    paths = {run_directory(run, "decomcam", Tolerance(strict=True)) for _ in range(50)}
    assert len(paths) == 50
    assert {path.parent for path in paths} == {tmp_path / "decomcam"}


# ----- strategies and monitors


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
def test_strategies_that_cut_the_network_are_refused_by_name(strategy):
    # Made without their own constructor, which needs what is not installed everywhere.
    run = SimpleNamespace(strategy=strategy.__new__(strategy))
    with pytest.raises(MisconfigurationException, match=f"{strategy.__name__}.*not supported"):
        refuse_sharded(run)
    with pytest.raises(MisconfigurationException, match=f"{strategy.__name__}.*not supported"):
        callback().setup(run, tiny(), "fit")
    refuse_sharded(SimpleNamespace(strategy=SingleDeviceStrategy()))


def test_early_stopping_that_a_missing_value_would_trigger_is_refused_before_training(tmp_path):
    stopping = EarlyStopping("decomcam/score_gain/rank_01", mode="max")
    with pytest.raises(MisconfigurationException, match="check_finite=False"):
        fit(tmp_path, callback(every_n_epochs=2), stopping)
    fit(tmp_path, callback(), stopping)
    careful = EarlyStopping("decomcam/score_gain/rank_01", mode="max", check_finite=False, patience=9)
    run = fit(tmp_path, callback(every_n_epochs=2), careful, max_epochs=4)
    assert run.current_epoch == 4


def test_values_of_an_earlier_snapshot_are_taken_back():
    metrics = {"decomcam/a": torch.tensor(1.0), "decomcam/b": torch.tensor(2.0), "val/loss": torch.tensor(3.0)}
    callbacks = [SimpleNamespace(monitor="decomcam/b"), SimpleNamespace(monitor="val/loss"), SimpleNamespace()]
    run = SimpleNamespace(callback_metrics=metrics, callbacks=callbacks, lr_scheduler_configs=[])
    Monitors(run, "decomcam").withdraw({"decomcam/c"})
    assert set(metrics) == {"decomcam/b", "val/loss"}
    assert metrics["decomcam/b"].isnan()
    assert metrics["val/loss"] == 3


# ----- progress


class RecordingRich(RichProgressBar):
    """Notes how far each task was when it was hidden, and which are still seen then."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float, float]] = []
        self.left: list[str] = []

    def _init_progress(self, trainer):
        # Nothing of it shall reach the terminal of the tests.
        super()._init_progress(trainer)
        if self.progress is None or getattr(self.progress, "watched", False):
            return
        lines, update = self.progress, self.progress.update
        lines.watched = True

        def noting(task_id, **changes):
            update(task_id, **changes)
            task = next(task for task in lines.tasks if task.id == task_id)
            if task.description == "DecomCAM" and changes.get("visible") is False:
                self.seen.append((task.description, task.completed, task.total))
                self.left = [task.description for task in lines.tasks if task.visible]

        lines.update = noting


def test_a_rich_bar_shows_a_task_and_takes_it_away(tmp_path):
    bar = RecordingRich()
    bar._console_kwargs = {"file": io.StringIO()}
    fit(tmp_path, callback(batch_size=4), bar, max_epochs=2, enable_progress_bar=True)
    assert bar.seen == [("DecomCAM", 6, 6)] * 2
    assert "DecomCAM" not in bar.left


def test_a_tqdm_bar_shows_a_line_and_takes_it_away(tmp_path, monkeypatch, capsys):
    seen = []

    class Noting(Tqdm):
        def close(self) -> None:
            if not self.disable:
                seen.append((self.desc, self.n, self.total, self.leave))
            super().close()

    monkeypatch.setattr("lit_decom.callbacks.trainer_access.Tqdm", Noting)
    fit(tmp_path, callback(batch_size=4), TQDMProgressBar(), max_epochs=2, enable_progress_bar=True)
    assert seen == [("DecomCAM", 6, 6, False)] * 2
    assert "DecomCAM" in capsys.readouterr().err


def test_a_bar_that_is_switched_off_or_of_ones_own_shows_nothing(tmp_path, capsys):
    class Own(ProgressBar):
        def disable(self) -> None:
            pass

        def enable(self) -> None:
            pass

    off = TQDMProgressBar(refresh_rate=0)
    for bar in ([], [off], [Own()]):
        fit(tmp_path, callback(), *bar, enable_progress_bar=bool(bar))
    shown = capsys.readouterr()
    assert "DecomCAM" not in (shown.out + shown.err).replace("DecomCAM explains", "")


@pytest.mark.parametrize(("validate", "name"), [(True, "val/loss"), (False, "train/loss")])
def test_records_keep_what_the_module_has_logged_in_the_same_epoch_and_none_of_our_values(tmp_path, validate, name):
    observer = callback()
    run = fit(tmp_path, observer, max_epochs=3, validate=validate, logger=CSVLogger(tmp_path))
    with Path(run.logger.log_dir, "metrics.csv").open() as file:
        logged = [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    records = list(observer.directory.records())
    assert [record.module_values for record in records] == [{name: pytest.approx(value)} for value in logged]
    assert len(set(logged)) == 3
