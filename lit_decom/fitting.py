"""LightningCLI with DecomCAMCallback attached: what ``fit``, ``validate`` and ``test`` parse and run."""

import logging
import os
import sys
import warnings
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from typing_extensions import override

import lit_decom.data
import lit_decom.tasks  # noqa: F401 -- classes that have been imported can be named without their module
from lit_decom import keys
from lit_decom.callbacks import DecomCAMCallback
from lit_decom.evidence.layers import TargetLayerError
from lit_decom.shipped_configs import with_paths
from lit_decom.sinks import log_settings
from lit_decom.tables import SUFFIXES, ScoreTable, write_scores

# What a user can mend: an unknown layer, arguments that do not go together, a missing file or extra.
EXPECTED_ERRORS = (MisconfigurationException, TargetLayerError, FileNotFoundError, NotADirectoryError)
_DESCRIPTION = "Train with explanations at every epoch, or look at a checkpoint; `lit-decom --help` lists all commands."
_SUBCOMMANDS = ("fit", "validate", "test")
_FILES = f"a file that ends in {' or '.join(SUFFIXES)}"
_SCORED = ("validate", "test")
_WIDE = 100  # of a table in a file or a pipe, which have no screen to fit on
# By this variable jsonargparse raises its errors instead of ending the process.
_RAISING = "JSONARGPARSE_DEBUG"


class KeepConfig(SaveConfigCallback):
    """Keep the composed configuration beside the run's records, where no other run overwrites it."""

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the trackers the whole configuration; the run has no directory yet."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            try:
                log_settings(logger, "cli", settings)
            except Exception as error:  # noqa: BLE001 -- a tracker that is down ends no training
                rank_zero_warn(f"Could not send the configuration to {type(logger).__name__}: {error}")

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in callbacks_of(trainer):
            if not self.already_saved and callback.directory is not None:
                path = callback.directory.path / "config.yaml"
                self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)
                self.already_saved = True


class NamedConfigParser(LightningArgumentParser):
    """Takes the name of a configuration that comes with the package where a configuration file is asked for."""

    @override
    def parse_args(  # type: ignore[override]  # as jsonargparse's own
        self, args: Sequence[str] | None = None, *more: Any, **settings: Any
    ) -> Namespace:
        """Parse words in which names of configurations may stand.

        Args:
            args: the words, by default those of the process.
            more: as for any parser.
            settings: as for any parser.

        Returns:
            The composed configuration.

        Raises:
            SystemExit: as for any parser, and if a configuration is neither a file nor one that comes with the package.
        """
        words = sys.argv[1:] if args is None else args
        try:
            words = with_paths(words)
        except FileNotFoundError as error:
            self.error(str(error), error)
        return super().parse_args(words, *more, **settings)


class LitDecomCLI(LightningCLI):
    """LightningCLI over any LightningModule and LightningDataModule, with the callback as the group ``callback``."""

    callback_class: type[DecomCAMCallback] = DecomCAMCallback

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.callback_class, "callback")

    @override
    def instantiate_classes(self) -> None:
        """Make the model, the data and the Trainer.

        Raises:
            MisconfigurationException: if one of them refuses a value, needs an extra that is not installed, or cannot
                read its files.
        """
        try:
            super().instantiate_classes()
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise MisconfigurationException(str(error)) from error

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        known = LightningCLI.subcommands()
        return {name: known[name] for name in _SUBCOMMANDS}

    @override
    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in _SCORED:
            parser.add_argument("--output", type=_score_file, help=f"write the scores there, too: {_FILES}")
            # Lightning's own table has a row for each of some two hundred values.
            parser.set_defaults(verbose=False)
        return parser

    def after_fit(self) -> None:
        """Say where the run, its pictures and its W&B files are."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print_outcome(self.trainer)

    def after_validate(self) -> None:
        """Print the scores beside chance, and write them where that is asked for."""
        self._show_scores()

    def after_test(self) -> None:
        """Print the scores beside chance, and write them where that is asked for."""
        self._show_scores()

    def _show_scores(self) -> None:
        if not self.trainer.is_global_zero:
            return
        output = self.config[self.subcommand].output
        for callback in callbacks_of(self.trainer):
            snapshot = callback.last_snapshot
            if snapshot is not None and snapshot.metric_scores:
                _print_scores(self.trainer, callback)
                if output is not None:
                    write_scores(snapshot.metric_scores, Path(output), snapshot.settings)
                    _console().print(f"scores: {output}", soft_wrap=True, highlight=False, markup=False)


def run(words: Sequence[str], *, debug: bool = False, cli: type[LitDecomCLI] = LitDecomCLI) -> None:
    """Run ``lit-decom fit``, ``validate`` or ``test``.

    Args:
        words: the command and its options.
        debug: whether a wrong option raises, where it otherwise ends the process with a message.
        cli: what runs it.
    """
    hush()
    with parsing(words, debug=debug):
        cli(**cli_settings("lit-decom"), save_config_callback=KeepConfig)


def hush() -> None:
    """Leave out what Lightning says to its own developers, and its advertisement."""
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if _is_no_tip not in logger.filters:
        logger.addFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: " not in str(record.msg)


@contextmanager
def parsing(words: Sequence[str], *, debug: bool) -> Iterator[None]:
    """Let LightningCLI find `words` as those of the process, from which Lightning also starts further processes."""
    argv, raising = sys.argv, os.environ.get(_RAISING)
    sys.argv = [argv[0], *words]
    if debug:
        os.environ[_RAISING] = "true"
    try:
        yield
    finally:
        sys.argv = argv
        if debug and raising is None:
            del os.environ[_RAISING]


def cli_settings(prog: str) -> dict[str, Any]:
    """What every :class:`LitDecomCLI` is made with, but for what it saves."""
    # Without it, interpolations that start at the root of a file do not resolve under a subcommand.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return {
        "model_class": pl.LightningModule,
        "datamodule_class": pl.LightningDataModule,
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "auto_configure_optimizers": False,
        "parser_class": NamedConfigParser,
        "parser_kwargs": {
            "parser_mode": "omegaconf+",
            "prog": prog,
            "description": _DESCRIPTION,
            "usage": f"{prog} [-h] --config FILE [--OPTION VALUE ...]",
            # An error is printed below its command's usage, which would fill the screen with all options.
            **{name: {"usage": f"{prog} {name} [-h] --config FILE [--OPTION VALUE ...]"} for name in _SUBCOMMANDS},
        },
    }


def callbacks_of(trainer: pl.Trainer) -> list[DecomCAMCallback]:
    """Ours among the Trainer's callbacks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, DecomCAMCallback)]  # type: ignore[attr-defined]


def _score_file(name: str) -> str:
    """Refuse what scores cannot be written to, before they are computed; a text, as configurations hold."""
    path = Path(name)
    if path.suffix not in SUFFIXES or not path.parent.is_dir():
        raise ArgumentTypeError(f"Expected {_FILES} in a folder that exists, but got {name!r}.")
    return name


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)


def _print_scores(trainer: pl.Trainer, callback: DecomCAMCallback) -> None:
    """Print the snapshot's scores, below what the module itself logged."""
    snapshot, metrics = callback.last_snapshot, trainer.callback_metrics
    if snapshot is None:
        return
    own = {key: float(metrics[key]) for key in metrics if keys.without_prefix(callback.prefix, key) is None}
    console = _console()
    console.print("  ".join(f"{key} {value:.4g}" for key, value in own.items()), highlight=False, markup=False)
    console.print(ScoreTable(snapshot.metric_scores, caption=str(snapshot.settings["method"])))


def print_outcome(trainer: pl.Trainer) -> None:
    """Print what a run left behind, each path in a line that nothing cuts: what is copied from there works."""
    console = Console()
    rows = list(_outcome(trainer))
    width = max((len(name) for name, _ in rows), default=0)
    console.print("Where things are", style="bold")
    for name, value in rows:
        # Beside its name where that fits, else below it.
        fits = 2 + width + 2 + len(value) <= console.width
        gap = " " * (width + 2 - len(name)) if fits else "\n    "
        console.print(f"  {name}{gap}{value}", soft_wrap=True, highlight=False, markup=False)


def _outcome(trainer: pl.Trainer) -> Iterator[tuple[str, str]]:
    for callback in callbacks_of(trainer):
        if callback.last_snapshot is None:
            yield "snapshots", "none was taken: see the warning above"
        elif callback.directory is not None:
            path = callback.directory.path
            yield "run", str(path.parent)
            yield "records", str(path)
            yield "pictures", str(path / "pictures")
            if callback.report_path is not None:
                yield "report", str(callback.report_path)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            files = Path(logger.experiment.dir).parent
            yield "W&B files", str(files)
            yield "look at them", f"wandb leet {files}"
            yield "upload them", f"wandb sync {files}"
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        yield "best checkpoint", best
