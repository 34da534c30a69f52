"""Firing again and again costs no memory and leaves no hook, also where it fails."""

import gc
from pathlib import Path
from statistics import median

import lightning.pytorch as pl
import pytest
import torch

from tests.helpers.modules import TinyFaulty, callback, fit, tiny

KILOBYTE = 1024


def hooks_of(module: torch.nn.Module) -> list[str]:
    """Names of all kinds of hooks on all submodules, and of those on parameters."""
    found = []
    for name, entry in module.named_modules():
        found += [f"{name}{kind}" for kind, value in vars(entry).items() if kind.endswith("_hooks") and value]
    return found + [name for name, parameter in module.named_parameters() if parameter._backward_hooks]


def live_tensors() -> int:
    gc.collect()
    # By type, since isinstance asks lazy modules for their class and wakes them up.
    return sum(issubclass(type(entry), torch.Tensor) for entry in gc.get_objects())


def resident_bytes() -> int:
    statistics = Path("/proc/self/statm")
    # Nothing to be seen where there is no such file, outside Linux.
    return int(statistics.read_text().split()[1]) * 4 * KILOBYTE if statistics.exists() else 0


class Census(pl.Callback):
    """Looks for hooks after each training batch that follows a snapshot, counts live tensors and memory after some."""

    def __init__(self) -> None:
        self.tensors: dict[int, int] = {}
        self.resident: list[int] = []
        self.hooks: list[str] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        del outputs, batch
        self.hooks += hooks_of(pl_module)
        self.resident.append(resident_bytes())
        if trainer.global_step in (5, 52):
            self.tensors[trainer.global_step] = live_tensors()


def test_fifty_snapshots_and_the_steps_after_them_keep_nothing(tmp_path):
    # The first snapshots of a process fill caches: fonts, blur matrices, the allocator.
    fit(tmp_path / "before", callback(), max_epochs=4, val_check_interval=1)
    census, observer = Census(), callback()
    fit(tmp_path, census, observer, max_epochs=13, val_check_interval=1)
    assert len(observer.run_log.history) == 52
    assert census.hooks == []
    # What is remembered of vanished components comes and goes; anything kept per snapshot would make it 46 or more.
    assert census.tensors[52] - census.tensors[5] < 23
    # One snapshot's images and evidence are 150 KB: keeping them would make it 5 MB and more. By medians, since the
    # allocator may take a step of some MB at any time, once.
    assert median(census.resident[-15:]) - median(census.resident[10:25]) < 2000 * KILOBYTE


def test_snapshots_that_fail_half_way_keep_nothing(tmp_path):
    module = tiny(TinyFaulty)
    census, observer = Census(), callback(strict=False)

    class Arm(pl.Callback):
        def on_validation_epoch_start(self, trainer, pl_module):
            module.fault.armed = trainer.global_step > 1

        def on_validation_end(self, trainer, pl_module):
            module.fault.armed = False

    with pytest.warns(UserWarning, match="the network is broken"):
        fit(tmp_path, Arm(), census, observer, module=module, max_epochs=13, val_check_interval=1)
    assert observer.errors == 51
    assert census.hooks == []
    assert census.tensors[52] == census.tensors[5]


def test_an_exception_that_ends_the_training_leaves_no_hook(tmp_path):
    module = tiny(TinyFaulty)

    class Arm(pl.Callback):
        def on_validation_epoch_start(self, trainer, pl_module):
            module.fault.armed = not trainer.sanity_checking

    with pytest.raises(RuntimeError, match="the network is broken"):
        fit(tmp_path, Arm(), callback(), module=module)
    assert hooks_of(module) == []
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_hooks_would_be_seen():
    module = tiny()
    module.second.register_forward_hook(lambda *_: None)
    module.head.weight.register_hook(lambda gradient: gradient)
    assert hooks_of(module) == ["second_forward_hooks", "head.weight"]
