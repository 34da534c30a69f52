"""A snapshot as pictures and curves, to every logger of the Trainer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightning.pytorch.loggers import Logger
from torch import Tensor

from lit_decom import keys
from lit_decom.callbacks.pictures import grids_of
from lit_decom.probe import Probe
from lit_decom.records import RunDirectory, Snapshot, displayed
from lit_decom.render import to_picture
from lit_decom.sinks import describe_metrics, log_curves, log_images, log_probe

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

    def draw(self, record: Snapshot, probe: Probe, directory: RunDirectory | None, peaks: Tensor) -> None:
        """Compose the OSSM grid, keep it in the run directory, and log it; and again on one scale over the epochs."""
        if not self.n_drawn:
            return
        (picture, alike), caption = grids_of(record, probe, self.n_drawn, peaks)
        if directory is not None:
            directory.save_picture(picture, record)

        def send(logger: Logger) -> None:
            log_images(logger, keys.logged(self.prefix, "ossms"), [picture], [caption], record.step)
            log_images(logger, keys.logged(self.prefix, "ossms_on_one_scale"), [alike], [caption], record.step)

        self._to_all(send)

    def describe(
        self, probe: Probe, numbers: Mapping[str, float], directions: Mapping[str, bool | None], described: set[str]
    ) -> None:
        """Tell the loggers once what the probe is, and once per key which value of a run is its best."""
        if not described and self.n_drawn:
            drawn = probe.select(range(min(self.n_drawn, len(probe))))
            names = [_named(probe.class_names, int(label)) for label in drawn.labels]
            pictures = [to_picture(image) for image in displayed(drawn)]
            self._to_all(
                lambda logger: log_probe(logger, keys.logged(self.prefix, "probe"), drawn.ids, names, pictures)
            )
        new = {key: keys.direction_of(key, directions) for key in numbers if key not in described}
        named = {keys.logged(self.prefix, key): direction for key, direction in new.items()}
        self._to_all(lambda logger: describe_metrics(logger, named))
        described |= set(new)

    def chart(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the gain curves of all snapshots: by identity, of each class, and of the shared components."""
        charts = {
            "gain_curves": ("score_gain/component", "Score gain by identity (component 1 began as rank 1, ...)"),
            "gain_curves_by_rank": ("score_gain/rank", "Score gain by rank"),
            "gain_curves_shared": ("shared_gain", "Score gain of the components that the probe shares"),
        }
        families = dict.fromkeys(keys.family_of(key)[0] for entry in history for key in entry)
        for family in families:
            name = keys.class_of(family)
            if name is not None:
                charts[f"gain_curves_of_class/{name}"] = (family, f"Score gain by identity: {name}")
        curves = {key: (*curves_of(history, family), title) for key, (family, title) in charts.items()}

        def send(logger: Logger) -> None:
            for key, (steps, series, title) in curves.items():
                if series:
                    log_curves(logger, keys.logged(self.prefix, key), steps, series, title)

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
    gains, finite, found = record.decomposition.score_gains, record.decomposition.finite, {}
    for label in sorted(set(record.labels.tolist()))[:_MOST_CLASSES]:
        for cohort in range(record.identities.shape[1]):
            alive = (record.identities == cohort) & (finite & (record.labels == label))[:, None]
            if alive.any():
                found[keys.class_component_key(_named(names, label), cohort)] = gains[alive].mean().item()
    return found


def _named(names: Sequence[str] | None, label: int) -> str:
    return names[label] if names is not None and label < len(names) else str(label)
