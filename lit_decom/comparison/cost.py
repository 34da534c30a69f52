"""What an explanation costs: time, images shown to the network, memory."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lit_decom.evidence import Capture
from lit_decom.methods.base import CAM


@dataclass(frozen=True)
class Timed:
    """Maps and what they cost.

    Attributes:
        maps: ``(B, h, w)``.
        seconds: for all of them.
        forwards: images that the network was shown for them.
    """

    maps: Tensor
    seconds: float
    forwards: int


def timed(method: CAM, capture: Capture) -> Timed:
    """Explain a batch, and say what that took beyond its evidence."""
    seen, begun = capture.network.images_seen, now(capture.images.device)
    maps = method(capture)
    return Timed(maps, now(capture.images.device) - begun, capture.network.images_seen - seen)


def now(device: torch.device) -> float:
    """Read the clock when a device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return perf_counter()


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Measure the most memory that tensors take at once while something runs, beyond what there was.

    On CUDA the allocator knows it. Elsewhere every tensor that an operator returns is followed to its end; what an
    operator needs inside itself is not seen there.

    Args:
        work: what runs; on a CPU several times as long as usual.
        device: that it runs on.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    following = _Following()
    with following:
        work()
    return following.peak


class _Following(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for modes
    """Adds up the storages that operators return, and takes off each one that is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {id(tensor.untyped_storage()) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)}
        found = func(*args, **(kwargs or {}))
        for tensor in tree_iter(found):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                if id(storage) not in self._known | before:
                    self._follow(storage)
        return found

    def _follow(self, storage: torch.UntypedStorage) -> None:
        name, size = id(storage), storage.nbytes()
        self._known.add(name)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self._alive -= size
