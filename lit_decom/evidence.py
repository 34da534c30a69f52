"""What one forward and one backward pass leave behind at a layer: the only hooks and the only autograd of the package."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_decom.isolation import isolated_random_state
from lit_decom.models.layers import TargetLayer, TargetLayerError, clean_name, resolve_layer

ScoreDtype = Literal["float32", "bfloat16"]
Targets = Tensor | int | Literal["predicted", "contrast"] | Callable[[Tensor, Tensor], Tensor]
Score = Callable[[Tensor, Tensor], Tensor]
ReadLogits = Callable[[Any], Tensor]


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Look at a model without changing it, in whatever mode it is.

    Inside the block every submodule is in eval mode, gradients are on (also under ``inference_mode`` and ``no_grad``),
    autocast and TF32 are off, compiled submodules run eagerly (hooks never fire on a compiled graph), and parameters
    start with no ``.grad``. At the end, also after an exception, each submodule's own mode, ``requires_grad``, ``.grad``,
    buffers and all global random states are as before. It may be entered again inside itself.

    Args:
        model: the network.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    device = _device_of(model)
    with ExitStack() as stack:
        stack.enter_context(isolated_random_state(device=device))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_full_precision(device))
        stack.enter_context(_eager())
        buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in modules
            for name, buffer in module._buffers.items()  # noqa: SLF001 -- named_buffers hides who owns a buffer
            if buffer is not None
        ]
        try:
            for module in modules:
                module.training = False
            for parameter, _, _ in parameters:
                parameter.grad = None
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
            for module, name, buffer, content in buffers:
                _restore_buffer(module, name, buffer, content)


def _restore_buffer(module: nn.Module, name: str, buffer: Tensor, content: Tensor) -> None:
    module._buffers[name] = buffer  # noqa: SLF001 -- assigning through setattr would run a module's own code
    if not torch.equal(buffer, content):
        with torch.no_grad():
            buffer.copy_(content)


def _eager() -> AbstractContextManager[None]:
    # Nothing can have been compiled before dynamo was imported, which takes seconds.
    compiled = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    # "high" and "medium" mean TF32 on a GPU and bfloat16 on some CPUs: the decomposition would see 10 or 7 bits.
    matmul = torch.get_float32_matmul_precision()
    cudnn = nullcontext()
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
        )
    try:
        if matmul != "highest":
            torch.set_float32_matmul_precision("highest")
        with cudnn:
            yield
    finally:
        if matmul != "highest":
            torch.set_float32_matmul_precision(matmul)


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


class _Network:
    """A model with detached weights, so that nothing before the target layer is recorded and the module is untouched.

    Weights of plain convolutions are laid out channels-last, and half-precision weights are widened to float32.
    """

    def __init__(self, model: nn.Module, read_logits: ReadLogits | None, *, channels_last: bool) -> None:
        self.model = model
        self._read = read_logits or _read_logits
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._weights: dict[ScoreDtype, dict[str, Tensor]] = {}

    def __call__(self, images: Tensor, dtype: ScoreDtype = "float32") -> Tensor:
        """Logits ``(n, N)`` in float32 (float64 for a float64 model) of images ``(n, 3, H, W)``."""
        weights = self._weights.get(dtype) or self._weights.setdefault(dtype, self._prepare(dtype))
        images = images.to(self._input_dtype(weights)).contiguous(memory_format=self._format)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = self._read(functional_call(self.model, weights, (images,)))
        if not (isinstance(logits, Tensor) and logits.ndim == 2 and logits.is_floating_point()):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"Expected the model to return logits (B, N), but got {shape}. Pass `logits=` to read them.")
        return logits if logits.dtype == torch.float64 else logits.float()

    def _prepare(self, dtype: ScoreDtype) -> dict[str, Tensor]:
        weights = {name: _widened(tensor.detach()) for name, tensor in self.model.named_parameters()}
        weights |= {name: _widened(buffer) for name, buffer in self.model.named_buffers() if _is_half(buffer)}
        for prefix, module in self.model.named_modules():
            # Subclasses may do anything with their weight: only the plain ones are laid out and rounded.
            if type(module) in {nn.Conv2d, nn.Linear} and (name := f"{prefix}.weight".lstrip(".")) in weights:
                weight = weights[name].to(torch.bfloat16) if dtype == "bfloat16" else weights[name]
                weights[name] = weight.contiguous(memory_format=self._format) if weight.ndim == 4 else weight
        return weights

    def _input_dtype(self, weights: Mapping[str, Tensor]) -> torch.dtype:
        wide = any(weight.dtype == torch.float64 for weight in weights.values())
        return torch.float64 if wide else torch.float32


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in {torch.float16, torch.bfloat16}


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if _is_half(tensor) else tensor


def _read_logits(output: Any) -> Tensor:
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]  # type: ignore[no-any-return]
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


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
        mean: normalisation of the images ``(C,)``, where known.
        std: normalisation of the images ``(C,)``, where known.
        chunk_size: altered images per forward pass.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor
    activations: Tensor
    gradients: Tensor
    score: Score = field(repr=False)
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
        return self.rescore(rows, lambda part: flat[part]).unflatten(0, (batch, versions))


def capture(
    model: nn.Module,
    layer: TargetLayer | str,
    images: Tensor,
    targets: Targets,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    logits: ReadLogits | None = None,
    chunk_size: int | None = None,
) -> Capture:
    """Run a model forward, and backward as far as one layer.

    The model may be in any mode and under any gradient mode; everything about it is as before afterwards. The graph begins
    at the layer, so a frozen network works like any other, and the backward pass stops there.

    Args:
        model: the network; its forward takes images and returns logits.
        layer: what :func:`lit_decom.find_target_layer` returned, or a name.
        images: ``(B, 3, H, W)``, as the model shall see them.
        targets: what is explained: class indices ``(B,)``, one class for all, ``"predicted"``, ``"contrast"`` (the
            largest logit of the unaltered image less its second largest), or a callable from logits ``(n, N)`` and the
            image ``(n,)`` each comes from to scores ``(n,)``.
        mean: normalisation ``(C,)`` of the images, where known.
        std: normalisation ``(C,)`` of the images, where known.
        logits: reads the logits from the model's output, where it is neither a tensor, nor has an attribute or a key
            ``logits``.
        chunk_size: altered images per forward pass later on; by default about ten of 224 x 224 pixels on a CPU.

    Returns:
        The evidence.

    Raises:
        ValueError: if there is no image, the model returns no logits, or a target is no class of it.
        TargetLayerError: if the layer is unknown, has no feature grid, or the logits do not depend on it.
    """
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(f"Expected `images` to be (B, 3, H, W) with B >= 1, but got {tuple(images.shape)}.")
    model = model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model
    layer = resolve_layer(model, layer) if isinstance(layer, str) else layer
    with observing(model):
        images = images.detach().clone() if images.is_inference() else images.detach()
        network, recorder, out = _forward(model, layer, images, logits)
        bound, score = _bind(targets, out.detach())
        gradient = _gradient(layer, score(out, torch.arange(len(out), device=out.device)), recorder.leaf)
        return Capture(
            images=images,
            targets=bound,
            logits=out.detach(),
            activations=layer.to_map(recorder.leaf.detach(), images),
            gradients=layer.to_map(gradient, images),
            score=score,
            network=network,
            model=model,
            mean=mean,
            std=std,
            chunk_size=chunk_size or _default_chunk(images),
        )


def _forward(
    model: nn.Module, layer: TargetLayer, images: Tensor, read: ReadLogits | None
) -> tuple[_Network, "_Recorder", Tensor]:
    network, recorder = _Network(model, read, channels_last=True), _Recorder(layer)
    try:
        return network, recorder, recorder.run(network, images)
    except RuntimeError as error:
        # A forward that calls `.view` on a feature map needs the contiguous layout.
        if "view" not in str(error):
            raise
    network, recorder = _Network(model, read, channels_last=False), _Recorder(layer)
    return network, recorder, recorder.run(network, images)


class _Recorder:
    """A forward hook that cuts the graph at a layer: what follows depends on a leaf, what came before is forgotten."""

    def __init__(self, layer: TargetLayer) -> None:
        self.layer = layer
        self.calls = 0
        self.leaf = torch.empty(0)

    def run(self, network: _Network, images: Tensor) -> Tensor:
        handle = self.layer.module.register_forward_hook(self)
        try:
            logits = network(images)
        finally:
            handle.remove()
        if self.calls != 1:
            raise TargetLayerError(
                f"Expected `target_layer` {self.layer.name!r} to run once in a forward pass, but it ran {self.calls} "
                "times. Choose the block around it."
            )
        if len(logits) != len(images):
            raise ValueError(f"Expected logits for {len(images)} images, but got {tuple(logits.shape)}.")
        return logits

    def __call__(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        self.calls += 1
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, Tensor):
            raise TargetLayerError(
                f"Expected `target_layer` {self.layer.name!r} to return a tensor, but it returns {type(first).__name__}."
            )
        with torch.enable_grad():
            self.leaf = _widened(first.detach()).requires_grad_()
            # A clone, since an in-place operation may follow.
            shown = self.leaf.clone()
        return shown if first is output else type(output)([shown, *output[1:]])


def _gradient(layer: TargetLayer, scores: Tensor, leaf: Tensor) -> Tensor:
    if scores.requires_grad:
        (gradient,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
        if gradient is not None:
            return gradient
    raise TargetLayerError(
        f"Expected the target score to depend on `target_layer` {layer.name!r}, but no gradient arrives there."
    )


def _bind(targets: Targets, logits: Tensor) -> tuple[Tensor, Score]:
    """Freeze what is explained in each image: a class, a pair of classes, or the caller's own score."""
    batch, n_classes = logits.shape
    if callable(targets) and not isinstance(targets, Tensor):
        return torch.full((batch,), -1, device=logits.device), targets
    if isinstance(targets, str):
        if targets == "contrast" and n_classes > 1:
            first, second = logits.topk(2, dim=1).indices.unbind(1)
            return first, lambda out, rows: _pick(out, first[rows]) - _pick(out, second[rows])
        if targets != "predicted":
            raise ValueError(f"Expected `targets` to be classes, 'predicted' or 'contrast', but got {targets!r}.")
        targets = logits.argmax(dim=1)
    # A clone, since autograd refuses to save a tensor made in inference mode.
    classes = torch.as_tensor(targets, device=logits.device).clone()
    classes = classes.expand(batch) if classes.ndim == 0 else classes
    if classes.shape != (batch,) or classes.is_floating_point():
        raise ValueError(f"Expected `targets` to be ({batch},) class indices, but got {tuple(classes.shape)}.")
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(
            f"Expected `targets` to be between 0 and {n_classes - 1}, but got "
            f"{int(classes.min())} to {int(classes.max())}."
        )
    return classes, lambda out, rows: _pick(out, classes[rows])


def _pick(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None].long()).squeeze(1)


def _default_chunk(images: Tensor) -> int:
    """About ten images of 224 x 224 on a CPU (larger tensors outgrow its allocator), and many on an accelerator."""
    pixels = images.shape[-2] * images.shape[-1]
    most, at_224 = (40, 10) if images.device.type == "cpu" else (1024, 128)
    return max(1, min(most, round(at_224 * 224 * 224 / pixels)))


def feature_grids(model: nn.Module, images: Tensor, logits: ReadLogits | None = None) -> dict[str, tuple[int, int]]:
    """Tell which submodules run once per forward pass and return a feature grid, in the order in which they finish.

    Args:
        model: the network.
        images: ``(B, 3, H, W)``.
        logits: as for :func:`capture`.

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
            _Network(model, logits, channels_last=False)(images)
        finally:
            for handle in handles:
                handle.remove()
    return {name: grid for name, grid in grids.items() if calls[name] == 1}
