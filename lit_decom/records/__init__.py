"""What is kept of every snapshot, and the run directory it is kept in."""

from lit_decom.records.directory import FactorNames, RunDirectory, displayed
from lit_decom.records.files import RecordLayoutError, RunDirectoryError
from lit_decom.records.snapshot import Snapshot

__all__ = ["FactorNames", "RecordLayoutError", "RunDirectory", "RunDirectoryError", "Snapshot", "displayed"]
