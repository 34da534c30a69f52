"""Running a network with detached weights in a precision and layout of our own, while the module stays untouched."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_decom.evidence.isolated import COPY_INSTEAD, is_copy
from lit_decom.evidence.layers import TargetLayerError, resolve_submodule
from lit_decom.evidence.room import is_out_of_memory
from lit_decom.evidence.substitution import Slot, slots, substituted
from lit_decom.functional.base import widened
from lit_decom.functional.labels import two_logits

ScoreDtype = Literal["float32", "bfloat16"]
Forward = Callable[[nn.Module, Tensor], Any] | str


class ForwardError(ValueError):
    """A model cannot be asked in this way: it raises on images or returns no logits. The message says what helps."""


class Network:
    """A model with detached weights, so that nothing before the target layer is recorded and the module is untouched.

    Weights of plain convolutions are laid out channels-last, and half-precision weights are widened to float32. Every
    place that holds a parameter gets its replacement, and one parameter has one replacement: weights that several
    modules share, and modules with several names, are run and put back like any other.

    Args:
        model: the network.
        forward: how it is asked: a callable ``(model, images) -> output``, or the name of a submodule that takes
            images; None calls the model. The logits are the output itself, or its attribute or key ``logits``.
        channels_last: whether images and weights are laid out channels-last.

    Attributes:
        images_seen: how many images it has been asked about, each time they are shown.
    """

    def __init__(self, model: nn.Module, forward: Forward | None, *, channels_last: bool) -> None:
        self.model = model
        self.images_seen = 0
        self._asked = Asked.of(model, forward)
        self._answered = False
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._rounded = True
        self._parameters = slots(model, "_parameters")
        self._buffers = [(slot, buffer) for slot, buffer in slots(model, "_buffers") if _usable(buffer) is not buffer]
        self._versions = [_version(parameter) for _, parameter in self._parameters]
        self._weights: dict[ScoreDtype, dict[Tensor, Tensor]] = {}  # by the parameter; a tensor's hash is its identity
        self._is_copy = is_copy(model)
        _keep_freed_memory()

    def __call__(self, images: Tensor, dtype: ScoreDtype = "float32") -> Tensor:
        """Run the model.

        Args:
            images: ``(n, 3, H, W)``; the model gets a copy, which it may change in place.
            dtype: ``"bfloat16"`` runs under autocast.

        Returns:
            Logits ``(n, N)`` in float32 (float64 for a float64 model); one logit per image, ``(n, 1)`` or ``(n,)``, is
            read as those of two classes, see :mod:`lit_decom.functional.labels`.

        Raises:
            ForwardError: if the output holds no such logits, or at the first call anything is raised.
            TargetLayerError: if a hook of ours refuses what a layer returns.
            RuntimeError: if the model was trained on since this network was made.
        """
        self._check_unchanged()
        self.images_seen += len(images)
        try:
            logits = self._run(images, dtype)
        except RuntimeError as error:
            # A forward that leaves autocast for a part of itself brings float32 images to weights rounded beforehand.
            if dtype == "float32" or not self._rounded or is_out_of_memory(error):
                raise
            self._rounded = False
            del self._weights[dtype]
            logits = self._run(images, dtype)
        one_each = isinstance(logits, Tensor) and logits.ndim < 2 and logits.numel() == len(images)
        if not (isinstance(logits, Tensor) and (logits.ndim == 2 or one_each) and logits.is_floating_point()):
            raise ForwardError(
                f"Expected {self._asked.name} to return logits (B, N), but got {_described(logits)}. "
                f"{self._asked.remedy}"
            )
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return two_logits(logits.view(-1, 1)) if one_each or logits.shape[1] == 1 else logits

    def weights_in_place(self, dtype: ScoreDtype = "float32") -> AbstractContextManager[None]:
        """Let the model itself compute with the detached weights while a block runs.

        A backward pass through a checkpointed part needs it: that part runs again then, and must find the same weights.

        Args:
            dtype: as for a call.
        """
        if dtype not in self._weights:
            self._weights[dtype] = self._prepare(dtype)
        weights = self._weights[dtype]
        if self._is_copy:  # asked for where a forward pass writes into weights: each shall find those of the network
            weights = {parameter: weight.clone() for parameter, weight in weights.items()}
        parameters = [(slot, weights[parameter]) for slot, parameter in self._parameters]
        # Made anew each time: what a forward pass writes into a copy of a buffer shall not reach the next one.
        buffers = {buffer: _usable(buffer) for _, buffer in self._buffers}
        return substituted(parameters + [(slot, buffers[buffer]) for slot, buffer in self._buffers])

    def _run(self, images: Tensor, dtype: ScoreDtype) -> Tensor:
        with self.weights_in_place(dtype):
            # Always a copy: forwards that normalise in place would change the caller's images otherwise.
            images = images.to(_input_dtype(self._weights[dtype]), copy=True, memory_format=self._format)
            with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
                logits: Tensor = logits_of(self._ask(images))
                return logits

    def _ask(self, images: Tensor) -> Any:
        """Run the model; what is raised the first time says how the model can be asked otherwise."""
        if self._answered:
            return self._asked.run(images)
        try:
            output = self._asked.run(images)
        except TargetLayerError:  # of our own hooks
            raise
        except Exception as error:
            if is_out_of_memory(error):  # nothing is wrong with the way of asking
                raise
            raise ForwardError(
                f"Expected {self._asked.name} to take images {tuple(images.shape)}, but it raised "
                f"{type(error).__name__}: {str(error).rstrip('.')}. {self._asked.remedy}"
            ) from error
        self._answered = True
        return output

    def _check_unchanged(self) -> None:
        for (slot, parameter), version in zip(self._parameters, self._versions, strict=True):
            if slot.tensor is not parameter or _version(parameter) != version:
                raise RuntimeError(
                    "Expected the model's weights to be those of the capture, but they have changed since then, by a "
                    f"step of training or in a forward pass. If a forward pass writes to them, {COPY_INSTEAD}."
                )

    def _prepare(self, dtype: ScoreDtype) -> dict[Tensor, Tensor]:
        # Rounding what is laid out already takes half the time of doing both again.
        weights = dict(self._weights.get("float32") or self._detached())
        for parameter in _plain_weights(self._parameters):
            weight = weights[parameter]
            weight = weight.contiguous(memory_format=self._format) if weight.ndim == 4 else weight
            weights[parameter] = weight.to(torch.bfloat16) if dtype == "bfloat16" and self._rounded else weight
        return weights

    def _detached(self) -> dict[Tensor, Tensor]:
        return {parameter: _usable(parameter.detach()) for _, parameter in self._parameters}


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep the memory of one forward pass for the next: faulting it in again takes a tenth of it.

    glibc keeps up to twice the largest block of at most 32 MiB that was ever freed. This one is never touched;
    elsewhere it does nothing.
    """
    torch.empty(2**25 - 2**14, dtype=torch.uint8, device="cpu")


def _plain_weights(parameters: list[tuple[Slot, Tensor]]) -> set[Tensor]:
    """Tell which parameters may be laid out and rounded: weights of plain convolutions and linear layers, nothing else.

    Subclasses may do anything with their weight, and so may another module that shares it.
    """
    plain: set[Tensor] = set()
    other: set[Tensor] = set()
    for slot, parameter in parameters:
        is_plain = type(slot.module) in {nn.Conv2d, nn.Linear} and slot.name == "weight"
        (plain if is_plain else other).add(parameter)
    return plain - other


def _usable(tensor: Tensor) -> Tensor:
    """Widen half precision; copy what was made in inference mode, which autograd refuses to save."""
    tensor = widened(tensor)
    return tensor.clone() if tensor.is_inference() else tensor


def _input_dtype(weights: Mapping[Tensor, Tensor]) -> torch.dtype:
    # A single float64 parameter, a temperature for instance, makes no float64 network.
    wide = bool(weights) and all(weight.dtype == torch.float64 for weight in weights.values())
    return torch.float64 if wide else torch.float32


def _version(parameter: Tensor) -> tuple[int, int]:
    """Count of in-place writes, and where the numbers are, since ``parameter.data = other`` counts as no write."""
    # Subclasses, quantised weights for instance, need have no storage of their own.
    address = parameter.data_ptr() if type(parameter) in {Tensor, nn.Parameter} else 0
    return 0 if parameter.is_inference() else parameter._version, address  # noqa: SLF001


def logits_of(output: Any) -> Any:
    """The logits in what a model returned, or all of it where nothing is called so."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    entries = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    return type(output).__name__ + entries


@dataclass(frozen=True)
class Asked:
    """How a model is asked.

    Attributes:
        run: from images to the output.
        name: what runs, for messages.
        model: the model.
    """

    run: Callable[[Tensor], Any]
    name: str
    model: nn.Module

    @classmethod
    def of(cls, model: nn.Module, forward: Forward | None) -> "Asked":
        """Find out how a model is asked: by its forward, a submodule's, or a function of the caller's."""
        owner = type(model).__name__
        if forward is None:
            return cls(model, f"{owner}.forward", model)
        if isinstance(forward, str):
            return cls(resolve_submodule(model, forward, "forward")[1], f"the submodule {forward!r} of {owner}", model)
        return cls(partial(forward, model), f"`forward=` for {owner}", model)

    @property
    def remedy(self) -> str:
        """What the user can do where this way does not work."""
        children = [name for name, child in self.model.named_children() if next(child.parameters(), None) is not None]
        some = ", ".join(map(repr, children[:5]))
        named = f"the name of a submodule that takes images and returns logits (it has {some}), or " if some else ""
        return f"Say how it is asked: `forward=` takes {named}a function `(module, images) -> logits`."
