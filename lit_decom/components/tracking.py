"""Identity of components over the epochs of a training run.

The rank of a component is no identity: ranks swap whenever two singular values cross. A tracker matches the components
of every snapshot with those of the one before and numbers them, image by image, so the numbers do not depend on the
order or the batches in which the images come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_decom.components.observation import Observation, Size, observed, on_cpu, restored, single, size_of, stacked
from lit_decom.components.tracked import Tracked, nothing_seen
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


@dataclass(frozen=True)
class _ImageState:
    step: int
    next_identity: int
    observations: tuple[Observation, ...]


@dataclass(frozen=True)
class _Followed:
    """What became of images that are alike; events are ``(B, M)``, drift ``(B,)``, deaths identities that ended."""

    states: list[_ImageState]
    deaths: list[Tensor]
    events: dict[str, Tensor]
    drift: Tensor


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
        snapshot = on_cpu(patterns, singular_values, loadings, channels)
        events, deaths = nothing_seen(*usable.shape), [torch.empty(0, dtype=torch.int64)] * len(usable)
        states: dict[str, _ImageState] = {}
        for images in self._alike(ids, usable):
            before = [self._state(ids[image], step) for image in images]
            at = torch.tensor(images)
            new = observed({name: part[at] for name, part in snapshot.items()}, usable[at])
            followed = self._follow(before, new, step)
            states.update(zip((ids[image] for image in images), followed.states, strict=True))
            for image, ended in zip(images, followed.deaths, strict=True):
                deaths[image] = ended
            events["seen"][at], events["first"][at] = True, not before[0].observations
            events["drift"][at] = followed.drift
            for event, found in followed.events.items():
                events[event][at[:, None], new.ranks] = found
        self._images.update(states)
        device = patterns.device
        columns = {event: column.to(device) for event, column in events.items()}
        return Tracked(step=step, ids=tuple(ids), deaths=_padded(deaths).to(device), **columns)

    def last_seen(self, ids: Sequence[str]) -> list[Tensor]:
        """Give the patterns ``(M, ...)`` of each image's components as they were last seen, on the CPU.

        In the order of their ranks; ``M`` is 0 for an image that was never seen.
        """
        return [self._images[name].observations[0].patterns if name in self._images else torch.empty(0) for name in ids]

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
                tuple(restored(observation) for observation in image["observations"]),
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

    def _state(self, name: str, step: int) -> _ImageState:
        return self._images.get(name, _ImageState(step, 0, ()))

    def _alike(self, ids: Sequence[str], usable: Tensor) -> list[list[int]]:
        """Group the images that are seen by how many components they have and had: a group is followed at once."""
        groups: dict[tuple[int | Size, ...], list[int]] = {}
        for image, number in enumerate(usable.sum(dim=1).tolist()):
            if number:
                sizes = map(size_of, self._state(ids[image], 0).observations)
                groups.setdefault((number, *sizes), []).append(image)
        return list(groups.values())

    def _follow(self, before: Sequence[_ImageState], new: Observation, step: int) -> _Followed:
        """Name the components of images that are alike after those they are matched with."""
        olds = [stacked(parts) for parts in zip(*(state.observations for state in before), strict=True)]
        match = self._match(olds, new)
        n_old = match.assignment.shape[1]
        origin = invert_assignment(match.assignment, new.ranks.shape[1])
        births = origin < 0
        source = torch.where(births, n_old, origin)

        def of_source(column: Tensor, missing: float) -> Tensor:
            return F.pad(column, (0, 1), value=missing).gather(1, source)

        def last_seen(name: str) -> Tensor:
            nothing = new.ranks[:, :0]
            return of_source(torch.cat([nothing, *(getattr(old, name) for old in olds)], dim=1), -1)

        unused = torch.tensor([state.next_identity for state in before])
        born = births.cumsum(dim=1) - 1 + unused[:, None]
        new = replace(new, identities=torch.where(births, born, last_seen("identities")))
        waiting = [self._waiting(state, lost) for state, lost in zip(before, match.assignment < 0, strict=True)]
        states = [
            _ImageState(step, next_identity, (latest, *kept))
            for next_identity, latest, (kept, _) in zip(
                (unused + births.sum(dim=1)).tolist(), single(new), waiting, strict=True
            )
        ]
        events = {
            "identities": new.identities,
            "births": births,
            "flips": of_source(match.signs, 0) < 0,
            "swaps": ~births & (last_seen("ranks") != new.ranks),
            "similarity": of_source(match.similarity, torch.nan),
            "confidence": of_source(match.confidence, torch.nan),
        }
        drift = _drift(olds[0], new, match) if olds else torch.full((len(before),), torch.nan, dtype=torch.float64)
        return _Followed(states, [deaths for _, deaths in waiting], events, drift)

    def _match(self, olds: Sequence[Observation], new: Observation) -> Matching:
        """Match the components of the last observation, which come first, and then those that are waited for.

        Those that are waited for get what is left, so that patience can turn births into returns and nothing else.
        """
        n_images, n_new = new.ranks.shape
        nothing = torch.zeros(n_images, 0, n_new, dtype=torch.float64)
        parts = [self._cosines(old, new) for old in olds]
        last, waiting = torch.cat([nothing, *parts[:1]], dim=1), torch.cat([nothing, *parts[1:]], dim=1)
        free = torch.ones(n_images, n_new, dtype=torch.bool)
        assignments = []
        for part in (last, waiting):
            everyone = torch.ones(part.shape[:2], dtype=torch.bool)
            found = assign_components(part, everyone, free, min_similarity=self.min_similarity).assignment
            free = free & (invert_assignment(found, n_new) < 0)
            assignments.append(found)
        return rate_assignment(torch.cat([last, waiting], dim=1), torch.cat(assignments, dim=1))

    def _cosines(self, old: Observation, new: Observation) -> Tensor:
        """Signed similarities ``(B, M, K)`` of images that are alike."""
        return component_similarity(
            old.patterns,
            new.patterns,
            loadings=old.loadings,
            new_loadings=new.loadings,
            channels=old.channels,
            new_channels=new.channels,
            spatial_weight=self.spatial_weight,
            channel_weight=self.channel_weight,
        )

    def _waiting(self, state: _ImageState, lost: Tensor) -> tuple[list[Observation], Tensor]:
        """Keep the unmatched components that may still come back; the identities of the others are dead."""
        observations, deaths = [], [torch.empty(0, dtype=torch.int64)]
        parts = torch.split(lost, [len(old.ranks) for old in state.observations])
        for old, part in zip(state.observations, parts, strict=True):
            if old.missed >= self.patience:
                deaths.append(old.identities[part])
            elif part.any():
                observations.append(old.keep(part))
        return observations, torch.cat(deaths)


def _drift(last: Observation, new: Observation, match: Matching) -> Tensor:
    """Compare observations with those right before ``(B,)``; the earlier components come first in the matching."""
    n_last = last.ranks.shape[1]
    similarity, assignment = match.similarity[:, :n_last], match.assignment[:, :n_last]
    weights = (last.energies + new.energies.gather(1, assignment.clamp(min=0))) / 2
    kept = torch.where(assignment >= 0, weights * similarity, 0.0).sum(dim=1)
    return (1.0 - kept).clamp(0.0, 1.0)


def _padded(rows: list[Tensor]) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows), default=0)), -1)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
