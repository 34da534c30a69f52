"""Whether what lies in a record's file is what a record holds: every field of its kind, and all of one size."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WHOLE, _TRUTH, _REAL = ("int64",), ("bool",), ("float16", "float32", "float64")
_LONGEST = 60
_MOST = 2**53  # past it pages and trackers, which hold floats, do not tell whole numbers apart


@dataclass(frozen=True)
class _Array:
    """What an array must be.

    Attributes:
        shape: a letter per dimension; those of one letter have one size in the whole record. 4 is itself.
        kinds: names of dtypes.
        below: the letter of the size that its entries stay below, where they are places; -1 for none.
    """

    shape: str
    kinds: tuple[str, ...] = _REAL
    below: str | None = None


_ARRAYS: Mapping[str, _Array] = {
    "labels": _Array("n", _WHOLE),
    "targets": _Array("n", _WHOLE, "N"),
    "logits": _Array("nN"),
    "patterns": _Array("nKhw"),
    "strengths": _Array("nK"),
    "channels": _Array("nP", _WHOLE),
    "loadings": _Array("nPK"),
    "valid": _Array("nK", _TRUTH),
    "energy": _Array("n"),
    "removed": _Array("nK"),
    "scores": _Array("nK"),
    "reference_scores": _Array("n"),
    "contributions": _Array("nK"),
    "fallback": _Array("n", _TRUTH),
    "identities": _Array("nK", _WHOLE),
    "births": _Array("nK", _TRUTH),
    "deaths": _Array("nD", _WHOLE),
    "flips": _Array("nK", _TRUTH),
    "similarity": _Array("nK"),
    "confidence": _Array("nK"),
    "drift": _Array("n"),
    "shared_patterns": _Array("nShw"),
    "shared_energy": _Array("S"),
    "shared_identities": _Array("S", _WHOLE),
    "shared_images": _Array("Sm", _WHOLE, "n"),
    "shared_boxes": _Array("Sm4", _WHOLE),
    "factor_codes": _Array("NF"),
    "factor_directions": _Array("CF"),
    "factor_scores": _Array("nF"),
    "factor_shares": _Array("F"),
    "factor_maps": _Array("nFhw"),
    "factor_identities": _Array("F", _WHOLE),
    "factor_images": _Array("Fe", _WHOLE, "n"),
    "factor_boxes": _Array("Fe4", _WHOLE),
    "class_maps": _Array("nMhw"),
    "class_map_classes": _Array("nM", _WHOLE, "N"),
}


def tensor_of(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Take an array of a record's file as a tensor.

    Args:
        name: of the field.
        array: as it was read.

    Raises:
        ValueError: if there is no such field, or it is of another kind.
    """
    if name not in _ARRAYS:
        raise ValueError(f"`{name}` does not belong there")
    kinds = _ARRAYS[name].kinds
    if array.dtype.name not in kinds or not array.dtype.isnative:
        raise ValueError(f"`{name}` holds {array.dtype}, and not {' or '.join(kinds)}")
    return torch.from_numpy(array)


def refuse_sizes(n_images: int, arrays: Mapping[str, Tensor]) -> None:
    """Refuse arrays of other sizes than those beside them, and places that are not there.

    Args:
        n_images: that the record names.
        arrays: by field.

    Raises:
        ValueError: naming the field.
    """
    sizes = {"n": n_images, "4": 4}
    for name, value in arrays.items():
        letters = _ARRAYS[name].shape
        if value.ndim != len(letters):
            raise ValueError(f"`{name}` is not ({', '.join(letters)})")
        for letter, size in zip(letters, value.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"`{name}` does not fit to the rest: {tuple(value.shape)}")
    for name, value in arrays.items():
        most = sizes.get(_ARRAYS[name].below or "")
        if most is not None and value.numel() and not -1 <= int(value.min()) <= int(value.max()) < most:
            raise ValueError(
                f"`{name}` has entries from {int(value.min())} to {int(value.max())}, and not -1 to {most - 1}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (_is_whole(value) and abs(value) < _MOST)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and 0 <= value < _MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(of, value))


def _is_table(value: Any, of: Callable[[Any], bool] = lambda _entry: True) -> bool:
    return isinstance(value, dict) and all(map(of, value.values()))


def _is_interval(value: Any) -> bool:
    return value is None or (_is_list(value, _is_number) and len(value) == 2)


_Kind = tuple[str, Callable[[Any], bool]]
_SCORE: Mapping[str, _Kind] = {
    "metric": ("a text", _is_text),
    "stratum": ("a text", _is_text),
    "explanation": ("a text", _is_text),
    "value": ("a number", _is_number),
    "n": ("a number of images", _is_count),
    "undefined": ("a number of images", _is_count),
    "interval": ("two numbers or none", _is_interval),
    "paired_difference": ("two numbers or none", _is_interval),
    "higher_is_better": ("true, false or none", lambda value: value in (None, True, False)),
    "always_there": ("true or false", lambda value: isinstance(value, bool)),
}
_TEXTS: Mapping[str, _Kind] = {
    "epoch": ("a whole number of 0 or more", _is_count),
    "step": ("a whole number of 0 or more", _is_count),
    "ids": ("one or more texts", lambda value: _is_list(value, _is_text) and bool(value)),
    "numbers": ("numbers by name", lambda value: _is_table(value, _is_number)),
    "settings": ("settings by name", _is_table),
    "metric_scores": ("a list of scores", lambda value: _is_list(value, _is_table)),
    "module_values": ("numbers by name", lambda value: _is_table(value, _is_number)),
    "dropped": ("texts by name", lambda value: _is_table(value, _is_text)),
    "factor_states": ("texts", lambda value: _is_list(value, _is_text)),
}


def refuse_other_than_texts(name: str, value: Any) -> None:
    """Refuse what is neither a list of texts nor nothing.

    Raises:
        ValueError: naming the field.
    """
    if value is not None and not _is_list(value, _is_text):
        raise ValueError(f"`{name}` is not a list of texts: {_short(value)}")


def refuse_missing(required: Iterable[str], given: Container[str], where: str = "") -> None:
    """Refuse to go on without a field.

    Raises:
        ValueError: naming the first that is missing.
    """
    for name in required:
        if name not in given:
            raise ValueError(f"`{where}{name}` is missing")


def refuse_texts(texts: Any) -> None:
    """Refuse what is not an array and not of its kind.

    Args:
        texts: by field, as JSON gives it.

    Raises:
        ValueError: naming the field.
    """
    if not _is_table(texts):
        raise ValueError(f"`json` is not fields by name: {_short(texts)}")
    _refuse("", texts, _TEXTS)
    for place, score in enumerate(texts.get("metric_scores", ())):
        refuse_missing(_SCORE, score, f"metric_scores[{place}].")
        _refuse(f"metric_scores[{place}].", score, _SCORE)


def _refuse(where: str, given: Mapping[str, Any], known: Mapping[str, _Kind]) -> None:
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"`{where}{name}` does not belong there")
        kind, fits = known[name]
        if not fits(value):
            raise ValueError(f"`{where}{name}` is not {kind}: {_short(value)}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
