"""The error of sweeps, and the parts of its messages."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class SweepError(ValueError):
    """A sweep cannot be run as it is written, or where it is to be kept."""


def near(name: str, known: Iterable[str]) -> str:
    """Name what is spelled alike: `` Did you mean `a` or `b`?``, or nothing."""
    candidates = sorted(set(known))
    # the last part of a path is mistyped as often as its beginning is left out
    last = name.rsplit(".", 1)[-1]
    alike = [entry for entry in candidates if entry.rsplit(".", 1)[-1] == last]
    alike += [entry for entry in get_close_matches(name, candidates, n=3, cutoff=0.75) if entry not in alike]
    alike = alike or get_close_matches(name, candidates, n=3, cutoff=0.6)
    if not alike:
        return ""
    return f" Did you mean {' or '.join(f'`{entry}`' for entry in alike[:3])}?"


def tail(path: Path, lines: int = 12) -> str:
    """Return the end of a log, indented."""
    if not path.exists():
        return "    (no log)"
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").rstrip().splitlines()[-lines:])
