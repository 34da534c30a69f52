"""Both names of Lightning: whatever a Trainer, a logger or a callback was imported from, it is known for what it is."""

from functools import partial
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import wandb
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback as OurCallback
from lightning.pytorch.callbacks import EarlyStopping as OurEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint as OurModelCheckpoint
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import Logger as OurLogger
from lightning.pytorch.loggers import WandbLogger as OurWandbLogger
from PIL import Image
from rich.progress import Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lit_decom.callbacks.trainer_access import checkpoints_of, refuse_sharded
from lit_decom.lightning_roots import is_a, twin_of
from lit_decom.sinks import log_picture, takes_pictures
from tests.helpers.modules import Spots, Tiny, callback, loader
from tests.helpers.wandb_files import read_run

ROOTS = ("lightning.pytorch", "pytorch_lightning")


@pytest.fixture(params=ROOTS)
def root(request):
    return import_module(request.param)


@pytest.fixture
def other():
    return import_module("pytorch_lightning")


def plain_module(root) -> nn.Module:
    """A classifier of that root, of the layers of a `Tiny`."""

    class Plain(root.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layers = Tiny()
            self.first, self.second, self.head = layers.first, layers.second, layers.head

        def forward(self, images):
            return self.head(self.second(self.first(images)).mean(dim=(2, 3)))

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val/acc", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.02)

    return Plain()


def fit(root, tmp_path, *callbacks, logger=False, ckpt_path=None, **arguments):
    given = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "log_every_n_steps": 1, "enable_progress_bar": False}
    keeps = any(isinstance(entry, root.callbacks.Checkpoint) for entry in callbacks)
    given |= {"enable_model_summary": False, "enable_checkpointing": keeps, "default_root_dir": tmp_path}
    run = root.Trainer(callbacks=list(callbacks), logger=logger, **(given | arguments))
    module = plain_module(root)
    run.fit(module, loader(), loader(Spots(8, seed=2)), ckpt_path=ckpt_path)
    return run, module


def test_training_is_bit_for_bit_the_same_with_and_without_the_callback(root, tmp_path):
    (_, watched), (_, alone) = fit(root, tmp_path, callback(probe=4)), fit(root, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters(), strict=True))


def test_pictures_tables_and_best_values_reach_wandb(root, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    observer = callback(probe=4)
    logger = import_module(f"{root.__name__}.loggers").WandbLogger(project="zoo", save_dir=tmp_path, offline=True)
    run_id = logger.experiment.id
    fit(root, tmp_path, observer, logger=logger)
    wandb.finish()
    wandb.teardown()
    found = read_run(tmp_path)
    assert [row["trainer/global_step"] for row in found.rows("decomcam/ossms")] == [3, 7]
    assert found.missing_media() == []
    # By the run's own name, and not in the folder that all runs share.
    assert observer.directory.path == tmp_path / "zoo" / run_id / "decomcam"
    assert len(found.rows("decomcam/probe")) == 1


def test_pictures_reach_tensorboard(root, tmp_path):
    logger = import_module(f"{root.__name__}.loggers").TensorBoardLogger(tmp_path, name="board")
    fit(root, tmp_path, callback(probe=4), logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    assert [event.step for event in events.Images("decomcam/ossms")] == [3, 7]
    assert len(events.Images("decomcam/ossms")[0].encoded_image_string) > 1000


def test_an_early_stopping_that_a_missing_value_would_trigger_is_refused(root, tmp_path):
    stopping = partial(root.callbacks.EarlyStopping, "decomcam/score_gain/rank_01", mode="max")
    with pytest.raises(MisconfigurationException, match="check_finite=False"):
        fit(root, tmp_path, callback(probe=4, every_n_epochs=2), stopping())
    fit(root, tmp_path, callback(probe=4, every_n_epochs=2), stopping(check_finite=False, patience=5))


def test_checkpoints_are_ranked_by_our_values_and_known_with_their_scores(root, tmp_path):
    keeping = root.callbacks.ModelCheckpoint(tmp_path, monitor="decomcam/score_gain/rank_01", mode="max", save_top_k=2)
    observer = callback(probe=4)
    run, _ = fit(root, tmp_path, keeping, observer)
    kept = checkpoints_of(run)
    assert [entry["step"] for entry in kept] == [3, 7]
    gains = {record.step: record.numbers["score_gain/rank_01"] for record in observer.directory.records()}
    assert {entry["step"]: entry["score"] for entry in kept} == pytest.approx(gains, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_goes_on_from_its_checkpoint(root, tmp_path):
    keeping = root.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    fit(root, tmp_path, keeping, callback(probe=4, dirpath=tmp_path / "run"))
    observer = callback(probe=4, dirpath=tmp_path / "run")
    keeping = root.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    fit(root, tmp_path, keeping, observer, max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert [record.epoch for record in observer.directory.records()] == [0, 1, 2]


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_a_line_stands_beside_the_trainers_own_bar(root, tmp_path, monkeypatch, bar):
    told = []
    add_task, update = Progress.add_task, Tqdm.update

    def noting_task(self, description, *rest, **named):
        told.append(description)
        return add_task(self, description, *rest, **named)

    def noting_line(self, n=1):
        told.append(self.desc)
        return update(self, n)

    monkeypatch.setattr(Progress, "add_task", noting_task)
    monkeypatch.setattr(Tqdm, "update", noting_line)
    fit(root, tmp_path, callback(probe=4), getattr(root.callbacks, bar)(), enable_progress_bar=True)
    assert "DecomCAM" in told


def test_validate_and_test_are_explained(root, tmp_path):
    observer = callback(probe=4)
    run = root.Trainer(accelerator="cpu", callbacks=[observer], logger=False, enable_progress_bar=False)
    (values,) = run.validate(plain_module(root), loader(Spots(8, seed=2)), verbose=False)
    assert "decomcam/score_gain/rank_01" in values


def test_strategies_that_cut_the_network_are_refused(root):
    kind = import_module(f"{root.__name__}.strategies").FSDPStrategy
    with pytest.raises(MisconfigurationException, match=r"FSDPStrategy.*not supported"):
        refuse_sharded(SimpleNamespace(strategy=kind.__new__(kind)))


# ----- twins


def test_every_class_has_its_twin_and_so_has_what_is_made_of_it(other):
    class Mine(other.callbacks.EarlyStopping):
        pass

    class Both(Mine, nn.Module):
        pass

    assert twin_of(other.callbacks.ModelCheckpoint) is OurModelCheckpoint
    assert twin_of(Mine) is twin_of(Both) is OurEarlyStopping
    assert is_a(Mine("x"), OurEarlyStopping)
    assert is_a(Mine("x"), OurCallback)
    assert not is_a(Mine("x"), OurModelCheckpoint)
    assert is_a(OurEarlyStopping("x"), OurEarlyStopping)


def test_other_classes_are_what_they_are(other):
    class Ours(OurWandbLogger):
        pass

    assert [twin_of(kind) for kind in (int, Ours, OurLogger)] == [int, Ours, OurLogger]
    alien = type("Alien", (other.callbacks.EarlyStopping,), {"__module__": "pytorch_lightning.of_another_version"})
    assert twin_of(alien) is OurEarlyStopping


def test_a_logger_of_the_users_own_takes_no_pictures_and_a_known_one_does(other):
    class Mine(other.loggers.logger.Logger):
        name = version = None

        def log_metrics(self, *arguments, **named): ...

        def log_hyperparams(self, *arguments, **named): ...

    assert not takes_pictures(Mine())
    assert takes_pictures(other.loggers.CSVLogger("x"))
    picture = SimpleNamespace(image=Image.new("RGB", (2, 2)), caption="")
    assert log_picture(Mine(), "key", picture, 0) is None
