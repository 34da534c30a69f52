"""Evidence and maps that a loss can be made of: the same arithmetic as of a capture, on live weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lit_decom.evidence.capture import Capture
from lit_decom.evidence.layers import TargetLayer, TargetLayerError, resolve_layer
from lit_decom.evidence.network import Forward, Network, ScoreDtype, logits_of
from lit_decom.evidence.recorder import Recorder
from lit_decom.evidence.targets import Targets, bind


def differentiable_evidence(
    model: nn.Module,
    layer: TargetLayer | str,
    images: Tensor,
    targets: Targets,
    *,
    forward: Forward | None = None,
) -> Capture:
    """Run a model forward, and backward as far as one layer, with everything in autograd's graph.

    :func:`capture` freezes what it finds: nothing made of it reaches the weights. Here the model runs as it is, outside
    :func:`observing`: in its own mode and precision, with its own weights and random draws, and in training mode it is
    a forward pass like any other, which moves BatchNorm's statistics. The images of a batch see each other there, and
    the gradient is that of all their scores together. Attention runs by the kernel that can be differentiated twice.

    Args:
        model: the network, in the mode in which it trains.
        layer: as for :func:`capture`.
        images: ``(B, 3, H, W)``, in the model's own precision and on its device.
        targets: as for :func:`capture`; classes are chosen on detached logits.
        forward: as for :func:`capture`.

    Returns:
        The evidence; its ``logits``, ``activations`` and ``gradients`` have a graph to the weights (and to the images,
        where these ask for one), so that one forward pass serves all terms of a loss.

    Raises:
        ForwardError: if the model raises on the images or returns no logits; it is a ValueError.
        RuntimeError: if gradients are off.
        TargetLayerError: if the layer is unknown, runs more or less than once, has no feature grid, or the score does
            not depend on it.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError("Expected gradients to be on, but they are off, as under `no_grad` and in validation.")
    layer = resolve_layer(model, layer) if isinstance(layer, str) else layer
    network, recorder = _Live(model, forward, channels_last=False), _LiveRecorder(layer)
    logits = recorder.run(network, images)
    classes, score = bind(targets, logits.detach())
    scores = score(logits, torch.arange(len(images), device=logits.device))
    gradient = None
    if scores.requires_grad:
        (gradient,) = torch.autograd.grad(scores.sum(), recorder.leaf, create_graph=True, allow_unused=True)
    if gradient is None:
        raise TargetLayerError(
            f"Expected the target score to depend on `target_layer` {layer.name!r}, but no gradient arrives there."
        )
    activations, gradients = (layer.to_map(each, images, recorder.layout) for each in (recorder.leaf, gradient))
    return Capture(
        images=images,
        targets=classes,
        logits=logits,
        activations=activations,
        gradients=gradients,
        score=score,
        network=network,
        model=model,
        layer=layer,
    )


def differentiable_map(
    model: nn.Module,
    layer: TargetLayer | str,
    images: Tensor,
    targets: Targets,
    method: Callable[[Capture], Tensor],
    *,
    forward: Forward | None = None,
) -> Tensor:
    """Explain images such that a loss of their maps trains the network, as in guided attention (Li et al. 2018).

    In eval mode the values are those of ``method(capture(...))``. One forward pass and one backward pass as far as the
    layer; differentiating the loss goes through both. See :func:`differentiable_evidence`, whose arguments it takes.

    Args:
        model: the network, in the mode in which it trains.
        layer: as for :func:`capture`.
        images: ``(B, 3, H, W)``, in the model's own precision and on its device.
        targets: as for :func:`capture`.
        method: a method that works from activations and gradients alone, such as ``GradCAM()``; not one that shows the
            model altered images, as ``DecomCAM()`` does.
        forward: as for :func:`capture`.

    Returns:
        Maps ``(B, h, w)`` with a graph to the weights. No gradient flows from where a rectified map is 0.

    Raises:
        ValueError: if the method gives maps without a graph; and as for :func:`differentiable_evidence`.

    Example:
        >>> from lit_decom.methods import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> maps = differentiable_map(model, "1", torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), GradCAM())
        >>> maps.shape, maps.requires_grad
        (torch.Size([2, 6, 6]), True)
    """
    maps = method(differentiable_evidence(model, layer, images, targets, forward=forward))
    if not maps.requires_grad:
        raise ValueError(f"Expected `method` to keep the graph from the weights to its maps, but {method!r} does not.")
    return maps


class _Live(Network):
    """A model with its own weights, whatever becomes of them."""

    def _run(self, images: Tensor, _dtype: ScoreDtype) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            logits: Tensor = logits_of(self._ask(images.clone()))  # which a forward may change in place
            return logits

    def _check_unchanged(self) -> None:
        pass


class _LiveRecorder(Recorder):
    """A forward hook that cuts nothing: the scores are differentiated at the layer, and the graph goes on below it."""

    def cut(self, tensor: Tensor) -> Tensor:
        """Keep the graph; of a frozen backbone, which has none, begin one."""
        return tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
