"""Every registered method can stand beside DecomCAM in a training."""

from lit_decom import METHODS
from lit_decom.metrics import Gini
from tests.helpers.modules import callback, loader, tiny, trainer


def test_every_registered_method_is_scored_beside_the_callbacks_own(tmp_path):
    runs = trainer(tmp_path, callback(metrics=[Gini()], baselines=tuple(METHODS)))
    runs.validate(tiny(), loader(), verbose=False)
    assert {f"decomcam/gini/all/{name}" for name in METHODS} <= set(runs.callback_metrics)
