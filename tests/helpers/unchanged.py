"""What an observer must leave as it was, and a network on which it shows."""

import random

import numpy as np
import torch

from tests.helpers.networks import SmallCNN, seeded


def everything(network):
    """All about a network that an observer might change: tensors by value, ``.grad`` and buffers by identity too."""
    return {
        "state": {name: tensor.clone() for name, tensor in network.state_dict().items()},
        "buffers": {name: id(buffer) for name, buffer in network.named_buffers()},
        "parameters": [[(name, id(held)) for name, held in m._parameters.items()] for m in network.modules()],
        "alive": list(network.parameters()),  # an id that is free again may come back
        "names": [sorted(module._buffers) for module in network.modules()],
        "none": [name for module in network.modules() for name, held in module._buffers.items() if held is None],
        "modes": [module.training for module in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "grads": [id(parameter.grad) for parameter in network.parameters()],
        "grad_values": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()],
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 -- the global one is the point
        "torch": torch.get_rng_state(),
        "precision": torch.get_float32_matmul_precision(),
    }


def assert_unchanged(network, before):
    after = everything(network)
    after.pop("alive")
    torch.testing.assert_close(after.pop("state"), before["state"], rtol=0, atol=0)
    torch.testing.assert_close(after.pop("grad_values"), before["grad_values"], rtol=0, atol=0)
    assert torch.equal(after.pop("torch"), before["torch"])
    assert after == {name: before[name] for name in after}


def half_trained(network_class=SmallCNN):
    """In the middle of accumulating gradients, with a frozen BatchNorm, a frozen weight and one without gradient."""
    network = seeded(network_class()).train()
    network.stage1[1].eval()
    network.stage1[0].weight.requires_grad_(requires_grad=False)
    for row, parameter in enumerate(network.parameters()):
        parameter.grad = None if row == 3 else torch.full_like(parameter, 0.5)
    return network
