"""Judging one batch: one forward and one backward pass, then every method on the same evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from lit_decom.comparison.cost import now, peak_bytes, timed
from lit_decom.comparison.measures import Measures
from lit_decom.comparison.source import Batch
from lit_decom.comparison.store import Rows
from lit_decom.evidence import Capture, observing
from lit_decom.evidence.network import Network
from lit_decom.evidence.observing import device_of
from lit_decom.explainer import Explainer, warn_of_embeddings
from lit_decom.functional.image import upsample
from lit_decom.functional.stability import map_similarity
from lit_decom.functional.strata import NO_STRATUM
from lit_decom.methods.base import CAM
from lit_decom.metrics.strata import StrataRule
from lit_decom.probe import Probe


@dataclass(frozen=True)
class Judge:
    """Everything that the rows of an image depend on, beside the image.

    Attributes:
        model: the network.
        explainer: which layer is explained, for which target, and how the network is asked.
        methods: by name.
        measures: what is measured of their maps.
        rule: which images are told apart.
        correct_only: whether images that the network gets wrong are not explained.
    """

    model: nn.Module
    explainer: Explainer
    methods: Mapping[str, CAM]
    measures: Measures
    rule: StrataRule
    correct_only: bool

    def rows(self, batch: Batch, *, with_peaks: bool = False) -> Rows:
        """Explain and measure some images.

        Args:
            batch: as read.
            with_peaks: whether the memory of each method is measured, for which it explains them once more.
        """
        unlabelled = Rows.of_unlabelled(batch.unlabelled, len(self.methods), len(self.measures.all))
        if batch.piece is None:
            return unlabelled
        piece = batch.piece.to(device_of(self.model))
        shown, evidence, seconds = torch.arange(len(piece)), None, 0.0
        if self.correct_only:
            logits = self._logits(piece)
            shown = (logits.argmax(dim=1) == piece.labels).nonzero().flatten().cpu()
        if len(shown):
            part = piece if len(shown) == len(piece) else piece.select(shown.tolist())
            begun = now(piece.images.device)
            evidence = self.explainer.capture(self.model, part)
            seconds = now(piece.images.device) - begun
            logits = logits if self.correct_only else evidence.logits
            warn_of_embeddings(logits.shape[1], piece)
        found = self._answers(batch.places, piece, logits)
        if evidence is not None:
            found = self._explained(found, shown, part, evidence, with_peaks=with_peaks)
        found = replace(found, evidence_seconds=torch.tensor(seconds, dtype=torch.float64))
        return Rows.joined([found, unlabelled]) if batch.unlabelled else found

    def maps(self, piece: Probe, names: tuple[str, str]) -> tuple[Tensor, Tensor, Tensor]:
        """Explain some images by two methods: their maps ``(n, h, w)`` each, and the logits, on the CPU."""
        evidence = self.explainer.capture(self.model, piece.to(device_of(self.model)))
        first, second = (self.methods[name](evidence).cpu() for name in names)
        return first, second, evidence.logits.cpu()

    def _logits(self, piece: Probe) -> Tensor:
        with observing(self.model), torch.no_grad():
            return Network(self.model, self.explainer.forward, channels_last=False)(piece.images)

    def _answers(self, places: tuple[int, ...], piece: Probe, logits: Tensor) -> Rows:
        """What is known of images before they are explained."""
        confidences, answers = logits.float().softmax(dim=1).max(dim=1)
        broken = logits.isnan().any(dim=1)
        bare = Rows.of_unlabelled(places, len(self.methods), len(self.measures.all))
        by_function = callable(self.rule.strata)
        return replace(
            bare,
            labels=piece.labels.cpu(),
            answers=answers.masked_fill(broken, -1).cpu(),
            confidences=confidences.cpu(),
            codes=self.rule(logits, piece.labels).cpu() if by_function else torch.full((len(piece),), NO_STRATUM),
        )

    def _explained(self, found: Rows, shown: Tensor, piece: Probe, evidence: Capture, *, with_peaks: bool) -> Rows:
        """Add what the methods' maps are worth, how alike they are, and what they cost."""
        values, agreements = found.values.clone(), found.agreements.clone()
        maps, seconds, forwards, peaks = [], [], [], []
        device = piece.images.device
        for number, (name, method) in enumerate(self.methods.items()):
            try:
                if with_peaks:
                    peaks.append(peak_bytes(partial(method, evidence), device) / len(piece))
                done = timed(method, evidence)
                values[shown, number] = self.measures.values(_shown(piece, evidence, method, done.maps)).to(values)
            except Exception as error:
                error.add_note(f"while {name!r} explained images {list(piece.ids)}")
                raise
            maps.append(done.maps)
            seconds.append(done.seconds)
            forwards.append(done.forwards)
        for number, (one, other) in enumerate(combinations(maps, 2)):
            agreements[shown, number] = map_similarity(one, other, "pearson").cpu().to(agreements)
        return replace(
            found,
            values=values,
            agreements=agreements,
            n_explained=torch.tensor(len(piece)),
            seconds=torch.tensor(seconds, dtype=torch.float64),
            forwards=torch.tensor(forwards),
            peaks=torch.tensor(peaks, dtype=torch.float64) if with_peaks else found.peaks,
        )


def _shown(piece: Probe, evidence: Capture, method: CAM, maps: Tensor) -> dict[str, Any]:
    """What metrics may be updated with."""
    size = evidence.images.shape[-2], evidence.images.shape[-1]

    def resized(maps: Tensor) -> Tensor:
        return upsample(maps, size).clamp_(min=0)

    known = {
        "maps": resized(maps),
        "masks": piece.masks,
        "boxes": piece.boxes,
        "labels": piece.labels,
        "logits": evidence.logits,
        "capture": evidence,
        "explain": lambda again: resized(method(again)),
    }
    return {name: value for name, value in known.items() if value is not None}
