"""Which snapshots of a run have no record, because the system could not write it."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lit_decom.records.files import write_text

_MOST_NAMED = 12
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True)
class Missing:
    """A snapshot without a record.

    Attributes:
        epoch: of the snapshot.
        step: of the snapshot.
        why: what the system said.
    """

    epoch: int
    step: int
    why: str


def listed(missing: Sequence[Missing]) -> str:
    """Say which they are, and why the last one is, as the rest of a sentence about what has no record of them."""
    named = [f"epoch {each.epoch} (step {each.step})" for each in missing[:_MOST_NAMED]]
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    snapshots = "1 snapshot" if len(missing) == 1 else f"{len(missing)} snapshots"
    return f"{snapshots}, because writing it failed ({missing[-1].why}): {', '.join(named)}{more}."


def read_missing(file: Path) -> list[Missing]:
    """Read what :func:`write_missing` wrote; nothing where that cannot be read."""
    try:
        read = json.loads(file.read_text())
        return [Missing(int(each["epoch"]), int(each["step"]), str(each["why"])) for each in read]
    except _UNREADABLE:
        return []


def write_missing(file: Path, missing: Sequence[Missing]) -> None:
    """Keep a list, or no file of none; where the disk is full to the last byte, nothing."""
    with suppress(OSError):
        if missing:
            write_text(file, json.dumps([asdict(each) for each in missing]))
        else:
            file.unlink(missing_ok=True)
