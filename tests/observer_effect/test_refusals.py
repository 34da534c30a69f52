"""A network that changes when it is only looked at is refused before the first step."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.helpers.modules import Tiny, callback, fit, tiny


class Writing(Tiny):
    """Writes to a weight in every forward pass."""

    def forward(self, images):
        with torch.no_grad():
            self.head.bias.add_(1e-3)
        return super().forward(images)


class Hooking(Tiny):
    """Registers a hook in its forward pass."""

    def forward(self, images):
        self.head.register_forward_hook(lambda *_: None)
        return super().forward(images)


class Growing(Tiny):
    """Gets a submodule in its first forward pass, too late for the optimizer."""

    def forward(self, images):
        if not hasattr(self, "extra"):
            self.extra = nn.Linear(1, 1)
        return super().forward(images)


@pytest.mark.parametrize(
    ("network", "change"),
    [
        (Writing, "weights .* have changed since then, by a step of training or in a forward pass"),
        (Hooking, r"submodule `head` has other hooks"),
        (Growing, r"submodule `extra` is new"),
    ],
)
def test_a_network_that_changes_when_it_is_looked_at_is_refused(tmp_path, network, change):
    with pytest.raises(MisconfigurationException, match=change):
        fit(tmp_path, callback(), module=tiny(network), num_sanity_val_steps=0)
