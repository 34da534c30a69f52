"""One Lightning under two names: ``lightning.pytorch`` and ``pytorch_lightning`` hold the same classes twice."""

from importlib import import_module
from typing import Any, TypeGuard, TypeVar

_Kind = TypeVar("_Kind")
_OURS, _OTHER = "lightning.pytorch", "pytorch_lightning"


def twin_of(kind: type) -> type:
    """Find the class of ``lightning.pytorch`` that a class would be, had its author imported that.

    Args:
        kind: any class.

    Returns:
        For a class of ``pytorch_lightning``, or one made from it, the one of ``lightning.pytorch`` with that name and
        place; any other class itself.
    """
    for base in kind.__mro__:
        root, _, rest = base.__module__.partition(".")
        if root == _OTHER:
            try:
                twin = getattr(import_module(f"{_OURS}.{rest}"), base.__name__)
            except (ImportError, AttributeError):  # of another version, or its author's own
                continue
            return twin  # type: ignore[no-any-return]
    return kind


def is_a(value: Any, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """Tell whether something is an instance of a class of ``lightning.pytorch``, whichever name it came by."""
    return issubclass(twin_of(type(value)), kind)
