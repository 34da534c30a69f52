import pytest
import torch


@pytest.fixture
def precision_restored():
    """Let a test set how exactly float32 matrices are multiplied."""
    # Before torch 2.9 there was one precision for all backends.
    mkldnn = torch.backends.mkldnn
    backends = (mkldnn.matmul, mkldnn.conv) if hasattr(mkldnn, "matmul") else ()
    before = torch.get_float32_matmul_precision(), [backend.fp32_precision for backend in backends]
    yield
    torch.set_float32_matmul_precision(before[0])
    for backend, precision in zip(backends, before[1], strict=True):
        backend.fp32_precision = precision
