"""Where a snapshot goes: trackers that hang, raise or draw, disks that are full, folders that vanish."""

import math
import random
import shutil
import time
from contextlib import contextmanager

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from lit_decom.records import RunDirectory
from lit_decom.sinks import log_curves, log_picture, log_settings, log_table
from tests.helpers.disk import disk
from tests.helpers.modules import Spots, loader
from tests.helpers.settings import Setting


class Tracker(Logger):
    """Takes everything, and lets a subclass do something else at each call of ours."""

    name, version = "tracker", 0

    def log_hyperparams(self, params, *_, **__):
        """Nobody looks."""

    def log_metrics(self, metrics, step=None):
        if any(key.startswith("decomcam/") for key in metrics):
            self.called("numbers")

    def called(self, what):
        """Nobody looks."""


for sink in (log_picture, log_curves, log_table, log_settings):
    sink.register(Tracker, lambda logger, *_: logger.called("other"))


class Hanging(Tracker):
    """Its server answers after 20 seconds."""

    def called(self, what):
        time.sleep(20)


class HangingAtPictures(Tracker):
    """It has no answer to pictures, curves and tables."""

    def called(self, what):
        if what != "numbers":
            time.sleep(20)


class Drawing(Tracker):
    """Draws how long it waits before it tries again, as W&B and urllib3 do."""

    def called(self, what):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002


class Down(Tracker):
    """Whoever asks for its experiment in the second epoch, and later, gets an error."""

    asked = 0

    @property
    def experiment(self):
        self.asked += 1
        if self.asked > 6:
            raise ConnectionError("the tracker is down")
        return self

    def called(self, what):
        assert self.experiment


def forked():
    """Loaders whose workers are forked at every epoch."""
    options = {"num_workers": 1, "multiprocessing_context": "fork"}
    return loader(Spots(augment=True), shuffle=True, **options), loader(Spots(8, seed=2, augment=True), **options)


@contextmanager
def filled_by_pictures(root):
    """After the second picture the space that is left does for one record and one picture."""
    folder, left = root / "run", []

    def capacity():
        records, pictures = sorted(folder.glob("step-*.npz")), sorted(folder.glob("pictures/*.jpg"))
        if len(pictures) == 2 and not left:
            sizes = [file.stat().st_size for file in (records[-1], pictures[-1])]
            assert sizes[1] > 4.5 * sizes[0], "pictures must be what fills the disk"
            left.append(sum(sizes) + sizes[0] // 4 + sum(map(_size, folder.rglob("[!.]*"))))
        return left[0] if left else math.inf

    with disk(folder, capacity):
        yield


def _size(file):
    return file.stat().st_size if file.is_file() else 0


class Remove(pl.Callback):
    """Removes a folder before an epoch."""

    def __init__(self, folder, epoch):
        self.folder, self.epoch = folder, epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            shutil.rmtree(self.folder)


@contextmanager
def vanishing(root):
    """The run directory is removed as soon as it is there."""
    open_ = RunDirectory.open

    def opened(directory, *arguments):
        open_(directory, *arguments)
        shutil.rmtree(directory.path)

    RunDirectory.open = opened
    try:
        yield
    finally:
        RunDirectory.open = open_


HANGS = r"could not reach Hanging\w*: TimeoutError: a call took longer than 0\.1 s"

SETTINGS = [
    Setting("a tracker that draws", trainer=lambda _root: {"logger": Drawing()}),
    Setting(
        "a tracker that hangs",
        trainer=lambda _root: {"logger": Hanging()},
        observer={"tracker_seconds": 0.1},
        errors=1,
        warns=[HANGS],
    ),
    Setting(
        "a tracker that hangs beside one that draws, and forked workers",
        trainer=lambda _root: {"logger": [HangingAtPictures(), Drawing()], "max_epochs": 2},
        loaders=forked,
        observer={"tracker_seconds": 0.1},
        snapshots=2,
        errors=1,
        warns=[HANGS],
    ),
    Setting(
        "a tracker that is down from the second epoch on",
        trainer=lambda _root: {"logger": Down()},
        errors=6,
        warns=["could not reach Down: ConnectionError: the tracker is down"],
    ),
    Setting(
        "a disk that pictures fill",
        trainer={"max_epochs": 6},
        around=filled_by_pictures,
        snapshots=6,
        errors=4,
        warns=["could not keep the picture: OSError: .* No space left on device"],
    ),
    Setting(
        "a run directory that vanishes",
        around=vanishing,
        warns=["found .*run gone, with all records, and made it again"],
    ),
]
