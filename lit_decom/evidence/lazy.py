"""Networks with layers that learn their shape from the first images."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_decom.evidence.isolated import copied
from lit_decom.evidence.network import Asked, Forward
from lit_decom.isolation import isolated_random_state


def shaped(model: nn.Module, images: Tensor, forward: Forward | None) -> nn.Module:
    """Give a network whose layers have shapes, to be tried out before the first step of a training.

    Args:
        model: the network, left as it is: which weights it will have is for its training to draw.
        images: ``(B, 3, H, W)``.
        forward: how it is asked, as for :func:`lit_decom.capture`.

    Returns:
        The network itself; where layers have no shape yet, a copy whose layers got theirs from the images.
    """
    if not any(map(is_lazy, model.parameters())):
        return model
    with isolated_random_state(device=images.device), torch.inference_mode(mode=False), torch.no_grad():
        other = copied(model).eval()
        Asked.of(other, forward).run(images.clone())
    return other
