"""Every kind of change of a model is found and named, and looking at a model is none."""

import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, capture, find_target_layer
from lit_decom.evidence import ModelChangedError, fingerprint, refuse_changes
from tests.helpers.networks import Counting, SmallCNN, noise_images, seeded
from tests.helpers.unchanged import half_trained


class Sharing(SmallCNN):
    """A second name for a stage and a parameter, a buffer that is NaN, and places that are empty."""

    def __init__(self):
        super().__init__()
        self.stage = self.stage2
        self.same_bias = self.head.bias
        self.register_buffer("mask", torch.tensor([1.0, float("nan"), 3.0]))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("later", None)
        self.register_parameter("empty", None)


def model():
    return half_trained(Sharing)


def test_a_model_that_was_only_looked_at_is_the_same():
    network, images = model(), noise_images()
    before = fingerprint(network)
    find_target_layer(network, images=images)
    DecomCAM(n_components=2).decompose(capture(network, "stage2", images, "predicted"))
    assert before.differences(network) == []
    with torch.inference_mode():
        assert before.differences(network) == []
    with refuse_changes(network):
        capture(network, "stage", images, "predicted")


def test_a_model_made_under_inference_mode_has_a_fingerprint():
    with torch.inference_mode():
        network = seeded(Counting())
    before = fingerprint(network)
    assert before.differences(network) == []
    network.head.requires_grad_(requires_grad=False)
    assert len(before.differences(network)) == 2


def another_parameter(network):
    network.head.weight = nn.Parameter(network.head.weight.detach().clone())


def a_plain_tensor(network):
    network.stage2[0]._parameters["weight"] = network.stage2[0].weight.detach()


def a_second_name_less(network):
    network.same_bias = nn.Parameter(network.same_bias.detach().clone())


def a_step(network):
    with torch.no_grad():
        network.stage1[0].bias += 1


def a_frozen_parameter(network):
    network.stage2[1].weight.requires_grad_(requires_grad=False)


def another_gradient(network):
    network.head.weight.grad = network.head.weight.grad.clone()


def a_gradient_less(network):
    network.head.weight.grad = None


def an_accumulated_gradient(network):
    network.head.weight.grad += 1


def a_new_parameter(network):
    network.head.register_parameter("extra", nn.Parameter(torch.zeros(2)))


def a_parameter_less(network):
    del network.head.bias


def a_filled_place(network):
    network.empty = nn.Parameter(torch.zeros(2))


def statistics(network):
    network.stage2[1].running_mean[3] += 1e-6


def a_nan_less(network):
    network.mask[1] = 0


def a_flag(network):
    network.flags[1] = True


def an_assigned_buffer(network):
    network.stage1[1].running_var = network.stage1[1].running_var.clone()


def a_late_buffer(network):
    network.later = torch.zeros(2)


def a_new_buffer(network):
    network.head.register_buffer("count", torch.zeros(()))


def eval_mode(network):
    network.stage2[1].eval()


def an_unfrozen_norm(network):
    network.stage1[1].train()


def a_forward_hook(network):
    network.stage2.register_forward_hook(lambda *_: None)


def a_backward_hook(network):
    network.stage2.register_full_backward_hook(lambda *_: None)


def a_pre_hook(network):
    network.register_forward_pre_hook(lambda *_: None)


def another_submodule(network):
    network.stage1[2] = nn.ReLU()


def a_second_name_for_another(network):
    network.stage = network.stage1


def a_new_submodule(network):
    network.extra = nn.Identity()


def a_submodule_less(network):
    del network.dropout


CHANGES = {
    another_parameter: ["parameter `head.weight` is another object: a Parameter stands there."],
    a_plain_tensor: ["parameter `stage2.0.weight` is another object: a Tensor stands there."],
    a_second_name_less: ["parameter `same_bias` is another object: a Parameter stands there."],
    a_step: ["parameter `stage1.0.bias` was written to."],
    a_frozen_parameter: ["parameter `stage2.1.weight` has `requires_grad=False`; it had `requires_grad=True`."],
    another_gradient: ["parameter `head.weight` has another `.grad`."],
    a_gradient_less: ["parameter `head.weight` has another `.grad`."],
    an_accumulated_gradient: ["the `.grad` of parameter `head.weight` was written to."],
    a_new_parameter: ["parameter `head.extra` is new."],
    a_parameter_less: ["parameter `head.bias` is gone."],
    a_filled_place: ["parameter `empty` is another object: a Parameter stands there."],
    statistics: ["buffer `stage2.1.running_mean` holds other numbers."],
    a_nan_less: ["buffer `mask` holds other numbers."],
    a_flag: ["buffer `flags` holds other numbers."],
    an_assigned_buffer: ["buffer `stage1.1.running_var` is another object."],
    a_late_buffer: ["buffer `later` is another object."],
    a_new_buffer: ["buffer `head.count` is new."],
    eval_mode: ["submodule `stage2.1` is in eval mode; it was in training mode."],
    an_unfrozen_norm: ["submodule `stage1.1` is in training mode; it was in eval mode."],
    a_forward_hook: ["submodule `stage2` has other hooks in `_forward_hooks`: 1; it had 0."],
    a_backward_hook: ["submodule `stage2` has other hooks in `_backward_hooks`: 1; it had 0."],
    a_pre_hook: ["submodule `model` itself has other hooks in `_forward_pre_hooks`: 1; it had 0."],
    another_submodule: ["`stage1.2` is another submodule.", "submodule `stage1.2` is another object."],
    a_second_name_for_another: ["`stage` is another submodule."],
    a_new_submodule: ["submodule `extra` is new.", "`extra` is another submodule."],
    a_submodule_less: ["submodule `dropout` is gone.", "`dropout` is another submodule."],
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_kind_of_change_is_named_and_refused(change):
    network = model()
    before = fingerprint(network)
    change(network)
    assert before.differences(network) == CHANGES[change]
    network = model()
    with pytest.raises(ModelChangedError) as error, refuse_changes(network):
        change(network)
    assert all(sentence in str(error.value) for sentence in CHANGES[change])
    assert "`if self.training:`" in str(error.value)
    assert isinstance(error.value, ValueError)


def test_a_hook_replaced_by_another_is_a_change():
    network = model()
    handle = network.head.register_forward_hook(lambda *_: None)
    before = fingerprint(network)
    handle.remove()
    network.head.register_forward_hook(lambda *_: None)
    assert before.differences(network) == ["submodule `head` has other hooks in `_forward_hooks`: 1; it had 1."]


def test_many_changes_are_all_found_and_ten_are_shown():
    network = model()
    before = fingerprint(network)
    network.requires_grad_(requires_grad=False).eval()
    # One weight was frozen before, and the four parameters of the stage with two names count once.
    changed = [f for f in before.differences(network) if "requires_grad" in f]
    assert len(changed) == len(list(network.named_parameters(remove_duplicate=False))) - 1 - 4
    network = model()
    with pytest.raises(ModelChangedError, match=r"\.\.\. and \d+ more\n"), refuse_changes(network):
        network.requires_grad_(requires_grad=False).eval()


def test_an_exception_of_the_block_goes_first():
    network = model()
    with pytest.raises(IndexError), refuse_changes(network):
        network.eval().stage1[7]
