"""The network work that nobody can avoid, with everything around it left out."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_decom.evidence import ScoreDtype

from .subject import Subject


def make_floor(subject: Subject, further: int, chunk: int, dtype: ScoreDtype) -> Callable[[], Tensor]:
    """A forward pass, a backward pass as far as the target layer, and more forwards without gradients.

    Weights are laid out channels-last and rounded beforehand, there is no graph before the layer nor in the further
    forwards, and those show the same ready chunk of images to the network again and again.

    Args:
        subject: model and images.
        further: how many altered images go through the network.
        chunk: how many of them at once.
        dtype: of the further forwards.
    """
    exact = _channels_last(subject.model)
    scorer = _rounded(exact) if dtype == "bfloat16" else exact
    layer = exact.get_submodule(subject.layer)
    images = subject.images.contiguous(memory_format=torch.channels_last)
    ready = images.repeat(-(-chunk // len(images)), 1, 1, 1)[:chunk].contiguous(memory_format=torch.channels_last)
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()

    def run() -> Tensor:
        leaves.clear()
        handle = layer.register_forward_hook(cut)
        scores = exact(images).gather(1, subject.targets[:, None])
        handle.remove()
        torch.autograd.grad(scores.sum(), leaves[0])
        left = further
        with torch.no_grad(), torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            while left > 0:
                logits: Tensor = scorer(ready[: min(left, chunk)])
                left -= chunk
        return logits

    return run


def _channels_last(model: nn.Module) -> nn.Module:
    # Detached weights: no graph exists before the layer.
    return copy.deepcopy(model).requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)


def _rounded(model: nn.Module) -> nn.Module:
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if type(module) in {nn.Conv2d, nn.Linear}:
            module.weight.data = module.weight.data.bfloat16()
    return rounded
