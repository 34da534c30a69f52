"""A network that changes when it is only looked at is refused before the first step."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tests.helpers.modules import callback, fit, tiny
from tests.observer_effect.settings.state import RewritingWeights, Writing


@pytest.mark.parametrize(
    ("network", "change"),
    [
        (Writing, "weights .* have changed since then, by a step of training or in a forward pass"),
        (RewritingWeights, "parameter `head.weight` holds other numbers, though torch counted no write"),
    ],
)
def test_a_network_that_writes_its_weights_when_it_is_looked_at_is_refused(tmp_path, network, change):
    with pytest.raises(MisconfigurationException, match=change) as error:
        fit(tmp_path, callback(), module=tiny(network), num_sanity_val_steps=0)
    assert '`run=Execution(isolate="copy")` explains a copy of it' in str(error.value)
