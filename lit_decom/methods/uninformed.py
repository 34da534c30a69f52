"""Baselines that every score must tell apart from an explanation: they do not know what is explained."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.cam import weighted_map
from lit_decom.methods.base import CAM, register, where_finite


@register("random_cam")
@dataclass(frozen=True)
class RandomCAM(CAM):
    """Channels weighted at random, uniformly from -1 to 1 (``RandomCAM`` of pytorch-grad-cam).

    It knows what the layer sees and not what speaks for the target: what a method gains over it is owed to the choice
    of the channels. The weights are drawn from a generator of the image's own, seeded by its pixels and ``seed`` (our
    choice; the peer draws from NumPy's global generator), so that they are the same in every batch, process and
    snapshot, and no global random state is touched. No pass through the network. Where the weighted sum is nowhere
    positive the map is blank, as the peer's.

    Attributes:
        seed: another number gives other weights.
    """

    seed: int = 0

    def __call__(self, capture: Capture) -> Tensor:
        """Explain a batch: ``relu(sum_k u_k A_k)`` with random ``u_k``, ``(B, h, w)``."""
        n_channels = capture.activations.shape[1]
        drawn = [torch.rand(n_channels, generator=self._generator(image)) for image in capture.images]
        weights = 2 * torch.stack(drawn).to(capture.activations) - 1
        return where_finite(weighted_map(capture.activations, weights), capture)

    def _generator(self, image: Tensor) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}:".encode())
        digest.update(image.detach().float().cpu().contiguous().numpy().tobytes())
        return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:7], "little"))


@register("center_cam")
@dataclass(frozen=True)
class CenterCAM(CAM):
    """A Gaussian in the middle of the image, where photographers put the object; it sees neither image nor network.

    The centre baseline of the pointing game (TorchRay's ``benchmark_pointing_game``) as a map. That the map is a
    Gaussian is our choice.

    Attributes:
        sigma: standard deviation, as a share of the grid's height and width.

    Raises:
        ValueError: if ``sigma`` is not positive.
    """

    sigma: float = 0.25

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise ValueError(f"Expected `sigma` to be positive, but got {self.sigma}.")

    def __call__(self, capture: Capture) -> Tensor:
        """Give every image the same map ``(B, h, w)`` in (0, 1], symmetric about the middle of the grid."""
        height, width = capture.activations.shape[-2:]
        blob = torch.outer(self._bump(height), self._bump(width)).to(capture.activations)
        return where_finite(blob.repeat(len(capture.activations), 1, 1), capture)

    def _bump(self, size: int) -> Tensor:
        distance = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / (self.sigma * size)
        return (-distance.square() / 2).exp()


@register("fake_cam")
@dataclass(frozen=True)
class FakeCAM(CAM):
    """0 in the top left corner and 1 everywhere else (Fake-CAM, as named and tabled by Opti-CAM, arXiv 2301.07002).

    It explains nothing and hides next to nothing, so it keeps the confidence of the network: a score that it wins
    measures how little a map hides. Published at the resolution of the image; here the corner is the first position of
    the grid, since maps are resized from there. No pass through the network.
    """

    def __call__(self, capture: Capture) -> Tensor:
        """Give every image the same map, ``(B, h, w)``."""
        maps = torch.ones_like(capture.activations[:, 0])
        maps[:, 0, 0] = 0
        return where_finite(maps, capture)
