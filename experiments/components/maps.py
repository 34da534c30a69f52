"""The components of one probe by every decomposition, on the layer's grid."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import process_time
from typing import TypeVar

import torch
from torch import Tensor, nn

from lit_decom import Capture, DecomCAM, Explainer, Probe
from lit_decom.components import FollowedFactors
from lit_decom.functional.cam import channel_weights, weighted_map
from lit_decom.functional.chance import blob_components, random_orthogonal_basis
from lit_decom.functional.decision_factors import DecisionFactors, factor_maps
from lit_decom.functional.decomposition import decompose, fix_signs
from lit_decom.functional.nmf import decompose_non_negative
from lit_decom.functional.shared_basis import basis_from_gram, channel_gram, project

T = TypeVar("T")
PIECE = 50  # images explained at once
N_TURNS = 5  # random rotations that are averaged over
PER_IMAGE = ("svd", "nmf", "turned_svd", "blobs", "grad_cam")


@dataclass(frozen=True)
class Found:
    """Components of every image of the probe.

    Attributes:
        draws: ``(n, K, h, w)`` each, non-negative: one, or several of what is drawn at random, to be averaged over.
        seconds: CPU time for the probe beyond that of its evidence; NaN where it was not measured by itself.
    """

    draws: tuple[Tensor, ...]
    seconds: float = float("nan")

    @classmethod
    def of(cls, maps: Tensor, seconds: float = float("nan")) -> "Found":
        """What is not drawn."""
        return cls((maps,), seconds)


def evidence_of(task: nn.Module, layer: str, probe: Probe) -> Iterator[Capture]:
    """Explain the labels of a probe, piece by piece."""
    explainer = Explainer(DecomCAM(), layer)
    return (explainer.capture(task, piece) for piece in probe.batches(PIECE))


def per_image(pieces: list[Capture], n_components: int) -> dict[str, Found]:
    """Decompose every image by itself; an index means nothing from one image to another but a rank.

    Args:
        pieces: evidence of the probe.
        n_components: of each image.
    """
    maps = weighted_maps(pieces)
    svd, svd_seconds = timed(lambda: fix_signs(decompose(maps, n_components)))
    nmf, nmf_seconds = timed(lambda: decompose_non_negative(maps, n_components))
    generators = [torch.Generator().manual_seed(index) for index in range(len(maps))]
    turned = [positive_sum(random_orthogonal_basis(svd.components, generators, svd.valid)) for _ in range(N_TURNS)]
    blobs = blob_components(maps.sum(dim=1), n_components, generators)
    return {
        "svd": Found.of(svd.components.relu(), svd_seconds),
        "nmf": Found.of(nmf.components, nmf_seconds),
        "turned_svd": Found(tuple(one.relu() for one in turned)),
        "blobs": Found.of(blobs),
        "grad_cam": Found.of(torch.cat([grad_cam(piece) for piece in pieces])[:, None]),
    }


def shared(
    pieces: list[Capture], image_size: tuple[int, int], n_components: int
) -> tuple[dict[str, Found], DecisionFactors]:
    """Decompose the probe as a whole, so that an index means the same in every image.

    Args:
        pieces: evidence of the probe.
        image_size: ``(H, W)``.
        n_components: of the shared SVD; another one has as many as there are decision factors.
    """
    labels = torch.cat([piece.targets for piece in pieces])
    followed = FollowedFactors()

    def find() -> tuple[DecisionFactors, Tensor]:
        for piece in pieces:
            followed.add(piece)
        found = followed.finish(image_size, step=1)
        if found is None:
            raise ValueError("Expected the evidence to be finite, but got none that is.")
        return found.factors, found.maps

    (factors, maps), seconds = timed(find)
    k = factors.codes.shape[1]
    # What is before the rotation: singular vectors of the effect of the channels on the classes.
    unrotated = factors.directions.T @ torch.linalg.svd(factors.codes @ factors.directions.T).Vh[:k].T

    def rotated(by: Tensor) -> Tensor:
        return factor_maps(factors.codes @ by, torch.einsum("njhw,jk->nkhw", maps, by.to(maps)), labels)

    found = {
        "decision_factors": Found.of(factor_maps(factors.codes, maps, labels), seconds),
        "unrotated_factors": Found.of(rotated(unrotated)),
        "turned_factors": Found(tuple(rotated(turn) for turn in turns(k))),
    }
    weighted = weighted_maps(pieces)
    for count in dict.fromkeys((n_components, k)):
        projected, seconds = timed(lambda count=count: shared_svd(weighted, count))  # type: ignore[misc]
        found["shared_svd" if count == n_components else "shared_svd_as_many"] = Found.of(projected.relu(), seconds)
    return found, factors


def turns(k: int) -> list[Tensor]:
    """Draw rotations ``(k, k)``, always the same ones, none likelier than another."""
    generator = torch.Generator().manual_seed(0)
    return [torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64)).Q for _ in range(N_TURNS)]


def weighted_maps(pieces: list[Capture]) -> Tensor:
    """Class-weighted maps of all channels ``(n, C, h, w)``, those that speak against the class left out."""
    method = DecomCAM()
    return torch.cat([method.weighted_maps(piece) for piece in pieces])


def shared_svd(maps: Tensor, n_components: int) -> Tensor:
    """Project weighted maps on the directions of most energy in all images: ``(n, K, h, w)``, signed."""
    return project(maps, basis_from_gram(channel_gram(maps), n_components)).components


def grad_cam(piece: Capture) -> Tensor:
    """One map of each image, ``(B, h, w)``."""
    return weighted_map(piece.activations, channel_weights(piece.activations, piece.gradients))


def positive_sum(components: Tensor) -> Tensor:
    """Give each component the sign that makes it sum to a positive number."""
    return components * components.sum(dim=(2, 3), keepdim=True).sign()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Do some work, and tell the CPU seconds that it took."""
    start = process_time()
    return work(), process_time() - start
