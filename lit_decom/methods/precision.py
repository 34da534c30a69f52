"""How exactly components are scored: in bfloat16 where that is fast and keeps their ranks, else in float32."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lit_decom.evidence import Capture, ScoreDtype
from lit_decom.evidence.room import is_out_of_memory
from lit_decom.methods.decomposition import Decomposition

if TYPE_CHECKING:
    from lit_decom.methods.decom_cam import DecomCAM

ChosenScoreDtype = Literal["float32", "bfloat16", "auto"]
_LEAST_AGREEMENT = 0.99  # our choice: of ten components one image in five may have two neighbours the other way round


def has_bfloat16_units(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 faster than in float32; False where nobody can ask it.

    On CUDA those of compute capability 8.0 and above do; on a CPU those with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)  # noqa: SLF001 -- no public way
    return device.type == "cpu" and any(ask() for ask in supported)


def chosen_score_dtype(method: "DecomCAM", evidence: Capture, exact: Decomposition) -> ScoreDtype:
    """Choose the precision of the masked forward passes by what it does to the components of some images.

    Args:
        method: how they are explained.
        evidence: of the images.
        exact: what it gives in float32.

    Returns:
        ``"bfloat16"`` where the ranks of the contributions agree (:func:`rank_agreement` of at least 0.99), else
        ``"float32"``.
    """
    try:
        rough = replace(method, score_dtype="bfloat16").decompose(evidence)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return "float32"  # some networks do not run under autocast
    agreement = rank_agreement(exact.contributions, rough.contributions, exact.valid)
    return "bfloat16" if agreement >= _LEAST_AGREEMENT else "float32"


def rank_agreement(exact: Tensor, rough: Tensor, valid: Tensor) -> float:
    """Compare the order of components by their contributions: mean Spearman correlation over images.

    Args:
        exact: contributions ``(B, K)``.
        rough: contributions ``(B, K)`` to be compared with them.
        valid: ``(B, K)`` bool, which components there are.

    Returns:
        Between -1 and 1; NaN where no image has two components to be told apart. An image whose rough contributions
        are not finite, or all alike where the exact ones are not, counts as 0.

    Example:
        >>> exact = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
        >>> rank_agreement(exact, torch.tensor([[6.0, 5.0, 0.0], [1.0, 3.0, 2.0]]), torch.ones(2, 3, dtype=torch.bool))
        0.75
    """
    found = []
    for one, other, own in zip(exact.cpu().double(), rough.cpu().double(), valid.cpu(), strict=True):
        left, right = one[own].numpy(), other[own].numpy()
        if np.isfinite(left).all() and len(np.unique(left)) > 1:
            told_apart = np.isfinite(right).all() and len(np.unique(right)) > 1
            found.append(float(spearmanr(left, right).statistic) if told_apart else 0.0)
    return float(np.mean(found)) if found else float("nan")
