"""Components followed over the epochs of a training: how sure the matches are, whether an identity keeps its part."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.components.maps import evidence_of, weighted_maps
from lit_decom import Capture, DecomCAM, Probe
from lit_decom.components import ComponentTracker, FactorFindings, FollowedFactors, SharedComponents, Tracked, summarize
from lit_decom.functional.decision_factors import factor_maps
from lit_decom.functional.decomposition import Factors, decompose, fix_signs
from lit_decom.functional.image import upsample
from lit_decom.functional.nmf import decompose_non_negative
from lit_decom.functional.parts import PartAgreement, part_agreement


@dataclass
class Story:
    """What one way of following saw: of every epoch the matches, and the part that each identity falls on.

    Attributes:
        confidence: mean confidence of the matches of every epoch that has any.
        parts: of every epoch, by ``(image, identity)``, the part outlined best; the image is 0 for shared ones.
        swaps: changes of rank per image and epoch.
    """

    confidence: list[float] = field(default_factory=list)
    parts: list[dict[tuple[int, int], int]] = field(default_factory=list)
    swaps: list[float] = field(default_factory=list)

    def note(self, tracked: Tracked, parts: Tensor) -> None:
        """Take in one epoch.

        Args:
            tracked: identities ``(n, K)``.
            parts: ``(n, K)``, -1 for none.
        """
        events = summarize(tracked)
        self.confidence.append(events["confidence"])
        self.swaps.append(events["swaps"])
        known = (tracked.identities >= 0) & (parts >= 0)
        self.parts.append(
            {
                (image, int(tracked.identities[image, rank])): int(parts[image, rank])
                for image, rank in known.nonzero().tolist()
            }
        )

    def numbers(self, late: int) -> dict[str, float]:
        """Sum up: of the components of the last epoch, those that lie on one part in all of the late ones.

        Args:
            late: how many epochs, the last ones.
        """
        names = {name for epoch in self.parts for name in epoch}
        last = self.parts[-1]
        kept = [len({epoch.get(name) for epoch in self.parts[-late:]}) == 1 for name in last]
        return {
            "confidence": float(torch.tensor(self.confidence).nanmean()),
            "identities_per_image": len(names) / max(len({image for image, _ in names}), 1),
            "components_at_the_end": len(last) / max(len({image for image, _ in last}), 1),
            "keeps_its_part": sum(kept) / len(kept) if kept else float("nan"),
            "swaps_per_image": float(torch.tensor(self.swaps).nanmean()),
        }


def stories(config: Any, tasks: Iterator[tuple[int, Any]], layer: str, probe: Probe) -> dict[str, Story]:
    """Follow every kind of component over the epochs after the first step.

    Args:
        config: of the experiment.
        tasks: epochs and networks; epoch 0, before training, is left out.
        layer: what is explained.
        probe: the images followed, with their parts.
    """
    found = {name: Story() for name in ("svd", "nmf", "nmf_warm", "shared_svd", "decision_factors")}
    trackers = {name: ComponentTracker() for name in ("svd", "nmf", "nmf_warm")}
    basis, factors, last = SharedComponents(DecomCAM(), config.n_followed_shared), FollowedFactors(), None
    for epoch, task in tasks:
        if epoch == 0:
            continue
        pieces = list(evidence_of(task, layer, probe))
        maps = weighted_maps(pieces)
        warm = decompose_non_negative(maps, config.n_components, start=last)
        last = warm.components
        each = {
            "svd": fix_signs(decompose(maps, config.n_components)),
            "nmf": decompose_non_negative(maps, config.n_components),
            "nmf_warm": warm,
        }
        for name, one in each.items():
            found[name].note(tracked_images(trackers[name], one, probe.ids, epoch), best_part(one.components, probe))
        for name, followed in {"shared_svd": basis, "decision_factors": factors}.items():
            note_shared(found[name], followed, pieces, probe, epoch)
    return found


def note_shared(
    story: Story, followed: SharedComponents | FollowedFactors, pieces: list[Capture], probe: Probe, epoch: int
) -> None:
    """One epoch of components that the whole probe shares."""
    size = (probe.images.shape[-2], probe.images.shape[-1])
    followed.begin()
    for piece in pieces:
        followed.add(piece)
    seen = followed.finish(size, step=epoch)
    if seen is None:
        return
    factors = isinstance(seen, FactorFindings)
    maps = factor_maps(seen.factors.codes, seen.maps, probe.labels) if factors else seen.patterns
    story.note(seen.tracked, common_part(maps, probe))


def tracked_images(tracker: ComponentTracker, found: Factors, ids: tuple[str, ...], epoch: int) -> Tracked:
    """Name the components of every image."""
    return tracker.update(
        found.components, found.strengths, ids=ids, step=epoch, loadings=found.loadings, valid=found.valid
    )


def agreement_of(maps: Tensor, probe: Probe) -> PartAgreement:
    """How well components ``(n, K, h, w)`` outline the parts, piece by piece."""
    if probe.parts is None:
        raise ValueError("Expected the probe to have parts, but got none.")
    size = (probe.images.shape[-2], probe.images.shape[-1])
    found = [
        part_agreement(upsample(maps[rows].float(), size), probe.parts[rows])
        for rows in torch.arange(len(maps)).split(50)
    ]
    return PartAgreement(*(torch.cat([getattr(one, name) for one in found]) for name in ("average_precision", "iou")))


def lifts_of(maps: Tensor, probe: Probe) -> Tensor:
    """Average precision ``(n, K, parts)`` beyond the part's share of the image, of what there is beyond it.

    A map that knows nothing has that share, so without this the largest part would be everybody's.
    """
    precision = agreement_of(maps.relu(), probe).average_precision
    share = probe.parts.float().mean(dim=(2, 3))[:, None] if probe.parts is not None else torch.zeros(())
    return (precision - share) / (1 - share)


def best_part(maps: Tensor, probe: Probe) -> Tensor:
    """The part that each component of each image outlines best, ``(n, K)``; -1 where there is none."""
    best = lifts_of(maps, probe).nan_to_num(-1.0).max(dim=2)
    return best.indices.where(best.values > 0, -1)


def common_part(maps: Tensor, probe: Probe) -> Tensor:
    """The part that each shared component outlines best on average, ``(1, K)``; -1 where there is none."""
    best = lifts_of(maps, probe).nanmean(dim=0).max(dim=1)
    return best.indices.where(best.values > 0, -1)[None]
