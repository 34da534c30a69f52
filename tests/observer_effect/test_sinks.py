"""Faults of the places that a snapshot goes to, beside those of the table: what is left, and what is said."""

from lit_decom.sinks import log_table
from tests.helpers.modules import Keep, callback, fit, loader, tiny, trainer
from tests.observer_effect.settings.sinks import Tracker


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
