import pytest
import torch


@pytest.fixture
def precision_restored():
    """Let a test set how exactly float32 matrices are multiplied."""
    backends = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    before = torch.get_float32_matmul_precision(), [backend.fp32_precision for backend in backends]
    yield
    torch.set_float32_matmul_precision(before[0])
    for backend, precision in zip(backends, before[1], strict=True):
        backend.fp32_precision = precision
