"""Promise 1 where modules and parameters have several names: nothing of them is frozen, moved or replaced."""

import pytest
import torch

from lit_decom.evidence import resolve_layer
from tests.helpers.modules import SHARING, Aliased, callback, tiny
from tests.helpers.training import assert_same, train


def values(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("target_layer", ["second", None])
@pytest.mark.parametrize("network", SHARING)
def test_training_is_bit_identical_with_the_callback(tmp_path, network, target_layer):
    observer, module = callback(target_layer=target_layer), tiny(network, freeze_first_norm=True)
    start, held = values(module), dict(module.named_parameters(remove_duplicate=False))
    watched = train(tmp_path / "watched", observer, module=module)
    assert len(observer.run_log.history) == 3
    assert observer.errors == 0
    assert_same(watched, train(tmp_path / "alone", module=tiny(network, freeze_first_norm=True)))
    # The very objects that the optimizer got, at every name, and none of those that train stood still.
    now = dict(module.named_parameters(remove_duplicate=False))
    assert now.keys() == held.keys()
    assert all(now[name] is parameter for name, parameter in held.items())
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in now.values())
    moved = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, start[name])}
    assert {name for name, parameter in held.items() if parameter.requires_grad} <= moved


def test_a_stage_may_be_explained_by_its_second_name(tmp_path):
    observer, module = callback(target_layer="stage"), tiny(Aliased, freeze_first_norm=True)
    watched = train(tmp_path / "watched", observer, module=module)
    assert resolve_layer(module, observer.observer.explainer.target_layer).module is module.second
    assert_same(watched, train(tmp_path / "alone", module=tiny(Aliased, freeze_first_norm=True)))


@pytest.mark.parametrize("network", SHARING)
def test_gradients_in_the_middle_of_an_accumulation_are_left_alone(tmp_path, network):
    arguments = {"accumulate_grad_batches": 4, "val_check_interval": 2, "max_epochs": 1}
    watched = train(tmp_path / "watched", callback(), module=tiny(network, freeze_first_norm=True), **arguments)
    assert_same(watched, train(tmp_path / "alone", module=tiny(network, freeze_first_norm=True), **arguments))
