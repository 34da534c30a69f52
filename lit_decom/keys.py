"""Names of the values that are logged: the only place where a key is made or read.

A score is called ``<metric>/<stratum>`` and, of a baseline or of chance, ``<metric>/<stratum>/<explanation>``; a
quantity of one component ``<quantity>/rank_01`` or ``<quantity>/component_01``; everything else by one word, or a word
and what it counts. The callback puts its prefix before all of them.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

OWN = ""
"""The explanation of the method itself, in the place of a baseline's name."""
ALL, CORRECT, INCORRECT = "all", "correct", "incorrect"
GAP = "gap"
"""In the place of a stratum: the value over the correct images less that over the incorrect ones."""
FIXED = "fixed_"
"""Before a stratum: the images that were in it at the reference epoch."""
CHANCE = {
    "random_map": "random maps",
    "center_map": "a centred blob",
    "random_basis": "randomly turned components",
    "blob_components": "blobs of Grad-CAM's map",
}
"""Explanations that know nothing of the image, or only where it is explained, and what a sentence calls them."""

ESSENTIAL = {
    "What does it look at?": ("factor_share/*", "energy_pointing_game/all", "part_average_precision/all"),
    "Does it matter?": ("completeness", "score_gain/component_01", "average_drop/all"),
    "Is it stable?": ("factor_confidence", "factor_births", "factor_deaths", "drift"),
    "Does it differ where it is wrong?": (
        "accuracy",
        "count/incorrect",
        "energy_pointing_game/correct",
        "energy_pointing_game/incorrect",
        "energy_pointing_game/gap",
        "average_drop/gap",
    ),
    "What did it cost?": ("seconds/total", "memory/added", "errors", "dropped/*"),
}
"""By the question that a person asks of a run, patterns of the keys that answer it: what trackers get by default.

None of them is the folder of another one, which MLflow's store of files could not hold.
"""
MOST_AT_ONCE = {"factor_share/*": 6}
"""Of essential patterns that may match many keys at one snapshot, how many of these are sent: the largest values."""

ADDED_MEMORY = "memory/added"
"""By how many MiB a snapshot raised the peak of a process's memory: CUDA's allocator, or what is resident on a CPU."""

_SEPARATOR = "/"
_OF_CLASS = "class_gain"
# By the first word of a key: whether higher is better, where either is.
_DIRECTIONS = {
    "accuracy": True,
    "score_gain": True,
    "errors": False,
    "blank_maps": False,
    "nonfinite_images": False,
    "seconds": False,
    "memory": False,
}
# Keys with a finite value at every snapshot of a network whose evidence is finite and not blank.
_ALWAYS_THERE = frozenset(
    {
        "accuracy",
        "count/all",
        "effective_rank",
        "errors",
        "explained_energy/rank_01",
        "blank_maps",
        "nonfinite_images",
        "positive_gain_share",
        "score_gain/rank_01",
        "seconds/explain",
        "seconds/score",
        "seconds/total",
        "seconds/track",
        "uniform_weights",
        "valid_components",
    }
)


def logged(prefix: str, key: str) -> str:
    """Name a value as it is logged: with the callback's prefix."""
    return f"{prefix}{_SEPARATOR}{key}"


def without_prefix(prefix: str, name: str) -> str | None:
    """Undo :func:`logged`; None for a value that is not of this prefix.

    Example:
        >>> without_prefix("decomcam", "decomcam/gini/all"), without_prefix("decomcam", "val/loss")
        ('gini/all', None)
    """
    start = logged(prefix, "")
    return name.removeprefix(start) if name.startswith(start) else None


def essential(chosen: Iterable[str] = ()) -> tuple[str, ...]:
    """Give the patterns of what a person would look at.

    Args:
        chosen: names of metrics that were asked for by name: their value over all images and their gap are among it.

    Example:
        >>> essential(["deletion_auc"])[-2:]
        ('deletion_auc/all', 'deletion_auc/gap')
    """
    patterns = [pattern for answers in ESSENTIAL.values() for pattern in answers]
    patterns += [score_key(metric, stratum) for metric in chosen for stratum in (ALL, GAP)]
    return tuple(dict.fromkeys(patterns))


def matched(key: str, patterns: Iterable[str], prefix: str = "") -> list[str]:
    """Tell which patterns of :mod:`fnmatch` a key matches, as it is or as it is logged.

    Example:
        >>> matched("gini/all", ["gini/*", "decomcam/*/all", "drift"], "decomcam")
        ['gini/*', 'decomcam/*/all']
    """
    names = (key, logged(prefix, key))
    return [pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in names)]


def score_key(metric: str, stratum: str, explanation: str = OWN) -> str:
    """Name a score.

    Example:
        >>> score_key("gini", "all"), score_key("gini", "all", "grad_cam")
        ('gini/all', 'gini/all/grad_cam')
    """
    return _SEPARATOR.join(part for part in (metric, stratum, explanation) if part)


def unfixed(stratum: str) -> str:
    """Name the stratum whose images at the reference epoch a fixed one holds; any other stratum itself.

    Example:
        >>> unfixed("fixed_correct"), unfixed("correct")
        ('correct', 'correct')
    """
    return stratum.removeprefix(FIXED)


def count_key(stratum: str) -> str:
    """Name the number of images of a stratum."""
    return f"count{_SEPARATOR}{stratum}"


def undefined_key(metric: str) -> str:
    """Name the number of images on which a metric is undefined."""
    return f"undefined{_SEPARATOR}{metric}"


def dropped_key(metric: str) -> str:
    """Name the mark of a metric that raised an error and is missing from a snapshot."""
    return f"dropped{_SEPARATOR}{metric}"


def seconds_key(part: str) -> str:
    """Name the wall time of a part of a snapshot."""
    return f"seconds{_SEPARATOR}{part}"


def seconds_of(numbers: Mapping[str, float]) -> dict[str, float]:
    """Give the wall time of every part of a snapshot that was measured.

    Example:
        >>> seconds_of({"seconds/explain": 1.5, "seconds/score": 0.5, "births": 0.0})
        {'explain': 1.5, 'score': 0.5}
    """
    start = seconds_key("")
    return {key.removeprefix(start): value for key, value in numbers.items() if key.startswith(start)}


def number(index: int) -> str:
    """Number a rank or an identity that is counted from 0, as people and keys count it.

    Example:
        >>> number(0)
        '01'
    """
    return f"{index + 1:02d}"


def rank_key(quantity: str, rank: int) -> str:
    """Name a quantity of the components of one rank.

    Args:
        quantity: such as ``score_gain``.
        rank: counted from 0.

    Example:
        >>> rank_key("score_gain", 0)
        'score_gain/rank_01'
    """
    return f"{quantity}{_SEPARATOR}rank_{number(rank)}"


def component_key(quantity: str, identity: int) -> str:
    """Name a quantity of the components of one identity, counted from 0."""
    return f"{quantity}{_SEPARATOR}component_{number(identity)}"


def shared_key(quantity: str, identity: int) -> str:
    """Name a quantity of one of the components that the probe shares, by its identity, counted from 0."""
    return f"shared_{quantity}{_SEPARATOR}{number(identity)}"


def factor_key(quantity: str, identity: int, stratum: str = "") -> str:
    """Name a quantity of a decision factor, by its identity, counted from 0, over all images or those of a stratum.

    Example:
        >>> factor_key("share", 0), factor_key("score", 0, "incorrect")
        ('factor_share/01', 'factor_score/incorrect/01')
    """
    return _SEPARATOR.join(part for part in (f"factor_{quantity}", stratum, f"{identity + 1:02d}") if part)


def class_component_key(class_name: str, identity: int) -> str:
    """Name the score gain of a component over the images of one class."""
    return component_key(f"{_OF_CLASS}{_SEPARATOR}{class_name.replace(_SEPARATOR, '_')}", identity)


def class_of(family: str) -> str | None:
    """Name the class that a family of keys belongs to; None for a family that belongs to none.

    Example:
        >>> class_of("class_gain/cat/component"), class_of("score_gain/rank")
        ('cat', None)
    """
    words = family.split(_SEPARATOR)
    return words[1] if words[0] == _OF_CLASS else None


def is_single(key: str) -> bool:
    """Tell whether a key is one word: it belongs to no component, no stratum and no part."""
    return _SEPARATOR not in key


def family_of(key: str) -> tuple[str, str]:
    """Part a key of a component into what it has in common with the other components, and its own name.

    Example:
        >>> family_of("score_gain/component_03"), family_of("class_gain/cat/component_01")
        (('score_gain/component', '03'), ('class_gain/cat/component', '01'))
    """
    start, _, last = key.rpartition(_SEPARATOR)
    kind, _, own = last.rpartition("_")
    return (f"{start}{_SEPARATOR}{kind}" if kind else start), own


def direction_of(key: str, metrics: Mapping[str, bool | None]) -> bool | None:
    """Tell whether higher values of a key are better; None where neither is, or nobody knows.

    Args:
        key: without prefix.
        metrics: by the name of each metric, whether higher is better.
    """
    words = key.split(_SEPARATOR)
    if words[0] in metrics:
        # A gap compares two strata: none of its directions is better.
        return None if GAP in words[1:2] else metrics[words[0]]
    return _DIRECTIONS.get(words[0])


def is_always_there(key: str, metrics: Mapping[str, bool]) -> bool:
    """Tell whether every snapshot has a finite value under a key, as long as the network's evidence is finite.

    A stratum may be empty, a component may end, and what compares with an earlier snapshot has no value at the first.

    Args:
        key: without prefix.
        metrics: by the name of each metric, whether its value over all images is always there.

    Example:
        >>> is_always_there("gini/all", {"gini": True}), is_always_there("gini/correct", {"gini": True})
        (True, False)
        >>> is_always_there("births", {}), is_always_there("effective_rank", {})
        (False, True)
    """
    words = key.split(_SEPARATOR)
    if words[0] in metrics and len(words) > 1:
        return metrics[words[0]] and words[1] == ALL
    return key in _ALWAYS_THERE


def possible_keys(metrics: Iterable[str], strata: Iterable[str], explanations: Iterable[str]) -> set[str]:
    """Name every score that some snapshot may have.

    Args:
        metrics: their names.
        strata: their names, without those that all have: ``all``, ``gap`` and the fixed ones are added.
        explanations: baselines and chance; the method's own is added.
    """
    named = list(strata)
    places = [ALL, *named, *(FIXED + name for name in named)] + ([GAP] if CORRECT in named else [])
    return {
        score_key(metric, stratum, explanation)
        for metric in metrics
        for stratum in places
        for explanation in (OWN, *explanations)
    }
