"""The images that a run began with, kept for when it goes on."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.probe import Probe
from lit_decom.records import RunDirectory, RunDirectoryError
from lit_decom.records.exact import exact_probe, keep_exactly


def keep_probe(directory: RunDirectory | None, probe: Probe, tolerance: Tolerance) -> None:
    """Keep what :func:`probe_of_run` needs."""
    if directory is not None:
        with tolerance.forgiving(f"keep the probe in {directory.path}"):
            keep_exactly(directory, probe)


def probe_of_run(resumed: Mapping[str, Any], found: Probe, dirpath: Path | None) -> Probe:
    """Give the probe that a run goes on with: the one that it began with, where the run directory holds that.

    Where transforms draw at random and nothing was seeded, reading the data again gives other images.

    Args:
        resumed: the callback's state in the checkpoint; empty for a new run.
        found: what reading the data gives now.
        dirpath: where the records lie, if the user said so.

    Returns:
        ``found`` in a new run, where it is the same as before, or where nothing is kept.
    """
    before = resumed.get("probe_digest")
    if before is None or before == found.digest:
        return found
    for folder in (dirpath, resumed.get("directory")):
        with suppress(RunDirectoryError):
            if folder is not None and (kept := exact_probe(RunDirectory(Path(folder)))).digest == before:
                rank_zero_info("The data give other images than when this run began: DecomCAM goes on with those.")
                return kept
    return found
