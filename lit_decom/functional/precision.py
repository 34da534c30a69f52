"""Multiplying float32 as float32, whatever precision is allowed around it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 as float32: TF32 on a GPU and bfloat16 on some CPUs keep 10 and 7 bits."""
    if not hasattr(torch.backends, "fp32_precision"):
        yield from _before_torch_2_9(device)
        return
    backends: Any = torch.backends
    if device.type == "cuda":
        operators = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    else:
        operators = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    before = [operator.fp32_precision for operator in operators]
    benchmark, deterministic = backends.cudnn.benchmark, backends.cudnn.deterministic
    try:
        for operator in operators:
            operator.fp32_precision = "ieee"
        backends.cudnn.benchmark, backends.cudnn.deterministic = False, True
        yield
    finally:
        for operator, precision in zip(operators, before, strict=True):
            operator.fp32_precision = precision
        backends.cudnn.benchmark, backends.cudnn.deterministic = benchmark, deterministic


def _before_torch_2_9(device: torch.device) -> Iterator[None]:
    matmul = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    flags = (
        cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
        if device.type == "cuda"
        else nullcontext()
    )
    try:
        torch.set_float32_matmul_precision("highest")
        with flags:
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
