"""Keeping random states as they are: the global ones of Python, NumPy and torch, and those that objects hold."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

_DEPTH = 6
_LONG = 100


@contextmanager
def isolated_random_state(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Run a block whose random draws leave no trace.

    Saves the global generators of Python, NumPy, torch and, if ``device`` is a CUDA device, of that device, and
    restores them at the end, also after an exception.

    Args:
        seed: seeds all of them inside the block; None leaves them where they are.
        device: the accelerator that the block draws on.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the global one is the point
    cuda = [device] if device is not None and device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                torch.default_generator.manual_seed(seed)
                for cuda_device in cuda:
                    with torch.cuda.device(cuda_device):
                        torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def rewound_generators(owner: object) -> Iterator[None]:
    """Run a block after which the random generators that an object holds, by its attributes, are where they were.

    Args:
        owner: a loader or a dataset, for instance, whose transforms draw from a generator of their own.
    """
    rewinds = list(_rewinds(owner, _DEPTH, set()))
    try:
        yield
    finally:
        for rewind in rewinds:
            rewind()


def _rewinds(value: Any, depth: int, seen: set[int]) -> Iterator[Callable[[], Any]]:
    """For every generator that can be reached, what puts it back to where it is now."""
    if id(value) in seen or depth == 0:
        return
    seen.add(id(value))
    rewind = _rewind(value)
    if rewind is not None:
        yield rewind
        return
    for inner in _held(value):
        yield from _rewinds(inner, depth - 1, seen)


def _rewind(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        python_state = value.getstate()
        return lambda: value.setstate(python_state)
    if isinstance(value, np.random.RandomState):
        numpy_state = value.get_state()
        return lambda: value.set_state(numpy_state)
    if isinstance(value, np.random.Generator):
        bits, bits_state = value.bit_generator, value.bit_generator.state
        return lambda: setattr(bits, "state", bits_state)
    return None


def _held(value: Any) -> list[Any]:
    """What an object holds that may hold a generator: its attributes, or the entries of a short collection."""
    if isinstance(value, dict | list | tuple | set):
        entries = value.values() if isinstance(value, dict) else value
        return list(entries) if len(value) <= _LONG else []
    if isinstance(value, type | ModuleType | FunctionType | torch.Tensor):
        return []
    return list(vars(value).values()) if hasattr(value, "__dict__") else []
