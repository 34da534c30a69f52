"""Replay of checkpoints gives the records that the live callback gave."""

import gc
import weakref

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lit_decom.callbacks import ReplayCallback
from lit_decom.records import RunDirectory
from tests.helpers.modules import Spots, Tiny, callback

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
SETTINGS = {"probe": 8, "metrics": "default", "n_images": 0, "n_shared": 2}


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Spots(16), batch_size=4)

    def val_dataloader(self):
        return DataLoader(Spots(16, seed=1), batch_size=4)


def live(tmp_path, settings=SETTINGS, **trainer):
    pl.seed_everything(0, verbose=False)
    observer = callback(**settings, dirpath=tmp_path / "live")
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{epoch}-{step}", save_weights_only=False)
    pl.Trainer(**QUIET | trainer, max_epochs=3, default_root_dir=tmp_path, callbacks=[observer, keep]).fit(
        Tiny(), Data()
    )
    return list(RunDirectory(tmp_path / "live").records())


def replayed(tmp_path, folder="kept", settings=SETTINGS):
    replay = callback(ReplayCallback, **settings)
    trainer = pl.Trainer(**QUIET, default_root_dir=tmp_path, callbacks=[replay], limit_val_batches=1)
    return list(RunDirectory(replay.replay(trainer, Tiny(), Data(), tmp_path / folder)).records())


def without_time(numbers):
    return {key: value for key, value in numbers.items() if not key.startswith("seconds/")}


def assert_the_same(first, second):
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(-7), other.nan_to_num(-7)), name
        elif name == "numbers":
            assert without_time(value) == without_time(other)
        elif name == "module_values":
            assert value == other or not (value and other), "a replay does not see what the run logged"
        elif name != "settings":
            assert repr(value) == repr(other), name  # NaN is like NaN


@pytest.mark.parametrize("shared", ["svd", "decision_factors"])
def test_replay_equals_live_bit_for_bit(tmp_path, shared):
    settings = SETTINGS | {"shared": shared}
    records = live(tmp_path, settings)
    again = replayed(tmp_path, settings=settings)
    assert len(records) == len(again) == 3
    assert (records[-1].factor_codes is None) == (shared == "svd")
    for first, second in zip(records, again, strict=True):
        assert_the_same(first, second)


def test_replay_of_checkpoints_within_epochs_finds_their_steps(tmp_path):
    records = live(tmp_path, val_check_interval=0.5)
    again = {record.step: record for record in replayed(tmp_path)}
    assert again.keys() <= {record.step for record in records}
    last = records[-1]
    assert torch.equal(last.logits, again[last.step].logits)


def test_replay_holds_one_checkpoint_at_a_time(tmp_path, monkeypatch):
    live(tmp_path)
    read, alive, load = [], [], torch.load

    def noted(*args, **options):
        gc.collect()
        alive.append(sum(weight() is not None for weight in read))
        checkpoint = load(*args, **options)
        read.append(weakref.ref(checkpoint["state_dict"]["head.weight"]))
        return checkpoint

    monkeypatch.setattr(torch, "load", noted)
    assert len(replayed(tmp_path)) == 3
    assert len(read) == 6  # once for its step, once for its weights
    assert max(alive) <= 1


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"not a checkpoint", "to be a checkpoint"), (None, "to hold checkpoints")],
    ids=["broken", "none"],
)
def test_a_folder_that_cannot_be_replayed_is_named(content, told, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    if content is not None:
        (folder / "epoch=0.ckpt").write_bytes(content)
    with pytest.raises(MisconfigurationException, match=told):
        replayed(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    live(tmp_path)
    for path in (tmp_path / "kept").iterdir():
        checkpoint = torch.load(path)
        checkpoint["state_dict"].pop("head.weight")
        torch.save(checkpoint, path)
    with pytest.raises(MisconfigurationException, match="to fit the model"):
        replayed(tmp_path)
