"""The probe, out of the data that a Trainer runs on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lit_decom.callbacks.eight_bit import EightBit
from lit_decom.callbacks.trainer_access import has_validation
from lit_decom.evidence import observing
from lit_decom.isolation import isolated_random_state, rewound_generators
from lit_decom.probe import NoImagesError, Probe, Unpack, normalisation_of
from lit_decom.probe.loaders import names_beside, owners_of
from lit_decom.process import Process

Found = tuple[Probe, int | None]
"""A probe, and which of the loaders it is from; None where that is not known."""


def read_probe(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    n: int,
    seed: int,
    *,
    unpack: Unpack | None,
    eight_bit: EightBit,
) -> Found:
    """Choose a probe from the data that this process runs on: validation or test data, else training data.

    Args:
        trainer: whose loaders are read; of several the first one that gives images.
        pl_module: whose batch-transfer hooks the images go through.
        n: how many images.
        seed: of the choice.
        unpack: the user's own way to find images and labels.
        eight_bit: makes floats of images of 8 bits.

    Returns:
        The probe, and which of the loaders it is from.

    Raises:
        MisconfigurationException: if no loader gives images, or what they give is not understood.
    """
    nothing: list[str] = []
    for place, loader in enumerate(_loaders(trainer)):
        try:
            with _as_in_validation(trainer, pl_module):
                find = eight_bit.unpacking(pl_module, unpack)
                transfer = _Transfer(trainer, pl_module, place)
                names = names_beside(loader, _datamodule(trainer))
                probe = Probe.from_loader(loader, n, seed, unpack=find, transfer=transfer, **names)
        except NoImagesError as error:
            nothing.append(_said(loader, error))
            continue
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(_said(loader, error)) from error
        if place:
            rank_zero_warn(f"The probe is from loader {place}, since none before it gives images: {nothing[0]}")
        return _with_normalisation(probe, loader, trainer, eight_bit), place
    raise MisconfigurationException(nothing[0] if nothing else "Expected the Trainer to have data, but got no loader.")


def _said(loader: Any, error: Exception) -> str:
    what = type(getattr(loader, "dataset", loader)).__name__
    return f"No probe could be read from {what}: {error} Or pass `probe=Probe.from_tensors(...)`."


class _Transfer:
    """What Lightning does to a batch between loader and step."""

    def __init__(self, trainer: pl.Trainer, pl_module: pl.LightningModule, place: int) -> None:
        self._trainer, self._device, self._place = trainer, pl_module.device, place

    def __call__(self, batch: Any) -> Any:
        return self._trainer.strategy.batch_to_device(batch, self._device, dataloader_idx=self._place)


def _with_normalisation(probe: Probe, loader: Any, trainer: pl.Trainer, eight_bit: EightBit) -> Probe:
    found = eight_bit.normalisation(probe.images.shape[1])
    for owner in owners_of(loader, _datamodule(trainer)):
        found = normalisation_of(owner, probe.images) if found is None else found
    return probe if found is None else replace(probe, mean=found[0], std=found[1])


def of_first_process(process: Process, find: Callable[[], Found], *, given: bool) -> Found:
    """Take the first process's probe in all of them: pipelines, samplers and scripts may give each process another.

    Args:
        process: this one, in a block of :meth:`lit_decom.process.Process.together`.
        find: finds this process's probe; what it raises counts in the first process alone.
        given: whether it is the user's own: a warning says then that not all are explained.
    """
    found: Found | None = None
    try:
        found = find()
    except Exception:  # the first one's is taken in any case
        if process.rank == 0:
            raise
    digests = process.gather(None if found is None else found[0].digest)
    if found is not None and len(set(digests)) == 1:
        return found
    if given:
        rank_zero_warn(
            "Expected `probe` to be the same in every process, but they were given different ones: that of the first "
            "is explained."
        )
    first: Found = process.gather(found if process.rank == 0 else None)[0]  # type: ignore[assignment]
    return first


@contextmanager
def _as_in_validation(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let batch-transfer hooks that augment while the Trainer or the module is training see that they are not."""
    stage = trainer.state.stage
    try:
        if trainer.training:
            # Of whichever Lightning the Trainer is.
            trainer.state.stage = type(stage).VALIDATING  # type: ignore[union-attr]
        with observing(pl_module), rewound_generators(_datamodule(trainer)), torch.no_grad():
            yield
    finally:
        trainer.state.stage = stage


def _datamodule(trainer: pl.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _loaders(trainer: pl.Trainer) -> list[Any]:
    """The loaders of the present stage, those within collections of them in order."""
    if trainer.testing:
        found = trainer.test_dataloaders
    elif trainer.validating or trainer.sanity_checking or has_validation(trainer):
        found = trainer.val_dataloaders
        if found is None:
            # No validation in the first epoch: Lightning has not asked for the loader yet.
            with isolated_random_state(), rewound_generators(_datamodule(trainer), trainer.lightning_module):
                found = trainer.fit_loop.epoch_loop.val_loop._data_source.dataloader()  # noqa: SLF001
    else:
        found = trainer.train_dataloader
    return list(_flat(found))


def _flat(found: Any) -> Iterator[Any]:
    if not isinstance(found, DataLoader) and hasattr(found, "iterables"):  # a CombinedLoader
        found = found.iterables
    if isinstance(found, Mapping):
        found = list(found.values())
    if not isinstance(found, list | tuple):
        yield found
        return
    for inner in found:
        yield from _flat(inner)
