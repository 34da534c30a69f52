"""The ways from channel maps to components, by name."""

from collections.abc import Callable
from inspect import signature

from lit_decom.functional.decomposition import Factors, decompose
from lit_decom.functional.nmf import decompose_non_negative

FACTORISERS: dict[str, Callable[..., Factors]] = {"svd": decompose, "nmf": decompose_non_negative}
"""Each takes finite maps ``(B, P, h, w)`` and a number of components, and returns :class:`Factors`, the sign of a
component left open. It may take ``centred``, whether each channel's mean over positions is taken out first, and
``start``, patterns ``(B, K, h, w)`` to begin from. Another idea is a function in a file of its own, and a line here."""


def takes(factoriser: str, argument: str) -> bool:
    """Tell whether a factoriser knows an argument.

    Example:
        >>> takes("svd", "centred"), takes("nmf", "centred")
        (True, False)
    """
    return argument in signature(FACTORISERS[factoriser]).parameters
