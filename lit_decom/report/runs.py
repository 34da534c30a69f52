"""Reading what is left of a run: every record that can be read, and a note of every one that cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from lit_decom.probe import Probe
from lit_decom.records import FactorNames, RecordLayoutError, RunDirectory, RunDirectoryError, Snapshot
from lit_decom.records.missing import listed


@dataclass(frozen=True, eq=False)
class Run:
    """What can be read of a run.

    Attributes:
        path: the run directory.
        name: short enough for a heading.
        settings: of the last record, and what the run wrote of itself when it began.
        probe: None if it cannot be read.
        records: in the order of their steps, at least one, all of the same images, components and grid.
        notes: sentences on what could not be read.
        factor_names: what its decision factors are called, where somebody named them.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    probe: Probe | None
    records: tuple[Snapshot, ...]
    notes: tuple[str, ...]
    factor_names: FactorNames | None = None

    @property
    def last(self) -> Snapshot:
        """The last snapshot."""
        return self.records[-1]

    @property
    def is_tracked(self) -> bool:
        """Whether every record says which component is which."""
        return all(record.identities is not None for record in self.records)

    def class_name(self, index: int) -> str:
        """Name a class, by its number where the probe knows no names."""
        names = self.probe.class_names if self.probe else None
        return names[index] if names is not None and 0 <= index < len(names) else f"class {index}"


def find_runs(path: Path) -> list[Path]:
    """Find the run directories in a folder: itself, or all below it.

    Args:
        path: a run directory, or a folder above some.

    Returns:
        The run directories, the one whose files changed last first; empty if there is none.
    """
    if _is_run(path):
        return [path]
    below = {file.parent for pattern in ("run.json", "step-*_epoch-*.npz") for file in path.rglob(pattern)}
    return sorted((folder for folder in below if _is_run(folder)), key=_changed, reverse=True)


def read_run(path: Path) -> Run:
    """Read a run directory, however much of it there is.

    Args:
        path: the run directory, or a folder with exactly one below it.

    Raises:
        RecordLayoutError: if another version of lit-decom wrote all the records.
        RunDirectoryError: if there is no run, more than one, or no record that can be read.
    """
    path = _only_run(path)
    directory = RunDirectory(path)
    records, notes = _readable(directory.files())
    if not records:
        raise RunDirectoryError(
            f"Expected {path} to hold a record that can be read, but: {' '.join(notes) or 'none yet.'}"
        )
    settings, more = _settings(directory)
    missing = directory.missing()
    notes += [*more, f"There is no record of {listed(missing)}"] if missing else more
    probe, names = _probe(directory, records[-1], notes), _factor_names(directory, notes)
    return Run(path, _name(path), settings | dict(records[-1].settings), probe, tuple(records), tuple(notes), names)


def _is_run(path: Path) -> bool:
    directory = RunDirectory(path)
    try:
        return bool(directory.files()) or directory.owner() is not None
    except RunDirectoryError:
        return False


def _changed(path: Path) -> float:
    return max(file.stat().st_mtime for file in path.iterdir())


def _only_run(path: Path) -> Path:
    if not path.is_dir():
        raise RunDirectoryError(f"Expected {path} to be a run directory, but there is no such folder.")
    found = find_runs(path)
    if not found:
        raise RunDirectoryError(f"Expected {path} to be a run directory, but it holds neither a run nor records.")
    if len(found) > 1:
        shown = ", ".join(str(run) for run in found[:5]) + (", ..." if len(found) > 5 else "")
        raise RunDirectoryError(f"Expected {path} to hold one run, but it holds {len(found)}: choose one of {shown}.")
    return found[0]


def _name(path: Path) -> str:
    path = path.resolve()
    return path.parent.name if path.name == "decomcam" and path.parent.name else path.name


def _readable(files: Sequence[Path]) -> tuple[list[Snapshot], list[str]]:
    """The records that fit together with the last one that is whole, and what is wrong with the others."""
    found: list[Snapshot] = []
    faults: list[str] = []
    outdated: list[RecordLayoutError] = []
    for file in reversed(files):
        try:
            record = Snapshot.load(_whole(file))
            fault = _fault(record, found[0] if found else record)
        except RecordLayoutError as error:
            outdated.append(error)
            continue
        except RunDirectoryError as error:
            fault = str(error)
        if fault is None:
            found.append(record)
        else:
            faults.insert(0, fault if file.name in fault else f"{file.name}: {fault}")
    if outdated and not found and not faults:
        raise RecordLayoutError(f"None of the {len(files)} records in {files[0].parent} can be read. {outdated[-1]}")
    # One of them stands for all, which have the same remedy.
    faults += [str(error) for error in outdated[-1:]]
    n_bad = len(files) - len(found)
    if n_bad:
        count = "1 record" if n_bad == 1 else f"{n_bad} records"
        faults.insert(0, f"{count} of {len(files)} could not be read and {'is' if n_bad == 1 else 'are'} left out.")
    return found[::-1], faults


def _whole(file: Path) -> Path:
    """Refuse a file that was cut off; NumPy would leave it open."""
    if not is_zipfile(file):
        raise RunDirectoryError(
            f"Expected {file.name} to be a whole file, but it is cut off, missing or of another kind."
        )
    return file


def _fault(record: Snapshot, like: Snapshot) -> str | None:
    """Say why a record cannot be used beside another one of the same run; None if it can."""
    if record.ids != like.ids:
        return "it is of other images than the last record."
    if record.patterns.shape != like.patterns.shape:
        shapes = [" x ".join(map(str, kept.patterns.shape[1:])) for kept in (record, like)]
        return f"its components are {shapes[0]}, those of the last record {shapes[1]}."
    return None


def _settings(directory: RunDirectory) -> tuple[dict[str, Any], list[str]]:
    try:
        written = directory.begun()
        return {"run_id": written["run_id"], **written["settings"]}, []
    except RunDirectoryError as error:
        return {}, [f"{error} The settings are those of the last record."]


def _factor_names(directory: RunDirectory, notes: list[str]) -> FactorNames | None:
    try:
        return directory.names()
    except RunDirectoryError as error:
        notes.append(str(error))
        return None


def _probe(directory: RunDirectory, record: Snapshot, notes: list[str]) -> Probe | None:
    try:
        _whole(directory.path / "probe.npz")
        probe = directory.probe()
    except RunDirectoryError as error:
        notes.append(f"The probe could not be read, so maps are shown without their images: {error}")
        return None
    if probe.ids != record.ids:
        notes.append("The probe is of other images than the records, so maps are shown without their images.")
        return None
    return probe
