"""The command line: LightningCLI's subcommands with DecomCAMCallback attached, and what is done with runs later."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from typing_extensions import override

import lit_decom.data
import lit_decom.tasks  # noqa: F401 -- classes that have been imported can be named without their module
from lit_decom.callbacks import DecomCAMCallback, ReplayCallback
from lit_decom.dashboard import main as dashboard
from lit_decom.report import main as report
from lit_decom.tables import score_table

_FITTING: dict[str, Any] = {
    "model_class": pl.LightningModule,
    "datamodule_class": pl.LightningDataModule,
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "auto_configure_optimizers": False,
}
_DESCRIPTION = (
    "Train with explanations at every epoch (fit, validate, test), and look at runs afterwards: "
    "report RUN_DIR [RUN_DIR], replay CKPT_DIR --config FILE, dashboard ENTITY/PROJECT."
)


class _KeepConfig(SaveConfigCallback):
    """Keep the composed configuration beside the run's records, where no other run overwrites it."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run has no directory yet."""

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in _ours(trainer):
            if not self.already_saved and callback.directory is not None:
                path = callback.directory.path / "config.yaml"
                self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)
                self.already_saved = True


class LitDecomCLI(LightningCLI):
    """LightningCLI over any LightningModule and LightningDataModule, with the callback as the group ``callback``."""

    callback_class: type[DecomCAMCallback] = DecomCAMCallback

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.callback_class, "callback")

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "test")}

    def after_fit(self) -> None:
        """Say where the run, its pictures and its W&B files are."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            Console().print(_outcome(self.trainer))

    def after_validate(self) -> None:
        """Print the scores with their intervals."""
        _print_scores(self.trainer)

    def after_test(self) -> None:
        """Print the scores with their intervals."""
        _print_scores(self.trainer)


class _ReplayCLI(LitDecomCLI):
    callback_class = ReplayCallback

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        # They stand in the configuration that a run leaves behind; here, every checkpoint has its turn.
        for name in ("--ckpt_path", "--weights_only"):
            parser.add_argument(name, default=None)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``lit-decom``.

    Args:
        args: the words after the program's name; by default those of the process.
    """
    words = list(sys.argv[1:] if args is None else args)
    args = None if args is None else words
    # Without it, interpolations that start at the root of a file do not resolve under a subcommand.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    commands: dict[str, Callable[[list[str]], Any]] = {"report": report, "replay": _replay, "dashboard": dashboard}
    if words and words[0] in commands:
        commands[words[0]](words[1:])
    else:
        LitDecomCLI(**_FITTING, save_config_callback=_KeepConfig, parser_kwargs=_parser("lit-decom"), args=args)


def _parser(prog: str) -> dict[str, Any]:
    return {"parser_mode": "omegaconf+", "prog": prog, "description": _DESCRIPTION}


def _replay(words: list[str]) -> None:
    """Explain the probe at every checkpoint of a folder: ``replay CKPT_DIR --config FILE ...``."""
    if not words or words[0].startswith("-"):
        sys.exit("usage: lit-decom replay CKPT_DIR --config FILE [options of `lit-decom validate`]")
    folder = Path(words[0])
    if not folder.is_dir():
        sys.exit(f"Expected CKPT_DIR to be a folder of checkpoints, but got {folder}.")
    # What LightningCLI takes from the process it must find there without the words that are ours.
    sys.argv = [sys.argv[0], *words[1:]]
    cli = _ReplayCLI(**_FITTING, run=False, save_config_callback=None, parser_kwargs=_parser("lit-decom replay"))
    (callback,) = [callback for callback in _ours(cli.trainer) if isinstance(callback, ReplayCallback)]
    chosen = cli.config["trainer"]
    trainer = pl.Trainer(
        accelerator=chosen["accelerator"],
        devices=1,
        precision=chosen["precision"],
        logger=False,
        callbacks=[callback],
        limit_val_batches=1.0 if callback.needs_class_accuracy else 1,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    Console().print(f"records: {callback.replay(trainer, cli.model, cli.datamodule, folder)}")


def _ours(trainer: pl.Trainer) -> list[DecomCAMCallback]:
    return [callback for callback in trainer.callbacks if isinstance(callback, DecomCAMCallback)]  # type: ignore[attr-defined]


def _print_scores(trainer: pl.Trainer) -> None:
    for callback in _ours(trainer):
        board = callback.observer.scoreboard
        if board is not None:
            scores = board.scores(intervals=True)
            if trainer.is_global_zero:
                Console().print(score_table(scores, caption=repr(callback.observer.method)))


def _outcome(trainer: pl.Trainer) -> Table:
    table = Table(title="Where things are", show_header=False, title_justify="left", box=None)
    for callback in _ours(trainer):
        if callback.directory is not None:
            path = callback.directory.path
            table.add_row("run", str(path.parent))
            table.add_row("records", str(path))
            table.add_row("pictures", str(path / "pictures"))
            if callback.report_path is not None:
                table.add_row("report", str(callback.report_path))
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            files = Path(logger.experiment.dir).parent
            table.add_row("W&B files", str(files))
            table.add_row("", f"look at them with `wandb leet`, upload them with `wandb sync {files}`")
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        table.add_row("best checkpoint", best)
    return table
