"""What following components says of one snapshot."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tracked:
    """What one snapshot did to the components of B images.

    Identities count from 0 within each image and are never given twice, so a curve is named by (image id, identity).

    Attributes:
        step: The epoch or step of the snapshot.
        ids: The B images.
        seen: ``(B,)`` bool, False for an image without any usable component in this snapshot: it is left as it was.
        first: ``(B,)`` bool, True for an image that was never seen before; all its components are births.
        identities: ``(B, K)`` int64, -1 where a component is not usable.
        births: ``(B, K)`` bool, True for a new identity.
        deaths: ``(B, D)`` int64, the identities that ended, padded with -1.
        flips: ``(B, K)`` bool, True where the component has turned its sign since it was last seen.
        swaps: ``(B, K)`` bool, True where its rank differs from when it was last seen.
        similarity: ``(B, K)`` float64 in [0, 1] to the component as last seen; NaN without one.
        confidence: ``(B, K)`` float64 in [0, 1] that it is the same one, see
            :func:`lit_decom.functional.alignment.rate_assignment`; NaN without one.
        drift: ``(B,)`` float64 in [0, 1], 1 minus the mean similarity of the components to those of the image's last
            observation, weighted by the mean of their old and new energy share; births and lost components count as
            dissimilar. NaN for images not seen or seen for the first time. The formula is our choice.
    """

    step: int
    ids: tuple[str, ...]
    seen: Tensor
    first: Tensor
    identities: Tensor
    births: Tensor
    deaths: Tensor
    flips: Tensor
    swaps: Tensor
    similarity: Tensor
    confidence: Tensor
    drift: Tensor


def summarize(tracked: Tracked) -> dict[str, float]:
    """Reduce a snapshot to scalars, over the images that were also seen before; NaN where there is none.

    Returns:
        "births", "deaths", "flips" and "swaps" per image, mean "drift" of the images, mean "similarity" and
        "confidence" of the components that are not births.
    """
    images = tracked.seen & ~tracked.first
    counts = {
        "births": tracked.births,
        "deaths": tracked.deaths >= 0,
        "flips": tracked.flips,
        "swaps": tracked.swaps,
    }
    scalars = {name: events[images].sum(1).double().mean() for name, events in counts.items()}
    scalars |= {name: getattr(tracked, name).nanmean() for name in ("drift", "similarity", "confidence")}
    return {name: float(value) for name, value in scalars.items()}


def nothing_seen(n_images: int, n_components: int) -> dict[str, Tensor]:
    """Make the events of :class:`Tracked`, deaths apart, of images that are not seen."""
    shape = (n_images, n_components)
    events = {name: torch.zeros(shape, dtype=torch.bool) for name in ("births", "flips", "swaps")}
    events |= {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in ("similarity", "confidence")}
    events |= {name: torch.zeros(n_images, dtype=torch.bool) for name in ("seen", "first")}
    events["drift"] = torch.full((n_images,), torch.nan, dtype=torch.float64)
    events["identities"] = torch.full(shape, -1)
    return events
