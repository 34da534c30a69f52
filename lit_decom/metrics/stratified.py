"""Scores of the images that the network gets right and wrong, sure and unsure, apart."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics.utilities.prints import rank_zero_warn
from torchmetrics.wrappers.abstract import WrapperMetric

from lit_decom import keys
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.strata import Strata, StrataRule
from lit_decom.scores import RowTable


class StratifiedWrapper(WrapperMetric):
    """A metric, over all images and over each stratum of them.

    Every stratum is reduced from the rows that the metric keeps of its images, so set-level metrics are right too.
    Results cover the images of every process, so whatever returns one must be called on every rank, and so must
    :meth:`assign`. What a stratum means for wrong answers depends on the class explained, hence ``target``.

    Args:
        metric: the metric to stratify; it is updated with what its own ``update`` names.
        strata: ``"correctness"`` gives ``correct`` and ``incorrect``; ``"confidence"`` and ``"class_accuracy"`` give
            bins, the latter of correctly classified images only (see :mod:`lit_decom.functional.strata`); a function of
            ``logits`` and ``labels`` gives each image an integer or one of ``names`` (-1 for no stratum).
        n_bins: number of bins of confidence or class accuracy.
        class_accuracy: accuracy of every class ``(N,)`` over the whole validation set, not the images seen here, NaN
            for a class without images; may be set later or passed to ``update``.
        names: names of the strata 0, 1, ... that a function gives.
        fixed: take each image's stratum from :meth:`assign`, by its id, and not from its logits: then a curve shows how
            the scores of the same images change. The assignment outlives ``reset`` and is part of the state dict.
        target: which class the maps explain, such as ``"label"`` or ``"prediction"``; kept for the record.
        keep_empty: give NaN for a stratum without images instead of leaving it out; a function then needs ``names``.
        min_count: warn, once, when a stratum has fewer defined images than this.
        ci: level of the intervals that ``compute`` adds as ``<stratum>_low`` and ``<stratum>_high``.
        kwargs: torchmetrics' own.

    Raises:
        TypeError: when the metric does not keep one row per image.
        ValueError: when a setting is unknown.

    Example:
        >>> from lit_decom.metrics.localization import EnergyPointingGame
        >>> metric = StratifiedWrapper(EnergyPointingGame(), strata="correctness", min_count=0)
        >>> maps, masks = torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]]), torch.tensor([[[True, False]], [[True, False]]])
        >>> metric.update(maps, masks, logits=torch.tensor([[9.0, 0.0], [9.0, 0.0]]), labels=torch.tensor([0, 1]))
        >>> metric.compute()
        {'all': tensor(0.5000), 'correct': tensor(0.7500), 'incorrect': tensor(0.2500)}
        >>> metric.counts(), metric.gap()
        ({'all': 2, 'correct': 1, 'incorrect': 1}, tensor(0.5000))
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        metric: PerImageMetric,
        strata: Strata = "correctness",
        *,
        n_bins: int = 10,
        class_accuracy: Tensor | None = None,
        names: Sequence[str] | None = None,
        fixed: bool = False,
        target: str | None = None,
        keep_empty: bool = False,
        min_count: int = 10,
        ci: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(metric, PerImageMetric):
            raise TypeError(f"Expected `metric` to be a PerImageMetric, but got {metric!r}.")
        if ci is not None and not 0 < ci < 1:
            raise ValueError(f"Expected `ci` to be between 0 and 1, but got {ci}.")
        if keep_empty and callable(strata) and names is None:
            raise ValueError("Expected `names` when `keep_empty` is True and `strata` is a function, but got none.")
        self.metric = metric
        self.rule = StrataRule(strata, n_bins, None if names is None else tuple(names))
        self.class_accuracy = class_accuracy
        self.fixed = fixed
        self.target = target
        self.keep_empty = keep_empty
        self.min_count = min_count
        self.ci = ci
        self.strata_of: dict[Any, int] = {}
        self._codes = _Codes()
        self._warned = False

    def stratify(self, logits: Tensor | None, labels: Tensor | None) -> Tensor:
        """Return the index of each image's stratum by the rule ``(B,)``, -1 for none, whatever was assigned."""
        return self.rule(logits, labels, self.class_accuracy)

    def assign(self, ids: Sequence[Any] | Tensor, strata: Tensor | Sequence[str] | Sequence[int]) -> None:
        """Fix the strata of images from now on, on every process.

        Args:
            ids: one hashable id per image, such as a string; those of other processes are added.
            strata: index or name of each image's stratum, as :meth:`stratify` returns them.

        Raises:
            ValueError: when the numbers differ or a stratum is unknown.
        """
        new = dict(zip(_hashable(ids), self.rule.indices(strata).tolist(), strict=True))
        tables = [new]
        if self.sync_on_compute and self.distributed_available_fn():
            tables = [{}] * dist.get_world_size(self.process_group)
            dist.all_gather_object(tables, new, group=self.process_group)
        for table in tables:
            self.strata_of.update(table)

    def update(
        self,
        *args: Any,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        ids: Sequence[Any] | Tensor | None = None,
        class_accuracy: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Add images to the metric and to their strata.

        Args:
            args: positional arguments of the metric's ``update``.
            logits: ``(B, N)``, for every rule but an assigned one.
            labels: ``(B,)``, for every rule but confidence or an assigned one.
            ids: one per image, for assigned strata.
            class_accuracy: replaces the one kept.
            kwargs: everything else; the metric gets what its ``update`` names.

        Raises:
            ValueError: when something needed is missing, an id has no stratum, or there is not one row per image.
        """
        if class_accuracy is not None:
            self.class_accuracy = class_accuracy
        codes = self._assigned(ids) if self.fixed else self.stratify(logits, labels)
        shared = {"logits": logits, "labels": labels, "ids": ids, "class_accuracy": class_accuracy}
        kwargs |= {name: value for name, value in shared.items() if value is not None}
        n_before = len(self.metric.rows)
        self.metric.update(*args, **self.metric._filter_kwargs(**kwargs))  # noqa: SLF001
        n_new = len(self.metric.rows) - n_before
        if n_new != len(codes):
            raise ValueError(f"Expected one stratum for each of the {n_new} images, but got {len(codes)}.")
        self._codes.update(codes)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Add images and return the values of these images alone, as this process sees them."""
        n_before = len(self.metric.rows)
        self.update(*args, **kwargs)
        return self._reduce(self._cut(self.metric.rows[n_before:], self._codes.rows[n_before:, 0]))

    def compute(self) -> dict[str, Tensor]:
        """Return the value of ``all`` images and of each stratum; NaN where no image is defined."""
        parts = self._parts()
        self._warn_if_few(parts)
        return self._reduce(parts)

    def counts(self) -> dict[str, int]:
        """Return how many images each stratum has, those included on which the metric is undefined."""
        return {name: len(rows) for name, rows in self._parts().items()}

    def undefined(self) -> dict[str, int]:
        """Return on how many images of each stratum the metric is undefined."""
        return {name: int(rows[:, 0].isnan().sum()) for name, rows in self._parts().items()}

    def gap(self, first: str = keys.CORRECT, second: str = keys.INCORRECT) -> Tensor:
        """Return the value of one stratum minus that of another; NaN when either has no defined image."""
        parts = self._parts()
        nothing = parts[keys.ALL][:0]
        high, low = (self.metric.reduce(parts.get(name, nothing)) for name in (first, second))
        return high - low

    def averages(self) -> dict[str, Tensor]:
        """Return the ``macro`` mean over strata, those of NaN left out, and the ``micro`` value of all their images."""
        parts = self._parts()
        everyone = parts.pop(keys.ALL)
        values = [self.metric.reduce(rows) for rows in parts.values()]
        micro = self.metric.reduce(torch.cat(list(parts.values())) if parts else everyone[:0])
        return {"macro": torch.stack(values).nanmean() if values else everyone.new_tensor(torch.nan), "micro": micro}

    def interval(self, level: float = 0.95) -> dict[str, Tensor]:
        """Return the interval of each stratum, ``(2,)``: low and high; NaN for too few images."""
        return {name: self.metric.interval(rows, level) for name, rows in self._parts().items()}

    def per_image(self) -> tuple[Tensor, Tensor]:
        """Return every image's value and index of its stratum, ``(n,)`` each, in the order of ranks and updates."""
        return self.metric.score(self.metric.gather()), self._codes.gather()[:, 0].long()

    def reset(self) -> None:
        """Forget the images, but not which stratum is assigned to whom."""
        super().reset()
        self.metric.reset()
        self._codes.reset()

    def persistent(self, mode: bool = False) -> None:
        """Change whether the rows of the images are part of the state dict; assigned strata always are."""
        super().persistent(mode)
        self.metric.persistent(mode)
        self._codes.persistent(mode)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the state dict keeps beside tensors: the assigned strata."""
        return {"strata_of": dict(self.strata_of)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the assigned strata from a state dict."""
        self.strata_of = dict(state["strata_of"])

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the current values, or the given results of earlier calls, with Matplotlib."""
        return self._plot(val, ax)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the strata 0, 1, ...; none where a function gives integers."""
        return self.rule.names

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """The direction of the metric."""
        return self.metric.higher_is_better

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """The lower bound of the metric."""
        return self.metric.plot_lower_bound

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """The upper bound of the metric."""
        return self.metric.plot_upper_bound

    def __repr__(self) -> str:
        strata = self.rule.strata
        rule = repr(strata) if isinstance(strata, str) else getattr(strata, "__qualname__", "function")
        bins = f", n_bins={self.rule.n_bins}" if strata in ("confidence", "class_accuracy") else ""
        return f"StratifiedWrapper({self.metric!r}, strata={rule}{bins}, fixed={self.fixed}, target={self.target!r})"

    def _parts(self) -> dict[str, Tensor]:
        """Rows of every process's images, by stratum."""
        return self._cut(self.metric.gather(), self._codes.gather()[:, 0])

    def _cut(self, rows: Tensor, codes: Tensor) -> dict[str, Tensor]:
        strata = RowTable((), codes, {}, self.names).strata(keep_empty=self.keep_empty)
        return {name: rows[index.to(rows.device)] for name, index in strata.items()}

    def _reduce(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name, rows in parts.items():
            values[name] = self.metric.reduce(rows)
            if self.ci is not None:
                values[f"{name}_low"], values[f"{name}_high"] = self.metric.interval(rows, self.ci)
        return values

    def _warn_if_few(self, parts: dict[str, Tensor]) -> None:
        sizes = {name: int((~rows[:, 0].isnan()).sum()) for name, rows in parts.items()}
        few = {name: size for name, size in sizes.items() if 0 < size < self.min_count and name != keys.ALL}
        if few and not self._warned:
            self._warned = True
            rank_zero_warn(f"Strata with fewer than {self.min_count} images say little: {few}.")

    def _assigned(self, ids: Sequence[Any] | Tensor | None) -> Tensor:
        if ids is None:
            raise ValueError("Expected `ids` when `fixed` is True, but got None.")
        missing = [i for i in _hashable(ids) if i not in self.strata_of]
        if missing:
            raise ValueError(f"Expected every id to have a stratum from `assign`, but got none for {missing[:5]}.")
        return torch.tensor([self.strata_of[i] for i in _hashable(ids)], dtype=torch.long)


class _Codes(PerImageMetric):
    """The index of each image's stratum, gathered as the metric's rows are."""

    def __init__(self) -> None:
        super().__init__()
        self.add_rows()

    def update(self, codes: Tensor) -> None:
        self.append(codes)


def _hashable(ids: Sequence[Any] | Tensor) -> list[Any]:
    return ids.tolist() if isinstance(ids, Tensor) else list(ids)
