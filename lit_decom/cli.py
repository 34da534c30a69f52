"""The command line."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.console import Console

from lit_decom.callbacks import ReplayCallback
from lit_decom.dashboard import main as dashboard
from lit_decom.fitting import KeepConfig, LitDecomCLI, ReplayCLI, callbacks_of, cli_settings
from lit_decom.report import main as report
from lit_decom.sweep.command import main as sweep


def main(args: Sequence[str] | None = None) -> None:
    """Run ``lit-decom``.

    Args:
        args: the words after the program's name; by default those of the process.
    """
    words = list(sys.argv[1:] if args is None else args)
    args = None if args is None else words
    commands: dict[str, Callable[[list[str]], Any]] = {
        "report": report,
        "replay": _replay,
        "dashboard": dashboard,
        "sweep": sweep,
    }
    if words and words[0] in commands:
        commands[words[0]](words[1:])
    else:
        LitDecomCLI(**cli_settings("lit-decom"), save_config_callback=KeepConfig, args=args)


def _replay(words: list[str]) -> None:
    """Explain the probe at every checkpoint of a folder: ``replay CKPT_DIR --config FILE ...``."""
    if not words or words[0].startswith("-"):
        sys.exit("usage: lit-decom replay CKPT_DIR --config FILE [options of `lit-decom validate`]")
    folder = Path(words[0])
    if not folder.is_dir():
        sys.exit(f"Expected CKPT_DIR to be a folder of checkpoints, but got {folder}.")
    # What LightningCLI takes from the process it must find there without the words that are ours.
    sys.argv = [sys.argv[0], *words[1:]]
    cli = ReplayCLI(**cli_settings("lit-decom replay"), run=False, save_config_callback=None)
    (callback,) = [callback for callback in callbacks_of(cli.trainer) if isinstance(callback, ReplayCallback)]
    chosen = cli.config["trainer"]
    trainer = pl.Trainer(
        accelerator=chosen["accelerator"],
        devices=1,
        precision=chosen["precision"],
        logger=False,
        callbacks=[callback],
        limit_val_batches=1.0 if callback.scoring.needs_class_accuracy else 1,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    Console().print(f"records: {callback.replay(trainer, cli.model, cli.datamodule, folder)}")
