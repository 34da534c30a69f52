"""The state that every metric of this package shares: one row per image."""

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_decom.functional.bca import statistic_interval, weighted_interval
from lit_decom.functional.intervals import mean_intervals
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

    def add_rows(self, width: int | None = 1) -> None:
        """Add the state for rows of ``width`` numbers; the last line of every constructor.

        Without a width, the first rows say it: where it is the number of components or of parts, which only they know.

        The name of the state carries the settings: a ``MetricCollection`` lets metrics share one state when names and
        first values agree, which two tolerances of the pointing game do by accident.
        """
        self._width = width
        self._state_name = f"rows_{hashlib.sha1(repr(self).encode(), usedforsecurity=False).hexdigest()[:8]}"
        self.add_state(self._state_name, default=[], dist_reduce_fx="cat")
        if width is None:  # a state, since a process without images must know it too
            self.add_state(self._width_name, default=torch.tensor(0), dist_reduce_fx="max")

    def append(self, rows: Tensor) -> None:
        """Keep the rows of some images.

        Args:
            rows: ``(B,)`` values, or ``(B, width)``; NaN in the first column where the metric is undefined.

        Raises:
            ValueError: when the shape is another one.
        """
        if self.width == 0 and rows.ndim == 2:
            setattr(self, self._width_name, torch.tensor(rows.shape[1], device=self.device))
        if rows.shape[1:].numel() != self.width or rows.ndim not in {1, 2}:
            raise ValueError(f"Expected `rows` to have shape (B, {self.width}), but got {tuple(rows.shape)}.")
        # flat and of a fixed type, as is the empty vector that torchmetrics gathers from a process without images
        getattr(self, self._state_name).append(rows.detach().to(self.device, self.dtype).clone().flatten())

    @property
    def rows(self) -> Tensor:
        """The rows of the images seen by this process, ``(n, width)``, in the order of the updates."""
        state: list[Tensor] | Tensor = getattr(self, self._state_name)
        if isinstance(state, list):
            state = torch.cat(state) if state else torch.empty(0, device=self.device, dtype=self.dtype)
        return state.view(-1, self.width or 1)

    @property
    def width(self) -> int:
        """How many numbers a row has; 0 as long as no row has said it."""
        return int(getattr(self, self._width_name)) if self._width is None else self._width

    @property
    def _width_name(self) -> str:
        return f"{self._state_name}_width"

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


class SetMetric(PerImageMetric):
    """A metric of a set of images that is reduced for many draws of them at once, and so has cheap intervals.

    A subclass overrides :meth:`score` and :meth:`reduction`.
    """

    @abstractmethod
    def reduction(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Return how the value follows from how often each image is drawn.

        Args:
            rows: of the images on which the metric is defined ``(n, width)``, at least one.

        Returns:
            A function from the number of times that each image is drawn in each of ``d`` draws ``(d, n)`` to the value
            over each draw ``(d,)``.
        """

    def reduce(self, rows: Tensor) -> Tensor:
        """Return the value of the images with these rows ``(n, width)``; NaN when none is defined."""
        defined = rows[~rows[:, 0].isnan()]
        if not len(defined):
            return rows.new_tensor(torch.nan)
        return self.reduction(defined)(rows.new_ones(1, len(defined)))[0]

    def interval(self, rows: Tensor, level: float = 0.95) -> Tensor:
        """Return the BCa interval of the value over images, from their rows, as for every metric."""
        return weighted_interval(rows, self.reduction, level)

    def difference_interval(self, first: Tensor, second: Tensor, level: float = 0.95) -> Tensor:
        """Return the interval of the value of one explanation less that of another one of the same images.

        Both are reduced anew in every draw, so that it is known how unsure they are about what belongs to the set.

        Args:
            first: rows of the one ``(n, width)``.
            second: rows of the other for the same images ``(n, width)``; the widths may differ.
            level: coverage, between 0 and 1.

        Returns:
            ``(2,)``: low and high, over the images on which both are defined; NaN for too few of them.
        """
        cut = first.shape[1]
        both = torch.cat([first, second], dim=1)

        def difference(rows: Tensor) -> Callable[[Tensor], Tensor]:
            one, other = self.reduction(rows[:, :cut]), self.reduction(rows[:, cut:])
            return lambda times: one(times) - other(times)

        return weighted_interval(both[~both[:, cut].isnan()], difference, level)
