"""Two processes, one of which fails: both leave out that snapshot, both train on, and neither waits for the other."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
    import datetime, json, os, sys, warnings
    from pathlib import Path
    from unittest import mock

    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy
    from torch.distributed.distributed_c10d import _set_pg_timeout as set_timeout

    from lit_decom import DecomCAM, Probe, observer as observing
    from lit_decom.callbacks import run_log
    from lit_decom.callbacks.class_accuracy import ClassAccuracy
    from lit_decom.callbacks.run_log import RunLog
    from lit_decom.components import FollowedFactors, FollowedImages
    from lit_decom.explainer import Explainer
    from lit_decom.metrics.map_history import MapHistory
    from lit_decom.observer import Observer
    from lit_decom.process import Stopwatch
    from lit_decom.records import Snapshot
    from lit_decom.scoring import Scoreboard
    from tests.helpers.modules import Spots, callback, loader, seed_all, tiny, trainer
    from tests.helpers.training import digest, fingerprint

    root, watched = Path(sys.argv[1]), sys.argv[2] == "watched"
    rank = int(os.environ.get("LOCAL_RANK", 0))
    FAULTS = [
        (1, Explainer, "pieces"),
        (1, Scoreboard, "scores"),
        (0, FollowedImages, "update"),
        (1, FollowedFactors, "_responses"),
        (0, FollowedFactors, "_track"),
        (1, observing, "summary"),
        (0, MapHistory, "merge"),
        (1, MapHistory, "observe"),
        (0, Stopwatch, "slowest"),
        (1, Snapshot, "of"),
        (0, RunLog, "note"),
        (0, ClassAccuracy, "accuracy"),
        (1, run_log, "Monitors"),
        (0, Snapshot, "save"),
    ]


    class Faults(pl.Callback):
        '''In every other epoch something breaks in one of the processes.'''

        patch = None

        def on_validation_epoch_start(self, trainer, pl_module):
            number, rest = divmod(trainer.current_epoch, 2)
            if rest and not trainer.sanity_checking:
                where, owner, name = FAULTS[number]
                if where == trainer.global_rank:
                    self.patch = mock.patch.object(owner, name, side_effect=RuntimeError(f"{name} is broken"))
                    self.patch.start()

        def on_validation_end(self, trainer, pl_module):
            if self.patch is not None:
                self.patch.stop()
                self.patch = None


    class Pages(pl.Callback):
        def __init__(self):
            self.pages = []

        def setup(self, trainer, pl_module, stage):
            # Processes may take long to start, but nobody waits for one that is there.
            set_timeout(datetime.timedelta(seconds=30))

        def on_train_epoch_end(self, trainer, pl_module):
            metrics = trainer.callback_metrics.items()
            self.pages.append({key: value.item() for key, value in metrics if key.startswith("decomcam/")})


    def fitted(observers, *others, **arguments):
        strategy = DDPStrategy(process_group_backend="gloo", timeout=datetime.timedelta(minutes=4))
        module = tiny()
        run = trainer(root, *observers, *others, devices=2, strategy=strategy, num_sanity_val_steps=0, **arguments)
        seed_all(7)
        run.fit(module, loader(Spots(augment=True), shuffle=True), loader(Spots(8, seed=2)))
        return fingerprint(run, module)


    found = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"metrics": "default", "strict": False, "strata": "class_accuracy"}
        observers = [callback(probe=7, dirpath=root / "run", batch_size=2, **options)] if watched else []
        pages = Pages()
        best = [ModelCheckpoint(root / "best", monitor="decomcam/accuracy", mode="max")] if watched else []
        found["left"] = fitted(observers, Faults(), pages, *best, max_epochs=2 * len(FAULTS))
        if watched:
            (observer,) = observers
            followed = observer.observer.state_dict()
            followed = [followed[name] for name in ("n_snapshots", "tracker", "shared")]
            found |= {"pages": pages.pages, "state": digest(followed)}
            found["records"] = [] if observer.directory is None else [r.epoch for r in observer.directory.records()]

            spots = Spots(4, seed=rank)
            given = Probe.from_tensors(spots.images, torch.tensor(spots.targets))
            observer = callback(probe=given, strict=False)
            fitted([observer])
            found["given"] = observer.probe.digest

            if rank == 1:
                mock.patch.object(Observer, "prepare", side_effect=ValueError("no room")).start()
            try:
                fitted([callback(strict=False)])
            except Exception as error:
                found["refused"] = repr(error)
        found["warned"] = sorted({str(warning.message) for warning in caught if "rocess" in str(warning.message)})
    (root / f"rank{rank}.json").write_text(json.dumps(found))
"""


def trained(root: Path, watched: str) -> list[dict]:
    root.mkdir()
    script = root / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(root), watched]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_a_fault_in_one_process_costs_both_the_snapshot_and_neither_the_training(tmp_path):
    first, second = trained(tmp_path / "watched", "watched")
    alone = trained(tmp_path / "alone", "alone")
    assert [first["left"], second["left"]] == [page["left"] for page in alone]
    # Every second epoch has a fault: the last one is of the record alone, the last but one of the values sent.
    numbers = [page for page in first["pages"] if "decomcam/score_gain/rank_01" in page]
    assert first["pages"] == second["pages"]
    assert [page["decomcam/errors"] for page in first["pages"][:25:2]] == list(range(13))
    assert first["pages"][-1]["decomcam/errors"] == 14
    assert len(numbers) == 28 - 12
    assert first["records"] == [*range(0, 24, 2), 24, 25, 26]
    # Nothing of what failed is remembered in one process and forgotten in the other.
    assert first["state"] == second["state"]
    told = [text for text in first["warned"] if "could not explain the probe" in text]
    assert len(told) == 1
    assert "RuntimeError: Another process failed: RuntimeError('pieces is broken')" in told[0]
    # Probes that were given, and differ.
    assert first["given"] == second["given"]
    assert sum("the same in every process" in text for text in first["warned"]) == 1
    # What cannot work is refused by both, before the first step, and says why.
    assert "Another process failed: MisconfigurationException('no room')" in first["refused"]
    assert second["refused"] == "MisconfigurationException('no room')"
