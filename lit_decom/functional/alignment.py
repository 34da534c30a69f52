"""Which component of one decomposition is which component of another one of the same images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """Pairs of components of an old and a new decomposition, one row per image, one column per old component.

    Attributes:
        assignment: ``(B, K)`` int64, index of the partner in the new decomposition, -1 without one.
        signs: ``(B, K)`` int64, the factor by which the partner has to be multiplied to agree with the old component:
            1, -1 for a flipped partner, 0 without one.
        similarity: ``(B, K)`` float64 in [0, 1], see :func:`component_similarity`; NaN without a partner.
        confidence: ``(B, K)`` float64 in [0, 1], see :func:`rate_assignment`; NaN without a partner.
    """

    assignment: Tensor
    signs: Tensor
    similarity: Tensor
    confidence: Tensor


def match_components(
    patterns: Tensor,
    new_patterns: Tensor,
    *,
    loadings: Tensor | None = None,
    new_loadings: Tensor | None = None,
    channels: Tensor | None = None,
    new_channels: Tensor | None = None,
    valid: Tensor | None = None,
    new_valid: Tensor | None = None,
    spatial_weight: float = 1.0,
    channel_weight: float = 1.0,
    min_similarity: float = 0.5,
) -> Matching:
    """Match the components of two decompositions of the same images, each up to its sign.

    For every image the pairs are chosen such that their similarities add up to the largest possible sum, among the
    pairs that reach `min_similarity`. Components with a value that is not finite are not matched.

    Args:
        patterns: ``(B, K, ...)`` spatial patterns of the old components, of any scale.
        new_patterns: ``(B, L, ...)`` those of the new ones, on the same grid.
        loadings: ``(B, P, K)`` channel side of the old components, of any scale. Leave both loadings out to compare
            patterns alone, as between two networks.
        new_loadings: ``(B, Q, L)`` that of the new ones.
        channels: ``(B, P)`` the channel of each row of `loadings`, -1 for padding; by default the rows are channels
            0 to P - 1. A channel that only one side selected counts as zero on the other one.
        new_channels: ``(B, Q)`` the channel of each row of `new_loadings`.
        valid: ``(B, K)`` bool, False for padding; everything is valid by default.
        new_valid: ``(B, L)`` the same for the new decomposition.
        spatial_weight: Share of the patterns in the similarity, relative to `channel_weight`.
        channel_weight: Share of the loadings; without loadings it has no effect.
        min_similarity: Less similar components are not the same, in [0, 1].

    Raises:
        ValueError: If shapes do not fit together, only one side has loadings, or a weight or the threshold is out of
            range.

    Example:
        The new decomposition holds the same two components in the other order, one of them negated:

        >>> old = torch.eye(2).reshape(1, 2, 1, 2)
        >>> new = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).reshape(1, 2, 1, 2)
        >>> match = match_components(old, new)
        >>> match.assignment.tolist(), match.signs.tolist()
        ([[1, 0]], [[-1, 1]])
    """
    cosines = component_similarity(
        patterns,
        new_patterns,
        loadings=loadings,
        new_loadings=new_loadings,
        channels=channels,
        new_channels=new_channels,
        spatial_weight=spatial_weight,
        channel_weight=channel_weight,
    )
    usable = usable_components(patterns, loadings, valid)
    new_usable = usable_components(new_patterns, new_loadings, new_valid)
    return assign_components(cosines, usable, new_usable, min_similarity=min_similarity)


def component_similarity(
    patterns: Tensor,
    new_patterns: Tensor,
    *,
    loadings: Tensor | None = None,
    new_loadings: Tensor | None = None,
    channels: Tensor | None = None,
    new_channels: Tensor | None = None,
    spatial_weight: float = 1.0,
    channel_weight: float = 1.0,
) -> Tensor:
    """Compute the signed similarity of every old with every new component, ``(B, K, L)`` float64 in [-1, 1].

    A component is the matrix ``s u v^T`` of a loading u and a pattern v, which stays the same when both change their
    sign, so one sign serves both: the similarity is the weighted mean of cos(u, u') and cos(v, v'), and its own sign
    is the one that brings the two components to agreement. Cosines of opposite signs cancel: the same region with
    the opposite evidence is another component. The combination is our choice.

    The arguments are those of :func:`match_components`. A component that is zero or not finite has similarity 0.
    """
    check_weights(spatial_weight, channel_weight, has_loadings=loadings is not None)
    if (loadings is None) != (new_loadings is None):
        raise ValueError("Expected `loadings` and `new_loadings` to be given together, but got only one of them.")
    if patterns.shape[:1] + patterns.shape[2:] != new_patterns.shape[:1] + new_patterns.shape[2:]:
        raise ValueError(
            "Expected `patterns` and `new_patterns` to have the same images and grid, "
            f"but got {tuple(patterns.shape)} and {tuple(new_patterns.shape)}."
        )
    spatial = _unit_rows(patterns.flatten(2)) @ _unit_rows(new_patterns.flatten(2)).mT
    if loadings is None or new_loadings is None:
        return spatial.clamp(-1.0, 1.0)
    old, new = _on_channel_axis(loadings, channels), _on_channel_axis(new_loadings, new_channels)
    n_channels = max(old.shape[2], new.shape[2])
    old, new = (F.pad(side, (0, n_channels - side.shape[2])) for side in (old, new))
    channel = _unit_rows(old) @ _unit_rows(new).mT
    mean = (spatial_weight * spatial + channel_weight * channel) / (spatial_weight + channel_weight)
    return mean.clamp(-1.0, 1.0)


def assign_components(cosines: Tensor, valid: Tensor, new_valid: Tensor, *, min_similarity: float = 0.5) -> Matching:
    """Choose the pairs with the largest sum of similarities for each image.

    Args:
        cosines: ``(B, K, L)`` signed similarities in [-1, 1].
        valid: ``(B, K)`` bool, the old components that take part.
        new_valid: ``(B, L)`` bool, the new ones.
        min_similarity: Pairs below it are not chosen, in [0, 1].

    Raises:
        ValueError: If a shape does not fit or `min_similarity` is out of range.
    """
    if not 0.0 <= min_similarity <= 1.0:
        raise ValueError(f"Expected `min_similarity` to be between 0 and 1, but got {min_similarity}.")
    shape = (*valid.shape, *new_valid.shape[1:])
    if tuple(cosines.shape) != shape:
        raise ValueError(f"Expected `cosines` to have shape {shape}, but got {tuple(cosines.shape)}.")
    possible = valid.unsqueeze(2) & new_valid.unsqueeze(1)
    cosines = torch.where(possible, cosines, 0.0)
    admissible = possible & (cosines.abs() >= min_similarity)
    # A forbidden pair adds nothing, so the best complete assignment contains the best partial one.
    chosen = _optimal_pairs(torch.where(admissible, cosines.abs(), 0.0)) & admissible
    partner = F.pad(chosen, (1, 0)).int().argmax(2) - 1
    return rate_assignment(cosines, partner)


def rate_assignment(cosines: Tensor, assignment: Tensor) -> Matching:
    """Say how similar the chosen pairs are and how sure it is that they belong together.

    The confidence of a pair is its similarity minus that of the best alternative, the most similar other component of
    either partner, and 0 where an alternative is better. It is 1 only if the pair is identical and nothing else
    resembles it. For two components that rotated by an angle t within their plane it is max(0, cos t - sin t): 0 at
    45 degrees, where naming them is arbitrary. The formula is our choice.

    Args:
        cosines: ``(B, K, L)`` signed similarities in [-1, 1], 0 for components that do not take part.
        assignment: ``(B, K)`` index of the new component of each old one, -1 for none, none twice.

    Example:
        >>> rate_assignment(torch.tensor([[[0.9, -0.25], [0.0, -0.75]]]), torch.tensor([[0, 1]])).confidence
        tensor([[0.6500, 0.5000]], dtype=torch.float64)
    """
    matched = assignment >= 0
    chosen = F.one_hot(assignment + 1, cosines.shape[2] + 1)[..., 1:].bool()
    similarity = cosines.abs().double()
    # The extra row and column of zeros stand for "no alternative" and keep the maxima defined.
    others = F.pad(similarity.masked_fill(chosen, 0.0), (0, 1, 0, 1))
    index = torch.where(matched, assignment, cosines.shape[2]).unsqueeze(2)  # the extra column for the unmatched
    rival = torch.maximum(others.amax(2)[:, :-1], others.amax(1).gather(1, index[..., 0]))
    own = F.pad(cosines, (0, 1)).gather(2, index)[..., 0]
    best = own.abs().double()
    return Matching(
        assignment=assignment,
        signs=torch.where(matched, torch.where(own < 0, -1, 1), 0),
        similarity=torch.where(matched, best, torch.nan),
        confidence=torch.where(matched, (best - rival).clamp(min=0.0), torch.nan),
    )


def usable_components(patterns: Tensor, loadings: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """Tell which components are valid and finite throughout, ``(B, K)`` bool.

    Raises:
        ValueError: If `loadings` or `valid` belong to another number of images or components.
    """
    usable = patterns.flatten(2).isfinite().all(2)
    if loadings is not None:
        if loadings.shape[::2] != usable.shape:
            raise ValueError(
                f"Expected `loadings` to have shape ({usable.shape[0]}, P, {usable.shape[1]}), "
                f"but got {tuple(loadings.shape)}."
            )
        usable = usable & loadings.isfinite().all(1)
    if valid is not None:
        if valid.shape != usable.shape:
            raise ValueError(f"Expected `valid` to have shape {tuple(usable.shape)}, but got {tuple(valid.shape)}.")
        usable = usable & valid
    return usable


def check_weights(spatial_weight: float, channel_weight: float, *, has_loadings: bool) -> None:
    """Raise ValueError unless the weights are non-negative, finite, and one of those that apply is above 0."""
    for name, weight in (("spatial_weight", spatial_weight), ("channel_weight", channel_weight)):
        if not 0.0 <= weight < float("inf"):
            raise ValueError(f"Expected `{name}` to be non-negative and finite, but got {weight}.")
    if spatial_weight + (channel_weight if has_loadings else 0.0) == 0:
        raise ValueError(
            "Expected `spatial_weight` or, where loadings are given, `channel_weight` to be above 0, "
            f"but got {spatial_weight} and {channel_weight}{'' if has_loadings else ' without loadings'}."
        )


def invert_assignment(assignment: Tensor, n_new: int) -> Tensor:
    """Turn ``(B, K)`` indices of new components into ``(B, n_new)`` indices of old ones, -1 where there is none.

    >>> invert_assignment(torch.tensor([[2, -1, 0]]), 4).tolist()
    [[2, -1, 0, -1]]
    """
    rows, old = (assignment >= 0).nonzero(as_tuple=True)
    inverse = assignment.new_full((assignment.shape[0], n_new), -1)
    inverse[rows, assignment[rows, old]] = old
    return inverse


def _optimal_pairs(benefit: Tensor) -> Tensor:
    """Solve one linear assignment problem per image, ``(B, K, L)`` bool with at most one True per row and column."""
    chosen = torch.zeros(benefit.shape, dtype=torch.bool)
    for image, table in enumerate(benefit.detach().cpu()):
        rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
        chosen[image, torch.as_tensor(rows), torch.as_tensor(columns)] = True
    return chosen.to(benefit.device)


def _on_channel_axis(loadings: Tensor, channels: Tensor | None) -> Tensor:
    """Scatter ``(B, P, K)`` loadings to ``(B, K, C)`` with C just large enough for `channels`."""
    if channels is None:
        return loadings.mT
    if channels.shape != loadings.shape[:2]:
        raise ValueError(
            f"Expected `channels` to have shape {tuple(loadings.shape[:2])}, but got {tuple(channels.shape)}."
        )
    size = int(channels.max()) + 1 if channels.numel() else 0
    slots = channels.clamp(min=-1) + 1  # padding goes to slot 0, which is cut off
    full = loadings.new_zeros(loadings.shape[0], loadings.shape[2], max(size, 0) + 1)
    return full.scatter(2, slots.unsqueeze(1).expand(-1, loadings.shape[2], -1), loadings.mT)[..., 1:]


def _unit_rows(rows: Tensor) -> Tensor:
    """Scale each row of ``(B, K, D)`` to unit norm in float64; zero or non-finite rows become zero."""
    rows = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)  # MPS has no float64
    rows = torch.where(rows.isfinite().all(2, keepdim=True), rows, 0.0)
    peak = F.pad(rows.abs(), (0, 1)).amax(2, keepdim=True)  # padded, for D = 0
    rows = rows / torch.where(peak > 0, peak, 1.0)  # keeps the squares of tiny values from vanishing
    return F.normalize(rows, dim=2)
