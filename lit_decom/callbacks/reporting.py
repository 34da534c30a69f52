"""A snapshot as pictures, tables and settings, to every logger of the Trainer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_decom import keys
from lit_decom.callbacks.options import Log
from lit_decom.callbacks.pictures import grids_of
from lit_decom.callbacks.trackers import Trackers
from lit_decom.probe import Probe
from lit_decom.probe.choice import told
from lit_decom.records import Snapshot, displayed
from lit_decom.render import to_picture
from lit_decom.sinks import (
    Picture,
    describe_metrics,
    log_curves,
    log_files,
    log_picture,
    log_settings,
    log_table,
    takes_pictures,
)

_MOST_CLASSES = 8
# By the family of its keys, the name and title of a chart; the first one that has values is drawn.
_CHARTS = {
    "factor_share": ("factor_curves", "Share of the decision by factor"),
    "score_gain/component": ("gain_curves", "Score gain in logits by identity (component 1 began as rank 1, ...)"),
}
_PREDICTIONS = ("epoch", "step", "id", "class", "predicted", "confidence", "right")


@dataclass(frozen=True)
class Reporter:
    """Draws records and hands them to loggers.

    Attributes:
        loggers: the Trainer's.
        prefix: of all keys.
        options: what is sent.
        trackers: how they are called.
    """

    loggers: Sequence[Logger]
    prefix: str
    options: Log
    trackers: Trackers

    def draw(self, record: Snapshot, probe: Probe, peaks: Tensor | None) -> Picture | None:
        """Compose the OSSM grid and log it; with peaks, again on one scale. Gives the first, None where none is due."""
        if not self.options.n_images:
            return None
        images, caption = grids_of(record, probe, self.options.n_images, peaks, outline=self.options.outline)
        pictures = [Picture(image, caption) for image in images]

        def send(logger: Logger) -> None:
            for name, picture in zip(("ossms", "ossms_on_one_scale"), pictures, strict=False):
                log_picture(logger, keys.logged(self.prefix, name), picture, record.step)

        self._to_all(send)
        return pictures[0]

    def introduce(self, probe: Probe, settings: Mapping[str, Any], knowing: set[str]) -> None:
        """Tell the loggers what the run is and which images are explained; say which of them takes no pictures.

        Args:
            probe: what is explained.
            settings: of the run.
            knowing: names of the trackers' runs that have the images already, such as those that a resumed training
                goes on in; the others are added.
        """
        self._to_all(lambda logger: log_settings(logger, self.prefix, settings))
        if not self.options.n_images:
            return
        if self.options.outline and probe.masks is None:
            rank_zero_warn(
                "Expected the probe to have masks for `Log(outline=True)`, but it has none: nothing is outlined."
            )
        drawn = probe.select(range(min(self.options.n_images, len(probe))))
        named = [_named(probe.class_names, label) for label in drawn.labels.tolist()]
        rows = list(zip(drawn.ids, named, map(to_picture, displayed(drawn)), strict=True))
        key = keys.logged(self.prefix, "probe")

        def show(logger: Logger) -> None:
            name = " ".join([type(logger).__name__, *(str(told(logger, of)) for of in ("save_dir", "name", "version"))])
            if name not in knowing:
                log_table(logger, key, ("id", "class", "image"), rows)
                knowing.add(name)

        self._to_all(show)
        for logger in self.loggers:
            if not takes_pictures(logger):
                rank_zero_info(f"DecomCAM sends no pictures to {type(logger).__name__}: they are in the run directory.")

    def describe(self, shown: Iterable[str], directions: Mapping[str, bool | None], described: set[str]) -> None:
        """Tell the loggers once per key which value of a run is its best."""
        new = {key: keys.direction_of(key, directions) for key in shown if key not in described}
        named = {keys.logged(self.prefix, key): direction for key, direction in new.items()}
        self._to_all(lambda logger: describe_metrics(logger, named))
        described |= set(new)

    def chart(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log one chart over all snapshots: the share of each decision factor or, without any, components' gains."""
        for family, (name, title) in _CHARTS.items():
            steps, series = curves_of(history, family)
            if series:
                key = keys.logged(self.prefix, name)
                self._to_all(lambda logger: log_curves(logger, key, steps, series, title))  # noqa: B023 -- at once
                return

    def tabulate(self, predictions: Sequence[Mapping[str, Any]], probe: Probe) -> None:
        """Log one table of what was predicted for every image at every snapshot.

        Args:
            predictions: as :func:`predictions_of` gives them.
            probe: whose images they are of.
        """
        names = [_named(probe.class_names, label) for label in probe.labels.tolist()]
        rows = [
            [entry["epoch"], entry["step"], image, name, _named(probe.class_names, found), sure, found == label]
            for entry in predictions
            for image, name, label, found, sure in zip(
                probe.ids,
                names,
                probe.labels.tolist(),
                entry["predicted"],
                entry["confidence"],
                strict=True,
            )
        ]
        self._to_all(lambda logger: log_table(logger, keys.logged(self.prefix, "predictions"), _PREDICTIONS, rows))

    def keep(self, directory: Path, metadata: Mapping[str, Any]) -> None:
        """Let loggers that can keep what lies in the run directory: probe, records, settings and the report."""
        files = sorted(file for file in directory.iterdir() if file.is_file() and not file.name.startswith("."))
        files = [file for file in files if file.suffix != ".superseded"]
        self._to_all(lambda logger: log_files(logger, self.prefix, files, metadata))

    def _to_all(self, send: Callable[[Logger], None]) -> None:
        self.trackers.tell(self.loggers, send)


def predictions_of(record: Snapshot) -> dict[str, Any]:
    """Keep of a snapshot which class was predicted for each image, and how surely, in [0, 1]: a list of either."""
    confidence, predicted = (found.tolist() for found in record.logits.float().softmax(dim=1).max(dim=1))
    return {"epoch": record.epoch, "step": record.step, "predicted": predicted, "confidence": confidence}


def curves_of(history: Sequence[Mapping[str, float]], family: str) -> tuple[list[int], dict[str, list[float]]]:
    """Arrange the values of all snapshots whose keys are of one family: the steps, and one line per key.

    Args:
        history: values by key, of every snapshot, ``step`` among them.
        family: as :func:`lit_decom.keys.family_of` gives it.

    Returns:
        The steps, and by the last word of each key its values; NaN where there is none.
    """
    found = sorted({key for numbers in history for key in numbers if keys.family_of(key)[0] == family})
    steps = [int(numbers["step"]) for numbers in history]
    return steps, {key.rsplit("/", 1)[-1]: [numbers.get(key, float("nan")) for numbers in history] for key in found}


def class_gains(record: Snapshot, names: Sequence[str] | None) -> dict[str, float]:
    """Mean score gain of each class's components by identity: ``class_gain/<class>/component_01`` and so on."""
    if record.identities is None:
        return {}
    decomposition, found = record.decomposition, {}
    gains, finite = decomposition.score_gains, decomposition.finite
    for label in sorted(set(record.labels.tolist()))[:_MOST_CLASSES]:
        for cohort in range(record.identities.shape[1]):
            alive = (record.identities == cohort) & (finite & (record.labels == label))[:, None]
            if alive.any():
                found[keys.class_component_key(_named(names, label), cohort)] = gains[alive].mean().item()
    return found


def _named(names: Sequence[str] | None, label: int) -> str:
    return names[label] if names is not None and label < len(names) else str(label)
