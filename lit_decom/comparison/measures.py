"""What is measured of a map, by the metrics of :mod:`lit_decom.metrics` whose value is a mean over images."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_decom.comparison.base import ComparisonError
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.insertion_deletion import InsertionDeletion
from lit_decom.probe import Probe
from lit_decom.scoring.options import Metrics, default_metrics, named_metrics, needs_of, takes_of
from lit_decom.scoring.shared_work import SharedWork

_OF_A_MAP = frozenset({"maps", "masked_logits"})
_KNOWN = _OF_A_MAP | {"masks", "boxes", "labels", "logits", "capture", "explain"}
_ANNOTATIONS = ("masks", "boxes")


@dataclass(frozen=True)
class Measure:
    """A number that every image has by every method.

    Attributes:
        name: in tables.
        higher_is_better: the direction; None where neither is better.
        is_share: whether it is 0 or 1.
    """

    name: str
    higher_is_better: bool | None
    is_share: bool


class Measures:
    """Metrics that say something of one map per image, and of each image by itself.

    An :class:`~lit_decom.metrics.InsertionDeletion` gives three measures for the price of one: its own, insertion and
    deletion.

    Args:
        metrics: as for :class:`lit_decom.Scoring`; ``"default"`` takes those of the default ones that go with a map.
        first: some images of the data, with what is known of them.

    Raises:
        ComparisonError: if a metric is of components, of several snapshots or of a whole set of images, or needs
            annotations that the images do not have.
    """

    def __init__(self, metrics: Metrics, first: Probe) -> None:
        if isinstance(metrics, str) and metrics != "default":
            raise ComparisonError(f"Expected `metrics` to be metrics or 'default', but got {metrics!r}.")
        if isinstance(metrics, str):
            metrics = [metric for metric in default_metrics(first) if _trouble(metric, first) is None]
        try:
            self._metrics = {name: deepcopy(metric) for name, metric in named_metrics(metrics).items()}
        except ValueError as error:
            raise ComparisonError(str(error)) from error
        if not self._metrics:
            raise ComparisonError("Expected `metrics` to be at least one, but got none.")
        for name, metric in self._metrics.items():
            trouble = _trouble(metric, first)
            if trouble is not None:
                raise ComparisonError(f"Expected `metrics` {trouble} {name!r}.")
        columns = [column for name, metric in self._metrics.items() for column in _columns(name, metric)]
        self.all: tuple[Measure, ...] = tuple(columns)
        names = [measure.name for measure in self.all]
        if len(set(names)) < len(names):
            raise ComparisonError(f"Expected `metrics` to give different names, but got {names}.")

    @property
    def conventions(self) -> dict[str, str]:
        """Every metric with its settings, by name."""
        return {name: repr(metric) for name, metric in self._metrics.items()}

    def values(self, shown: Mapping[str, Any]) -> Tensor:
        """Measure some images ``(B, C)``.

        Args:
            shown: what metrics may be updated with, by name.
        """
        shared = SharedWork(dict(shown))
        return torch.cat([_numbers(metric, shared.rows(metric)) for metric in self._metrics.values()], dim=1)


def _columns(name: str, metric: PerImageMetric) -> list[Measure]:
    own = Measure(name, metric.higher_is_better, metric.is_share)
    if not isinstance(metric, InsertionDeletion):
        return [own]
    steps = metric.n_steps
    return [
        own,
        Measure(f"insertion_auc_{steps}", higher_is_better=True, is_share=False),
        Measure(f"deletion_auc_{steps}", higher_is_better=False, is_share=False),
    ]


def _numbers(metric: PerImageMetric, rows: Tensor) -> Tensor:
    own = metric.score(rows)[:, None]
    return torch.cat([own, rows], dim=1) if isinstance(metric, InsertionDeletion) else own


def _trouble(metric: PerImageMetric, first: Probe) -> str | None:
    """Why a metric cannot be taken, up to its name."""
    if not isinstance(metric, PerImageMetric):
        return "to be metrics of lit_decom.metrics, but got"
    needs = needs_of(metric)
    foreign = sorted(needs - _KNOWN)
    if foreign or not takes_of(metric) & _OF_A_MAP:
        return f"to say something of one map per image, but `{foreign[0] if foreign else 'maps'}` decides in"
    if not metric.is_mean:
        return "to be means over images, which rows on disk can be averaged to, but a whole set decides in"
    missing = next((name for name in _ANNOTATIONS if name in needs and getattr(first, name) is None), None)
    return None if missing is None else f"that the data have `{missing}` for, but they have none for"
