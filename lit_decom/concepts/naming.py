"""Names for image regions, components and decision factors: what an image-text model says of what is seen there.

A region is shown alone, over the blurred image, and the model scores it against every concept of a tree. A score counts
against those of the alternatives of the same attribute, since how well an image fits "pointed ears" rather than "round
ears" tells about ears, and how well it fits "pointed ears" rather than "a button nose" mostly about the texts.

Chance is the same shape elsewhere in the same image: a name is given where the region speaks more for the concept than
nearly all of such places do, as many as it takes for a level of 5 % over all concepts (Bonferroni). All of this is our
choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_decom.concepts.tree import Concept, ConceptTree
from lit_decom.evidence import observing
from lit_decom.functional.image import blend, gaussian_blur, upsample

_UNNAMED = {"no_variation", "dead_layer", "untrained", "rotation_not_identified", "subspace_not_identified"}
_LEVEL = 0.05
_ABOVE = 0.5  # of a map's maximum
_AWAY = 1 / 8  # of the image's height or width: nearer places show much the same


@dataclass(frozen=True)
class Name:
    """What a region is called.

    Attributes:
        concept: what the region speaks for most, compared with other places.
        confidence: share of the other places, 0..1, that speak less for it. Far above 0.5 by chance as well, since the
            concept is the one for which the region stands out most; ``given`` takes that into account.
        given: whether so few other places speak as much for it that it is no accident. A concept that is not given is
            no name.
    """

    concept: Concept
    confidence: float
    given: bool

    def __str__(self) -> str:
        return f"{self.concept.words} ({self.confidence:.0%})" if self.given else "no name"


@dataclass(frozen=True, eq=False)
class Namer:
    """Gives names by an image-text model.

    Args:
        scorer: images ``(B, 3, H, W)`` to scores ``(B, L)``, one for each of ``tree.concepts``: an image-text model as
            a zero-shot classifier of ``tree.texts``. Left as it is.
        tree: the concepts.
        blur: standard deviation of what lies around a region, as a share of the shorter side of the image.
        level: probability of a name by accident, 0..1, of a region that lies anywhere. One that lies on an object
            stands out from places off it, whatever it shows: ``experiments/concept_names`` measures how much more often
            such a region is named.
        batch_size: images per forward pass.
        seed: of the places that a region is compared with.

    Raises:
        ValueError: If a number is out of range.
    """

    scorer: nn.Module
    tree: ConceptTree
    blur: float = 0.1
    level: float = _LEVEL
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"Expected `level` to be between 0 and 1, but got {self.level}.")
        if self.blur <= 0 or self.batch_size < 1:
            raise ValueError(
                "Expected `blur` to be positive and `batch_size` at least 1, "
                f"but got {self.blur} and {self.batch_size}."
            )

    @property
    def n_places(self) -> int:
        """How many other places each region is compared with."""
        return math.ceil(len(self.tree.concepts) / self.level) - 1

    def name(self, images: Tensor, regions: Tensor) -> Name | None:
        """Name what one thing shows in one or several images.

        Args:
            images: ``(n, 3, H, W)``, as the model sees them.
            regions: ``(n, H, W)`` bool, where it is in each; those without a pixel, or of the whole image, are left
                out.

        Returns:
            The name; None where no region is left.

        Raises:
            ValueError: If shapes do not fit together.
        """
        if regions.shape != (len(images), *images.shape[2:]) or regions.dtype != torch.bool:
            raise ValueError(
                f"Expected `regions` to be bool {(len(images), *images.shape[2:])}, "
                f"but got {regions.dtype} {tuple(regions.shape)}."
            )
        some = regions.flatten(1).any(dim=1) & ~regions.flatten(1).all(dim=1)
        if not some.any():
            return None
        return self._judge(self._scores(images[some], regions[some]).mean(dim=0))

    def name_maps(self, images: Tensor, maps: Tensor) -> Name | None:
        """Name what maps ``(n, h, w)`` show, such as OSSMs: the regions where they are above half their maximum."""
        return self.name(images, region_of(maps, (images.shape[2], images.shape[3])))

    def name_factors(
        self, images: Tensor, scores: Tensor, maps: Tensor, *, states: Iterable[str] = (), n_images: int = 16
    ) -> list[tuple[Name | None, Name | None]]:
        """Name both sides of every decision factor.

        Args:
            images: ``(n, 3, H, W)`` of the probe, as the scorer sees them.
            scores: ``(n, K)`` of the factors.
            maps: ``(n, K, h, w)`` signed maps of their scores, as in :class:`lit_decom.components.FactorFindings`.
            states: of the factors, as in :class:`lit_decom.functional.decision_factors.DecisionFactors`.
            n_images: in how many images each side is looked at, those with the highest scores and the lowest.

        Returns:
            For each factor the name of what makes its score high and of what makes it low; None for both where single
            factors mean nothing: the network is not trained, or other axes of the same subspace do as well.
        """
        if not _UNNAMED.isdisjoint(states):
            return [(None, None)] * scores.shape[1]
        return [
            (self._name_side(images, of_one, where, n_images), self._name_side(images, -of_one, -where, n_images))
            for of_one, where in zip(scores.unbind(dim=1), maps.unbind(dim=1), strict=True)
        ]

    def _name_side(self, images: Tensor, scores: Tensor, maps: Tensor, n_images: int) -> Name | None:
        order = scores.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)[:n_images]
        rows = order[scores[order] > 0]
        return self.name_maps(images[rows], maps[rows].float()) if len(rows) else None

    def _scores(self, images: Tensor, regions: Tensor) -> Tensor:
        """Concepts' scores against their alternatives, of each region and of the other places: ``(n, 1 + R, L)``."""
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        with observing(self.scorer), torch.no_grad():
            for image, region in zip(images, regions, strict=True):
                places = torch.stack([region, *_elsewhere(region, self.n_places, generator)])
                around = gaussian_blur(image, self.blur * min(image.shape[1:]))
                shown = [
                    self.scorer(blend(image, part.to(image), around)) for part in torch.split(places, self.batch_size)
                ]
                found.append(self._against_alternatives(torch.cat(shown).cpu().double()))
        return torch.stack(found)

    def _against_alternatives(self, scores: Tensor) -> Tensor:
        if scores.shape[1] != len(self.tree.concepts):
            raise ValueError(
                f"Expected `scorer` to give {len(self.tree.concepts)} scores, one for each concept, "
                f"but got {scores.shape[1]}."
            )
        centred = torch.empty_like(scores)
        for group in self.tree.alternatives():
            centred[:, group] = scores[:, group] - scores[:, group].mean(dim=1, keepdim=True)
        return centred

    def _judge(self, scores: Tensor) -> Name:
        """Find the concept for which the first row stands out most from the other rows."""
        here, elsewhere = scores[0], scores[1:]
        spread = elsewhere.std(dim=0).clamp(min=1e-12)
        concept = int(((here - elsewhere.mean(dim=0)) / spread).argmax())
        less = elsewhere[:, concept] < here[concept]
        # The region is one of 1 + R places, so by accident it is among the m first with a probability of m / (1 + R).
        accident = (1 + int((~less).sum())) / (1 + len(elsewhere))
        given = accident <= self.level / len(self.tree.concepts) + 1e-12
        return Name(self.tree.concepts[concept], float(less.double().mean()), given)


def region_of(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Where maps ``(n, h, w)`` are above half their maximum, bool ``(n, H, W)``; nowhere for a map that is 0."""
    large = upsample(maps.clamp(min=0), size)
    return (large > _ABOVE * large.amax(dim=(1, 2), keepdim=True)) & (large > 0)


def _elsewhere(region: Tensor, n: int, generator: torch.Generator) -> list[Tensor]:
    """The same shape at `n` other places of the image; what leaves it on one side comes in on the other."""
    height, width = region.shape
    down, right = torch.arange(height), torch.arange(width)
    far = (torch.minimum(down, height - down) >= _AWAY * height)[:, None]
    shifts = (far | (torch.minimum(right, width - right) >= _AWAY * width)).nonzero()
    drawn = shifts[torch.randint(len(shifts), (n,), generator=generator)]
    return [region.roll((int(rows), int(columns)), dims=(0, 1)) for rows, columns in drawn]
