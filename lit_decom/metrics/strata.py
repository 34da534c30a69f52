"""Which stratum each image belongs to, by one rule: correctness, confidence, class accuracy, or the user's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.functional.strata import (
    NO_STRATUM,
    bin_names,
    class_accuracy_strata,
    confidence_strata,
    correctness_strata,
)

StrataFunction = Callable[[Tensor, Tensor], Tensor | Sequence[str] | Sequence[int]]
Strata = Literal["correctness", "confidence", "class_accuracy"] | StrataFunction


@dataclass(frozen=True)
class StrataRule:
    """Tells images apart by what the network answers.

    Attributes:
        strata: as for :class:`lit_decom.metrics.StratifiedWrapper`.
        n_bins: number of bins of confidence or class accuracy.
        given_names: names of the strata 0, 1, ... that a function gives.

    Raises:
        ValueError: when the rule is unknown, or names are given for a rule that has its own.
    """

    strata: Strata = "correctness"
    n_bins: int = 10
    given_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if callable(self.strata):
            return
        if self.given_names is not None:
            raise ValueError(
                f"Expected `names` only with a function for `strata`, but got both {self.strata!r} and "
                f"{self.given_names!r}."
            )
        if self.strata not in ("correctness", "confidence", "class_accuracy"):
            raise ValueError(
                "Expected `strata` to be 'correctness', 'confidence', 'class_accuracy' or a function, "
                f"but got {self.strata!r}."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the strata 0, 1, ...; none where a function gives integers."""
        if callable(self.strata):
            return self.given_names or ()
        if self.strata == "correctness":
            return (keys.CORRECT, keys.INCORRECT)
        return bin_names(self.strata, self.n_bins)

    def __call__(
        self, logits: Tensor | None, labels: Tensor | None = None, class_accuracy: Tensor | None = None
    ) -> Tensor:
        """Return the index of each image's stratum, ``(B,)``; -1 for none.

        Args:
            logits: ``(B, N)``.
            labels: ``(B,)``, for every rule but confidence.
            class_accuracy: ``(N,)`` over the whole validation set, for strata by it.

        Raises:
            ValueError: when something needed is missing, or a function gives what is no stratum.
        """
        logits = _given(logits, "logits")
        if self.strata == "confidence":
            return confidence_strata(logits, self.n_bins)
        labels = _given(labels, "labels")
        if self.strata == "correctness":
            return correctness_strata(logits, labels)
        if self.strata == "class_accuracy":
            return class_accuracy_strata(logits, labels, _given(class_accuracy, "class_accuracy"), self.n_bins)
        return self.indices(self.strata(logits, labels))

    def indices(self, strata: Tensor | Sequence[str] | Sequence[int]) -> Tensor:
        """Turn names or indices of strata into indices ``(B,)``.

        Raises:
            ValueError: when one is unknown.
        """
        index_of = {name: index for index, name in enumerate(self.names)}
        given: list[Any] = strata.tolist() if isinstance(strata, Tensor) else list(strata)
        indices = [index_of.get(stratum) if isinstance(stratum, str) else int(stratum) for stratum in given]
        limit = len(self.names) or torch.inf
        known = [index for index in indices if index is not None and NO_STRATUM <= index < limit]
        if len(known) < len(indices):
            rule = f"one of {list(self.names)}, their indices or -1" if self.names else "an integer from -1"
            raise ValueError(f"Expected every stratum to be {rule}, but got {sorted(map(str, set(given)))}.")
        return torch.tensor(known, dtype=torch.long)


def _given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"Expected `{name}` to be given for these strata, but got None.")
    return value
