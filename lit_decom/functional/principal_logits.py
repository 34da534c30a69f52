"""The class combinations in which a probe's images differ most: principal components of the logits."""

from typing import NamedTuple

import torch
from torch import Tensor

from lit_decom.functional.rotation import pivoted_start

_ONE_BELOW = 1.5  # participation ratio of the spectrum
_TIED = 1e-5  # components whose energies differ by less, relative to the largest, are one group


class PrincipalLogits(NamedTuple):
    """Principal components of a probe's logits, centred over classes and images.

    Attributes:
        directions: ``(N, K)`` float64 orthonormal columns, by descending energy.
        mean: ``(N,)`` float64, the centred logits' mean over the images.
        energies: ``(m,)`` float64, the whole spectrum, descending.
        constant_share: ``()`` float64 in [0, 1], the share of the energy of the logits, centred over classes alone,
            that is the same in every image; NaN without any energy.
        tied: whether the last components were chosen among equals, for lack of a reason.
    """

    directions: Tensor
    mean: Tensor
    energies: Tensor
    constant_share: Tensor
    tied: bool


def principal_logits(logits: Tensor, *, min_r2: float = 0.97, max_components: int = 12) -> PrincipalLogits:
    """Find the class combinations in which the images differ most.

    As many as explain `min_r2` of the variance, at most `max_components`; one where the participation ratio of the
    spectrum, ``(sum e)^2 / sum e^2``, is below 1.5. A group of equal energies is taken whole where there is room, and
    its lowest classes first where there is not.

    Args:
        logits: ``(n, N)``; images that are not finite are left out.
        min_r2: in (0, 1].
        max_components: at least 1.

    Raises:
        ValueError: If the logits have another number of dimensions or an argument is out of range.

    Example:
        Two images, told apart by the first class against the second:

        >>> principal_logits(torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]])).directions.abs().T
        tensor([[0.7071, 0.7071, 0.0000]], dtype=torch.float64)
    """
    if logits.ndim != 2:
        raise ValueError(f"Expected `logits` to be (n, N), but got {tuple(logits.shape)}.")
    if not 0 < min_r2 <= 1:
        raise ValueError(f"Expected `min_r2` to be above 0 and at most 1, but got {min_r2}.")
    if max_components < 1:
        raise ValueError(f"Expected `max_components` to be at least 1, but got {max_components}.")
    centred = class_centred(logits)
    centred = centred[centred.isfinite().all(dim=1)]
    mean = centred.mean(dim=0) if len(centred) else centred.new_zeros(logits.shape[1])
    _, values, right = torch.linalg.svd(centred - mean, full_matrices=False)
    energies, total = values.square(), centred.square().sum()
    # The logits come in float32: variation below its rounding is none.
    rank = int((values > len(mean) * torch.finfo(torch.float32).eps * total.sqrt()).sum())
    constant = len(centred) * mean.square().sum() / total
    directions, tied = _leading(right[:rank].T, energies[:rank], min_r2, max_components)
    return PrincipalLogits(directions, mean, energies, constant, tied)


def class_centred(logits: Tensor) -> Tensor:
    """Subtract what all classes of an image have in common, which softmax ignores: ``(n, N)`` float64 on the CPU."""
    logits = logits.detach().cpu().double()
    return logits - logits.mean(dim=1, keepdim=True)


def _leading(directions: Tensor, energies: Tensor, min_r2: float, most: int) -> tuple[Tensor, bool]:
    """Choose the first principal components, and tell whether the limit cuts through equals."""
    if len(energies) == 0:
        return directions, False
    if energies.sum().square() < _ONE_BELOW * energies.square().sum():
        return directions[:, :1], False
    told = energies.cumsum(0) / energies.sum()
    needed = int((told < min_r2 - 1e-9).sum()) + 1
    last = energies[min(needed, most) - 1]
    above = int((energies > last + _TIED * energies[0]).sum())
    until = int((energies >= last - _TIED * energies[0]).sum())
    if until <= most:
        return directions[:, :until], False
    group = directions[:, above:until]
    return torch.cat((directions[:, :above], group @ pivoted_start(group)[:, : most - above]), dim=1), True
