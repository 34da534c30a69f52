"""Running a network with detached weights in a precision and layout of our own, while the module stays untouched."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_decom.functional.base import widened

ScoreDtype = Literal["float32", "bfloat16"]
ReadLogits = Callable[[Any], Tensor]


class Network:
    """A model with detached weights, so that nothing before the target layer is recorded and the module is untouched.

    Weights of plain convolutions are laid out channels-last, and half-precision weights are widened to float32.

    Args:
        model: the network.
        read_logits: reads the logits from its output; by default the output itself, its attribute or key ``logits``.
        channels_last: whether images and weights are laid out channels-last.
        perturbed: whether weights that are all zero are replaced by noise, to see what the output can depend on at all.
    """

    def __init__(
        self, model: nn.Module, read_logits: ReadLogits | None, *, channels_last: bool, perturbed: bool = False
    ) -> None:
        self.model = model
        self._read = read_logits or _read_logits
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._perturbed = perturbed
        self._rounded = True
        self._weights: dict[ScoreDtype, dict[str, Tensor]] = {}
        self._versions = _versions(model)
        _keep_freed_memory()

    def __call__(self, images: Tensor, dtype: ScoreDtype = "float32") -> Tensor:
        """Run the model.

        Args:
            images: ``(n, 3, H, W)``.
            dtype: ``"bfloat16"`` runs under autocast.

        Returns:
            Logits ``(n, N)`` in float32 (float64 for a float64 model).

        Raises:
            ValueError: if the output holds no such logits.
            RuntimeError: if the model was trained on since this network was made.
        """
        if _versions(self.model) != self._versions:
            raise RuntimeError(
                "Expected the model's weights to be those of the capture, but they have changed since then."
            )
        try:
            logits = self._run(images, dtype)
        except RuntimeError:
            # A forward that leaves autocast for a part of itself brings float32 images to weights rounded beforehand.
            if dtype == "float32" or not self._rounded:
                raise
            self._rounded = False
            del self._weights[dtype]
            logits = self._run(images, dtype)
        if not (isinstance(logits, Tensor) and logits.ndim == 2 and logits.is_floating_point()):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"Expected the model to return logits (B, N), but got {shape}. Pass `read_logits=` to read them."
            )
        return logits if logits.dtype == torch.float64 else logits.float()

    def _run(self, images: Tensor, dtype: ScoreDtype) -> Tensor:
        if dtype not in self._weights:
            self._weights[dtype] = self._prepare(dtype)
        weights = self._weights[dtype]
        images = images.to(_input_dtype(weights)).contiguous(memory_format=self._format)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            return self._read(functional_call(self.model, weights, (images,)))

    def _prepare(self, dtype: ScoreDtype) -> dict[str, Tensor]:
        # Rounding what is laid out already takes half the time of doing both again.
        weights = dict(self._weights.get("float32") or self._detached())
        for prefix, module in self.model.named_modules():
            # Subclasses may do anything with their weight: only the plain ones are laid out and rounded.
            if type(module) in {nn.Conv2d, nn.Linear} and (name := f"{prefix}.weight".lstrip(".")) in weights:
                weight = weights[name]
                weight = weight.contiguous(memory_format=self._format) if weight.ndim == 4 else weight
                weights[name] = weight.to(torch.bfloat16) if dtype == "bfloat16" and self._rounded else weight
        return {name: _perturbed(weight) for name, weight in weights.items()} if self._perturbed else weights

    def _detached(self) -> dict[str, Tensor]:
        weights = {name: _usable(weight) for name, weight in self.model.named_parameters()}
        return weights | {
            name: _usable(buffer)
            for name, buffer in self.model.named_buffers()
            if buffer.is_inference() or widened(buffer) is not buffer
        }


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep the memory of one forward pass for the next: faulting it in again takes a tenth of it.

    glibc keeps up to twice the largest block of at most 32 MiB that was ever freed. This one is never touched;
    elsewhere it does nothing.
    """
    torch.empty(2**25 - 2**14, dtype=torch.uint8, device="cpu")


def _usable(tensor: Tensor) -> Tensor:
    # Autograd refuses to save what was made in inference mode.
    tensor = widened(tensor.detach())
    return tensor.clone() if tensor.is_inference() else tensor


def _input_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    # A single float64 parameter, a temperature for instance, makes no float64 network.
    wide = bool(weights) and all(weight.dtype == torch.float64 for weight in weights.values())
    return torch.float64 if wide else torch.float32


def _perturbed(weight: Tensor) -> Tensor:
    if weight.ndim < 2 or weight.any():
        return weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
    return noise.to(weight.device)


def _versions(model: nn.Module) -> list[int]:
    return [0 if weight.is_inference() else weight._version for weight in model.parameters()]  # noqa: SLF001


def _read_logits(output: Any) -> Tensor:
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]  # type: ignore[no-any-return]
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)
