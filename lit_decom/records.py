"""What is kept of every snapshot, and the run directory it is kept in."""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_decom.methods.decomposition import ComponentFacts, Decomposition
from lit_decom.probe import Probe
from lit_decom.render import to_unit
from lit_decom.scores import Score

# 1: scores were kept as numbers by key alone, without interval and direction. 2: strengths were called singular values,
# and nothing told what each component removes.
_LAYOUT = 3
_COMPRESSION = 1  # of 9: the others take several times as long for a few per cent
_RUN_FILE, _PROBE_FILE, _NAMES_FILE = "run.json", "probe.npz", "names.json"
_RECORD_NAME = re.compile(r"step-(\d{9})_epoch-(\d{5})\.npz")


class RunDirectoryError(RuntimeError):
    """A run directory cannot be used: it belongs to another run, or what lies there cannot be read."""


class RecordLayoutError(RunDirectoryError):
    """A record was written by another version of lit-decom; the message says what to do."""


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
        return _write_npz(directory / self.filename, arrays | {"json": _text(texts)})

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
                arrays: dict[str, Any] = {
                    name: torch.from_numpy(stored[name]) for name in stored.files if name != "json"
                }
                texts = json.loads(stored["json"].item())
            _refuse_other_layout(path, texts.pop("layout", 1))
            texts["ids"] = tuple(texts["ids"])
            texts["factor_states"] = tuple(texts.get("factor_states", ()))
            texts["metric_scores"] = tuple(Score.from_dict(score) for score in texts["metric_scores"])
            return cls(**arrays, **texts)
        except RunDirectoryError:
            raise
        except Exception as error:
            raise RunDirectoryError(f"Expected {path.name} to be a whole record, but: {error}.") from error


@dataclass(frozen=True)
class FactorNames:
    """What the decision factors of a run are called, in words.

    Attributes:
        epoch: of the snapshot at which they were named.
        sides: by identity what makes the score high and what makes it low, each with its confidence, such as
            ``"pointed ears (98%)"``; None for no name.
    """

    epoch: int
    sides: Mapping[int, tuple[str | None, str | None]]


class RunDirectory:
    """A folder with the probe, the settings and one record per snapshot of one run.

    Args:
        path: the folder; made when the run is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, run_id: str, probe: Probe, settings: Mapping[str, Any], from_step: int | None = None) -> None:
        """Begin to write, or go on.

        Args:
            run_id: identity of the run that writes.
            probe: what is explained.
            settings: of the run.
            from_step: of a resumed run: records after it were superseded by going on from an earlier checkpoint, and
                are set aside under the suffix ``.superseded``.

        Raises:
            RunDirectoryError: if the folder holds another run's records.
        """
        owner = self.owner()
        if owner is None and self.files():
            raise RunDirectoryError(
                f"Expected `dirpath` {self.path} to be empty, but it holds records of an unknown run."
            )
        if owner not in (None, run_id):
            raise RunDirectoryError(
                f"Expected `dirpath` {self.path} to be this run's own, but it holds records of run {owner}. "
                "Choose another one or remove it."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if from_step is not None:
            for file in self.files():
                if _step_of(file) > from_step:
                    file.replace(file.with_suffix(".npz.superseded"))
        _write_text(self.path / _RUN_FILE, json.dumps({"run_id": run_id, "settings": dict(settings)}, indent=2))
        _write_npz(self.path / _PROBE_FILE, _arrays_of(probe))

    def save_picture(self, jpeg: bytes, record: Snapshot) -> Path:
        """Keep the encoded picture of a snapshot beside its record, under ``pictures/``."""
        path = (self.path / "pictures" / record.filename).with_suffix(".jpg")
        path.parent.mkdir(exist_ok=True)
        with _replacing(path) as temporary:
            temporary.write_bytes(jpeg)
        return path

    def save_names(self, names: FactorNames) -> Path:
        """Keep what the decision factors are called, in place of what they were called before."""
        return _write_text(self.path / _NAMES_FILE, json.dumps({"epoch": names.epoch, "factors": dict(names.sides)}))

    def names(self) -> FactorNames | None:
        """Read what the decision factors are called; None where nobody named them.

        Raises:
            RunDirectoryError: if the file is broken.
        """
        file = self.path / _NAMES_FILE
        if not file.exists():
            return None
        try:
            read = json.loads(file.read_text())
            sides = {int(identity): (high, low) for identity, (high, low) in read["factors"].items()}
            return FactorNames(int(read["epoch"]), sides)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunDirectoryError(f"Expected {file} to name decision factors, but: {error}.") from error

    def owner(self) -> str | None:
        """Identity of the run whose records lie here; None if there is none."""
        file = self.path / _RUN_FILE
        if not file.exists():
            return None
        try:
            return str(json.loads(file.read_text())["run_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"Expected {file} to name a run, but it cannot be read: {error}.") from error

    def files(self) -> list[Path]:
        """The records' files, in the order of their steps."""
        return sorted(file for file in self.path.glob("step-*.npz") if _RECORD_NAME.fullmatch(file.name))

    def records(self) -> Iterator[Snapshot]:
        """Read the records, in the order of their steps."""
        return (Snapshot.load(file) for file in self.files())

    def probe(self) -> Probe:
        """Read the probe; its images are in [0, 1], to 8 bits.

        Raises:
            RunDirectoryError: if there is none.
        """
        try:
            with (self.path / _PROBE_FILE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                known = {name: stored[name] for name in stored.files}
        except Exception as error:
            raise RunDirectoryError(f"Expected {self.path} to hold a probe, but: {error}.") from error
        images = torch.from_numpy(known.pop("images")).float() / 255
        texts = json.loads(known.pop("json").item())
        boxes = texts.pop("boxes")
        tensors = {name: torch.from_numpy(value) for name, value in known.items()}
        labels = tensors.pop("labels")
        texts["boxes"] = None if boxes is None else [torch.tensor(box) for box in boxes]
        return Probe.from_tensors(images, labels, **tensors, **texts)


def _refuse_other_layout(path: Path, layout: int) -> None:
    if layout != _LAYOUT:
        raise RecordLayoutError(
            f"Expected {path.name} to have the layout {_LAYOUT} of records, but it has {layout}: another version of "
            "lit-decom wrote it. Where checkpoints were kept, `lit-decom replay CKPT_DIR --config FILE` makes the "
            "records anew; version 0.1.0 reads those of layout 1."
        )


def displayed(probe: Probe) -> Tensor:
    """Bring a probe's images to [0, 1] for the eye, as :func:`lit_decom.render.to_unit` does: ``(n, 3, H, W)``."""
    return to_unit(probe.images, probe.mean, probe.std)


def _arrays_of(probe: Probe) -> dict[str, Any]:
    texts = {name: getattr(probe, name) for name in ("ids", "part_names", "class_names", "multilabel")}
    texts["boxes"] = None if probe.boxes is None else [box.tolist() for box in probe.boxes]
    arrays = {name: getattr(probe, name) for name in ("labels", "masks", "parts")}
    return {
        "images": (displayed(probe) * 255).round().to(torch.uint8).numpy(),
        "json": _text(texts),
        **{name: value.numpy() for name, value in arrays.items() if value is not None},
    }


def _step_of(file: Path) -> int:
    return int(file.name.removeprefix("step-").split("_")[0])


def _write_npz(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Write what :func:`numpy.load` reads. Floats are stored as they are: compressing them takes long for little."""
    with _replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            kind = zipfile.ZIP_STORED if array.dtype.kind == "f" else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getbuffer(), kind, _COMPRESSION)
    return path


def _text(texts: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """JSON as an array of bytes: one per letter, where NumPy's own texts take four."""
    return np.array(json.dumps(texts).encode())


def _write_text(path: Path, text: str) -> Path:
    with _replacing(path) as temporary:
        temporary.write_text(text)
    return path


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a file that takes its name only when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
