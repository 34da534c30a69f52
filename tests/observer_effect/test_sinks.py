"""Faults of the places that a snapshot goes to, beside those of the table: what is left, and what is said."""

import math
import warnings

from lightning.pytorch.callbacks import Callback

from lit_decom.records import RunDirectory
from lit_decom.sinks import log_table
from tests.helpers.disk import disk, used
from tests.helpers.modules import Keep, callback, fit, loader, tiny, trainer
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
    missing = "of 2 snapshots, since it was not possible to write: epoch 3 (step 15), epoch 4 (step 19) (No space left"
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
    assert "has no record of 1 snapshot, since it was not possible to write: epoch 3 (step 15)" in messages[-1]


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
