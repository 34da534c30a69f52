"""A probe that was read otherwise than the module reads its batches is told by its accuracy."""

import numpy as np
import pytest
import torch

from lit_decom.callbacks.agreement import contradiction
from tests.helpers.modules import Spots, Tiny, callback, loader, tiny, trainer


def answers(n_right, n=64, n_classes=4):
    """Labels in turns, and logits of which the first `n_right` are right; the rest is wrong."""
    labels = torch.arange(n) % n_classes
    answered = torch.where(torch.arange(n) < n_right, labels, (labels + 1) % n_classes)
    return labels, torch.nn.functional.one_hot(answered, n_classes).float()


@pytest.mark.parametrize(
    "name", ["val/acc", "val_acc", "valid/accuracy_epoch", "acc", "val_acc1", "val/acc@1", "val/acc/dataloader_idx_1"]
)
@pytest.mark.parametrize(("logged", "right"), [(0.9, 5), (90.0, 5), (1.0, 20), (0.1, 60), (0.0, 40)])
def test_what_cannot_be_by_chance_is_said_with_the_figures(name, logged, right):
    found = contradiction(*answers(right), {"val/loss": 0.5, name: logged})
    share = logged / 100 if logged > 1 else logged
    assert found.startswith(f"the network gets {right} of the probe's 64 images right, while `{name}` is {share:.1%}.")
    assert "unpack=" in found


@pytest.mark.parametrize(
    "logged",
    [
        {},
        {"val/loss": 0.9},
        {"val/acc_top5": 0.99},
        {"train_acc": 0.9},
        {"val/acc_macro": 0.9},
        {"vacc": 0.9},
        {"acc": 300},
    ],
)
def test_what_is_no_accuracy_of_validation_says_nothing(logged):
    assert contradiction(*answers(5), logged) is None


def test_one_accuracy_that_agrees_is_enough():
    assert contradiction(*answers(5), {"val/acc": 0.9, "head2/acc": 0.1}) is None


def test_rare_classes_explain_a_lower_accuracy_on_the_probe():
    labels = torch.arange(64) % 4
    # Always class 0, which makes up 95 % of the validation data and a quarter of the probe.
    logits = torch.tensor([1.0, 0, 0, 0]).expand(64, 4)
    assert contradiction(labels, logits, {"val/acc": 0.95}) is None


def test_false_alarms_are_rare():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        share = rng.uniform(0.02, 1)
        right = int(rng.binomial(64, share))
        alarms += contradiction(*answers(right), {"val/acc": float(share)}) is not None
    assert alarms == 0


def test_labels_that_are_no_classes_and_single_logits_say_nothing():
    labels, logits = answers(5)
    assert contradiction(torch.nn.functional.one_hot(labels, 4), logits, {"val/acc": 0.9}) is None
    assert contradiction(labels, logits[:, :1], {"val/acc": 0.9}) is None


class Shifted(Tiny):
    """Its steps understand the labels otherwise than they stand in the batch."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0], (batch[1] + 1) % 4), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/acc", (self(batch[0]).argmax(dim=1) == (batch[1] + 1) % 4).float().mean())


class Scored(Tiny):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/acc", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())


def train(tmp_path, module, **arguments):
    data = loader(Spots(64), shuffle=True, generator=torch.Generator().manual_seed(0))
    observer = callback(probe=32, n_images=0)
    run = trainer(tmp_path, observer, num_sanity_val_steps=0, max_epochs=4, **arguments)
    run.fit(tiny(module, lr=0.1), data, loader(Spots(64, seed=2)))
    return run


def test_labels_that_the_steps_change_are_warned_about_once(tmp_path):
    with pytest.warns(UserWarning, match=r"than what the module sees: the network gets \d+ of the probe's 32") as said:
        run = train(tmp_path, Shifted)
    assert run.callback_metrics["val/acc"] > 0.6
    assert len([entry for entry in said if "something else than what" in str(entry.message)]) == 1


def test_an_accuracy_of_a_part_of_the_data_proves_nothing(tmp_path):
    train(tmp_path, Shifted, limit_val_batches=2)


def test_a_probe_that_is_read_rightly_is_not_warned_about(tmp_path):
    assert train(tmp_path, Scored).callback_metrics["val/acc"] > 0.6
