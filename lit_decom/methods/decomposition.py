"""Decomposition: the components of a batch of images, and what each does for the decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

_ORTHOGONAL = 2e-3  # cosine; records hold patterns in half precision
_SIDE_WITHOUT_IMAGE = 112


@dataclass(frozen=True)
class ComponentFacts:
    """What is known of the components of a batch of explanations, beside their maps.

    An image whose evidence is not finite has NaN throughout and no valid component; a component past an image's rank
    (or past the asked fraction of energy) is 0 and not valid.

    Attributes:
        strengths: ``(B, K)``, norms of the maps, descending unless the components go on from earlier ones; singular
            values where they are orthogonal.
        channels: ``(B, P)``, indices of the selected channels in descending order of weight.
        loadings: ``(B, P, K)``, channel side of the decomposition, unit norm.
        valid: ``(B, K)`` bool.
        energy: ``(B,)``, squared norm of the decomposed matrix.
        removed: ``(B, K)``, by how much each component lowers the squared norm of what those before it leave over.
        scores: ``(B, K)``, target score of the image seen through each OSSM; NaN where not valid.
        reference_scores: ``(B,)``, target score of the blurred image.
        contributions: ``(B, K)``, weights of the OSSMs in the integrated map, by the preset's rule.
        fallback: ``(B,)`` bool, where that rule could not tell the components apart and all weigh the same.
    """

    strengths: Tensor
    channels: Tensor
    loadings: Tensor
    valid: Tensor
    energy: Tensor
    removed: Tensor
    scores: Tensor
    reference_scores: Tensor
    contributions: Tensor
    fallback: Tensor

    @property
    def score_gains(self) -> Tensor:
        """What each OSSM adds to the blurred image's score, ``(B, K)``: comparable over epochs. NaN where not valid."""
        return self.scores - self.reference_scores[:, None]

    @property
    def explained_energy(self) -> Tensor:
        """Share of the decomposed matrix's squared norm that each component explains, ``(B, K)``.

        What it adds to those before it: the shares add up, to at most 1, orthogonal or not. Squared singular values
        over their sum where the components are singular vectors.
        """
        energy = self.energy[:, None]
        return self.removed / torch.where(energy == 0, torch.ones_like(energy), energy)

    @property
    def finite(self) -> Tensor:
        """Which images ``(B,)`` have finite evidence and finite scores of all their components."""
        return self.energy.isfinite() & (self.score_gains.isfinite() | ~self.valid).all(dim=1)


@dataclass(frozen=True)
class Decomposition(ComponentFacts):
    """Components of a batch of explanations, and what each of them does for its target.

    Attributes:
        components: ``(B, K, h, w)``, of norm ``strengths``; whether they have negative parts and are mutually
            orthogonal, ``signed`` and ``orthogonal`` say.
    """

    components: Tensor

    @property
    def ossms(self) -> Tensor:
        """Orthogonal sub-saliency maps ``(B, K, h, w)``: the rectified components. Rectified, they overlap."""
        return self.components.relu()

    @property
    def singular_values(self) -> Tensor:
        """The strengths, by the name that they have where components are orthogonal."""
        return self.strengths

    @property
    def signed(self) -> bool:
        """Whether any component has a negative part, which rectifying takes from the map."""
        return bool((self.components < 0).any())

    @property
    def orthogonal(self) -> bool:
        """Whether the components of each image are mutually orthogonal, to half precision's rounding."""
        scale = torch.where(self.strengths > 0, self.strengths, 1)[:, :, None]
        patterns = (self.components.flatten(2) / scale).nan_to_num()
        return bool(((patterns @ patterns.mT).triu(diagonal=1).abs() <= _ORTHOGONAL).all())

    @property
    def cam(self) -> Tensor:
        """The integrated map ``relu(sum_i w_i OSSM_i)`` on the feature grid, ``(B, h, w)``."""
        return (self.ossms * self.contributions[:, :, None, None]).sum(dim=1).relu()

    def show(
        self,
        images: Tensor | None = None,
        *,
        captions: Sequence[str] | None = None,
        masks: Tensor | None = None,
        title: str = "score gain, share of energy",
        n_images: int = 8,
    ) -> "Image.Image":
        """Draw a row per image: the image, its integrated map and its OSSMs. A notebook shows what is returned.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1]; None for maps over plain grey. :func:`lit_decom.explain` knows its own.
            captions: ``B`` texts under the images.
            masks: ``(B, H, W)`` bool, objects to be outlined.
            title: above the picture.
            n_images: how many of the images, from the first on.

        Returns:
            The picture, which no window opens for.
        """
        # Only who draws needs Matplotlib and PIL.
        from lit_decom.render import component_captions, ossm_grids

        n = min(n_images, len(self.valid))
        side = _SIDE_WITHOUT_IMAGE
        shown = self.cam.new_full((n, 3, side, side), 0.5) if images is None else images[:n]
        (picture,) = ossm_grids(
            shown.detach().cpu(),
            self.cam[:n].cpu(),
            self.ossms[:n].cpu(),
            row_captions=[""] * n if captions is None else captions[:n],
            ossm_captions=component_captions(self.score_gains[:n], self.explained_energy[:n], self.valid[:n]),
            scales={title: None},
            masks=None if masks is None else masks[:n].cpu(),
        )
        return picture
