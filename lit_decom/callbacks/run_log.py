"""What a run tells: to `callback_metrics` and the trackers at every snapshot, and once when it ends."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_decom import keys
from lit_decom.callbacks.agreement import contradiction
from lit_decom.callbacks.options import Log
from lit_decom.callbacks.pictures import peaks_of
from lit_decom.callbacks.reporting import Reporter, class_gains, predictions_of
from lit_decom.callbacks.settings import KeyFilter
from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.callbacks.trackers import Trackers
from lit_decom.callbacks.trainer_access import Monitors, checkpoints_of, log_values
from lit_decom.probe import Probe
from lit_decom.process import Process
from lit_decom.records import RunDirectory, RunDirectoryError, Snapshot
from lit_decom.records.missing import listed


@dataclass
class RunLog:
    """Passes on the numbers and pictures of a run, and keeps what is sent at its end.

    Attributes:
        prefix: of all keys.
        options: what goes to the trackers.
        shown: chooses the values that do.
        tolerance: of what fails here.
        directory: where the records of the training are, from which :attr:`history` is read; None where none are kept.
        last_step: of the training's last snapshot; None before the first.
        dropped: how often each metric was left out.
        report_seconds: what the last report took; None before the first.
        added_memory: MiB that the snapshot raised this process's peak by; None where nobody knows.
    """

    prefix: str
    options: Log
    shown: KeyFilter
    tolerance: Tolerance
    directory: RunDirectory | None = None
    last_step: int | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    report_seconds: float | None = None
    added_memory: float | None = None
    _peaks: Tensor | None = None
    _described: set[str] = field(default_factory=set)
    _knowing: set[str] = field(default_factory=set)
    _trackers: Trackers = field(init=False)

    def __post_init__(self) -> None:
        self._trackers = Trackers(self.tolerance, self.options.tracker_seconds)

    @property
    def history(self) -> list[dict[str, float]]:
        """The numbers of every snapshot of the training, ``step`` and ``epoch`` among them, as the records have them.

        They lie there and nowhere else, so that neither memory nor checkpoints grow with the run.
        """
        return [_numbers_of(record) for record in self._records()]

    def _records(self) -> Iterator[Snapshot]:
        """Read the records, one after another; those that cannot be read are left out."""
        for file in [] if self.directory is None else self.directory.files():
            with suppress(RunDirectoryError):
                yield Snapshot.load(file)

    def introduce(self, trainer: pl.Trainer, probe: Probe, settings: Mapping[str, Any]) -> None:
        """Tell the trackers what the run is and which images are explained."""
        if trainer.is_global_zero:
            with self.tolerance.forgiving("describe the run"):
                self._reporter(trainer).introduce(probe, settings, self._knowing)

    def note(self, trainer: pl.Trainer, snapshot: Snapshot, probe: Probe) -> dict[str, float]:
        """Warn about metrics that are missing, and give the numbers with what only the whole run knows."""
        self.dropped.update(snapshot.dropped.keys())
        for name, why in snapshot.dropped.items():
            self.tolerance.let_pass(("metric", name), f"left the metric {name!r} out of a snapshot: {why}")
        numbers = dict(snapshot.numbers) | {keys.dropped_key(name): float(n) for name, n in self.dropped.items()}
        numbers |= class_gains(snapshot, probe.class_names)
        if not probe.multilabel:
            # Of independent labels the probe has those that are there; an accuracy is of those that are not as well.
            with self.tolerance.forgiving("compare the probe with what the module logs"):
                self._warn_of_contradiction(trainer, snapshot)
        if self.report_seconds is not None:
            numbers[keys.seconds_key("report")] = self.report_seconds
        if trainer.state.fn == "fit":
            self.last_step = snapshot.step
        return numbers

    def keep(self, trainer: pl.Trainer, snapshot: Snapshot, probe: Probe, directory: RunDirectory | None) -> None:
        """Keep the record and draw from it; what fails here is missing from the report and from nothing else."""
        if not trainer.is_global_zero:
            return
        if directory is not None:
            self._keep_record(snapshot, directory)
        with self.tolerance.forgiving("draw the OSSM grid"):
            peaks = peaks_of(snapshot, self._peaks) if self.options.one_scale else None
            self._peaks = peaks if trainer.state.fn == "fit" else self._peaks
            picture = self._reporter(trainer).draw(snapshot, probe, peaks)
            if directory is not None and picture is not None:
                with self.tolerance.forgiving("keep the picture"):
                    directory.save_picture(picture.jpeg, snapshot)

    def _keep_record(self, snapshot: Snapshot, directory: RunDirectory) -> None:
        with self.tolerance.forgiving("keep the record"):
            gone = directory.is_gone
            directory.keep(snapshot)
            if gone:
                self.tolerance.warn_once("gone", f"found {directory.path} gone, with all records, and made it again.")

    def close(self, directory: RunDirectory) -> None:
        """End writing records, and say which are missing."""
        directory.close()
        missing = directory.missing()
        if missing:
            self.tolerance.warn_once(("missing", len(missing)), f"has no record of {listed(missing)}")

    def send(  # noqa: PLR0917
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        numbers: dict[str, float],
        moment: tuple[int, int],
        directions: Mapping[str, bool | None],
        process: Process,
    ) -> None:
        """Log the numbers of a snapshot; every process must call it.

        Args:
            trainer: whose monitors and trackers they are for.
            pl_module: that is explained.
            numbers: as :meth:`note` gives them; empty if the snapshot failed.
            moment: epoch and step of the snapshot.
            directions: by the name of a metric, whether higher is better.
            process: this one among those of the Trainer.
        """
        monitors, total = Monitors(trainer, self.prefix), keys.seconds_key("total")
        shown = self.shown.shown({**numbers, "errors": 0.0, total: 0.0, keys.ADDED_MEMORY: 0.0}) | monitors.monitored
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            with self.tolerance.forgiving("describe the values"):
                self._reporter(trainer).describe(sorted(shown), directions, self._described)
        # Only the first process reports: what failed, and what the report before this one cost, the others learn here.
        everyone = process.gather((self.tolerance.errors, self.report_seconds, self.added_memory))
        errors, seconds, _ = everyone[0]
        numbers = numbers | {"errors": float(errors)}
        added = [mebibytes for *_, mebibytes in everyone if mebibytes is not None]
        numbers |= {keys.ADDED_MEMORY: max(added)} if added else {}
        numbers |= {} if seconds is None else {keys.seconds_key("report"): seconds}
        costs = keys.seconds_of(numbers)
        numbers |= {total: sum(costs.values())} if costs else {}
        values = {keys.logged(self.prefix, key): value for key, value in numbers.items()}
        monitors.withdraw(set(values))
        sent = {keys.logged(self.prefix, key) for key in shown}
        log_values(trainer, pl_module, values, sent, moment, self._trackers.tell)

    def store(self, trainer: pl.Trainer, snapshot: Snapshot | None, directory: RunDirectory | None) -> None:
        """Let trackers keep what a snapshot left behind, once it is known which checkpoint it explains."""
        if not self.options.artifacts or directory is None or snapshot is None:
            return
        with self.tolerance.forgiving("keep the records in the tracker"):
            metadata = dict(snapshot.settings) | {
                "epoch": snapshot.epoch,
                "step": snapshot.step,
                "checkpoints": checkpoints_of(trainer),
            }
            self._reporter(trainer).keep(directory.path, metadata)

    def finish(self, trainer: pl.Trainer, probe: Probe) -> None:
        """Send what is sent once, read from the records: a chart of all snapshots, and a table of the predictions."""
        reporter = self._reporter(trainer)
        with self.tolerance.forgiving("read the records"):
            records = self._records() if trainer.loggers else ()
            told = [(_numbers_of(record), predictions_of(record)) for record in records]
            with self.tolerance.forgiving("draw the curves"):
                reporter.chart([numbers for numbers, _ in told])
            with self.tolerance.forgiving("tabulate the predictions"):
                reporter.tabulate([predicted for _, predicted in told], probe)
        if self.shown.idle and not isinstance(self.options.keys, str):
            rank_zero_warn(
                f"Expected each pattern of `Log(keys=...)` to match a key, but none matched {self.shown.idle}: "
                "`trainer.callback_metrics` names all keys."
            )

    def warn_of_none(self, trainer: pl.Trainer, every_n_epochs: int) -> None:
        """Warn that a training took no snapshot, but for one that was too short for anything, and say why."""
        # A resumed run may have nothing left to train.
        if self.last_step is not None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        errors = self.tolerance.errors
        failed = f", and {errors} attempts failed" if errors else ""
        rank_zero_warn(
            f"DecomCAMCallback took no snapshot in {trainer.current_epoch} epochs: `every_n_epochs` is "
            f"{every_n_epochs}, the Trainer's `check_val_every_n_epoch` {trainer.check_val_every_n_epoch}{failed}."
        )

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs, as tensors and primitives."""
        return {
            "last_step": self.last_step,
            "peaks": self._peaks,
            "dropped": dict(self.dropped),
            "knowing": sorted(self._knowing),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self.last_step = state["last_step"]
        self._peaks = state.get("peaks")
        self.dropped = Counter(state["dropped"])
        self._knowing = set(state.get("knowing", ()))

    def _reporter(self, trainer: pl.Trainer) -> Reporter:
        return Reporter(trainer.loggers, self.prefix, self.options, self._trackers)

    def _warn_of_contradiction(self, trainer: pl.Trainer, snapshot: Snapshot) -> None:
        """Warn once where the probe was not read as the module reads its batches; a part of the data proves nothing."""
        whole = trainer.limit_val_batches == 1.0 and not trainer.fast_dev_run  # type: ignore[attr-defined]
        found = contradiction(snapshot.labels, snapshot.logits, snapshot.module_values) if whole else None
        if found is not None:
            self.tolerance.warn_once("contradiction", f"may explain something else than what the module sees: {found}.")


def _numbers_of(record: Snapshot) -> dict[str, float]:
    return {"step": record.step, "epoch": record.epoch} | dict(record.numbers)
