"""What is explained are the weights that the validation used, wherever the callback that averages them stands."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging

from lit_decom.report import write_report
from tests.callbacks.test_resume import same, within_epochs
from tests.helpers.averaging import EpochAverage, WholeAverage
from tests.helpers.modules import callback, fit, loader, probe, tiny, trainer

if not hasattr(pl.callbacks, "EMAWeightAveraging"):
    pytest.skip("Lightning is older", allow_module_level=True)
EMAWeightAveraging = pl.callbacks.EMAWeightAveraging


class Asked(pl.Callback):
    """Asks the network of every validation for its answers to the probe."""

    def __init__(self) -> None:
        self.logits = []

    def on_validation_batch_end(self, trainer, pl_module, *step) -> None:
        _, _, batch_idx, *_ = step
        if batch_idx == 0 and not trainer.sanity_checking:
            self.logits.append(pl_module(probe().images).clone())


def lightnings():
    return EMAWeightAveraging(decay=0.7)


AVERAGES = [lightnings, EpochAverage, WholeAverage]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("average", AVERAGES)
def test_what_the_validation_used_is_explained_and_said(tmp_path, average, first):
    observer, asked = callback(), Asked()
    callbacks = [average(), observer] if first else [observer, average()]
    fit(tmp_path, *callbacks, asked, module=tiny(), max_epochs=2, val_check_interval=0.5)
    records = list(observer.directory.records())
    assert len(records) == len(asked.logits) == 4
    for record, logits in zip(records, asked.logits, strict=True):
        torch.testing.assert_close(record.logits, logits, rtol=1e-4, atol=1e-5)
        assert record.settings["weights"] == "averaged"
    assert len({each.settings["weights"] for each in records}) == 1
    # The comparison sees which weights they are.
    assert (records[-1].logits - raw_logits(tmp_path / "raw")).abs().max() > 1e-3


def raw_logits(root):
    observer = callback()
    fit(root, observer, module=tiny(), max_epochs=2, val_check_interval=0.5)
    *_, last = observer.directory.records()
    assert last.settings["weights"] == "raw"
    return last.logits


def test_the_last_epoch_of_stochastic_weight_averaging_is_of_the_average(tmp_path):
    observer = callback()
    swa = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    fit(tmp_path, swa, observer, module=tiny(), max_epochs=3)
    assert [each.settings["weights"] for each in observer.directory.records()] == ["raw", "raw", "raw", "averaged"]


def test_a_report_says_which_weights_were_explained(tmp_path):
    observer = callback()
    fit(tmp_path, lightnings(), observer, module=tiny())
    assert "averaged" in write_report([observer.directory.path]).read_text()


def test_a_snapshot_that_is_made_up_for_is_of_the_average(tmp_path):
    whole = callback()
    within_epochs(tmp_path, whole, None, lightnings())
    entire = list(whole.directory.records())
    resumed = callback()
    within_epochs(tmp_path, resumed, 4, lightnings())
    again = list(resumed.directory.records())
    assert [each.settings["weights"] for each in again] == ["averaged", "averaged"]
    assert all(same(*records) for records in zip(again, entire, strict=True))


def test_a_snapshot_outside_of_training_says_nothing_of_averages_and_is_taken(tmp_path):
    observer = callback()
    fit(tmp_path, observer, lightnings(), module=tiny())
    taken = observer.last_snapshot
    trainer(tmp_path, observer).validate(tiny(), loader(), verbose=False)
    assert observer.last_snapshot is not taken
    assert "weights" not in observer.last_snapshot.settings
