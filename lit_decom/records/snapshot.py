"""Everything that is kept of one snapshot, and how it is written and read."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_decom.methods.decomposition import ComponentFacts, Decomposition
from lit_decom.records.checking import refuse_missing, refuse_sizes, refuse_texts, tensor_of
from lit_decom.records.files import RecordLayoutError, RunDirectoryError, text_array, write_npz
from lit_decom.scores import Score

# 1: scores were kept as numbers by key alone, without interval and direction. 2: strengths were called singular values,
# and nothing told what each component removes.
_LAYOUT = 3


@dataclass(frozen=True, eq=False)
class Snapshot(ComponentFacts):
    """Everything that one run of the callback found, enough to draw, compare and match it later without the model.

    What it knows of the components of ``n`` images is as in :class:`lit_decom.methods.decomposition.ComponentFacts`.

    Attributes:
        epoch: zero-based.
        step: the Trainer's global step as the loggers see it.
        ids: one name per image, ``n`` of them.
        labels: ``(n,)``.
        targets: ``(n,)``, the class explained; -1 for a callable's score.
        logits: ``(n, N)``.
        patterns: ``(n, K, h, w)`` float16, components of unit norm.
        numbers: what was logged, by key, the scores among them.
        metric_scores: every score of a metric with its interval and direction.
        module_values: what the module itself had logged by then, by key, such as ``val/loss``.
        dropped: by the name of a metric that raised an error and has no score here, what it said.
        settings: method, layer, target policy, probe digest and versions.
        identities: ``(n, K)`` int64, what each component is called over the epochs; -1 where not valid.
        births: ``(n, K)`` bool, a new identity.
        deaths: ``(n, D)`` int64, identities that ended, padded with -1.
        flips: ``(n, K)`` bool, the sign turned since the component was last seen.
        similarity: ``(n, K)`` in [0, 1] to the component as last seen; NaN without one.
        confidence: ``(n, K)`` in [0, 1] of that match; NaN without one.
        drift: ``(n,)`` in [0, 1] since the image was last seen; NaN the first time.
        shared_patterns: ``(n, S, h, w)`` float16, each image's maps of the ``S`` components shared by the whole probe.
        shared_energy: ``(S,)``, the share of the probe's energy that each explains.
        shared_identities: ``(S,)`` int64, what each is called over the epochs.
        shared_images: ``(S, m)`` int64, the images in which each fires most, padded with -1.
        shared_boxes: ``(S, m, 4)``, where: x1, y1, x2, y2 in pixels.
        factor_codes: ``(N, F)``, how each class uses each of ``F`` decision factors.
        factor_directions: ``(C, F)``, each factor's direction over the layer's channels, of unit norm.
        factor_scores: ``(n, F)``; codes times scores, summed, approximate the centred logits. NaN where not finite.
        factor_shares: ``(F,)``, each factor's share of the decision.
        factor_maps: ``(n, F, h, w)`` float16, signed map of each score, see
            :func:`lit_decom.functional.decision_factors.factor_maps`.
        factor_identities: ``(F,)`` int64, what each is called over the epochs.
        factor_images: ``(F, m)`` int64, the images in which each speaks most for the target, padded with -1.
        factor_boxes: ``(F, m, 4)``, where: x1, y1, x2, y2 in pixels.
        factor_states: why the factors are no result, see
            :attr:`lit_decom.functional.decision_factors.DecisionFactors.states`.
        class_maps: ``(n, M, h, w)`` float16, where each image speaks for which of its ``M`` likeliest classes, see
            :class:`lit_decom.methods.FMGCAM`; where that is a baseline.
        class_map_classes: ``(n, M)`` int64, which these are.
    """

    epoch: int
    step: int
    ids: tuple[str, ...]
    labels: Tensor
    targets: Tensor
    logits: Tensor
    patterns: Tensor
    numbers: Mapping[str, float]
    settings: Mapping[str, Any]
    metric_scores: tuple[Score, ...] = ()
    module_values: Mapping[str, float] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    identities: Tensor | None = None
    births: Tensor | None = None
    deaths: Tensor | None = None
    flips: Tensor | None = None
    similarity: Tensor | None = None
    confidence: Tensor | None = None
    drift: Tensor | None = None
    shared_patterns: Tensor | None = None
    shared_energy: Tensor | None = None
    shared_identities: Tensor | None = None
    shared_images: Tensor | None = None
    shared_boxes: Tensor | None = None
    factor_codes: Tensor | None = None
    factor_directions: Tensor | None = None
    factor_scores: Tensor | None = None
    factor_shares: Tensor | None = None
    factor_maps: Tensor | None = None
    factor_identities: Tensor | None = None
    factor_images: Tensor | None = None
    factor_boxes: Tensor | None = None
    factor_states: tuple[str, ...] = ()
    class_maps: Tensor | None = None
    class_map_classes: Tensor | None = None

    @classmethod
    def of(cls, decomposition: Decomposition, **rest: Any) -> "Snapshot":
        """Pack a decomposition of the whole probe with the numbers that belong to it.

        Args:
            decomposition: on any device.
            **rest: the attributes that a decomposition does not have.

        Returns:
            The record, on the CPU.
        """
        values = decomposition.strengths
        norms = torch.where(values == 0, torch.ones_like(values), values)[:, :, None, None]
        kept: dict[str, Any] = {entry.name: getattr(decomposition, entry.name) for entry in fields(ComponentFacts)}
        kept["patterns"] = (decomposition.components / norms).half()
        kept |= rest
        moved: dict[str, Any] = {
            name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in kept.items()
        }
        return cls(**moved)

    @property
    def decomposition(self) -> Decomposition:
        """The decomposition, its components to half precision."""
        kept = {entry.name: getattr(self, entry.name) for entry in fields(ComponentFacts)}
        return Decomposition(components=self.patterns.float() * self.strengths[:, :, None, None], **kept)

    @property
    def filename(self) -> str:
        """Name by step and epoch: an epoch may have several snapshots; of those at one step the last one stays."""
        return f"step-{self.step:09d}_epoch-{self.epoch:05d}.npz"

    def save(self, directory: Path) -> Path:
        """Write the record to a directory; a reader sees either all of it or nothing."""
        arrays = {name: value.numpy() for name, value in vars(self).items() if isinstance(value, Tensor)}
        texts = {name: value for name, value in vars(self).items() if not isinstance(value, Tensor | None)}
        texts |= {"metric_scores": [score.as_dict() for score in self.metric_scores], "layout": _LAYOUT}
        return write_npz(directory / self.filename, arrays | {"json": text_array(texts)})

    @classmethod
    def load(cls, path: Path) -> "Snapshot":
        """Read a record.

        Raises:
            RecordLayoutError: if another version of lit-decom wrote it.
            RunDirectoryError: if the file is not a whole record.
        """
        try:
            # Opened here, since NumPy leaves a broken archive open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                texts = json.loads(stored["json"].item())
                _refuse_other_layout(path, texts.pop("layout", 1) if isinstance(texts, dict) else None)
                refuse_texts(texts)
                arrays: dict[str, Any] = {
                    name: tensor_of(name, stored[name]) for name in stored.files if name != "json"
                }
            refuse_missing(_REQUIRED, arrays | texts)
            refuse_sizes(len(texts["ids"]), arrays)
            texts["ids"] = tuple(texts["ids"])
            texts["factor_states"] = tuple(texts.get("factor_states", ()))
            texts["metric_scores"] = tuple(Score.from_dict(score) for score in texts.get("metric_scores", ()))
            return cls(**arrays, **texts)
        except RunDirectoryError:
            raise
        except Exception as error:
            raise RunDirectoryError(f"Expected {path.name} to be a whole record, but: {error}.") from error


_REQUIRED = [entry.name for entry in fields(Snapshot) if entry.default is MISSING and entry.default_factory is MISSING]


def _refuse_other_layout(path: Path, layout: Any) -> None:
    if layout != _LAYOUT:
        raise RecordLayoutError(
            f"Expected {path.name} to have the layout {_LAYOUT} of records, but it has {layout}: another version of "
            "lit-decom wrote it. Where checkpoints were kept, `lit-decom replay CKPT_DIR --config FILE` makes the "
            "records anew; version 0.1.0 reads those of layout 1."
        )
