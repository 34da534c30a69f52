"""``python -m tests.helpers.two_processes FOLDER PLAN EPOCHS``: trains in two processes, and writes down what is left.

PLAN is ``alone`` for a training without the callback, ``each`` for a fault of every kind, one in every second epoch, or
a seed for random faults.
"""

import datetime
import json
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.distributed_c10d import _set_pg_timeout

from lit_decom import Probe
from lit_decom.observer import Observer
from tests.helpers.faults import PLACES, Fault, Faults
from tests.helpers.modules import Spots, callback, loader, seed_all, tiny, trainer
from tests.helpers.training import Diary, digest, fingerprint

# Processes may take long to start where others work, too; but nobody waits for one that is there.
START, WAIT = datetime.timedelta(minutes=4), datetime.timedelta(seconds=40)


class Impatient(pl.Callback):
    """Waits for no other process longer than it must."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        _set_pg_timeout(WAIT)


class Pages(pl.Callback):
    """Notes our values as checkpoints find them at the end of each epoch."""

    def __init__(self) -> None:
        self.pages: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics.items()
        self.pages.append({key: value.item() for key, value in metrics if key.startswith("decomcam/")})


def fitted(root: Path, *callbacks: pl.Callback, **arguments: Any) -> str:
    """Train in two processes; gives the digest of all that was seen on the way and is left."""
    strategy = DDPStrategy(process_group_backend="gloo", timeout=START)
    module, diary = tiny(), Diary()
    given = {"devices": 2, "strategy": strategy, "num_sanity_val_steps": 0} | arguments
    run = trainer(root, *callbacks, diary, Impatient(), **given)
    seed_all(7)
    run.fit(module, loader(Spots(augment=True), shuffle=True), loader(Spots(8, seed=2)))
    return digest([*diary.pages, fingerprint(run, module)])


def planned(plan: str, epochs: int) -> dict[int, Fault]:
    """Faults by epoch."""
    if plan == "each":
        broken = [RuntimeError(f"{place.name} is broken") for place in PLACES]
        faults = [Fault(place, place.ranks[-1], error) for place, error in zip(PLACES, broken, strict=True)]
        return dict(zip(range(1, epochs, 2), faults, strict=True))
    drawn = random.Random(int(plan))
    kinds = (RuntimeError, OSError, ValueError, MemoryError, torch.OutOfMemoryError, KeyError)
    faults = {}
    for epoch in range(epochs):
        place, kind, after = drawn.choice(PLACES), drawn.choice(kinds), drawn.choice([0, 0, 1, 2])
        if drawn.random() < 0.4:
            faults[epoch] = Fault(place, drawn.choice(place.ranks), kind("a fault"), after)
    return faults


def main(root: Path, plan: str, epochs: int) -> dict[str, Any]:
    """Train, with the callback or without it, and tell what is left in this process."""
    if plan == "alone":
        return {"left": fitted(root, max_epochs=epochs)}
    options: dict[str, Any] = {"metrics": "default", "strata": "class_accuracy", "batch_size": 2}
    observer = callback(probe=7, dirpath=root / "run", strict=False, **options)
    pages, faults = Pages(), Faults(planned(plan, epochs))
    best = ModelCheckpoint(root / "best", monitor="decomcam/accuracy", mode="max")
    # Its faults strike before, and end after, the callback has its turn.
    found: dict[str, Any] = {"left": fitted(root, observer, faults, pages, best, max_epochs=epochs)}
    followed = observer.observer.state_dict()
    return found | {
        "pages": pages.pages,
        "lost": faults.lost,
        "best": best.best_model_path,
        "followed": digest([followed[name] for name in ("n_snapshots", "tracker", "shared")]),
        "records": [] if observer.directory is None else [record.epoch for record in observer.directory.records()],
        **(at_the_beginning(root) if plan == "each" else {}),
    }


def at_the_beginning(root: Path) -> dict[str, Any]:
    """Give each process another probe, and then let the second one refuse to begin."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    spots = Spots(4, seed=rank)
    observer = callback(probe=Probe.from_tensors(spots.images, torch.tensor(spots.targets)), strict=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(root, observer)
    said = [str(warning.message) for warning in caught if "in every process" in str(warning.message)]
    if rank == 1:
        mock.patch.object(Observer, "prepare", side_effect=ValueError("no room")).start()
    try:
        fitted(root, callback(strict=False))
    except Exception as error:  # noqa: BLE001 -- it is what is looked at
        refusal = repr(error)
    return {"probe": observer.probe.digest, "said": said, "refusal": refusal}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    left = main(folder, sys.argv[2], int(sys.argv[3]))
    (folder / f"rank{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(left))
