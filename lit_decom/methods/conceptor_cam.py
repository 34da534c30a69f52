"""Conceptor-CAM, reconstructed: Grad-CAM of what lies with the positive evidence and not with the negative one."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import check_option
from lit_decom.functional.conceptors import conceptor, conjunction, negation
from lit_decom.methods.base import CAM, finite_images, register

Relations = Literal["both", "inter", "intra"]


@register("conceptor_cam")
@dataclass(frozen=True)
class ConceptorCAM(CAM):
    """Grad-CAM of activations that conceptors have filtered: a reconstruction of Conceptor-CAM (arXiv 2201.08636).

    We know of the paper what its abstract says: conceptors between the channels and within them, and Boolean operations
    on them that set positive evidence against pseudo-negative evidence. No code was published that we know of. The
    algebra is Jaeger's (:mod:`lit_decom.functional.conceptors`); how it meets activations is our choice, and no figure
    of the paper should be compared with it.

    With the activations ``A`` as ``C`` channels by ``h w`` positions, ``w`` Grad-CAM's channel weights and
    ``e = w^T A`` the evidence at each position:

    - between channels, the vectors are the positions' channels: ``R+ = A diag(relu(e)) A^T``, and the pseudo-negative
      ``R- = A diag(relu(-e)) A^T``, positions that speak against the target;
    - within channels, the vectors are the channels' patterns: ``R+ = A^T diag(relu(w)) A`` and
      ``R- = A^T diag(relu(-w)) A``, channels that speak against it;
    - in both cases ``E = C+ AND NOT C-``, where each pair of correlations is divided by the sum of its two traces, so
      that neither the scale of the activations nor that of the score matters.

    The map is ``relu(w^T E_between A E_within)``. All is in float64, in the range of the activations, whose dimension
    is the smaller of ``C`` and ``h w``: a few eigendecompositions of that size per image, no pass through the network.

    Attributes:
        aperture: directions with more than a share ``aperture^-2`` of the evidence are kept, those with less are not.
        relations: ``"inter"``, between the channels alone; ``"intra"``, within them alone; or ``"both"``.

    Raises:
        ValueError: if the aperture is not positive or the relations are unknown.
    """

    aperture: float = 10.0
    relations: Relations = "both"

    def __post_init__(self) -> None:
        if not self.aperture > 0:
            raise ValueError(f"Expected `aperture` to be positive, but got {self.aperture}.")
        check_option("relations", self.relations, Relations)

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``(B, h, w)``."""
        finite = finite_images(capture.activations, capture.gradients)[:, None, None]
        # MPS has neither float64 nor eigenvectors.
        device = "cpu" if capture.activations.device.type == "mps" else capture.activations.device
        maps = capture.activations.where(finite[..., None], 0).flatten(2).to(device, torch.float64)
        weights = capture.gradients.where(finite[..., None], 0).mean(dim=(2, 3)).to(maps)[:, None]
        found = weights @ maps
        if self.relations != "intra":
            basis = torch.linalg.qr(maps).Q
            found = weights @ basis @ self._for_and_not_against(basis.mT @ maps, found) @ basis.mT @ maps
        if self.relations != "inter":
            basis = torch.linalg.qr(maps.mT).Q
            found = found @ basis @ self._for_and_not_against((maps @ basis).mT, weights) @ basis.mT
        drawn = found.relu().view_as(capture.activations[:, 0]).to(capture.activations)
        return drawn.masked_fill(~finite, torch.nan)

    def _for_and_not_against(self, vectors: Tensor, evidence: Tensor) -> Tensor:
        """``C+ AND NOT C-`` of vectors ``(B, n, m)``, each with evidence for or against the target ``(B, 1, m)``."""
        energy = vectors.square().sum(dim=1, keepdim=True) * evidence.abs()
        total = energy.sum(dim=2, keepdim=True)
        scale = torch.where(total > 0, total, 1)
        positive, negative = ((vectors * (part.relu() / scale)) @ vectors.mT for part in (evidence, -evidence))
        return conjunction(conceptor(positive, self.aperture), negation(conceptor(negative, self.aperture)))
