import re
import sys
import time
from contextlib import contextmanager
from io import StringIO
from types import ModuleType

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from rich.console import Console

from benchmarks import snapshot
from benchmarks.goals import Goal
from benchmarks.ledger import Ledger, charging
from lit_decom import DecomCAM, DecomCAMCallback
from lit_decom.tasks import ClassificationTask


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        self.now += seconds


def test_every_moment_is_charged_once_and_to_the_entry_entered_last():
    clock = FakeClock()
    ledger = Ledger("root", clock)

    def inner():
        clock.work(2)

    inner = ledger.charged(inner, lambda _now, _args: "inner")

    def outer():
        clock.work(4)
        inner()
        clock.work(8)

    outer = ledger.charged(outer, lambda now, _args: "outer" if now == "root" else now)
    outer()  # before a page is open: nowhere
    ledger.open()
    clock.work(1)
    outer()
    inner()
    clock.work(16)
    assert ledger.close() == {"root": 17, "outer": 12, "inner": 4}
    outer()
    assert ledger.close() == {}


def test_an_exception_leaves_the_entry_of_the_caller():
    clock = FakeClock()
    ledger = Ledger("root", clock)

    def failing():
        clock.work(1)
        raise RuntimeError

    ledger.open()
    with pytest.raises(RuntimeError):
        ledger.charged(failing, lambda _now, _args: "failing")()
    clock.work(2)
    assert ledger.close() == {"failing": 1, "root": 2}


@pytest.fixture
def package(monkeypatch):
    """A package of two modules, one of which holds a function of the other under another name."""
    clock = FakeClock()
    work, user = ModuleType("house.work"), ModuleType("house.user")

    def dig():
        clock.work(1)

    @contextmanager
    def fence():
        yield

    class Digger:
        def __call__(self):
            clock.work(2)

        @classmethod
        def of(cls):
            clock.work(4)
            return cls()

    for part in (dig, fence, Digger):
        part.__module__ = work.__name__
        setattr(work, part.__name__, part)
    user.borrowed = dig
    monkeypatch.setitem(sys.modules, work.__name__, work)
    monkeypatch.setitem(sys.modules, user.__name__, user)
    return clock, work, user


def test_functions_are_charged_wherever_they_are_held_and_put_back(package):
    clock, work, user = package
    before = dict(vars(work)), dict(vars(user)), dict(vars(work.Digger))
    ledger = Ledger("root", clock)
    with charging(ledger, "house", {"house.work": lambda _now, _args: "work"}):
        ledger.open()
        user.borrowed()
        work.Digger.of()()
        with work.fence():
            clock.work(8)
        assert ledger.close() == {"root": 8, "work": 7}
    assert (dict(vars(work)), dict(vars(user)), dict(vars(work.Digger))) == before


def test_a_part_that_is_not_found_is_no_silent_zero(package):
    clock, work, _ = package
    before = dict(vars(work))
    rules = {"house.work": lambda now, _args: now, "house.moved": lambda now, _args: now}
    with pytest.raises(ValueError, match=r"house\.moved"), charging(Ledger("root", clock), "house", rules):
        pass
    assert dict(vars(work)) == before


def test_share_outside_the_network_by_hand():
    tracker = snapshot.TRACKERS[WandbLogger]
    pages = [
        {snapshot.MASKED: 5.0, snapshot.OF_METRICS: 1.0, snapshot.SCORES: 1.0, tracker: 1.0, snapshot.RECORDS: 2.0},
        {snapshot.MASKED: 7.0, snapshot.OF_METRICS: 1.0, snapshot.SCORES: 3.0, tracker: 1.0},
    ]
    seconds = snapshot.mean(pages)
    assert seconds[snapshot.RECORDS] == 1.0
    assert snapshot.share_outside(seconds) == pytest.approx(100 * 4 / 11)


def test_the_table_names_every_part_and_judges_the_share():
    console = Console(record=True, width=150, file=StringIO())
    everywhere = [entry for entry in snapshot.ORDER if entry not in snapshot.TRACKERS.values()]
    pages = {
        kind: [dict.fromkeys([*everywhere, name], seconds)]
        for seconds, (kind, name) in enumerate(snapshot.TRACKERS.items(), start=1)
    }
    snapshot.show(console, "title", pages, Goal("<=", 70, " %"))
    text = console.export_text()
    assert all(entry in text for entry in snapshot.ORDER)
    # Five of sixteen entries are the network's, with every tracker.
    assert len(re.findall(r"68\.8 %", text)) == 3
    assert [f"{seconds}.000" in text for seconds in (16, 32, 48)] == [True] * 3
    assert re.search(r"goal <= 70 % +│ met", text)


def test_parts_of_a_snapshot_are_told_apart_by_who_asks():
    rules = snapshot.RULES
    methods, metrics = rules["lit_decom.methods"], rules["lit_decom.metrics"]
    assert methods(snapshot.REST, ()) == snapshot.MASKS
    assert methods(snapshot.SCORES, ()) == snapshot.SCORES  # a baseline
    assert methods(snapshot.SHARED, ()) == snapshot.SHARED
    assert metrics(snapshot.EVIDENCE, ()) == snapshot.SCORES
    assert rules["lit_decom.components.tracking"](snapshot.SHARED, ()) == snapshot.SHARED
    assert rules["lit_decom.render"](snapshot.RECORDS, ()) == snapshot.PICTURES
    logger = CSVLogger("nowhere")
    assert rules["lit_decom.sinks"](snapshot.REST, (logger, "key")) == snapshot.TRACKERS[CSVLogger]
    with torch.enable_grad():
        assert snapshot.forward_of(snapshot.EVIDENCE, ()) == snapshot.FORWARD
    with torch.no_grad():
        assert snapshot.forward_of(snapshot.EVIDENCE, ()) == snapshot.MASKED
        assert snapshot.forward_of(snapshot.SCORES, ()) == snapshot.OF_METRICS
        assert snapshot.forward_of(snapshot.SHARED, ()) == snapshot.OF_SHARED


def test_the_settings_are_those_that_the_goals_are_set_for():
    quickstart, resnet18 = (make() for make in snapshot.SETTINGS.values())
    assert (quickstart.size, quickstart.probe, quickstart.method.n_components) == (112, 64, 8)
    assert str(quickstart.goal) == "<= 35 %"
    assert (resnet18.size, resnet18.probe, resnet18.method.n_components) == (224, 64, 10)
    assert str(resnet18.goal) == "<= 10 %"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning and W&B, about a training of two batches
@pytest.mark.parametrize("tracker", snapshot.TRACKERS)
def test_a_snapshot_is_charged_as_a_whole(monkeypatch, tmp_path, tracker):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    whole, since = [], []
    opened, closed = Ledger.open, Ledger.close
    monkeypatch.setattr(Ledger, "open", lambda self: (since.append(time.process_time()), opened(self))[1])
    monkeypatch.setattr(Ledger, "close", lambda self: (whole.append(time.process_time() - since[-1]), closed(self))[1])
    task = ClassificationTask("small_resnet", 8, {"width": 8})
    small = snapshot.Setting(task, 32, DecomCAM(n_components=2), 6, Goal("<=", 35, " %"))
    callback = vars(DecomCAMCallback)["on_validation_epoch_end"]
    pages = snapshot.measure(small, tracker, snapshots=2)
    assert [sum(page.values()) for page in pages] == pytest.approx(whole, rel=0.02)
    always = {*snapshot.NETWORK, snapshot.DECOMPOSITION, snapshot.SCORES, snapshot.TRACKING, snapshot.SHARED}
    always |= {snapshot.RECORDS, snapshot.PICTURES, snapshot.TRACKERS[tracker]}
    assert all(page[entry] > 0 for page in pages for entry in always)
    assert set().union(*pages) <= set(snapshot.ORDER)
    # Nothing stays wrapped.
    assert vars(DecomCAMCallback)["on_validation_epoch_end"] is callback
    assert "forward" not in vars(task)
