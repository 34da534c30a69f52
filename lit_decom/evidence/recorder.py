"""The forward pass that is cut at a layer, and the backward pass that ends there."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from lit_decom.evidence.grids import Layout, grids_seen
from lit_decom.evidence.layers import TargetLayer, TargetLayerError, runs_hooks
from lit_decom.evidence.network import Forward, ForwardError, Network
from lit_decom.evidence.outputs import PlacedTensor, first_tensor
from lit_decom.evidence.targets import TargetScore
from lit_decom.functional.base import widened


def record(
    model: nn.Module, layer: TargetLayer, images: Tensor, forward: Forward | None
) -> tuple[Network, "Recorder", Tensor]:
    """Run a model forward and record what one layer returns.

    Args:
        model: the network; inside :func:`observing`.
        layer: the layer.
        images: ``(B, 3, H, W)``.
        forward: how the model is asked, as for :class:`Network`.

    Returns:
        The network as it was run, what recorded, and the logits ``(B, N)`` with the graph from the layer on.
    """
    network, recorder = Network(model, forward, channels_last=True), Recorder(layer)
    try:
        return network, recorder, recorder.run(network, images)
    except ForwardError as error:
        # A forward that calls `.view` on a feature map needs the contiguous layout.
        if not (isinstance(error.__cause__, RuntimeError) and "view" in str(error.__cause__)):
            raise
    network = Network(model, forward, channels_last=False)
    return network, recorder, recorder.run(network, images)


def arranged(recorder: "Recorder", network: Network, images: Tensor) -> Callable[[Tensor], Tensor]:
    """Tell how to bring what the layer returned to ``(B, C, h, w)``.

    Args:
        recorder: what recorded the forward pass.
        network: what ran it.
        images: the images ``(B, 3, H, W)`` that went in.

    Returns:
        The function to be used on the output and on its gradient.
    """
    layer, layout, output, batch = recorder.layer, recorder.layout, recorder.leaf, len(images)
    if batch > 1 and output.ndim == 3 and output.shape[:2] == (batch, batch):
        # As many tokens as images: (B, T, C) or (T, B, C)? One image alone tells.
        alone = Recorder(layer)
        alone.run(network, images[:1])
        if alone.leaf.shape[1] == 1:
            return lambda tokens: layer.to_map(tokens.transpose(0, 1), images, layout)
    return lambda output: layer.to_map(output, images, layout)


class Recorder:
    """A forward hook that cuts the graph at a layer: what follows depends on a leaf, what came before is forgotten.

    Args:
        layer: the layer; :attr:`leaf` is what it returned in the last run, :attr:`placed` the output
            that it was found in, and :attr:`layout` what the forward pass had shown of the feature grid by then.
    """

    def __init__(self, layer: TargetLayer) -> None:
        self.layer = layer
        self.calls = 0
        self.leaf = torch.empty(0)
        self.placed = PlacedTensor(self.leaf, self.leaf)
        self.layout: Layout | None = None
        self._seen: Layout | None = None

    def run(self, network: Network, images: Tensor) -> Tensor:
        """Run a network forward, with the hook in place meanwhile.

        Args:
            network: the network.
            images: ``(B, 3, H, W)``.

        Returns:
            Logits ``(B, N)``.

        Raises:
            TargetLayerError: if the layer is TorchScript, does not run exactly once, or returns no tensor.
            ValueError: if there are not as many logits as images.
        """
        if not runs_hooks(self.layer.module):
            raise TargetLayerError(
                f"Expected `target_layer` {self.layer.name!r} to tell what it returns, but it is TorchScript, which "
                "runs no hooks. Choose a layer around that part or beside it, or explain the network before scripting."
            )
        self.calls = 0
        with grids_seen(network.model) as self._seen:
            handle = self.layer.module.register_forward_hook(self.hook)
            try:
                logits = network(images)
            finally:
                handle.remove()
        if self.calls != 1:
            remedy = (
                "Choose the block around it." if self.calls else "Is it part of the model, and of this forward pass?"
            )
            raise TargetLayerError(
                f"Expected `target_layer` {self.layer.name!r} to run once in a forward pass, but it ran {self.calls} "
                f"times. {remedy}"
            )
        if len(logits) != len(images):
            raise ValueError(f"Expected logits for {len(images)} images, but got {tuple(logits.shape)}.")
        return logits

    def hook(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """Put a leaf in the place of what the layer returned."""
        self.calls += 1
        place = first_tensor(output)
        if place is None:
            raise TargetLayerError(
                f"Expected `target_layer` {self.layer.name!r} to return a tensor, but got {type(output).__name__}."
            )
        self.placed = place
        self.layout = None if self._seen is None else self._seen.until_now()
        with torch.enable_grad():
            # Clones, since in-place operations may follow, on what went into the layer as on what came out of it.
            self.leaf = self.cut(place.tensor)
            return place.replaced(self.leaf.clone())

    def cut(self, tensor: Tensor) -> Tensor:
        """Make what the scores are differentiated with respect to of what the layer returned: here a leaf."""
        return widened(tensor.detach()).clone().requires_grad_()


class RecordingKept(TorchFunctionMode):
    """Keeps autograd recording where a model's forward turns it off, as around a frozen backbone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:  # noqa: SLF001 -- what `no_grad` calls
            args = (True,)
        return func(*args, **(kwargs or {}))


def backward(network: Network, recorder: Recorder, images: Tensor, logits: Tensor, score: TargetScore) -> Tensor | None:
    """Run a model backward from the scores to the layer, as :func:`gradients` does for several scores."""
    return gradients(network, recorder, images, logits, [score])[0]


def gradients(
    network: Network, recorder: Recorder, images: Tensor, logits: Tensor, scores: Sequence[TargetScore]
) -> list[Tensor | None]:
    """Run a model backward to the layer from each of several scores.

    Args:
        network: what ran forward.
        recorder: what recorded the forward pass.
        images: the images ``(B, 3, H, W)`` that went in, for a second forward pass where the first recorded nothing.
        logits: what came out, ``(B, N)``.
        scores: each from logits to the score of every image; one backward pass for each.

    Returns:
        For each score the gradient of every image's score at what the layer returned; None where none arrives.

    Raises:
        TargetLayerError: if the layer is inside a part that is checkpointed.
        ValueError: if a score does not return one score per image.
    """
    try:
        found = _gradients(network, logits, scores, recorder.leaf)
        if all(gradient is None for gradient in found):
            with RecordingKept():
                logits = recorder.run(network, images)
            found = _gradients(network, logits, scores, recorder.leaf)
    except CheckpointError as error:
        raise TargetLayerError(
            f"Expected `target_layer` {recorder.layer.name!r} not to be inside a part that is checkpointed. "
            "Choose the block around it, or turn checkpointing off."
        ) from error
    return found


def _gradients(network: Network, logits: Tensor, scores: Sequence[TargetScore], leaf: Tensor) -> list[Tensor | None]:
    rows = torch.arange(len(logits), device=logits.device)
    values = [score(logits, rows) for score in scores]
    for value in values:
        if value.shape != (len(logits),):
            raise ValueError(f"Expected `targets` to score each of {len(logits)} images, but got {tuple(value.shape)}.")
    # A checkpointed part behind the layer runs again now, and must find the weights that it ran with.
    with network.weights_in_place():
        return [
            torch.autograd.grad(value.sum(), leaf, retain_graph=nth + 1 < len(values), allow_unused=True)[0]
            if value.requires_grad
            else None
            for nth, value in enumerate(values)
        ]
