"""Sweeps: many trainings of one command, and the choice among them. Imports nothing heavy by itself."""

from collections.abc import Iterable
from difflib import get_close_matches

TRIAL_DIRECTORY = "LIT_DECOM_TRIAL"
"""The environment variable that tells a trial its directory."""
METRICS_FILE, OBJECTIVES_FILE, RECORDS = "metrics.jsonl", "objectives.json", "records"
"""In a trial's directory: what it writes at each validation, the goals by name, and what ``lit-decom fit`` keeps."""


class SweepError(ValueError):
    """A sweep cannot be run as it is written, or where it is to be kept."""


def near(name: str, known: Iterable[str]) -> str:
    """Name what is spelled alike: `` Did you mean `a` or `b`?``, or nothing."""
    candidates = sorted(set(known))
    # the last part of a path is mistyped as often as its beginning is left out
    last = name.rsplit(".", 1)[-1]
    alike = [entry for entry in candidates if entry.rsplit(".", 1)[-1] == last]
    alike = list(dict.fromkeys([*alike, *get_close_matches(name, candidates, cutoff=0.7)]))[:3]
    return f" Did you mean {' or '.join(f'`{entry}`' for entry in alike)}?" if alike else ""
