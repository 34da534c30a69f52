"""Whether the cost of a snapshot grows with their number: ``python -m benchmarks.long_run``.

A tiny network is trained for as many epochs as there shall be snapshots, without a tracker, and a checkpoint is saved
after each. Printed are the size of the checkpoint, the memory that the process holds and the processor time of a whole
epoch, early in the run and late, as medians over a tenth of the snapshots each. The first tenth is left out: it fills
caches.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from lit_decom import DecomCAM, DecomCAMCallback
from lit_decom.data import CrittersDataModule
from lit_decom.tasks import ClassificationTask

_KIB = 1024
_PROBE, _SIDE, _CLASSES = 16, 32, 8


@dataclass
class Costs(pl.Callback):
    """Notes what each epoch cost; it has to stand after the callback that takes the snapshots.

    Attributes:
        folder: where the checkpoint is saved, each over the one before.
        checkpoint: its size in KiB, after each epoch.
        resident: memory of the process in KiB; 0 where the system does not tell.
        seconds: processor time of all threads.
    """

    folder: Path
    checkpoint: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _begun: float = 0.0

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = process_time()

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = self.folder / "last.ckpt"
        trainer.save_checkpoint(path)
        self.seconds.append(process_time() - self._begun)
        self.checkpoint.append(path.stat().st_size / _KIB)
        self.resident.append(resident())


def resident() -> float:
    """Memory that this process holds, in KiB; 0 outside Linux."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((float(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0.0)


def measure(snapshots: int) -> Costs:
    """Train for as many epochs as there shall be snapshots.

    Raises:
        RuntimeError: if the callback failed in a part.
    """
    with TemporaryDirectory() as folder:
        costs, callback = Costs(Path(folder)), DecomCAMCallback(DecomCAM(n_components=4), probe=_PROBE)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=snapshots,
            limit_train_batches=1,
            limit_val_batches=1,
            logger=False,
            callbacks=[callback, costs],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = CrittersDataModule(_PROBE, 2 * _PROBE, 1, _SIDE, batch_size=2 * _PROBE)
        trainer.fit(ClassificationTask("small_resnet", _CLASSES, {"width": 8}), datamodule=data)
    if callback.errors:
        raise RuntimeError(f"Expected the callback to work, but it counted {callback.errors} errors.")
    return costs


def early_and_late(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the second tenth of the values and of the last one."""
    tenth = max(1, len(values) // 10)
    return median(values[tenth : 2 * tenth]), median(values[-tenth:])


def show(console: Console, costs: Costs) -> None:
    """Print what grew."""
    n = len(costs.seconds)
    table = Table("after a snapshot", "early", "late", "more a snapshot", title=f"{n} snapshots", title_justify="left")
    between = n - 2 * max(1, n // 10)
    for name, values, unit, digits in (
        ("checkpoint", costs.checkpoint, "KiB", 1),
        ("memory of the process", costs.resident, "KiB", 0),
        ("processor time of the epoch", costs.seconds, "s", 3),
    ):
        early, late = early_and_late(values)
        more = (late - early) / max(1, between)
        table.add_row(name, f"{early:.{digits}f} {unit}", f"{late:.{digits}f} {unit}", f"{more:.{digits + 2}f} {unit}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.long_run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--snapshots", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    show(Console(width=None if sys.stdout.isatty() else 120), measure(options.snapshots))


if __name__ == "__main__":
    main()
