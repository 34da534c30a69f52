"""What is remembered of an image's components from one snapshot to the next."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_TENSORS = ("patterns", "loadings", "channels", "energies", "ranks", "identities")
Size = tuple[int, int | None, bool]
"""How many components and channels there are (None without loadings), and whether the channels are named."""


@dataclass(frozen=True)
class Observation:
    """Components of one image that were last seen in one snapshot, which is `missed` observations of the image ago.

    While they are followed, those of several images are one, with a dimension more in front.
    """

    missed: int
    patterns: Tensor  # (M, ...)
    loadings: Tensor | None  # (P, M)
    channels: Tensor | None  # (P,)
    energies: Tensor  # (M,) shares of the snapshot's energy
    ranks: Tensor  # (M,)
    identities: Tensor  # (M,)

    def keep(self, which: Tensor) -> "Observation":
        """Give some of the components, as waited for by one observation more."""
        loadings = None if self.loadings is None else self.loadings[:, which]
        rows = {name: getattr(self, name)[which] for name in ("patterns", "energies", "ranks", "identities")}
        return replace(self, missed=self.missed + 1, loadings=loadings, **rows)


def on_cpu(
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


def observed(snapshot: dict[str, Tensor], present: Tensor) -> Observation:
    """Copy the usable components of images ``(B, K)`` that have equally many."""
    ranks = present.nonzero()[:, 1].view(len(present), -1)
    image = torch.arange(len(present))[:, None]
    energies = snapshot["singular_values"].double()[image, ranks].square()
    loadings = snapshot.get("loadings")
    return Observation(
        missed=0,
        patterns=snapshot["patterns"][image, ranks],
        loadings=None if loadings is None else loadings.take_along_dim(ranks[:, None, :], dim=2),
        channels=snapshot.get("channels"),
        energies=energies / energies.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny),
        ranks=ranks,
        identities=torch.full_like(ranks, -1),
    )


def restored(saved: dict[str, Any]) -> Observation:
    """Make an observation of its fields in a checkpoint, on whatever device that was read to."""
    values: dict[str, Any] = {
        name: value.cpu() if isinstance(value, Tensor) else value for name, value in saved.items()
    }
    return Observation(**values)


def size_of(observation: Observation) -> Size:
    """How many components and channels there are, and whether the channels are named."""
    loadings = observation.loadings
    return len(observation.ranks), None if loadings is None else len(loadings), observation.channels is not None


def stacked(observations: Sequence[Observation]) -> Observation:
    """Put the tensors of images that are alike together, along a new first dimension."""
    columns = {name: [getattr(each, name) for each in observations] for name in _TENSORS}
    tensors: dict[str, Any] = {
        name: None if column[0] is None else torch.stack(column) for name, column in columns.items()
    }
    return replace(observations[0], **tensors)


def single(observations: Observation) -> list[Observation]:
    """Undo :func:`stacked`, with tensors of their own, so that none keeps another image's in memory."""
    found = []
    for image in range(len(observations.ranks)):
        tensors: dict[str, Any] = {name: getattr(observations, name) for name in _TENSORS}
        tensors = {name: None if each is None else each[image].clone() for name, each in tensors.items()}
        found.append(replace(observations, **tensors))
    return found
