"""What is compared, and by which names."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from lit_decom.methods.base import CAM, METHODS

Methods = Sequence[str | CAM] | Mapping[str, CAM]

UNINFORMED = ("random_cam", "center_cam", "fake_cam")
"""Registered methods that do not know what they explain: a score that one of them wins says nothing about the rest."""


class ComparisonError(ValueError):
    """A comparison that cannot be made as it was asked for; the message says what to change."""


def named_methods(methods: Methods) -> dict[str, CAM]:
    """Give methods their names in tables: those that they are registered under, or the ones given.

    Args:
        methods: names of registered methods, methods, or a mapping that names them; at least one.

    Raises:
        ComparisonError: if there is none, one is unknown, or two have the same name.
    """
    if isinstance(methods, str):
        raise ComparisonError(f"Expected `methods` to be a list, but got the text {methods!r}.")
    if isinstance(methods, Mapping):
        named = dict(methods)
    else:
        made = [_made(method) for method in methods]
        named = {_name(method): method for method in made}
        if len(named) < len(made):
            raise ComparisonError(
                f"Expected `methods` to have different names, but got only {sorted(named)}: a mapping names them."
            )
    if not named:
        raise ComparisonError("Expected `methods` to be at least one, but got none.")
    wrong = [name for name, method in named.items() if not isinstance(method, CAM)]
    if wrong:
        raise ComparisonError(f"Expected `methods` to be names or methods, but {wrong[0]!r} is {named[wrong[0]]!r}.")
    return named


def _made(method: str | CAM) -> CAM:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        alike = get_close_matches(method, METHODS, n=1)
        hint = f" Did you mean {alike[0]!r}?" if alike else ""
        raise ComparisonError(f"Expected `methods` to be among {sorted(METHODS)}, but got {method!r}.{hint}")
    return METHODS[method]()


def _name(method: CAM) -> str:
    registered = (name for name, kind in METHODS.items() if kind is type(method))
    return next(registered, type(method).__name__)
