"""``lit-decom compare``: every method on the whole data of a configuration, on all devices of its Trainer."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from typing_extensions import override

from lit_decom import keys
from lit_decom.callbacks import DecomCAMCallback
from lit_decom.callbacks.eight_bit import EightBit
from lit_decom.callbacks.trainer_access import layer_of_checkpoint, refuse_sharded, this_process
from lit_decom.comparison import Comparison, ComparisonError, compare
from lit_decom.comparison.source import Split
from lit_decom.comparison.summary import Standing
from lit_decom.comparison.tables import COLUMNS, arrow, cell, table_rows
from lit_decom.evidence.network import ForwardError
from lit_decom.fitting import EXPECTED_ERRORS as FITTING_ERRORS
from lit_decom.fitting import LitDecomCLI, callbacks_of, cli_settings, hush, parsing
from lit_decom.methods.base import CAM, METHODS
from lit_decom.probe import NoImagesError
from lit_decom.scoring import Metrics
from lit_decom.sinks import log_table

EXPECTED_ERRORS = (*FITTING_ERRORS, ComparisonError, ForwardError, NoImagesError)
_FOLDER = "comparison"


@dataclass(frozen=True)
class Options:
    """What is compared; which layer, which target and how the module is asked stand in the group ``callback``.

    Attributes:
        methods: names of registered methods, or methods; by default every registered one. The one that ``callback``
            has is taken with its settings where its name stands. Others are compared with the first one.
        metrics: metrics of lit_decom.metrics, by name or in a list, or "default".
        strata: the images that are scored apart.
        n_bins: bins of confidence or class accuracy.
        correct_only: whether images that the network gets wrong are left out.
        split: of the datamodule.
        batch_size: images explained at once; by default that of the datamodule.
        pair: two methods whose ten images of most disagreement are shown; by default the first two.
    """

    methods: Sequence[str | CAM] | None = None
    metrics: Metrics = "default"
    strata: Literal["correctness", "confidence", "class_accuracy"] = "correctness"
    n_bins: PositiveInt = 10
    correct_only: bool = False
    split: Split = "val"
    batch_size: PositiveInt | None = None
    pair: tuple[str, str] | None = None


class CompareCLI(LitDecomCLI):
    """The command line of ``fit`` without subcommands, with the group ``compare``."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(Options, "compare")
        limit = "how many images are compared, drawn from all by a fixed seed (default: all)"
        parser.add_argument("--limit", type=PositiveInt | None, default=None, help=limit)
        output = "folder; the same command goes on with what is there (default: comparison in default_root_dir)"
        parser.add_argument("--output", type=str | None, default=None, help=output)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint whose weights are taken")
        # It stands in the configuration that a run leaves behind.
        parser.add_argument("--weights_only", default=None)


def run(words: Sequence[str], *, debug: bool = False) -> None:
    """Run ``lit-decom compare``: print where methods stand over all images, and say where the rest is.

    Args:
        words: the command and its options.
        debug: whether a wrong option raises, where it otherwise ends the process with a message.

    Raises:
        ComparisonError: if what is asked for does not go together, or the folder holds another comparison.
        MisconfigurationException: if the strategy shards the network.
    """
    hush()
    with parsing(words[1:], debug=debug):
        cli = CompareCLI(**cli_settings("lit-decom compare"), run=False, save_config_callback=None)
    # From here on the words of the process are those that further processes are started with.
    trainer, chosen = cli.trainer, cli.config
    refuse_sharded(trainer)
    (settings,) = callbacks_of(trainer)
    folder = Path(chosen["output"] or Path(trainer.default_root_dir) / _FOLDER)
    layer = settings.explainer.target_layer or layer_of_checkpoint(chosen["ckpt_path"], settings.prefix)
    settings.explainer = replace(settings.explainer, target_layer=layer)
    comparing = _Comparing(cli.config_init["compare"], settings, cli.datamodule, folder, chosen["limit"])
    # Validation of one batch is there to start the processes and to load the weights; what it logs says nothing.
    loggers, trainer.loggers, trainer.callbacks = trainer.loggers, [], [comparing]  # type: ignore[attr-defined]
    trainer.limit_val_batches = 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to create")
        trainer.validate(cli.model, datamodule=cli.datamodule, ckpt_path=chosen["ckpt_path"], verbose=False)
    if trainer.is_global_zero and comparing.found is not None:
        for logger in loggers:
            log_table(logger, _FOLDER, COLUMNS, list(table_rows(comparing.found)))
        weights = chosen["ckpt_path"] or "as the module makes them, since there is no --ckpt_path"
        _say(comparing.found, f"weights: {weights}", folder)


class _Comparing(pl.Callback):
    """Compares within the processes that a Trainer has started."""

    def __init__(
        self,
        options: Options,
        settings: DecomCAMCallback,
        datamodule: pl.LightningDataModule,
        folder: Path,
        limit: int | None,
    ) -> None:
        self.found: Comparison | None = None
        self._options, self._settings, self._datamodule, self._folder = options, settings, datamodule, folder
        self._limit = limit

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        options, explainer = self._options, self._settings.explainer

        def transfer(batch: Any) -> Any:
            return trainer.strategy.batch_to_device(batch, pl_module.device, dataloader_idx=0)

        self.found = compare(
            pl_module,
            explainer.target_layer,
            _methods(options.methods, explainer.method),
            self._datamodule,
            options.metrics,
            strata=options.strata,
            n_bins=options.n_bins,
            correct_only=options.correct_only,
            target=explainer.target,
            forward=explainer.forward,
            split=options.split,
            limit=self._limit,
            batch_size=options.batch_size,
            chunk_size=explainer.chunk_size,
            unpack=EightBit(explainer.forward).unpacking(pl_module, self._settings.run.unpack),
            transfer=transfer,
            pair=options.pair,
            output=self._folder,
            process=this_process(trainer),
        )


def _methods(methods: Sequence[str | CAM] | None, own: CAM) -> list[str | CAM]:
    """The methods, the configured one with its settings; where none is named, it is the first of all."""
    name = next((name for name, kind in METHODS.items() if kind is type(own)), None)
    named = [name or own, *(other for other in METHODS if other != name)] if methods is None else methods
    return [own if method == name else method for method in named]


def _say(found: Comparison, weights: str, folder: Path) -> None:
    """Print where methods stand over all images, the best first, and the paths, which nothing cuts."""
    lines = [f"{found.title}; #: one more than are better beyond doubt (95 %)"]
    width = max(map(len, found.methods))
    for measure in found.measures:
        lines.append(f"{measure.name}{arrow(measure.higher_is_better)}")
        here = sorted(found.of(measure.name, keys.ALL).values(), key=_best_first)
        lines += [f"  {each.method:<{width}}  {cell(each)}" + (f"  #{each.rank}" if each.rank else "") for each in here]
    names = ("results.csv", "results.md", "figure.png", "comparison.html")
    lines += [*found.cautions, *found.omissions, weights, *(f"{name}: {folder / name}" for name in names)]
    for line in lines:
        Console().print(line, soft_wrap=True, highlight=False, markup=False)


def _best_first(standing: Standing) -> tuple[bool, float]:
    lower = standing.higher_is_better is False
    return isnan(standing.value), standing.value if lower else -standing.value
