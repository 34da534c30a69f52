"""Components that the whole probe has in common, followed over snapshots: the directions of most energy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.components.tracked import Tracked
from lit_decom.components.tracking import ComponentTracker
from lit_decom.evidence import Capture
from lit_decom.functional.shared_basis import SharedBasis, basis_from_gram, channel_gram, exemplars, project
from lit_decom.methods.base import ComponentMethod

_PSEUDO_IMAGE = "probe"


@dataclass(frozen=True)
class SharedFindings:
    """What one snapshot found of the shared components.

    Attributes:
        patterns: ``(n, S, h, w)``, the map of each in every image.
        energy: ``(S,)``, share of the probe's energy.
        tracked: their identities.
        gains: ``(S,)``, mean score gain over the images that were scored; NaN where none was.
        images: ``(S, m)``, the images in which each fires most, padded with -1.
        boxes: ``(S, m, 4)``, where: x1, y1, x2, y2 in pixels.
    """

    patterns: Tensor
    energy: Tensor
    tracked: Tracked
    gains: Tensor
    images: Tensor
    boxes: Tensor

    def numbers(self) -> dict[str, float]:
        """Give the curves of each identity: ``shared_energy/<identity>`` and ``shared_gain/<identity>``."""
        found: dict[str, float] = {}
        for index, identity in enumerate(self.tracked.identities[0].tolist()):
            if identity >= 0:
                found[keys.shared_key("energy", identity)] = float(self.energy[index])
                if self.gains[index].isfinite():
                    found[keys.shared_key("gain", identity)] = float(self.gains[index])
        return found

    def fields(self) -> dict[str, Any]:
        """Give what a record keeps, by the names that it has there."""
        return {
            "shared_patterns": self.patterns.half(),
            "shared_energy": self.energy,
            "shared_identities": self.tracked.identities[0],
            "shared_images": self.images,
            "shared_boxes": self.boxes,
        }


class SharedComponents:
    """Decomposes all images of the probe together, and gives the directions an identity over snapshots.

    In one snapshot: :meth:`begin`, :meth:`add` each piece, :meth:`finish`.

    Args:
        method: weighs the channels, and shows images through the components.
        n_components: how many directions.
        frozen: whether the directions stay what they were at the first snapshot.
        n_scored: how many images, the probe's first, are shown to the network through the shared components, to get
            their score gain; each costs ``n_components`` forward passes.
        n_exemplars: image regions kept for each component.
    """

    def __init__(
        self,
        method: ComponentMethod,
        n_components: int = 6,
        *,
        frozen: bool = False,
        n_scored: int = 8,
        n_exemplars: int = 4,
    ) -> None:
        if n_components < 1:
            raise ValueError(f"Expected `n_components` to be at least 1, but got {n_components}.")
        self.method, self.n_components, self.frozen = method, n_components, frozen
        self.n_scored, self.n_exemplars = n_scored, n_exemplars
        self.tracker = ComponentTracker(channel_weight=0.0, patience=2)
        self._basis: SharedBasis | None = None
        self.begin()

    def begin(self, rank: int = 0, world: int = 1) -> None:
        """Forget the last snapshot's evidence, and keep the directions.

        Args:
            rank: of this process, which explains every ``world``-th image.
            world: number of processes.
        """
        self._gram: Tensor | None = None
        self._maps: list[Tensor] = []
        self._to_score: list[Capture] = []
        self._wanted = len(range(rank, self.n_scored, world))

    def add(self, evidence: Capture) -> None:
        """Take in the class-weighted channel maps of one piece."""
        maps = self.method.weighted_maps(evidence)
        gram = channel_gram(maps)
        self._gram = gram if self._gram is None else self._gram + gram
        self._maps.append(maps.cpu())
        if sum(len(piece.images) for piece in self._to_score) < self._wanted:
            self._to_score.append(evidence)

    def finish(
        self,
        image_size: tuple[int, int],
        *,
        step: int,
        share: Callable[[Callable[[], Any]], list[Any]] = lambda work: [work()],
    ) -> SharedFindings | None:
        """Find the directions of all pieces of all processes, and project this probe on them.

        Args:
            image_size: ``(H, W)`` of the probe's images.
            step: number of the snapshot, rising.
            share: does this process's work and collects that of every process.

        Returns:
            What was found, the same in every process; None where no image has finite evidence of any energy.
        """
        grams = [gram for gram in share(lambda: None if self._gram is None else self._gram.cpu()) if gram is not None]
        if not grams or not any(gram.any() for gram in grams):
            return None
        total = torch.stack(grams).sum(dim=0)
        if self._basis is None or not self.frozen:
            self._basis = basis_from_gram(total, min(self.n_components, len(total)))
        basis = self._basis
        shares = [found for found in share(lambda: self._projected(basis)) if found is not None]
        patterns = interleaved([components for components, _ in shares])
        gains = torch.cat([gains for _, gains in shares]).nanmean(dim=0)
        directions = basis.directions
        energy = torch.einsum("ck,cd,dk->k", directions, total.to(directions), directions) / total.trace()
        found = exemplars(patterns, self.n_exemplars, image_size)
        tracked = self.tracker.update(
            basis.patterns, energy.clamp(min=0).sqrt()[None], ids=[_PSEUDO_IMAGE], step=step, valid=basis.valid[None]
        )
        self.begin()
        return SharedFindings(patterns, energy.float(), tracked, gains, found.images, found.boxes)

    def _projected(self, basis: SharedBasis) -> tuple[Tensor, Tensor] | None:
        """Maps ``(n, S, h, w)`` of this process's images, and the score gains ``(m, S)`` of those to be scored."""
        if not self._maps:
            return None
        components = project(torch.cat(self._maps), basis).components
        gains, start = [components.new_zeros(0, components.shape[1])], 0
        for evidence in self._to_score:
            shown = components[start : start + len(evidence.images)].to(evidence.activations)
            rows = torch.arange(start, start + len(shown), device=shown.device) < self._wanted
            usable = shown.isfinite().all(dim=(2, 3)) & (shown.relu().amax(dim=(2, 3)) > 0)
            scores, reference = self.method.score(evidence, shown.nan_to_num(), usable & rows[:, None])
            gains.append((scores - reference[:, None])[rows].cpu())
            start += len(shown)
        return components, torch.cat(gains)

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs, as tensors and primitives."""
        basis = None if self._basis is None else dict(vars(self._basis))
        return {"tracker": self.tracker.state_dict(), "basis": basis}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self.tracker.load_state_dict(state["tracker"])
        self._basis = None if state["basis"] is None else SharedBasis(**state["basis"])


def interleaved(shards: list[Tensor]) -> Tensor:
    """Undo :meth:`lit_decom.Probe.shard`: bring what was found of the images of all shards into the probe's order."""
    world = len(shards)
    owners = torch.cat([torch.arange(rank, len(shard) * world, world) for rank, shard in enumerate(shards)])
    return torch.cat(shards)[owners.argsort()]
