"""Keeping the global random states of Python, NumPy and torch as they are."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
