"""How far rounding carries: what a tolerance has to scale with."""

import torch
from torch import Tensor

from lit_decom.methods import DecomCAM, Decomposition


def magnification(found: Decomposition, method: DecomCAM) -> Tensor:
    """How much larger the error of a contribution is than the relative error of the scores, ``(B,)``.

    A contribution divides differences of scores by what sets the scores of its image apart, which is a hundred times
    smaller than the scores themselves where the components hardly differ.
    """
    preset = method.preset
    scores = found.scores.masked_fill(~found.valid, torch.nan)
    size = torch.cat([scores, found.reference_scores[:, None]], dim=1).nan_to_num().abs().amax(dim=1)
    gains = scores - found.reference_scores[:, None] if preset.subtract_reference else scores
    gains = torch.where(gains < preset.score_threshold, 0.0, gains)
    largest, smallest = gains.nan_to_num(-torch.inf).amax(dim=1), gains.nan_to_num(torch.inf).amin(dim=1)
    divisor = {
        "min_max": largest - smallest,
        "maximum": largest,
        "relu_gain": gains.relu().nansum(dim=1) / gains.shape[1],
        "softmax_gain": 1 / (1 + 2 * torch.maximum(largest.abs(), smallest.abs())),
    }[preset.weighting]
    # The numerator and the denominator are each a difference of two scores.
    return torch.where(found.fallback, 0.0, 4 * size / divisor)


def map_tolerance(found: Decomposition, method: DecomCAM, score_error: float, map_error: float) -> Tensor:
    """By how much the integrated maps may differ, ``(B,)``.

    Args:
        found: the decomposition.
        method: what made it.
        score_error: relative error of the scores.
        map_error: error of the components, relative to the largest of their image.
    """
    largest = found.ossms.amax(dim=(1, 2, 3))
    by_contributions = score_error * magnification(found, method) * found.ossms.sum(dim=1).amax(dim=(1, 2))
    return by_contributions + map_error * found.contributions.abs().sum(dim=1) * largest
