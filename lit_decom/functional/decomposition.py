"""The four steps of DecomCAM on tensors: select channels, decompose, fix signs, integrate.

Notation: ``S`` is the matrix of one image's class-weighted channel maps, ``P`` channels by ``h w`` positions, and
``S = U diag(s) V^T`` its singular value decomposition. A component is ``s_i v_i``, an image over the feature grid.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_decom.functional.base import check_option

SignRule = Literal["evidence", "largest_entry"]
ComponentWeighting = Literal["min_max", "maximum", "softmax_gain", "relu_gain"]

_TIE = 1e-5  # a symmetric image has patterns whose extremes differ in sign and rounding alone


class Factors(NamedTuple):
    """Components of a batch of matrices, each approximated by ``sum_k loading_k component_k``.

    Attributes:
        components: ``(B, K, h, w)``, of norm ``strengths``; 0 where not valid.
        strengths: ``(B, K)``, descending; singular values where the components are orthogonal; 0 where not valid.
        loadings: ``(B, P, K)``, the channel side, unit norm; 0 where not valid.
        valid: ``(B, K)`` bool, False past an image's rank.
        energy: ``(B,)``, the squared norm of the decomposed matrix.
        removed: ``(B, K)``, by how much each component lowers the squared norm of what those before it leave over; the
            squared strength where the components are orthogonal; 0 where not valid.
    """

    components: Tensor
    strengths: Tensor
    loadings: Tensor
    valid: Tensor
    energy: Tensor
    removed: Tensor


class IntegrationWeights(NamedTuple):
    """Weights of the components in the integrated map.

    Attributes:
        contributions: ``(B, K)``; 0 where a component is not valid.
        fallback: ``(B,)`` bool, True where the rule had nothing to tell the components apart and all weigh the same.
    """

    contributions: Tensor
    fallback: Tensor


def select_channels(weights: Tensor, top_p: int, *, positive_only: bool) -> tuple[Tensor, Tensor]:
    """Choose the channels of largest weight.

    Args:
        weights: channel weights ``(B, C)``.
        top_p: how many to choose; more than ``C`` means all of them.
        positive_only: whether a channel that speaks against the target may not take part.

    Returns:
        Indices ``(B, P)`` in descending order of weight, and a bool mask ``(B, P)`` of those that take part.

    Example:
        >>> select_channels(torch.tensor([[0.1, -2.0, 3.0]]), top_p=2, positive_only=True)
        (tensor([[2, 0]]), tensor([[True, True]]))
    """
    order = weights.argsort(dim=-1, descending=True, stable=True)[:, :top_p]
    takes_part = weights.gather(1, order) > 0 if positive_only else torch.ones_like(order, dtype=torch.bool)
    return order, takes_part


def decompose(maps: Tensor, n_components: int, *, centred: bool = False) -> Factors:
    """Decompose every image's channel maps into orthogonal spatial components.

    The economy singular value decomposition, through the eigenvectors of the smaller Gram matrix in float64 (our
    choice: it agrees with ``torch.linalg.svd`` to 1e-6 and is several times faster). A component counts as valid while
    its singular value stands above ``max(P, h w)`` times float32's rounding error times the norm of the undivided
    matrix: below that it is rounding noise.

    Args:
        maps: finite channel maps ``(B, P, h, w)``.
        n_components: how many to return, at most ``min(P, h w)``.
        centred: whether each channel's mean over positions is taken out first (PCA with positions as samples).

    Returns:
        The factors, sign not yet fixed, in the dtype of ``maps``.

    Raises:
        ValueError: if ``n_components`` is not between 1 and ``min(P, h w)``.
    """
    matrix = as_matrices(maps, n_components)
    noise = rounding_noise(matrix)
    if centred:
        matrix = matrix - matrix.mean(dim=2, keepdim=True)
    loadings, components, values = _leading_factors(matrix, n_components)
    valid = values > noise[:, None]
    strengths = (values * valid).to(maps)
    return Factors(
        components=(components * valid[:, :, None]).reshape(len(maps), -1, *maps.shape[2:]).to(maps),
        strengths=strengths,
        loadings=(loadings * valid[:, None, :]).to(maps),
        valid=valid.to(maps.device),
        energy=matrix.square().sum(dim=(1, 2)).to(maps),
        removed=strengths.square(),
    )


def as_matrices(maps: Tensor, n_components: int) -> Tensor:
    """Lay channel maps ``(B, P, h, w)`` out as matrices ``(B, P, h w)`` in float64.

    Raises:
        ValueError: if ``n_components`` is not between 1 and ``min(P, h w)``.
    """
    channels, height, width = maps.shape[1:]
    bound = min(channels, height * width)
    if not 1 <= n_components <= bound:
        raise ValueError(
            f"Expected `n_components` to be between 1 and {bound} (the smaller of {channels} channels and "
            f"{height} x {width} positions), but got {n_components}."
        )
    # MPS has neither float64 nor eigenvectors.
    return maps.flatten(2).to("cpu" if maps.device.type == "mps" else maps.device, torch.float64)


def rounding_noise(matrix: Tensor) -> Tensor:
    """Tell the norm ``(B,)`` at and below which a part of ``(B, P, M)`` is float32's rounding."""
    norm: Tensor = torch.linalg.matrix_norm(matrix)
    return max(matrix.shape[1:]) * torch.finfo(torch.float32).eps * norm


def _leading_factors(matrix: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left singular vectors ``(B, P, k)``, scaled right ones ``(B, k, M)`` and singular values of ``(B, P, M)``."""
    few_channels = matrix.shape[1] < matrix.shape[2]
    gram = matrix @ matrix.mT if few_channels else matrix.mT @ matrix
    eigenvalues, vectors = torch.linalg.eigh(gram)
    values = eigenvalues.flip(-1)[:, :k].clamp(min=0).sqrt()
    vectors = vectors.flip(-1)[:, :, :k]
    if few_channels:
        return vectors, vectors.mT @ matrix, values
    safe = torch.where(values == 0, torch.ones_like(values), values)
    return (matrix @ vectors) / safe[:, None, :], vectors.mT * values[:, :, None], values


def fix_signs(factors: Factors, rule: SignRule = "evidence") -> Factors:
    """Give every component the sign that a rule says, whatever the linear-algebra library returned.

    Args:
        factors: what :func:`decompose` returned.
        rule: ``"evidence"`` (our choice) makes the loadings sum to a non-negative number: the map of the selected
            channels is ``sum_i (1^T u_i) s_i v_i``, so the positive part of a component then adds to the class map.
            Where that sum is 0 to rounding, the second rule decides. ``"largest_entry"`` makes the spatial entry of
            largest magnitude positive (of entries equal to rounding the first), as scikit-learn's PCA did up to 1.4 and
            as the published maps show.

    Returns:
        The same factors with components and loadings flipped together.

    Raises:
        ValueError: if the rule is unknown.
    """
    check_option("sign", rule, SignRule)
    flat = factors.components.flatten(2)
    magnitudes = flat.abs()
    largest = magnitudes >= (1 - _TIE) * magnitudes.amax(dim=2, keepdim=True)
    by_entry = flat.gather(2, largest.int().argmax(dim=2, keepdim=True)).squeeze(2).sign()
    if rule == "evidence":
        sums = factors.loadings.sum(dim=1)
        rounding = factors.loadings.shape[1] * torch.finfo(sums.dtype).eps
        signs = torch.where(sums.abs() > rounding, sums.sign(), by_entry)
    else:
        signs = by_entry
    return factors._replace(
        components=factors.components * signs[:, :, None, None], loadings=factors.loadings * signs[:, None, :]
    )


def components_for_energy(factors: Factors, fraction: float) -> Tensor:
    """Tell which leading components are needed to explain a fraction of the energy.

    Args:
        factors: what :func:`decompose` returned.
        fraction: of the squared norm of the decomposed matrix, in (0, 1].

    Returns:
        Bool ``(B, K)``: valid, and needed because those before it explain less than ``fraction``.
    """
    before = factors.removed.cumsum(dim=1) - factors.removed
    return factors.valid & (before < fraction * factors.energy[:, None])


def integrate(
    scores: Tensor,
    reference_scores: Tensor,
    valid: Tensor,
    *,
    weighting: ComponentWeighting = "min_max",
    subtract_reference: bool = True,
    score_threshold: float | None = None,
) -> IntegrationWeights:
    """Turn the target score of an image seen through each component into weights.

    With ``g`` the score, less the score of the blurred image if ``subtract_reference``, and ``g = 0`` where it is below
    ``score_threshold``:

    - ``"min_max"``: ``(g - min g) / (max g - min g)``,
    - ``"maximum"``: ``g / max g``,
    - ``"softmax_gain"``: ``g softmax(g)``, negative values kept,
    - ``"relu_gain"`` (ours): ``relu(g) / sum relu(g)``, comparable over images and epochs.

    Where a rule cannot tell the components apart, since all scores are equal to rounding or none is above the
    threshold, every valid component weighs the same (``1 / n``) and ``fallback`` says so: a blank map would look like a
    result.

    Args:
        scores: target scores ``(B, K)``.
        reference_scores: target scores ``(B,)`` of the blurred images.
        valid: which components count, bool ``(B, K)``.
        weighting: one of the rules above.
        subtract_reference: whether gains or raw scores are weighed.
        score_threshold: below it a score counts as 0; None for no threshold.

    Returns:
        The weights and where they are a fallback. A score of NaN makes its image's weights NaN.

    Raises:
        ValueError: if the rule is unknown.

    Example:
        >>> scores, blurred = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1.0])
        >>> integrate(scores, blurred, torch.ones(1, 3, dtype=torch.bool)).contributions
        tensor([[1.0000, 0.0000, 0.5000]])
        >>> integrate(scores, blurred, torch.ones(1, 3, dtype=torch.bool), weighting="relu_gain").contributions
        tensor([[0.6667, 0.0000, 0.3333]])
    """
    check_option("weighting", weighting, ComponentWeighting)
    gains = scores - reference_scores[:, None] if subtract_reference else scores
    if score_threshold is not None:
        gains = torch.where(gains < score_threshold, torch.zeros_like(gains), gains)
    gains = gains.masked_fill(~valid, 0)
    weights, scale = _weighed(gains, valid, weighting)
    seen = torch.cat([scores.masked_fill(~valid, 0), reference_scores[:, None] * subtract_reference], dim=1)
    rounding = 8 * torch.finfo(scores.dtype).eps * seen.abs().amax(dim=1, keepdim=True)
    count = valid.sum(dim=1, keepdim=True)
    fallback = (count > 0) & (scale <= rounding)
    weights = torch.where(fallback, valid / count.clamp(min=1), weights)
    return IntegrationWeights(weights.masked_fill(~valid, 0), fallback.squeeze(1))


def _weighed(gains: Tensor, valid: Tensor, weighting: ComponentWeighting) -> tuple[Tensor, Tensor]:
    """Weights ``(B, K)``, and by how much ``(B, 1)`` the gains let the rule tell the components apart."""
    largest = gains.masked_fill(~valid, -torch.inf).amax(dim=1, keepdim=True)
    if weighting == "softmax_gain":
        weights = gains * gains.masked_fill(~valid, -torch.inf).softmax(dim=1)
        return weights, weights.abs().amax(dim=1, keepdim=True)
    if weighting == "min_max":
        smallest = gains.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
        weights, scale = gains - smallest, largest - smallest
    elif weighting == "maximum":
        weights, scale = gains, largest.clamp(min=0)
    else:
        weights = gains.relu()
        scale = weights.sum(dim=1, keepdim=True)
    return weights / torch.where(scale == 0, torch.ones_like(scale), scale), scale
