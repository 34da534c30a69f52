"""Which weights a validation uses: those of the training, or an average that a callback puts in their place."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor
from torch.nn.parameter import is_lazy
from typing_extensions import override

from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.callbacks.trainer_access import has_validation
from lit_decom.lightning_roots import is_a

_Explain = Callable[[pl.Trainer, pl.LightningModule], None]
# Older versions of Lightning have none.
_SWAPPING: type[pl.Callback] | None = getattr(pl.callbacks, "WeightAveraging", None)


class ValidatedWeights(pl.Callback):
    """Stands before all other callbacks, and has the snapshot taken while the weights are those of the validation.

    A callback that averages weights puts the average in place when a validation begins, and takes it back when it ends,
    in its own turn among the callbacks: a snapshot taken after that turn would explain weights that the validation has
    not used. So where the weights are other ones than before the validation, the snapshot does not wait for its turn.

    Attributes:
        averaged: whether the weights of the validation that ends now are not those of the training.
    """

    def __init__(self) -> None:
        self.averaged = False
        self._training: list[Tensor] = []

    def stand_first(self, trainer: pl.Trainer, explain: _Explain, tolerance: Tolerance) -> None:
        """Take the place before all others in a Trainer that begins to fit.

        Args:
            trainer: whose callbacks they are.
            explain: takes the snapshot.
            tolerance: of what fails here.
        """
        self.averaged, self._explain, self._tolerance = False, explain, tolerance
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [self, *(each for each in callbacks if each is not self)]  # type: ignore[attr-defined]

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.averaged = False
        if trainer.state.fn == "fit":
            with self._tolerance.forgiving("tell which weights are validated"):
                self._training = _norms(pl_module)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        with self._tolerance.forgiving("tell which weights are validated"):
            self.averaged = not _equal(_norms(pl_module), self._training)
        if self.averaged:
            self._explain(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A snapshot within the epoch is of the weights that training goes on with.
        self.averaged = False

    @contextmanager
    def in_place(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
        """Put the averages of Lightning's callbacks in place, as a validation would, where one is not run again."""
        averages = [each for each in trainer.callbacks if _SWAPPING is not None and is_a(each, _SWAPPING)]  # type: ignore[attr-defined]
        with ExitStack() as stack:
            for each in averages if has_validation(trainer) else []:
                each.on_validation_epoch_start(trainer, pl_module)
                stack.callback(each.on_validation_epoch_end, trainer, pl_module)
                self.averaged = True
            yield
        self.averaged = False

    def kind(self, trainer: pl.Trainer) -> str:
        """Name the weights of a snapshot that is taken now: ``"averaged"`` or ``"raw"``."""
        # This one leaves its average in place for a last epoch, in which it measures what batch normalisation needs.
        finishing = any(
            is_a(each, StochasticWeightAveraging) and trainer.current_epoch > each.swa_end
            for each in trainer.callbacks  # type: ignore[attr-defined]
        )
        return "averaged" if self.averaged or finishing else "raw"


def _norms(model: torch.nn.Module) -> list[Tensor]:
    """A number per parameter that changes with it; an average is written where no count of writes sees it."""
    made = (each.detach() for each in model.parameters() if not is_lazy(each))
    found = [each for each in made if each.is_floating_point() and each.dtype.itemsize > 1]
    return [torch.linalg.vector_norm(each, dtype=torch.promote_types(each.dtype, torch.float32)) for each in found]


def _equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(torch.equal(*each) or all(map(torch.isnan, each)) for each in zip(left, right, strict=True))
