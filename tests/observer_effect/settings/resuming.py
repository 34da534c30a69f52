"""Weights that a validation uses and the training does not."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import StochasticWeightAveraging

from tests.helpers.averaging import EpochAverage, WholeAverage
from tests.helpers.settings import Setting


def lightnings() -> list[pl.Callback]:
    return [pl.callbacks.EMAWeightAveraging(decay=0.7)]


def swa() -> list[StochasticWeightAveraging]:
    return [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)]


SETTINGS = [
    Setting("an average by epoch hooks before", before=lambda: [EpochAverage()]),
    Setting("an average around the validation before", before=lambda: [WholeAverage()]),
    # It trains one epoch more, to measure what batch normalisation needs.
    Setting("stochastic weight averaging before", before=swa, snapshots=4),
]
if hasattr(pl.callbacks, "EMAWeightAveraging"):  # older versions of Lightning have none
    SETTINGS += [
        Setting("Lightning's average before", before=lightnings),
        Setting("Lightning's average after", beside=lightnings, trainer={"val_check_interval": 0.5}, snapshots=6),
    ]
