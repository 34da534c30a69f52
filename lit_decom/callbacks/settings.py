"""What runs are grouped and filtered by in a tracker, and which keys it gets."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import PureWindowsPath
from platform import python_version
from types import MappingProxyType
from typing import Any

from lit_decom import keys
from lit_decom.components import Components
from lit_decom.explainer import Explainer
from lit_decom.probe import Probe
from lit_decom.scoring import Scoring

_PACKAGES = ("lit-decom", "torch", "torchvision", "lightning", "numpy", "scipy")


def usable_prefix(prefix: str) -> str:
    """Give a prefix back that can begin keys and name a folder below the run's.

    Args:
        prefix: of keys; its parts, at slashes, are folders.

    Raises:
        ValueError: if it leads elsewhere on any system: absolute, with ``.`` or ``..``, empty parts or backslashes.
    """
    leads_away = {"", ".", ".."} & set(prefix.split("/")) or PureWindowsPath(prefix).drive
    if leads_away or {"\\", "\0"} & set(prefix):
        raise ValueError(
            "Expected `prefix` to name a folder below the run's, such as 'decomcam' or 'layers/first', but got "
            f"{prefix!r}."
        )
    return prefix


class KeyFilter:
    """The one place where it is decided which values trackers get.

    Args:
        patterns: of :mod:`fnmatch`, for keys with or without the prefix.
        prefix: of the keys.
        most: by pattern, how many of the keys that match no other one are sent at once.

    Attributes:
        idle: the patterns that no key has matched yet.
    """

    def __init__(self, patterns: Sequence[str], prefix: str, most: Mapping[str, int] = MappingProxyType({})) -> None:
        self.idle = list(patterns)
        self._patterns, self._prefix, self._most = patterns, prefix, most
        self._known: dict[str, list[str]] = {}
        self._begun: set[str] = set()

    def shown(self, numbers: Mapping[str, float]) -> set[str]:
        """Choose among values, by keys without prefix, those that trackers get.

        Of a pattern with a limit these are the curves that have begun, then the largest values.
        """
        matches = {key: found for key in numbers if (found := self._matches(key))}
        shown = {key for key, found in matches.items() if not set(found) <= set(self._most)}
        for pattern, most in self._most.items():
            mine = [key for key, found in matches.items() if pattern in found and key not in shown]
            mine.sort(key=lambda key: (key not in self._begun, -numbers[key]))
            self._begun |= set(mine[:most])
            shown |= set(mine[:most])
        return shown

    def _matches(self, key: str) -> list[str]:
        """The patterns that a key matches."""
        if key not in self._known:  # looking through all patterns takes longer than all the rest of logging
            found = keys.matched(key, self._patterns, self._prefix)
            self.idle = [pattern for pattern in self.idle if pattern not in found]
            self._known[key] = found
        return self._known[key]


def run_settings(
    explainer: Explainer, scoring: Scoring, components: Components, probe: Probe, *, every_n_epochs: int
) -> dict[str, Any]:
    """Describe a run: texts, numbers, and lists and mappings of them.

    Args:
        explainer: whose layer has been found.
        scoring: what is scored.
        components: which components are followed.
        probe: what is explained.
        every_n_epochs: how often.

    Returns:
        By name what the run's results depend on, the versions of the packages among it.
    """
    return {
        "method": {"name": type(explainer.method).__name__} | _fields(explainer.method),
        "target_layer": explainer.target_layer,
        "target": _plain(explainer.target),
        "every_n_epochs": every_n_epochs,
        "probe": {
            "size": len(probe),
            "digest": probe.digest,
            "image_size": list(probe.images.shape[-2:]),
            **{name: getattr(probe, name) is not None for name in ("masks", "boxes", "parts")},
        },
        "scores": _fields(scoring) | {"metrics": sorted(scoring.metrics_for(probe))},
        "components": _fields(components),
        "versions": {"python": python_version()} | {name: version(name) for name in _PACKAGES},
    }


def _fields(group: Any) -> dict[str, Any]:
    """The options of a group by name."""
    known = [entry.name for entry in fields(group) if entry.init] if is_dataclass(group) else []
    return {name: _plain(getattr(group, name)) for name in known}


def _plain(value: Any) -> Any:
    """A value as trackers can hold it: as it is, or as a text."""
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | None) else repr(value)
