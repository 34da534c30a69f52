"""The command line: LightningCLI's subcommands with DecomCAMCallback attached, composed of YAML fragments."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from rich.console import Console
from rich.table import Table
from typing_extensions import override

import lit_decom.data
import lit_decom.tasks  # noqa: F401 -- classes that have been imported can be named without their module
from lit_decom.callbacks import DecomCAMCallback
from lit_decom.callbacks.host import run_directory


class _KeepConfig(SaveConfigCallback):
    """Keep the composed configuration beside the run's records, where Lightning would overwrite another run's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"save_to_log_dir": False, "overwrite": True})

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero and stage == "fit":
            directory = run_directory(trainer)
            directory.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, directory / "config.yaml", skip_none=False, overwrite=True, multifile=False)


class LitDecomCLI(LightningCLI):
    """LightningCLI over any LightningModule and LightningDataModule, with the callback as the group ``callback``."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(DecomCAMCallback, "callback")

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate", "test")}

    def after_fit(self) -> None:
        """Say where the run, its pictures and its W&B files are."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            _show_outcome(self.trainer)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``lit-decom``.

    Args:
        args: the words after the program's name; by default those of the process.
    """
    # Without it, interpolations that start at the root of a file do not resolve under a subcommand.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    LitDecomCLI(
        model_class=pl.LightningModule,
        datamodule_class=pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=_KeepConfig,
        auto_configure_optimizers=False,
        parser_kwargs={"parser_mode": "omegaconf+", "prog": "lit-decom"},
        args=list(sys.argv[1:] if args is None else args),
    )


def _show_outcome(trainer: pl.Trainer) -> None:
    table = Table(title="Where things are", show_header=False, title_justify="left", box=None)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, DecomCAMCallback) and callback.directory is not None:
            path = callback.directory.path
            table.add_row("run", str(path.parent))
            table.add_row("records", str(path))
            table.add_row("pictures", str(path / "pictures"))
    for logger in trainer.loggers:
        if isinstance(logger, pl.loggers.WandbLogger):
            files = Path(logger.experiment.dir).parent
            table.add_row("W&B files", str(files))
            table.add_row("", f"look at them with `wandb leet`, upload them with `wandb sync {files}`")
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        table.add_row("best checkpoint", best)
    Console().print(table)
