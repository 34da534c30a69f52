"""A LightningModule whose own forward takes a batch: `forward=` says how it is asked."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.nn import functional as F

from tests.helpers.modules import CLASSES, Tiny, callback, fit, probe, tiny


class Batched(Tiny):
    """Takes a mapping, and returns the loss beside the logits."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.model = tiny()

    def forward(self, batch):
        logits = self.model(batch["pixels"])
        return {"scores": logits, "loss": F.cross_entropy(logits, batch["labels"])}

    def training_step(self, batch, batch_idx):
        return self({"pixels": batch[0], "labels": batch[1]})["loss"]

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self({"pixels": batch[0], "labels": batch[1]})["loss"])


class Features(Tiny):
    """Its forward returns what stands before the head."""

    def forward(self, images):
        return self.features(images).mean(dim=(2, 3))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", F.cross_entropy(self.head(self(batch[0])), batch[1]))


@pytest.mark.parametrize("forward", ["model", lambda module, images: module.model(images)], ids=["name", "callable"])
@pytest.mark.parametrize("layer", ["model.second", None])
def test_a_module_that_takes_a_batch_is_explained(tmp_path, forward, layer):
    observer = callback(forward=forward, target_layer=layer, metrics="default", strata="class_accuracy")
    module = tiny(Batched)
    fit(tmp_path, observer, module=module)
    assert observer.errors == 0
    snapshot = observer.last_snapshot
    assert snapshot.settings["target_layer"].startswith("model.second")
    with torch.no_grad():
        expected = module.model.eval()(probe().images)
    torch.testing.assert_close(snapshot.logits, expected, rtol=1e-4, atol=1e-5)


def test_without_it_the_error_comes_before_the_first_step_and_names_it(tmp_path):
    module = tiny(Batched)
    words = r"Expected Batched\.forward to take images .*raised IndexError.*`forward=` takes the name .*'model'"
    with pytest.raises(MisconfigurationException, match=words) as raised:
        fit(tmp_path, callback(target_layer="model.second"), module=module)
    assert isinstance(raised.value.__cause__.__cause__, IndexError)
    assert torch.equal(module.head.weight, tiny(Batched).head.weight)


def test_features_taken_for_logits_are_warned_about(tmp_path):
    with pytest.warns(UserWarning, match=f"returns 12 values per image for {len(CLASSES)} classes"):
        fit(tmp_path, callback(), module=tiny(Features))
    observer = callback(forward=lambda module, images: module.head(module(images)))
    fit(tmp_path, observer, module=tiny(Features))  # a warning is an error
    assert observer.last_snapshot.logits.shape[1] == len(CLASSES)
