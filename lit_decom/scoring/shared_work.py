"""What several metrics of one explanation need, computed once for all of them."""

from typing import Any

from torch import Tensor

from lit_decom.functional.parts import PartAgreement, PartMatch
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.masking import MaskedMetric, Masking
from lit_decom.metrics.parts import PartMetric


class SharedWork:
    """What an explanation shows, and beside it what several metrics would otherwise compute each for itself.

    Args:
        shown: what metrics may be updated with, by name.
    """

    def __init__(self, shown: dict[str, Any]) -> None:
        self._shown = shown
        self._masked: dict[Masking, Tensor] = {}
        self._compared: dict[object, PartAgreement | PartMatch] = {}

    def rows(self, metric: PerImageMetric) -> Tensor:
        """Compute the rows of one metric ``(B, width)``, on the CPU, and leave it empty again."""
        try:
            metric.update(**metric._filter_kwargs(**self.for_metric(metric)))  # noqa: SLF001 -- torchmetrics' own way
            return metric.rows.cpu()
        finally:
            metric.reset()

    def for_metric(self, metric: PerImageMetric) -> dict[str, Any]:
        """Give everything that a metric may be updated with."""
        shown = self._shown
        if isinstance(metric, MaskedMetric) and metric.asks_for_masked_logits:
            masking = metric.masking
            if masking not in self._masked:
                self._masked[masking] = masking.forward(shown["capture"], shown["maps"])
            return shown | {"masked_logits": self._masked[masking]}
        if isinstance(metric, PartMetric):
            kind = metric.shared, metric.convention
            if kind not in self._compared:
                self._compared[kind] = metric.compare(shown["ossms"], shown["parts"], shown.get("valid"))
            return shown | {metric.shared: self._compared[kind]}
        return shown
