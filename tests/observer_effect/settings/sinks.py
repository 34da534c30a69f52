"""Where a snapshot goes: trackers that hang, raise or draw, disks that are full, folders that vanish."""

import random
import time

import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from lit_decom.sinks import log_curves, log_picture, log_settings, log_table
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
]
