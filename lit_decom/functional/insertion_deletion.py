"""Insertion and deletion (RISE, arXiv 1806.07421): the network's score while pixels come or go by their saliency."""

from typing import Literal

import torch
from torch import Tensor

from lit_decom.functional.base import Rescore, check_maps_fit, check_option, has_order, saliency_ranks, scatter_rows

Curve = Literal["insertion", "deletion"]


def perturbation_logits(
    images: Tensor, maps: Tensor, rescore: Rescore, substrate: Tensor, *, curve: Curve, n_steps: int
) -> Tensor:
    """Run the network while the pixels of each image come or go, the most salient ones first.

    Args:
        images: images ``(B, C, H, W)``, as the model sees them.
        maps: saliency maps ``(B, H, W)``; of equal pixels the first in reading order counts as more salient.
        rescore: runs the model on altered images, ``Capture.rescore`` for example.
        substrate: what stands where nothing of the image is shown ``(B, C, H, W)``.
        curve: ``"insertion"`` puts pixels of the image on the substrate, ``"deletion"`` the other way round.
        n_steps: steps of equal size, to within a pixel, from no pixel to all.

    Returns:
        Logits ``(B, n_steps + 1, N)``; NaN where a map is not finite or constant, since it has no order.

    Raises:
        ValueError: if the maps do not fit the images, the curve is unknown, or there are more steps than pixels.
    """
    pixels = images.shape[-2] * images.shape[-1]
    check_maps_fit(images, maps)
    check_option("curve", curve, Curve)
    if not 1 <= n_steps <= pixels:
        raise ValueError(f"Expected `n_steps` to be between 1 and {pixels} (H x W), but got {n_steps}.")
    start, finish = (substrate, images) if curve == "insertion" else (images, substrate)
    ordered = has_order(maps)
    ranks = saliency_ranks(maps)
    counts = (torch.arange(n_steps + 1, device=maps.device) * pixels + n_steps // 2) // n_steps
    rows = ordered.nonzero().flatten().repeat_interleave(n_steps + 1)
    steps = counts.repeat(int(ordered.sum()))

    def alter(part: slice) -> Tensor:
        changed = ranks[rows[part]] < steps[part, None, None]
        return torch.where(changed[:, None], finish[rows[part]], start[rows[part]])

    logits = rescore(rows, alter)
    return scatter_rows(logits.view(int(ordered.sum()), n_steps + 1, logits.shape[1]), ordered)


def area_under_curve(scores: Tensor) -> Tensor:
    """Integrate equally spaced scores from 0 to 1 by the trapezoidal rule.

    Args:
        scores: curves ``(B, n)`` with n >= 2.

    Returns:
        Areas ``(B,)``; a curve that is 1 throughout has area 1.

    Example:
        >>> area_under_curve(torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]))
        tensor([0.5000, 0.7500])
    """
    return torch.trapezoid(scores, dim=1) / (scores.shape[1] - 1)
