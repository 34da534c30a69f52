"""``lit-decom replay``: the records of a run that had no callback, made afterwards from its checkpoints."""

import argparse
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from typing_extensions import override

from lit_decom.callbacks import ReplayCallback
from lit_decom.fitting import EXPECTED_ERRORS, LitDecomCLI, callbacks_of, cli_settings, parsing

__all__ = ["EXPECTED_ERRORS", "ReplayCLI", "add_arguments", "run"]


class ReplayCLI(LitDecomCLI):
    """The command line of ``fit`` without subcommands, with the callback that goes through checkpoints."""

    callback_class = ReplayCallback

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        # They stand in the configuration that a run leaves behind; here, every checkpoint has its turn.
        for name in ("--ckpt_path", "--weights_only"):
            parser.add_argument(name, default=None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lit-decom replay`` to its parser."""
    parser.usage = "lit-decom replay [-h] CKPT_DIR --config FILE [OPTION ...]"
    parser.add_argument("ckpt_dir", metavar="CKPT_DIR", type=Path, help="folder of checkpoints (*.ckpt)")
    parser.add_argument(
        "options",
        metavar="--config FILE [OPTION ...]",
        nargs=argparse.REMAINDER,
        help="the run's configuration, and options of `lit-decom validate`, whose --help lists them",
    )


def run(given: argparse.Namespace) -> None:
    """Explain the probe at every checkpoint of a folder, and say where the records are.

    Args:
        given: what the parser of :func:`add_arguments` returned, and whether to `debug`.

    Raises:
        NotADirectoryError: if the folder does not exist.
        MisconfigurationException: if the folder's checkpoints do not fit the configuration.
    """
    folder: Path = given.ckpt_dir
    if not folder.is_dir():
        raise NotADirectoryError(f"Expected CKPT_DIR to be a folder of checkpoints, but got {folder}.")
    with parsing(given.options, debug=given.debug):
        cli = ReplayCLI(**cli_settings("lit-decom replay CKPT_DIR"), run=False, save_config_callback=None)
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
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    records = callback.replay(trainer, cli.model, cli.datamodule, folder)
    Console().print(f"records: {records}", soft_wrap=True, highlight=False, markup=False)
