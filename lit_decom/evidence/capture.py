"""What one forward and one backward pass leave behind at a layer: all hooks and all autograd of the package."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from lit_decom.evidence.layers import TargetLayer, TargetLayerError, clean_name, resolve_layer
from lit_decom.evidence.network import Network, ReadLogits, ScoreDtype
from lit_decom.evidence.observing import observing
from lit_decom.evidence.targets import Targets, TargetScore, bind
from lit_decom.functional.base import widened

__all__ = [
    "Capture",
    "ReadLogits",
    "ScoreDtype",
    "Targets",
    "capture",
    "depends_on",
    "feature_grids",
    "observing",
]


@dataclass(frozen=True)
class Capture:
    """What one forward and one backward pass leave behind at one layer; it serves every explanation method.

    Attributes:
        images: ``(B, 3, H, W)``, as the model saw them.
        targets: ``(B,)``, the class explained; -1 where a callable scores the image.
        logits: ``(B, N)``.
        activations: ``(B, C, h, w)``, float32 or better.
        gradients: ``(B, C, h, w)``, of each image's target score.
        score: altered logits ``(n, N)`` and the image ``(n,)`` each comes from, to target scores ``(n,)``.
        network: altered images ``(n, 3, H, W)`` to logits ``(n, N)``, with the weights of the model at the capture.
        model: the model.
        mean: normalisation of the images ``(C,)``, where known.
        std: normalisation of the images ``(C,)``, where known.
        chunk_size: altered images per forward pass.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor
    activations: Tensor
    gradients: Tensor
    score: TargetScore = field(repr=False)
    network: Callable[[Tensor, ScoreDtype], Tensor] = field(repr=False)
    model: nn.Module = field(repr=False)
    mean: Tensor | None = None
    std: Tensor | None = None
    chunk_size: int = 10

    def rescore(self, rows: Tensor, alter: Callable[[slice], Tensor], dtype: ScoreDtype = "float32") -> Tensor:
        """Run the model on altered images that are made only when their chunk is due.

        Args:
            rows: the image ``(n,)`` that each altered one comes from; its length says how many there are.
            alter: from a slice of ``rows`` to those altered images ``(m, 3, H, W)``.
            dtype: ``"bfloat16"`` runs these forwards, and nothing else, under autocast.

        Returns:
            Logits ``(n, N)``, without gradients; no hook of ours is on the model.

        Raises:
            RuntimeError: if the model's weights have changed since the capture.
        """
        parts = [self.logits.new_zeros(0, self.logits.shape[1])]
        with observing(self.model), torch.no_grad():
            for start in range(0, len(rows), self.chunk_size):
                parts.append(self.network(alter(slice(start, start + self.chunk_size)), dtype))  # noqa: PERF401
        return torch.cat(parts)

    def relogits(self, altered: Tensor) -> Tensor:
        """Run the model on ``M`` altered versions of every image.

        Args:
            altered: ``(B, M, 3, H, W)``.

        Returns:
            Logits ``(B, M, N)``, without gradients.
        """
        batch, versions = altered.shape[:2]
        flat = altered.flatten(0, 1)
        rows = torch.arange(batch, device=altered.device).repeat_interleave(versions)
        return self.rescore(rows, lambda part: flat[part]).view(batch, versions, -1)


def capture(
    model: nn.Module,
    layer: TargetLayer | str,
    images: Tensor,
    targets: Targets,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    read_logits: ReadLogits | None = None,
    chunk_size: int | None = None,
) -> Capture:
    """Run a model forward, and backward as far as one layer.

    The model may be in any mode and under any gradient mode; everything about it is as before afterwards. The graph
    begins at the layer, so a frozen network works like any other, and the backward pass stops there.

    Args:
        model: the network; its forward takes images and returns logits.
        layer: what :func:`lit_decom.find_target_layer` returned, or a name.
        images: ``(B, 3, H, W)``, as the model shall see them.
        targets: what is explained: class indices ``(B,)``, one class for all, ``"predicted"``, ``"contrast"`` (the
            largest logit of the unaltered image less its second largest), or a callable from logits ``(n, N)`` and the
            image ``(n,)`` each comes from to scores ``(n,)``.
        mean: normalisation ``(3,)`` of the images, where known.
        std: normalisation ``(3,)`` of the images, where known.
        read_logits: reads the logits from the model's output, where it is neither a tensor nor has ``logits`` as
            attribute or key.
        chunk_size: altered images per forward pass later on; by default eight of 224 x 224 pixels on a CPU.

    Returns:
        The evidence.

    Raises:
        ValueError: if there is no image, the model returns no logits, or a target is no class of it.
        TargetLayerError: if the layer is unknown, has no feature grid, or the logits do not depend on it.
    """
    images = _checked(images)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"Expected `chunk_size` to be at least 1, but got {chunk_size}.")
    model = model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model
    layer = resolve_layer(model, layer) if isinstance(layer, str) else layer
    with observing(model):
        # A clone, since autograd refuses to save a tensor made in inference mode.
        images = images.detach().clone() if images.is_inference() else images.detach()
        network, recorder, out = _forward(model, layer, images, read_logits)
        # A float64 network saw them widened.
        images = images.to(out.dtype)
        to_map = _arranged(layer, network, recorder.leaf, images)
        activations = to_map(recorder.leaf.detach())
        bound, score = bind(targets, out.detach())
        gradient = _backward(network, recorder, images, out, score)
        if gradient is None:
            raise TargetLayerError(
                f"Expected the target score to depend on `target_layer` {layer.name!r}, but no gradient arrives there."
            )
        return Capture(
            images=images,
            targets=bound,
            logits=out.detach(),
            activations=activations,
            gradients=to_map(gradient),
            score=score,
            network=network,
            model=model,
            mean=_per_channel("mean", mean, images),
            std=_per_channel("std", std, images),
            chunk_size=chunk_size or _default_chunk(images),
        )


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(f"Expected `images` to be (B, 3, H, W) with B >= 1, but got {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise ValueError(f"Expected `images` to be as the model sees them, floating point, but got {images.dtype}.")
    return widened(images)


def _per_channel(name: str, values: Tensor | Sequence[float] | None, images: Tensor) -> Tensor | None:
    if values is None:
        return None
    values = torch.as_tensor(values, dtype=images.dtype, device=images.device)
    if values.shape != (images.shape[1],):
        raise ValueError(f"Expected `{name}` to be ({images.shape[1]},), but got {tuple(values.shape)}.")
    return values


def _forward(
    model: nn.Module, layer: TargetLayer, images: Tensor, read: ReadLogits | None, *, perturbed: bool = False
) -> tuple[Network, "_Recorder", Tensor]:
    network, recorder = Network(model, read, channels_last=True, perturbed=perturbed), _Recorder(layer)
    try:
        return network, recorder, recorder.run(network, images)
    except RuntimeError as error:
        # A forward that calls `.view` on a feature map needs the contiguous layout.
        if "view" not in str(error):
            raise
    network = Network(model, read, channels_last=False, perturbed=perturbed)
    return network, recorder, recorder.run(network, images)


def _arranged(layer: TargetLayer, network: Network, output: Tensor, images: Tensor) -> Callable[[Tensor], Tensor]:
    """How to bring what the layer returned to ``(B, C, h, w)``."""
    batch = len(images)
    if batch > 1 and output.ndim == 3 and output.shape[:2] == (batch, batch):
        # As many tokens as images: (B, T, C) or (T, B, C)? One image alone tells.
        alone = _Recorder(layer)
        alone.run(network, images[:1])
        if alone.leaf.shape[1] == 1:
            return lambda tokens: layer.to_map(tokens.transpose(0, 1), images)
    return lambda tokens: layer.to_map(tokens, images)


class _RecordingKept(TorchFunctionMode):
    """Keeps autograd recording where a model's forward turns it off, as around a frozen backbone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:  # noqa: SLF001 -- what `no_grad` calls
            args = (True,)
        return func(*args, **(kwargs or {}))


class _Recorder:
    """A forward hook that cuts the graph at a layer: what follows depends on a leaf, what came before is forgotten."""

    def __init__(self, layer: TargetLayer) -> None:
        self.layer = layer
        self.calls = 0
        self.leaf = torch.empty(0)

    def run(self, network: Network, images: Tensor) -> Tensor:
        self.calls = 0
        handle = self.layer.module.register_forward_hook(self)
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

    def __call__(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        self.calls += 1
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, Tensor):
            raise TargetLayerError(
                f"Expected `target_layer` {self.layer.name!r} to return a tensor, but got {type(first).__name__}."
            )
        with torch.enable_grad():
            # Clones, since in-place operations may follow, on what went into the layer as on what came out of it.
            self.leaf = widened(first.detach()).clone().requires_grad_()
            shown = self.leaf.clone()
        if first is output:
            return shown
        rest = [shown, *output[1:]]
        return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)


def _backward(
    network: Network, recorder: _Recorder, images: Tensor, logits: Tensor, score: TargetScore
) -> Tensor | None:
    """Gradient of every image's score at the layer; None where none arrives."""
    try:
        gradient = _gradient(logits, score, recorder.leaf)
        if gradient is None:
            with _RecordingKept():
                logits = recorder.run(network, images)
            gradient = _gradient(logits, score, recorder.leaf)
    except CheckpointError as error:
        raise TargetLayerError(
            f"Expected `target_layer` {recorder.layer.name!r} not to be inside a part that is checkpointed. "
            "Choose the block around it, or turn checkpointing off."
        ) from error
    return gradient


def _gradient(logits: Tensor, score: TargetScore, leaf: Tensor) -> Tensor | None:
    scores = score(logits, torch.arange(len(logits), device=logits.device))
    if scores.shape != (len(logits),):
        raise ValueError(f"Expected `targets` to score each of {len(logits)} images, but got {tuple(scores.shape)}.")
    return torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None


def _default_chunk(images: Tensor) -> int:
    """Eight images of 224 x 224 on a CPU (larger tensors outgrow its allocator), and many on an accelerator."""
    pixels = images.shape[-2] * images.shape[-1]
    most, at_224 = (100, 8) if images.device.type == "cpu" else (1024, 128)
    return max(1, min(most, round(at_224 * 224 * 224 / pixels)))


def feature_grids(
    model: nn.Module, images: Tensor, read_logits: ReadLogits | None = None
) -> dict[str, tuple[int, int]]:
    """Tell which submodules run once per forward pass and return a feature grid, in the order in which they finish.

    Args:
        model: the network.
        images: ``(B, 3, H, W)``.
        read_logits: as for :func:`capture`.

    Returns:
        Grid ``(h, w)`` of each, by name.
    """
    grids: dict[str, tuple[int, int]] = {}
    calls: dict[str, int] = {}
    handles = []

    def note(layer: TargetLayer) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            calls[layer.name] = calls.get(layer.name, 0) + 1
            first = output[0] if isinstance(output, tuple | list) and output else output
            try:
                shape = layer.to_map(first, images).shape if isinstance(first, Tensor) else None
            except TargetLayerError:
                return
            if shape is not None:
                grids[layer.name] = (shape[-2], shape[-1])

        return hook

    with observing(model), torch.no_grad():
        try:
            for name, module in model.named_modules():
                if name:
                    handles.append(module.register_forward_hook(note(TargetLayer(clean_name(name), module))))
            Network(model, read_logits, channels_last=False)(images)
        finally:
            for handle in handles:
                handle.remove()
    return {name: grid for name, grid in grids.items() if calls[name] == 1}


def depends_on(model: nn.Module, layer: TargetLayer, images: Tensor, read_logits: ReadLogits | None = None) -> bool:
    """Tell whether the logits can depend on the positions of a layer.

    Weights that are all zero, as of a head that was not trained yet, are looked through.

    Args:
        model: the network.
        layer: the layer.
        images: ``(B, 3, H, W)``.
        read_logits: as for :func:`capture`.

    Returns:
        Whether any gradient arrives at a position of the feature grid.
    """
    with observing(model):
        network, recorder, out = _forward(model, layer, images, read_logits, perturbed=True)
        gradient = _backward(network, recorder, images, out, lambda out, _: out.square().sum(dim=1))
        return gradient is not None and bool((layer.to_map(gradient, images) != 0).any())
