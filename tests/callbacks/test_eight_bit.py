"""Images of 8 bits: the floats that a module makes of them are the ones that are explained."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_decom.callbacks.eight_bit import EightBit
from lit_decom.records import displayed
from tests.helpers.modules import Spots, Tiny, callback, loader, tiny, trainer


class Bytes(Spots):
    """Images of 8 bits."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.images = (self.images * 255).to(torch.uint8)


class Dividing(Tiny):
    """Divides whatever it gets."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.float() / 255)


class ByType(Tiny):
    """Divides what has 8 bits alone."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / 255 if images.dtype == torch.uint8 else images)


class InItsSteps(Tiny):
    """Its forward takes floats; its steps make them."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0] / 255, batch[1]), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step((batch[0] / 255, batch[1]), batch_idx)


class Otherwise(Tiny):
    """Makes something of 8 bits that floats do not tell."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / 100 if images.dtype == torch.uint8 else images / 30)


class InAMapping(Dividing):
    def forward(self, images: Tensor) -> dict:
        return {"features": images, "logits": super().forward(images)}


@pytest.mark.parametrize(
    ("module", "divisor"),
    [
        pytest.param(Dividing, 1, id="divides"),
        pytest.param(ByType, 255, id="divides 8 bits"),
        pytest.param(
            InItsSteps,
            255,
            marks=pytest.mark.filterwarnings("ignore:The images have 8 bits, which InItsSteps.forward does not take"),
            id="in its steps",
        ),
    ],
)
def test_what_is_explained_is_what_the_network_sees(tmp_path, module, divisor):
    data, observer = Bytes(8, seed=2), callback(probe=4, metrics="default", strata="class_accuracy")
    network = tiny(module)
    run = trainer(tmp_path, observer, num_sanity_val_steps=0, max_epochs=1)
    run.fit(network, loader(Bytes()), loader(data))
    rows = [int(name) for name in observer.probe.ids]
    assert torch.equal(observer.probe.images, data.images[rows].float() / divisor)
    torch.testing.assert_close(displayed(observer.probe), data.images[rows] / 255)
    network.eval()
    seen = data.images[rows] / 255 if module is InItsSteps else data.images[rows]
    assert torch.allclose(observer.last_snapshot.logits, network(seen), atol=1e-4)
    assert observer.errors == 0


def test_a_module_that_takes_no_8_bits_is_said_to_get_their_255th_part_once():
    find = EightBit().unpacking(nn.Conv2d(3, 2, 1), None)
    images = Bytes(4).images
    with pytest.warns(UserWarning, match=r"which Conv2d\.forward does not take itself: it is given their") as said:
        found = [find((images, torch.arange(4)))[0] for _ in range(3)]
    assert len(said) == 1
    assert all(torch.equal(batch, images / 255) for batch in found)


def test_what_only_8_bits_tell_is_refused_with_the_remedy(tmp_path):
    run = trainer(tmp_path, callback(probe=4), num_sanity_val_steps=0)
    with pytest.raises(MisconfigurationException, match=r"answers otherwise to their values .*`unpack=`"):
        run.fit(tiny(Otherwise), loader(Bytes()), loader(Bytes(8)))


class OfBatches(Tiny):
    """Its forward takes batches; images are asked for in another way."""

    def forward(self, batch):
        return super().forward(batch[0])

    def of_images(self, images: Tensor) -> Tensor:
        return super().forward(images.float() / 255)


def test_a_module_is_asked_as_forward_says():
    eight_bit = EightBit(lambda module, images: module.of_images(images))
    images, _ = eight_bit.unpacking(tiny(OfBatches), None)((Bytes(2).images, torch.arange(2)))
    assert torch.equal(images, Bytes(2).images.float())


def test_floats_stay_what_they_are_and_nothing_is_known_of_their_range():
    eight_bit, images = EightBit(), torch.rand(2, 3, 4, 4)
    assert eight_bit.unpacking(nn.Identity(), None)((images, torch.arange(2)))[0] is images
    assert eight_bit.normalisation(3) is None


def test_answers_may_stand_in_a_mapping():
    eight_bit = EightBit()
    images, _ = eight_bit.unpacking(tiny(InAMapping).eval(), None)((Bytes(2).images, torch.arange(2)))
    assert torch.equal(images, Bytes(2).images.float())
    assert [entry.tolist() for entry in eight_bit.normalisation(2)] == [[0, 0], [pytest.approx(1 / 255)] * 2]
