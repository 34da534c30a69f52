"""What is kept of a comparison on disk: a row of numbers per image, in one file per batch, each written at once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_decom.comparison.base import ComparisonError
from lit_decom.probe import Probe
from lit_decom.records.files import replacing, write_text

_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of ``n`` images, by ``M`` methods and ``C`` measures; and what it cost.

    Attributes:
        places: of the images in the data ``(n,)``.
        labels: right answers ``(n,)``; -1 where there is none, and then nothing else is known of the image.
        answers: classes predicted ``(n,)``; -1 where a logit is NaN.
        confidences: largest softmax probability ``(n,)``.
        codes: stratum ``(n,)`` by a function of the user's; -1 for none.
        values: ``(n, M, C)``; NaN where undefined.
        agreements: Pearson correlation of the maps of each pair of methods ``(n, M (M - 1) / 2)``, pairs in the order
            of :func:`itertools.combinations`.
        n_explained: how many images were explained ``()``.
        evidence_seconds: for the forward and the backward pass that all methods share ``()``, over all images.
        seconds: of each method ``(M,)``, over all images.
        forwards: images shown to the network by each method ``(M,)``.
        peaks: bytes per image that each method needs at once ``(M,)``; NaN where it was not measured.
    """

    places: Tensor
    labels: Tensor
    answers: Tensor
    confidences: Tensor
    codes: Tensor
    values: Tensor
    agreements: Tensor
    n_explained: Tensor
    evidence_seconds: Tensor
    seconds: Tensor
    forwards: Tensor
    peaks: Tensor

    @classmethod
    def of_unlabelled(cls, places: Sequence[int], n_methods: int, n_measures: int) -> "Rows":
        """Note that some images have no label, so that they are not read again."""
        n, nan = len(places), torch.nan
        unknown = torch.full((n,), _UNKNOWN)
        return cls(
            torch.tensor(places, dtype=torch.long),
            *(unknown, unknown, torch.full((n,), nan), unknown),
            torch.full((n, n_methods, n_measures), nan),
            torch.full((n, n_methods * (n_methods - 1) // 2), nan),
            *(torch.tensor(0), torch.tensor(0.0, dtype=torch.float64)),
            *(torch.zeros(n_methods, dtype=torch.float64), torch.zeros(n_methods, dtype=torch.long)),
            torch.full((n_methods,), nan, dtype=torch.float64),
        )

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """Put the rows of several batches together, in the order of the places; at least one."""
        order = torch.cat([part.places for part in parts]).argsort()
        together = {
            name: torch.cat([getattr(part, name) for part in parts])[order]
            for name in ("places", "labels", "answers", "confidences", "codes", "values", "agreements")
        }
        added = {
            name: torch.stack([getattr(part, name) for part in parts]).sum(dim=0)
            for name in ("n_explained", "evidence_seconds", "seconds", "forwards")
        }
        peaks = torch.stack([part.peaks for part in parts])
        largest = peaks.nan_to_num(-torch.inf).amax(dim=0)
        return cls(**together, **added, peaks=largest.masked_fill(largest < 0, torch.nan))

    def select(self, rows: Tensor) -> "Rows":
        """Take some images; the cost stays that of all."""
        per_image = ("places", "labels", "answers", "confidences", "codes", "values", "agreements")
        known = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return Rows(**(known | {name: known[name][rows] for name in per_image}))

    @property
    def right(self) -> Tensor:
        """Whether each answer is right ``(n,)``."""
        return (self.answers == self.labels) & (self.labels >= 0)


class Store:
    """A folder of rows; a batch is either there as a whole or not at all, whenever the process is killed.

    Args:
        folder: is made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows, self._settings = folder / "rows", folder / "settings.json"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note what is compared, or make sure that the rows that are there are of the same comparison.

        Raises:
            ComparisonError: if they are of another one, or the folder cannot be made.
        """
        try:
            self._rows.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ComparisonError(f"Expected `output` to be a folder that can be written to, but: {error}") from error
        if not self._settings.exists():
            write_text(self._settings, json.dumps(settings, indent=2))
            return
        known, wanted = json.loads(self._settings.read_text()), json.loads(json.dumps(settings))
        for name in dict.fromkeys((*wanted, *known)):
            if known.get(name) != wanted.get(name):
                raise ComparisonError(
                    f"Expected `output` to be new or of the same comparison, but {self.folder} has another `{name}`: "
                    f"{_short(known.get(name))} instead of {_short(wanted.get(name))}."
                )

    def write(self, rows: Rows) -> None:
        """Keep the rows of a batch; its first image names the file, since no image is in two of them."""
        path = self._rows / f"{int(rows.places.min()):012d}.npz"
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{entry.name: getattr(rows, entry.name).numpy() for entry in fields(rows)})

    def places(self) -> set[int]:
        """Tell which images have their rows."""
        found: set[int] = set()
        for path in self._files():
            with np.load(path) as file:
                found.update(file["places"].tolist())
        return found

    def read(self) -> Rows | None:
        """Read the rows of all images; None if there are none."""
        parts = []
        for path in self._files():
            with np.load(path) as file:
                parts.append(Rows(**{name: torch.from_numpy(file[name]) for name in file.files}))
        return Rows.joined(parts) if parts else None

    def _files(self) -> list[Path]:
        return sorted(path for path in self._rows.glob("*.npz") if not path.name.startswith("."))


def digest_of(model: nn.Module, first: Probe) -> dict[str, str]:
    """Tell networks and data apart by their numbers.

    Args:
        model: the network; its parameters and buffers count.
        first: some images of the data, with their labels.
    """
    total = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content = tensor.detach().cpu().contiguous().flatten()
            total.update(content.view(torch.uint8).numpy().tobytes() if content.numel() else b"")
    return {"network": total.hexdigest(), "first_images": first.digest}


def _short(value: Any) -> str:
    text = value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
