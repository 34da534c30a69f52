"""A firing's record as pictures and curves, to every logger of the Trainer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning.pytorch.loggers import Logger
from torch import Tensor

from lit_decom.callbacks.pictures import grid_of
from lit_decom.probe import Probe
from lit_decom.records import EpochRecord, RunDirectory, displayed
from lit_decom.render import to_picture
from lit_decom.sinks import describe_metrics, log_curves, log_images, log_probe

_BY_RANK = "score_gain/rank_"
_BY_IDENTITY = "score_gain/component_"
_SHARED = "shared_gain/"
_OF_CLASS = "class_gain/"
_MOST_CLASSES = 8


@dataclass(frozen=True)
class Reporter:
    """Draws records and hands them to loggers.

    Attributes:
        loggers: the Trainer's.
        prefix: of all keys.
        n_drawn: how many images are drawn.
    """

    loggers: Sequence[Logger]
    prefix: str
    n_drawn: int

    def draw(self, record: EpochRecord, probe: Probe, directory: RunDirectory | None, peaks: Tensor) -> None:
        """Compose the OSSM grid, keep it in the run directory, and log it; and again on one scale over the epochs."""
        if not self.n_drawn:
            return
        picture, caption = grid_of(record, probe, self.n_drawn)
        if directory is not None:
            directory.save_picture(picture, record)
        alike, _ = grid_of(record, probe, self.n_drawn, peaks)

        def send(logger: Logger) -> None:
            log_images(logger, f"{self.prefix}/ossms", [picture], [caption], record.step)
            log_images(logger, f"{self.prefix}/ossms_on_one_scale", [alike], [caption], record.step)

        self._to_all(send)

    def describe(
        self, probe: Probe, numbers: Mapping[str, float], directions: Mapping[str, bool | None], described: set[str]
    ) -> None:
        """Tell the loggers once what the probe is, and once per key which value of a run is its best."""
        if not described and self.n_drawn:
            drawn = probe.select(range(min(self.n_drawn, len(probe))))
            names = [_named(probe.class_names, int(label)) for label in drawn.labels]
            pictures = [to_picture(image) for image in displayed(drawn)]
            self._to_all(lambda logger: log_probe(logger, f"{self.prefix}/probe", drawn.ids, names, pictures))
        new = {key: directions.get(key.split("/")[0]) for key in numbers if key not in described}
        named = {f"{self.prefix}/{key}": direction for key, direction in new.items()}
        self._to_all(lambda logger: describe_metrics(logger, named))
        described |= set(new)

    def chart(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the gain curves of all firings: by identity, of each class, and of the shared components."""
        charts = {
            "gain_curves": (_BY_IDENTITY, "Score gain by identity (component 1 began as rank 1, ...)"),
            "gain_curves_by_rank": (_BY_RANK, "Score gain by rank"),
            "gain_curves_shared": (_SHARED, "Score gain of the components that the probe shares"),
        }
        classes = dict.fromkeys(key.split("/")[1] for entry in history for key in entry if key.startswith(_OF_CLASS))
        for name in list(classes)[:_MOST_CLASSES]:
            charts[f"gain_curves_of_class/{name}"] = (
                f"{_OF_CLASS}{name}/component_",
                f"Score gain by identity: {name}",
            )
        curves = {key: (*curves_of(history, start), title) for key, (start, title) in charts.items()}

        def send(logger: Logger) -> None:
            for key, (steps, series, title) in curves.items():
                if series:
                    log_curves(logger, f"{self.prefix}/{key}", steps, series, title)

        self._to_all(send)

    def _to_all(self, send: Callable[[Logger], None]) -> None:
        """Give every logger its turn, also after one that raises; what the first of these raises is raised then."""
        problems: list[Exception] = []
        for logger in self.loggers:
            try:
                send(logger)
            except Exception as error:  # noqa: BLE001 -- raised below
                problems.append(error)
        if problems:
            raise problems[0]


def curves_of(history: Sequence[Mapping[str, float]], start: str) -> tuple[list[int], dict[str, list[float]]]:
    """Arrange the values of all firings whose keys begin alike: the steps, and one line per key, NaN for no value."""
    keys = sorted({key for numbers in history for key in numbers if key.startswith(start)})
    steps = [int(numbers["step"]) for numbers in history]
    return steps, {key.rsplit("/", 1)[-1]: [numbers.get(key, float("nan")) for numbers in history] for key in keys}


def class_gains(record: EpochRecord, names: Sequence[str] | None) -> dict[str, float]:
    """Mean score gain of each class's components by identity: ``class_gain/<class>/component_01`` and so on."""
    if record.identities is None:
        return {}
    gains, finite, found = record.decomposition.score_gains, record.decomposition.finite, {}
    for label in sorted(set(record.labels.tolist()))[:_MOST_CLASSES]:
        for cohort in range(record.identities.shape[1]):
            alive = (record.identities == cohort) & (finite & (record.labels == label))[:, None]
            if alive.any():
                name = _named(names, label).replace("/", "_")
                found[f"{_OF_CLASS}{name}/component_{cohort + 1:02d}"] = gains[alive].mean().item()
    return found


def _named(names: Sequence[str] | None, label: int) -> str:
    return names[label] if names is not None and label < len(names) else str(label)
