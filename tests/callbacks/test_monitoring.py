"""Checkpoints and early stopping by interpretability scores, on a network whose every epoch is known on paper."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_decom import Components, DecomCAM, DecomCAMCallback, Log, Probe, Scoring
from lit_decom.metrics import EnergyPointingGame, Gini, MapStability

SCORE = "decomcam/energy_pointing_game/correct"
# Weights of the object's channel and of the background's for class 1, epoch by epoch: all wrong and no evidence at all;
# right for the background's sake; right for the object's sake; right for both; all wrong again.
SCRIPT = [(-1.0, -1.0), (-1.0, 3.0), (4.0, -1.0), (1.0, 1.0), (-1.0, -1.0)]
# With one component: where both count, the background's map has the larger norm and is the first.
ENERGY = [float("nan"), 0.0, 1.0, 0.0, float("nan")]


class Scripted(pl.LightningModule):
    """Channel 0 of an image is the object, channel 1 the background; what counts for class 1 is written above."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.conv.weight.data = torch.eye(2)[:, :, None, None]
        self.head = nn.Linear(2, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images):
        return self.head(self.conv(images).mean(dim=(2, 3)))

    def on_train_epoch_start(self):
        self.head.weight.data[1] = torch.tensor(SCRIPT[self.current_epoch])

    def training_step(self, batch, _index):
        return 0 * self(batch[0]).sum()

    def validation_step(self, batch, _index):
        self.log("val/loss", self(batch[0]).sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Diary(pl.Callback):
    """Notes after every validation which scores those who monitor can see."""

    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, _module):
        self.seen.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def pictures(n=12):
    images = torch.zeros(n, 2, 8, 8)
    masks = torch.zeros(n, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    images[:, 0][masks] = 1.0
    images[:, 1][~masks] = 1.0
    return images, torch.ones(n, dtype=torch.long), masks


def run(tmp_path, *callbacks, every_n_epochs=1):
    images, labels, masks = pictures()
    observer = DecomCAMCallback(
        DecomCAM(n_components=1),
        Probe.from_tensors(images, labels, masks=masks),
        "conv",
        scores=Scoring([EnergyPointingGame(), Gini(), MapStability()]),
        components=Components(n_shared=0),
        log=Log(n_images=0),
        every_n_epochs=every_n_epochs,
        strict=True,
    )
    diary = Diary()
    trainer = pl.Trainer(
        max_epochs=len(SCRIPT),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=[observer, *callbacks, diary],
    )
    loader = DataLoader(TensorDataset(images, labels), batch_size=6)
    trainer.fit(Scripted(), loader, loader)
    return trainer, diary.seen[-len(SCRIPT) :]


def test_the_checkpoint_of_the_best_score_is_the_epoch_that_looks_at_the_object(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor=SCORE, mode="max", filename="{epoch}")
    _, seen = run(tmp_path, checkpoint)
    assert [epoch[SCORE] for epoch in seen] == pytest.approx(ENERGY, abs=1e-5, nan_ok=True)
    assert checkpoint.best_model_path.endswith("epoch=2.ckpt")
    assert float(checkpoint.best_model_score) == pytest.approx(1.0, abs=1e-5)


def test_early_stopping_ends_when_the_score_gets_no_better(tmp_path):
    stopping = EarlyStopping(SCORE, mode="max", patience=2, check_finite=False)
    trainer, _ = run(tmp_path, stopping)
    assert float(stopping.best_score) == pytest.approx(1.0, abs=1e-5)
    assert trainer.current_epoch == len(SCRIPT), "epochs 3 and 4 are no better than epoch 2"
    assert stopping.stopped_epoch == 4


def test_a_stratum_that_is_empty_is_absent_and_leaves_nothing_stale_behind(tmp_path):
    _, seen = run(tmp_path)
    present = [SCORE in epoch for epoch in seen]
    assert present == [False, True, True, True, False]
    assert ["decomcam/count/incorrect" in epoch for epoch in seen] == [True, False, False, False, True]


def test_a_monitored_stratum_that_is_empty_is_not_a_number(tmp_path):
    _, seen = run(tmp_path, ModelCheckpoint(tmp_path, monitor=SCORE, mode="max"))
    assert [epoch[SCORE] != epoch[SCORE] for epoch in seen] == [True, False, False, False, True]


def test_skipped_epochs_leave_nothing_stale_behind(tmp_path):
    _, seen = run(tmp_path, every_n_epochs=2)
    assert ["decomcam/gini/all" in epoch for epoch in seen] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("key", "every_n_epochs", "refused"),
    [
        (SCORE, 1, True),
        ("decomcam/gini/all", 1, False),
        ("decomcam/gini/all", 2, True),
        ("decomcam/effective_rank", 1, False),
        ("decomcam/score_gain/rank_01", 1, False),
        ("decomcam/map_stability/all", 1, True),
        ("decomcam/settled_at/all", 1, True),
        ("decomcam/drift", 1, True),
        ("decomcam/births", 1, True),
        ("decomcam/score_gain/component_08", 1, True),
        ("decomcam/energy_pointing_game/gap", 1, True),
        ("val/loss", 2, False),
    ],
)
def test_an_early_stopping_that_a_missing_value_would_end_is_refused_with_the_remedy(
    key, every_n_epochs, refused, tmp_path
):
    stopping = EarlyStopping(key, mode="max", patience=9)
    if not refused:
        run(tmp_path, stopping, every_n_epochs=every_n_epochs)
        return
    with pytest.raises(MisconfigurationException, match="check_finite=False"):
        run(tmp_path, stopping, every_n_epochs=every_n_epochs)
