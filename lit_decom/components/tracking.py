"""Identity of components over the epochs of a training run.

The rank of a component is no identity: ranks swap whenever two singular values cross. A tracker matches the components
of every snapshot with those of the one before and numbers them, image by image, so the numbers do not depend on the
order or the batches in which the images come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_decom.functional.alignment import (
    Matching,
    assign_components,
    check_weights,
    component_similarity,
    invert_assignment,
    rate_assignment,
    usable_components,
)

_STATE_VERSION = 1
_Size = tuple[int, int | None, bool]


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


@dataclass(frozen=True)
class _Observation:
    """Components of one image that were last seen in one snapshot, which is `missed` observations of the image ago."""

    missed: int
    patterns: Tensor  # (M, ...)
    loadings: Tensor | None  # (P, M)
    channels: Tensor | None  # (P,)
    energies: Tensor  # (M,) shares of the snapshot's energy
    ranks: Tensor  # (M,)
    identities: Tensor  # (M,)

    def keep(self, which: Tensor) -> "_Observation":
        loadings = None if self.loadings is None else self.loadings[:, which]
        rows = {name: getattr(self, name)[which] for name in ("patterns", "energies", "ranks", "identities")}
        return replace(self, missed=self.missed + 1, loadings=loadings, **rows)


@dataclass(frozen=True)
class _ImageState:
    step: int
    next_identity: int
    observations: tuple[_Observation, ...]


class ComponentTracker:
    """Give each component of each image an identity that lasts as long as the component can be recognised.

    Only the last decomposition of each image is kept, plus the components that are waited for.

    An image without a usable component in a snapshot (its evidence was not finite, or blank), or one that a snapshot
    leaves out, is not seen: nothing is born, nothing dies, and its components are matched again when it is next seen.

    Args:
        min_similarity: A component that resembles no earlier one at least this much is born, in [0, 1].
        spatial_weight: Share of the spatial patterns in the similarity, relative to `channel_weight`.
        channel_weight: Share of the channel loadings, where they are given.
        patience: Observations of its image that a component may miss and still come back under its identity; it is dead
            once it missed one more. Those that come back are only offered what would be born otherwise. Such returns
            are rarer and much less certain than continuations, so by default there are none.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        *,
        min_similarity: float = 0.5,
        spatial_weight: float = 1.0,
        channel_weight: float = 1.0,
        patience: int = 0,
    ) -> None:
        if not 0.0 <= min_similarity <= 1.0:
            raise ValueError(f"Expected `min_similarity` to be between 0 and 1, but got {min_similarity}.")
        check_weights(spatial_weight, channel_weight, has_loadings=True)
        if patience < 0:
            raise ValueError(f"Expected `patience` to be at least 0, but got {patience}.")
        self.min_similarity = min_similarity
        self.spatial_weight = spatial_weight
        self.channel_weight = channel_weight
        self.patience = patience
        self._images: dict[str, _ImageState] = {}

    def update(
        self,
        patterns: Tensor,
        singular_values: Tensor,
        *,
        ids: Sequence[str],
        step: int,
        loadings: Tensor | None = None,
        channels: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tracked:
        """Name the components of one snapshot.

        Images of one snapshot may come in several calls. If a call raises, no image has changed.

        Args:
            patterns: ``(B, K, ...)`` spatial patterns, of any scale, by descending singular value.
            singular_values: ``(B, K)``.
            ids: Names of the B images, all different.
            step: Epoch or step of the snapshot, above that of every image's last observation.
            loadings: ``(B, P, K)`` channel side of the components, always or never given for an image.
            channels: ``(B, P)`` the channel of each row of `loadings`, -1 for padding.
            valid: ``(B, K)`` bool, False for padding. Components that are not finite are not valid either.

        Raises:
            ValueError: If shapes do not fit together, an id comes twice, or `step` is not above an image's last one.
        """
        if self.channel_weight == 0:
            loadings = channels = None
        check_weights(self.spatial_weight, self.channel_weight, has_loadings=loadings is not None)
        usable = usable_components(patterns, loadings, valid)
        if singular_values.shape != usable.shape:
            raise ValueError(
                f"Expected `singular_values` to have shape {tuple(usable.shape)}, "
                f"but got {tuple(singular_values.shape)}."
            )
        usable = (usable & singular_values.isfinite()).cpu()
        self._check_ids(ids, len(usable), step)
        snapshot = _on_cpu(patterns, singular_values, loadings, channels)
        events, deaths, states = _nothing_seen(*usable.shape), [torch.empty(0, dtype=torch.int64)] * len(usable), {}
        news = {
            index: _observation({part: batch[index] for part, batch in snapshot.items()}, usable[index])
            for index in usable.any(dim=1).nonzero().flatten().tolist()
        }
        olds = {index: self._images.get(ids[index], _ImageState(step, 0, ())) for index in news}
        for index, match in self._matches(olds, news).items():
            row = {event: column[index] for event, column in events.items()}
            states[ids[index]], deaths[index] = self._follow(olds[index], news[index], match, step, row)
        self._images.update(states)
        device = patterns.device
        columns = {event: column.to(device) for event, column in events.items()}
        return Tracked(step=step, ids=tuple(ids), deaths=_padded(deaths).to(device), **columns)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs, as tensors and primitives."""
        images = {
            name: {**vars(state), "observations": [dict(vars(observation)) for observation in state.observations]}
            for name, state in self._images.items()
        }
        return {"version": _STATE_VERSION, "images": images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned.

        Raises:
            ValueError: If `state` is of another version.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"Expected `state` to be a tracker's state of version {_STATE_VERSION}, but got {state.get('version')}."
            )
        self._images = {
            name: _ImageState(
                image["step"],
                image["next_identity"],
                tuple(_restored(observation) for observation in image["observations"]),
            )
            for name, image in state["images"].items()
        }

    def _check_ids(self, ids: Sequence[str], n_images: int, step: int) -> None:
        if len(ids) != n_images or len(set(ids)) != n_images:
            raise ValueError(f"Expected `ids` to name {n_images} different images, but got {list(ids)}.")
        for name in ids:
            if name in self._images and step <= self._images[name].step:
                raise ValueError(
                    f"Expected `step` to be above {self._images[name].step}, the last step of image {name!r}, "
                    f"but got {step}."
                )

    def _matches(self, olds: dict[int, _ImageState], news: dict[int, _Observation]) -> dict[int, Matching]:
        """Match every image's components with its earlier ones; images whose numbers are alike go together."""
        alike: dict[tuple[_Size, ...], list[int]] = {}
        for index, one in news.items():
            alike.setdefault((_size(one), *map(_size, olds[index].observations)), []).append(index)
        found: dict[int, Matching] = {}
        for (size, *old_sizes), images in alike.items():
            nothing = torch.zeros(len(images), 0, size[0], dtype=torch.float64)
            new = [news[index] for index in images]
            parts = [
                self._cosines([olds[index].observations[nth] for index in images], new) for nth in range(len(old_sizes))
            ]
            match = self._match(torch.cat([nothing, *parts], dim=1), old_sizes[0][0] if old_sizes else 0)
            for row, index in enumerate(images):
                found[index] = Matching(**{name: column[row : row + 1] for name, column in vars(match).items()})
        return {index: found[index] for index in news}

    def _follow(
        self, state: _ImageState, new: _Observation, match: Matching, step: int, row: dict[str, Tensor]
    ) -> tuple[_ImageState, Tensor]:
        """Name one image's components after those they are matched with, fill in its events, return the deaths."""
        origin = invert_assignment(match.assignment, len(new.ranks))[0]
        known = origin >= 0
        source = origin[known]

        births = (~known).cumsum(0) - 1 + state.next_identity
        identities = torch.where(known, 0, births)
        identities[known] = _gathered(state, "identities")[source]
        new = replace(new, identities=identities)
        observations, deaths = self._waiting(state, match.assignment[0] < 0)

        at = new.ranks
        row["seen"][...], row["first"][...] = True, not state.observations
        row["identities"][at] = identities
        row["births"][at] = ~known
        row["flips"][at[known]] = match.signs[0, source] < 0
        row["swaps"][at[known]] = _gathered(state, "ranks")[source] != at[known]
        row["similarity"][at[known]] = match.similarity[0, source]
        row["confidence"][at[known]] = match.confidence[0, source]
        if state.observations:
            row["drift"][...] = _drift(state.observations[0], new, match.similarity[0], match.assignment[0])
        next_identity = state.next_identity + int((~known).sum())
        return _ImageState(step, next_identity, (new, *observations)), deaths

    def _match(self, cosines: Tensor, n_last: int) -> Matching:
        """Match the components of the last observation, which come first, and then those that are waited for.

        Those that are waited for get what is left, so that patience can turn births into returns and nothing else.
        """
        last, waiting = cosines[:, :n_last], cosines[:, n_last:]
        free = torch.ones(cosines.shape[::2], dtype=torch.bool)
        assignments = []
        for part in (last, waiting):
            everyone = torch.ones(part.shape[:2], dtype=torch.bool)
            found = assign_components(part, everyone, free, min_similarity=self.min_similarity).assignment
            free = free & (invert_assignment(found, cosines.shape[2]) < 0)
            assignments.append(found)
        return rate_assignment(cosines, torch.cat(assignments, dim=1))

    def _cosines(self, old: Sequence[_Observation], new: Sequence[_Observation]) -> Tensor:
        """Signed similarities ``(B, M, K)`` of images whose numbers of components are alike."""
        return component_similarity(
            torch.stack([one.patterns for one in old]),
            torch.stack([one.patterns for one in new]),
            loadings=_stacked([one.loadings for one in old]),
            new_loadings=_stacked([one.loadings for one in new]),
            channels=_stacked([one.channels for one in old]),
            new_channels=_stacked([one.channels for one in new]),
            spatial_weight=self.spatial_weight,
            channel_weight=self.channel_weight,
        )

    def _waiting(self, state: _ImageState, lost: Tensor) -> tuple[list[_Observation], Tensor]:
        """Keep the unmatched components that may still come back; the identities of the others are dead."""
        observations, deaths = [], [torch.empty(0, dtype=torch.int64)]
        parts = torch.split(lost, [len(old.ranks) for old in state.observations])
        for old, part in zip(state.observations, parts, strict=True):
            rest = old.keep(part)
            if rest.missed > self.patience:
                deaths.append(rest.identities)
            elif part.any():
                observations.append(rest)
        return observations, torch.cat(deaths)


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


def _on_cpu(
    patterns: Tensor, singular_values: Tensor, loadings: Tensor | None, channels: Tensor | None
) -> dict[str, Tensor]:
    """Bring a snapshot to where it is kept until the next one, without the parts that are not given."""
    snapshot = {"patterns": patterns, "singular_values": singular_values}
    if loadings is not None:
        snapshot["loadings"] = loadings
    snapshot = {name: part.detach().cpu().float() for name, part in snapshot.items()}
    if loadings is not None and channels is not None:
        snapshot["channels"] = channels.detach().cpu()
    return snapshot


def _observation(image: dict[str, Tensor], present: Tensor) -> _Observation:
    """Copy one image's usable components."""
    ranks = present.nonzero().flatten()
    energies = image["singular_values"].double()[ranks].square()
    return _Observation(
        missed=0,
        patterns=image["patterns"][ranks],
        loadings=image["loadings"][:, ranks] if "loadings" in image else None,
        channels=image["channels"].clone() if "channels" in image else None,
        energies=energies / energies.sum().clamp(min=torch.finfo(torch.float64).tiny),
        ranks=ranks,
        identities=torch.full_like(ranks, -1),
    )


def _restored(saved: dict[str, Any]) -> _Observation:
    values: dict[str, Any] = {
        name: value.cpu() if isinstance(value, Tensor) else value for name, value in saved.items()
    }
    return _Observation(**values)


def _size(observation: _Observation) -> _Size:
    """How many components and channels there are, and whether the channels are named."""
    loadings = observation.loadings
    return len(observation.ranks), None if loadings is None else len(loadings), observation.channels is not None


def _stacked(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.stack(known) if known else None


def _gathered(state: _ImageState, name: str) -> Tensor:
    return torch.cat(
        [getattr(observation, name) for observation in state.observations] or [torch.empty(0, dtype=torch.int64)]
    )


def _drift(last: _Observation, new: _Observation, similarity: Tensor, assignment: Tensor) -> float:
    """Compare a observation with the one right before; the earlier components come first in the matching."""
    similarity, assignment = similarity[: len(last.ranks)], assignment[: len(last.ranks)]
    kept = assignment >= 0
    weights = (last.energies[kept] + new.energies[assignment[kept]]) / 2
    return min(max(1.0 - float((weights * similarity[kept]).sum()), 0.0), 1.0)


def _nothing_seen(n_images: int, n_components: int) -> dict[str, Tensor]:
    """Make the events of :class:`Tracked`, deaths apart, of images that are not seen."""
    shape = (n_images, n_components)
    events = {name: torch.zeros(shape, dtype=torch.bool) for name in ("births", "flips", "swaps")}
    events |= {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in ("similarity", "confidence")}
    events |= {name: torch.zeros(n_images, dtype=torch.bool) for name in ("seen", "first")}
    events["drift"] = torch.full((n_images,), torch.nan, dtype=torch.float64)
    events["identities"] = torch.full(shape, -1)
    return events


def _padded(rows: list[Tensor]) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows), default=0)), -1)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
