"""Faults of the places that a snapshot goes to, beside those of the table: what is left, and what is said."""

import itertools
import math
import os
import signal
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_decom.callbacks import reporting
from lit_decom.components import FollowedImages
from lit_decom.records import RunDirectory, Snapshot
from lit_decom.sinks import log_table
from tests.helpers.disk import disk, used
from tests.helpers.modules import Keep, Tiny, callback, fit, loader, tiny, trainer
from tests.helpers.page import report
from tests.observer_effect.settings.sinks import Remove, Tracker


class Counting(Tracker):
    """Counts the tables that it gets, by key."""

    def __init__(self, version):
        super().__init__()
        self.tables, self.version = [], version


log_table.register(Counting, lambda logger, key, *_: logger.tables.append(key))


def probes(tracker):
    return tracker.tables.count("decomcam/probe")


def test_a_tracker_gets_the_probe_once_whatever_follows(tmp_path):
    observer, tracker, module = callback(), Counting("a"), tiny()
    run = trainer(tmp_path, observer, Keep(tmp_path / "kept"), logger=tracker, max_epochs=1)
    run.fit(module, loader(), loader())
    run.validate(module, loader(), verbose=False)
    run.test(module, loader(), verbose=False)
    run.fit_loop.max_epochs = 2
    run.fit(module, loader(), loader())
    assert observer.run_log.history[-1]["epoch"] == 1
    assert probes(tracker) == 1


def test_a_resumed_training_sends_the_probe_to_a_new_run_of_the_tracker_alone(tmp_path):
    fit(tmp_path, callback(), Keep(tmp_path / "kept"), logger=Counting("a"))
    same, other = Counting("a"), Counting("b")
    fit(tmp_path, callback(), logger=[same, other], max_epochs=2, ckpt_path=tmp_path / "kept" / "epoch=0.ckpt")
    assert (probes(same), probes(other)) == (0, 1)
    assert same.tables == other.tables[1:] == ["decomcam/predictions"]


def said(work):
    """What the callback warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [str(entry.message) for entry in caught if "DecomCAM" in str(entry.message)]


# ----- a disk that is full


def full_after(folder, n):
    """Say how much a disk holds: what is there as soon as a folder has so many records."""
    seen = []

    def capacity():
        if not seen and len(list(folder.glob("step-*.npz"))) == n:
            seen.append(used(folder))
        return seen[0] if seen else math.inf

    return capacity


def test_on_a_disk_that_others_fill_one_record_more_is_kept_and_the_rest_are_named(tmp_path):
    folder = tmp_path / "maps"
    observer = callback(strict=False, dirpath=folder)
    with disk(folder, full_after(folder, 2)):
        messages = said(lambda: fit(tmp_path, observer, max_epochs=5))
    assert [record.epoch for record in RunDirectory(folder).records()] == [0, 1, 2]
    assert [path.name for path in (folder / "pictures").iterdir()] == ["step-000000003_epoch-00000.jpg"]
    assert len(messages) == 3
    assert "could not keep the picture: OSError: [Errno 28] No space left on device" in messages[0]
    assert "could not keep the record: OSError: [Errno 28] No space left on device" in messages[1]
    failed = "because writing it failed (No space left on device)"
    missing = f"of 2 snapshots, {failed}: epoch 3 (step 15), epoch 4 (step 19)."
    assert f"has no record {missing}" in messages[2]
    assert observer.errors == 6, "four pictures and two records"
    assert f"There is no record {missing}" in report(folder).words
    assert list(folder.rglob(".*")) == [], "nothing half-written, and no room held"


def test_where_there_is_space_again_records_and_pictures_go_on(tmp_path):
    folder = tmp_path / "maps"
    full = full_after(folder, 2)

    class Tidy(Callback):
        space = 0

        def on_train_epoch_start(self, trainer, pl_module):
            self.space = math.inf if trainer.current_epoch == 4 else self.space

    tidy = Tidy()
    with disk(folder, lambda: full() + tidy.space):
        messages = said(lambda: fit(tmp_path, callback(strict=False, dirpath=folder), tidy, max_epochs=5))
    assert [record.epoch for record in RunDirectory(folder).records()] == [0, 1, 2, 4]
    assert sorted(path.name[-5:-4] for path in (folder / "pictures").iterdir()) == ["0", "4"]
    assert "has no record of 1 snapshot, because writing it failed (No space left on device): epoch 3" in messages[-1]


# ----- a run directory that vanishes


def test_a_run_directory_that_vanishes_is_made_again_and_that_is_said_once(tmp_path):
    folder = tmp_path / "maps"
    observer = callback(strict=False, dirpath=folder, report=True)
    messages = said(lambda: fit(tmp_path, observer, Remove(folder, 1), max_epochs=3))
    assert observer.errors == 0
    assert [record.epoch for record in RunDirectory(folder).records()] == [1, 2]
    assert len(list((folder / "pictures").iterdir())) == 2
    assert RunDirectory(folder).owner() == observer.state_dict()["run_id"]
    assert RunDirectory(folder).probe().ids == observer.probe.ids
    assert observer.report_path.exists()
    assert messages == [f"DecomCAMCallback found {folder} gone, with all records, and made it again."]


# ----- a training that breaks off


class Interrupted(Tiny):
    """Presses Ctrl-C when it is looked at in an epoch."""

    epoch = 1

    def forward(self, images):
        if not self.training and torch.is_grad_enabled() and self.trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(images)


def pressing(work, at=2):
    """Do it; at the second time press Ctrl-C in the middle."""
    times = itertools.count(1)

    def pressed(*arguments, **named):
        if next(times) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return work(*arguments, **named)

    return pressed


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: Lightning does not give it back, and what runs in the background ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


PLACES = {
    "the record": (Snapshot, "save"),
    "the middle of the record": (np.lib.format, "write_array"),
    "the drawing": (reporting, "grids_of"),
    "the picture": (RunDirectory, "save_picture"),
    "tracking": (FollowedImages, "update"),
}


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("place", ["the network", *PLACES])
def test_ctrl_c_in_a_snapshot_keeps_whole_records_and_writes_the_report(tmp_path, monkeypatch, place):
    module, folder = tiny(Interrupted), tmp_path / "maps"
    if place != "the network":
        module.epoch = None
        owner, name = PLACES[place]
        # The probe is two arrays, a record about thirty.
        at = 50 if place == "the middle of the record" else 2
        monkeypatch.setattr(owner, name, pressing(getattr(owner, name), at))
    observer = callback(dirpath=folder, report=True)
    run = trainer(tmp_path, observer, logger=Tracker(), max_epochs=3)
    with pytest.raises(SystemExit):
        run.fit(module, loader(), loader())
    assert run.interrupted
    whole = [record.epoch for record in RunDirectory(folder).records()]
    assert whole == ([0, 1] if place in {"the drawing", "the picture"} else [0])
    assert observer.report_path == folder / "report.html"
    assert f"{len(whole)} snapshot" in report(folder).words or len(whole) == 1
    assert list(folder.rglob(".*")) == []
    assert not any(entry._forward_hooks or entry._forward_pre_hooks for entry in module.modules())


class Stumble(Callback):
    """Raises after the second epoch's snapshot."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise ArithmeticError("stumbled")


def test_where_warnings_are_errors_as_in_all_tests_a_missing_record_takes_no_report_away(tmp_path, monkeypatch):
    saves, save = itertools.count(), Snapshot.save

    def full_once(record, directory):
        if next(saves) < 1:
            raise OSError(5, "Input/output error")
        return save(record, directory)

    monkeypatch.setattr(Snapshot, "save", full_once)
    observer = callback(strict=False, dirpath=tmp_path / "maps", report=True)
    with warnings.catch_warnings(record=True), pytest.raises(ArithmeticError, match="stumbled"):
        fit(tmp_path, observer, Stumble(), max_epochs=3)
    missing = "no record of 1 snapshot, because writing it failed (Input/output error): epoch 0 (step 3)."
    assert missing in " ".join(observer.report_path.read_text().split())


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_first_snapshot_of_a_resumed_run_reports_what_came_before(tmp_path, monkeypatch):
    fit(tmp_path, callback(dirpath=tmp_path / "maps"), Keep(tmp_path / "kept"))
    observer = callback(dirpath=tmp_path / "maps", report=True)
    monkeypatch.setattr(FollowedImages, "update", pressing(FollowedImages.update, 1))
    with pytest.raises(SystemExit):
        fit(tmp_path, observer, max_epochs=3, ckpt_path=tmp_path / "kept" / "epoch=0.ckpt")
    assert observer.report_path.exists()
    assert [record.epoch for record in observer.directory.records()] == [0]
