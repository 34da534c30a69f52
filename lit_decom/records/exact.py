"""The probe of a run, bit by bit: reading the data again need not give the same images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_decom.probe import Probe
from lit_decom.records.directory import RunDirectory
from lit_decom.records.files import RunDirectoryError, text_array, write_npz

_FILE = "probe_exact.npz"
_STATISTICS = ("mean", "std")


def keep_exactly(directory: RunDirectory, probe: Probe) -> None:
    """Keep the images of a run's probe as they are, once; in the records' own ``probe.npz`` they have 8 bits.

    Args:
        directory: of the run, opened with this probe.
        probe: of the run.
    """
    try:
        is_kept = exact_probe(directory).digest == probe.digest
    except RunDirectoryError:
        is_kept = False
    if not is_kept:
        statistics = {name: getattr(probe, name) for name in _STATISTICS}
        arrays = {
            # As bytes, which any precision has, and which are compressed: images that had 8 bits have few numbers.
            "images": probe.images.contiguous().view(torch.uint8).numpy(),
            "json": text_array({"dtype": str(probe.images.dtype).removeprefix("torch.")}),
            **{name: value.numpy() for name, value in statistics.items() if value is not None},
        }
        write_npz(directory.path / _FILE, arrays)


def exact_probe(directory: RunDirectory) -> Probe:
    """Read the probe that :func:`keep_exactly` kept.

    Raises:
        RunDirectoryError: if there is none, or it cannot be read.
    """
    return _with_exact_images(directory.probe(), directory.path / _FILE)


def _with_exact_images(probe: Probe, file: Path) -> Probe:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            known = {name: stored[name] for name in stored.files}
        dtype = getattr(torch, json.loads(known.pop("json").item())["dtype"])
        tensors: dict[str, Any] = {name: torch.from_numpy(values) for name, values in known.items()}
        return replace(probe, **tensors | {"images": tensors["images"].view(dtype)})
    except Exception as error:
        raise RunDirectoryError(f"Expected {file} to hold the images of a probe, but: {error}.") from error
