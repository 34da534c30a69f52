"""The state that every metric of this package shares: one row per image."""

import hashlib
import inspect
from abc import ABC
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_decom.functional.intervals import mean_intervals, statistic_interval
from lit_decom.functional.shares import share_intervals

_NOT_CONVENTIONS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class PerImageMetric(Metric, ABC):
    """A metric that keeps one row per image, so that any subset of its images can be scored afterwards.

    A subclass stores every constructor argument under its own name, ends its constructor with ``self.add_rows()``, and
    calls ``self.append(values)`` in an ``update`` that names the keywords it needs and no others, so that one call of a
    ``MetricCollection`` hands each metric its own. The keywords are the same everywhere:

    ``maps`` (B, H, W), ``masks`` (B, H, W) bool, ``parts`` (B, R, H, W) bool, ``boxes`` B tensors (m, 4) xyxy,
    ``ossms`` (B, K, H, W), ``labels`` (B,), ``logits`` (B, N), ``masked_logits`` (B, N), ``capture``, ``ids``,
    ``singular_values`` (B, K), ``contributions`` (B, K), ``valid`` (B, K) bool.

    NaN marks an image on which a metric is undefined: it is left out of the mean and counted by :attr:`n_undefined`.

    Set-level metrics (a maximum over thresholds, a mean over classes) keep wider rows and override :meth:`score` and
    :meth:`reduce`.

    Attributes:
        higher_is_better: the direction; None where neither is better.
        always_there: whether the value over all images is finite at every snapshot, as long as the evidence is; not so
            where it compares with an earlier snapshot.
        is_share: whether every image has 0 or 1, so that the value is a share of images.
    """

    is_differentiable = False
    full_state_update = False
    always_there: ClassVar[bool] = True
    is_share: bool = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0

    def add_rows(self, width: int = 1) -> None:
        """Add the state for rows of ``width`` numbers; the last line of every constructor.

        The name of the state carries the settings: a ``MetricCollection`` lets metrics share one state when names and
        first values agree, which two tolerances of the pointing game do by accident.
        """
        self._width = width
        self._state_name = f"rows_{hashlib.sha1(repr(self).encode(), usedforsecurity=False).hexdigest()[:8]}"
        self.add_state(self._state_name, default=[], dist_reduce_fx="cat")

    def append(self, rows: Tensor) -> None:
        """Keep the rows of some images.

        Args:
            rows: ``(B,)`` values, or ``(B, width)``; NaN in the first column where the metric is undefined.

        Raises:
            ValueError: when the shape is another one.
        """
        if rows.shape[1:].numel() != self._width or rows.ndim not in {1, 2}:
            raise ValueError(f"Expected `rows` to have shape (B, {self._width}), but got {tuple(rows.shape)}.")
        # flat and of a fixed type, as is the empty vector that torchmetrics gathers from a process without images
        getattr(self, self._state_name).append(rows.detach().to(self.device, self.dtype).clone().flatten())

    @property
    def rows(self) -> Tensor:
        """The rows of the images seen by this process, ``(n, width)``, in the order of the updates."""
        state: list[Tensor] | Tensor = getattr(self, self._state_name)
        if isinstance(state, list):
            state = torch.cat(state) if state else torch.empty(0, device=self.device, dtype=self.dtype)
        return state.view(-1, self._width)

    @property
    def values(self) -> Tensor:
        """One value per image seen by this process, ``(n,)``, in the order of the updates; NaN where undefined."""
        return self.score(self.rows)

    @property
    def n_undefined(self) -> int:
        """How many of this process's images have no defined value."""
        return int(self.values.isnan().sum())

    def gather(self) -> Tensor:
        """Return the rows of every process, ``(n, width)``, in the order of the ranks; every rank must call it."""
        here = not self._is_synced
        should_sync = self.sync_on_compute and here
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=should_sync, should_unsync=here):
            return self.rows.clone()

    def score(self, rows: Tensor) -> Tensor:
        """Return the value of each image, ``(n,)``, from its row ``(n, width)``."""
        return rows[:, 0]

    def reduce(self, rows: Tensor) -> Tensor:
        """Return the scalar value of the images with these rows ``(n, width)``; NaN when none is defined."""
        return self.score(rows).nanmean()

    @property
    def is_mean(self) -> bool:
        """Whether the value of several images is the mean of theirs, so that means can be reasoned about."""
        return type(self).reduce is PerImageMetric.reduce

    def interval(self, rows: Tensor, level: float = 0.95) -> Tensor:
        """Return the interval of the value over images, from their rows.

        Wilson's for shares, a studentised bootstrap for other means, BCa for everything else.

        Args:
            rows: ``(n, width)``.
            level: coverage, between 0 and 1.

        Returns:
            ``(2,)``: low and high; NaN for too few images, see :data:`lit_decom.functional.intervals.MIN_IMAGES`.
        """
        if not self.is_mean:
            return statistic_interval(rows, self.reduce, level)
        values = self.score(rows)[:, None]
        return (share_intervals if self.is_share else mean_intervals)(values, level)[0]

    def compute(self) -> Tensor:
        """Return the value over all images counted."""
        return self.reduce(self.rows)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the current value, or the given results of earlier calls, with Matplotlib."""
        return self._plot(val, ax)

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters.values()
        names = [p.name for p in parameters if p.name != "self" and p.kind not in _NOT_CONVENTIONS]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"
