"""Where the time of a snapshot goes: ``python -m benchmarks.snapshot``.

For each tracker, a training is run with the callback, and the processor time between the end of a validation epoch and
the end of the training epoch around it is charged to entries: forward passes of the module and ``torch.autograd.grad``
to the network, everything else to the part of the package, or the tracker, that asked for it. One thread, since threads
that wait for each other burn processor time, too. What other processes do for a tracker is not counted: W&B writes its
files in one of its own.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from lit_decom import DecomCAM, DecomCAMCallback
from lit_decom.data import CrittersDataModule
from lit_decom.tasks import ClassificationTask

from . import goals
from .goals import Goal
from .ledger import Ledger, Rule, charging
from .subject import fit

FORWARD, BACKWARD, MASKED = "capture, forward", "capture, backward", "masked forwards"
OF_METRICS, OF_SHARED = "forwards of metrics", "forwards of shared components"
NETWORK = (FORWARD, BACKWARD, MASKED, OF_METRICS, OF_SHARED)
EVIDENCE = "around the passes: weights laid out, state restored"
DECOMPOSITION, MASKS = "decomposition", "masks, composites, integration"
SCORES, TRACKING, SHARED = "scores, chance, strata", "tracking", "shared components"
RECORDS, PICTURES, REST = "records on disk", "pictures", "rest of the callback"
LIGHTNING = "values through Lightning"
TRACKERS: dict[type[Logger], str] = {
    WandbLogger: "tracker: W&B, offline",
    CSVLogger: "tracker: CSV",
    TensorBoardLogger: "tracker: TensorBoard, its charts included",
}
ORDER = (
    *NETWORK,
    EVIDENCE,
    DECOMPOSITION,
    MASKS,
    SCORES,
    TRACKING,
    SHARED,
    RECORDS,
    PICTURES,
    REST,
    LIGHTNING,
    *TRACKERS.values(),
)
_EXPLAINING = {REST, EVIDENCE, DECOMPOSITION, MASKS}
_CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
_PROBE = 64


def _within(entries: set[str], entry: str) -> Rule:
    """Charge an entry where one of these is open, and the one that is open elsewhere."""
    return lambda now, _args: entry if now in entries else now


def _of_tracker(now: str, args: tuple[Any, ...]) -> str:
    return next((entry for kind, entry in TRACKERS.items() if args and isinstance(args[0], kind)), now)


RULES: dict[str, Rule] = {
    "lit_decom.callbacks": _within({LIGHTNING}, REST),
    "lit_decom.evidence": _within(_EXPLAINING, EVIDENCE),
    "lit_decom.methods": _within(_EXPLAINING, MASKS),
    "lit_decom.functional.decomposition": _within(_EXPLAINING, DECOMPOSITION),
    "lit_decom.scoring": _within(_EXPLAINING, SCORES),
    "lit_decom.metrics": _within(_EXPLAINING, SCORES),
    "lit_decom.components.tracking": _within({REST}, TRACKING),
    "lit_decom.components.shared": _within({REST}, SHARED),
    "lit_decom.components.factors": _within({REST}, SHARED),
    "lit_decom.records": _within({REST}, RECORDS),
    "lit_decom.render": _within({REST, RECORDS}, PICTURES),
    "lit_decom.callbacks.pictures": _within({REST, RECORDS}, PICTURES),
    "lit_decom.sinks": _of_tracker,
}


def forward_of(now: str, _args: tuple[Any, ...]) -> str:
    """What a forward pass is for, given the entry of who asks: an explanation's first one records its graph."""
    if now in {SCORES, SHARED}:
        return OF_METRICS if now == SCORES else OF_SHARED
    return FORWARD if torch.is_grad_enabled() else MASKED


def backward_of(now: str, _args: tuple[Any, ...]) -> str:
    """The same of a backward pass."""
    return {SCORES: OF_METRICS, SHARED: OF_SHARED}.get(now, BACKWARD)


@dataclass(frozen=True)
class Setting:
    """A network, its data, and what is explained of it.

    Attributes:
        task: with its network.
        size: height and width of the images.
        method: how to explain.
        probe: how many images.
        goal: for the share of the time outside the network.
    """

    task: ClassificationTask
    size: int
    method: DecomCAM
    probe: int
    goal: Goal


def quickstart() -> Setting:
    """What the shipped configuration explains."""
    config: Any = OmegaConf.load(_CONFIG)
    network, data, callback = config.model.init_args, config.data.init_args, config.callback
    task = ClassificationTask(network.model, network.num_classes, dict(network.model_args))
    method = DecomCAM(**callback.method.init_args)
    return Setting(task, data.image_size, method, callback.probe, goals.OUTSIDE_QUICKSTART)


def resnet18() -> Setting:
    """A usual network at the usual size."""
    return Setting(ClassificationTask("resnet18", 8), 224, DecomCAM(), _PROBE, goals.OUTSIDE_RESNET18)


SETTINGS: dict[str, Callable[[], Setting]] = {"quickstart": quickstart, "resnet18": resnet18}


class _Page(pl.Callback):
    """Opens a page of the ledger when a validation epoch has ended, before the callback's turn, and closes it again."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.pages: list[dict[str, float]] = []

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.ledger.open()

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pages.append(self.ledger.close())


def measure(setting: Setting, tracker: type[Logger], snapshots: int) -> list[dict[str, float]]:
    """Let a training run leave its snapshots behind.

    Args:
        setting: what is explained.
        tracker: where the run is logged to. One alone, since the threads of another would work at any time.
        snapshots: how many.

    Returns:
        Seconds of processor time by entry, of each snapshot.

    Raises:
        RuntimeError: if the callback failed in a part, or its passes through the network were not seen.
    """
    task, ledger = deepcopy(setting.task), Ledger(root=LIGHTNING)
    page, callback = _Page(ledger), DecomCAMCallback(setting.method, probe=setting.probe)
    data = CrittersDataModule(32, 2 * setting.probe, 1, setting.size, batch_size=32)
    with TemporaryDirectory() as folder, _charged(ledger, task):
        options = {"project": "lit-decom", "offline": True} if tracker is WandbLogger else {}
        logger = tracker(save_dir=folder, **options)
        _charge_tracker(ledger, logger)
        _trainer(folder, logger, [page, callback], snapshots).fit(task, datamodule=data)
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
    if callback.errors:
        raise RuntimeError(f"Expected the callback to work, but it counted {callback.errors} errors.")
    if not all(page.get(MASKED) for page in page.pages):
        raise RuntimeError("Expected the callback's forward passes to go through the module's `forward`.")
    return page.pages


def _trainer(folder: str, logger: Logger, callbacks: list[pl.Callback], epochs: int) -> pl.Trainer:
    """Of epochs as short as can be."""
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=1,
        limit_val_batches=1,
        logger=logger,
        callbacks=callbacks,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def _charged(ledger: Ledger, task: ClassificationTask) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(charging(ledger, "lit_decom", RULES))
        replaced: list[tuple[Any, str, Rule]] = [
            (task, "forward", forward_of),
            (torch.autograd, "grad", backward_of),
            (pl.LightningModule, "log_dict", lambda _now, _args: LIGHTNING),
            (Image.Image, "save", _within({REST, RECORDS}, PICTURES)),
        ]
        for owner, name, rule in replaced:
            stack.enter_context(patch.object(owner, name, ledger.charged(getattr(owner, name), rule)))
        yield


def _charge_tracker(ledger: Ledger, logger: Logger) -> None:
    for name in ("log_metrics", "save"):
        entry = partial(_of_tracker, args=(logger,))
        method = ledger.charged(getattr(logger, name), lambda now, _args, entry=entry: entry(now))  # type: ignore[misc]
        setattr(logger, name, method)


def mean(pages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each entry over pages."""
    entries = dict.fromkeys(entry for page in pages for entry in page)
    return {entry: sum(page.get(entry, 0.0) for page in pages) / len(pages) for entry in entries}


def share_outside(seconds: Mapping[str, float]) -> float:
    """Share, in percent, of the time outside the network."""
    return 100 * (1 - sum(seconds.get(entry, 0.0) for entry in NETWORK) / sum(seconds.values()))


def show(console: Console, title: str, pages: Mapping[type[Logger], Sequence[Mapping[str, float]]], goal: Goal) -> None:
    """Print where the time went with each tracker: network, and what is around it."""
    runs = {TRACKERS[tracker].removeprefix("tracker: "): mean(of_run) for tracker, of_run in pages.items()}
    shares = {name: share_outside(seconds) for name, seconds in runs.items()}
    table = Table("seconds with", *runs, title=title, title_justify="left")
    for entry in ORDER:
        found = [f"{seconds[entry]:.3f}" if entry in seconds else "" for seconds in runs.values()]
        if any(found):
            table.add_row(entry, *found, end_section=entry in (OF_SHARED, ORDER[-1]))
    table.add_section()
    table.add_row("whole snapshot", *(f"{sum(seconds.values()):.3f}" for seconds in runs.values()))
    table.add_row("outside the network", *(f"{share:.1f} %" for share in shares.values()))
    judged = shares[TRACKERS[WandbLogger].removeprefix("tracker: ")]
    table.add_row(f"goal {goal}", "met" if goal.met(judged) else "not met")
    console.print(table)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.snapshot", description="Where a snapshot's time goes.")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)} (default: all)")
    parser.add_argument("--snapshots", type=int, default=3, help="the first of them does not count")
    parser.add_argument("--train-images", type=int, default=1024, help="images that the network learns from beforehand")
    parser.add_argument("--json", type=Path, help="file for the seconds of every snapshot")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.settings) - set(SETTINGS))
    if unknown:
        parser.error(f"expected settings among {', '.join(SETTINGS)}, but got {', '.join(unknown)}")
    if options.snapshots < 2:
        parser.error(f"expected at least 2 snapshots, but got {options.snapshots}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one table per setting."""
    options = parse(arguments)
    os.environ["WANDB_SILENT"] = "true"
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 120)
    measured: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in options.settings or SETTINGS:
        setting = SETTINGS[name]()
        torch.manual_seed(0)
        fit(setting.task.model, options.train_images, seed=0)
        pages = {tracker: measure(setting, tracker, options.snapshots) for tracker in TRACKERS}
        measured[name] = {TRACKERS[tracker]: of_run for tracker, of_run in pages.items()}
        title = (
            f"{name}: {setting.probe} images of {setting.size} x {setting.size}, {setting.method!r}; "
            f"processor time, one thread, mean of snapshots 2 to {options.snapshots}"
        )
        show(console, title, {tracker: of_run[1:] for tracker, of_run in pages.items()}, setting.goal)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
