"""What stands under a picture: the answer of the network, and what each component does for it."""

import math
from collections.abc import Iterable

from torch import Tensor

from lit_decom import keys

RIGHT, WRONG = "✓", "✗"
_MOST_DECIMALS = 4
_ONLY_TOGETHER = "so no single factor is shown or named. What all of them account for together holds."
_CAUTIONS = {
    "no_variation": "The network answers the same to every image, so nothing tells its answers apart.",
    "dead_layer": "The network's answers do not depend on this layer: it has no factors.",
    "two_classes": "With two classes there is one factor by necessity: that there is one tells nothing.",
    "rotation_not_identified": f"Rotation not identified: other axes of the same subspace do as well, {_ONLY_TOGETHER}",
    "subspace_not_identified": (
        "Subspace not identified: so many classes vary alike that the limit on the number of factors cut through "
        f"equals, {_ONLY_TOGETHER}"
    ),
}
UNNAMED = frozenset({"rotation_not_identified", "subspace_not_identified"})
"""States of decision factors in which no single one means anything."""


def verdict(label: str, prediction: str, confidence: float) -> str:
    """Say whether the network is right, what it answers and how sure it is; where it is wrong, what is true.

    Example:
        >>> print(verdict("cat", "dog", 0.871))
        ✗ dog 87%
        true: cat
    """
    mark = RIGHT if label == prediction else WRONG
    answer = f"{mark} {prediction} {confidence:.0%}"
    return answer if mark == RIGHT else f"{answer}\ntrue: {label}"


def component_captions(
    gains: Tensor, shares: Tensor, valid: Tensor, identities: Tensor | None = None
) -> list[list[str]]:
    """Write what each component is called (where it is followed), its score gain, and its share of the energy.

    Args:
        gains: ``(n, K)``, in logits.
        shares: ``(n, K)`` in [0, 1].
        valid: ``(n, K)`` bool; the text of any other component is empty.
        identities: ``(n, K)``, counted from 0.

    Returns:
        ``K`` texts for each image.
    """
    names = [[""] * gains.shape[1]] * len(gains)
    if identities is not None:
        names = [[f"{keys.number(identity)} " for identity in row] for row in identities.tolist()]
    numbers = zip(names, gains.tolist(), shares.tolist(), valid.tolist(), strict=True)
    return [[_component(*each) for each in zip(*row, strict=True)] for row in numbers]


def cautions(states: Iterable[str], constant_share: float | None = None) -> list[str]:
    """Say why decision factors are no result, or less than they seem.

    Args:
        states: as :attr:`lit_decom.functional.decision_factors.DecisionFactors.states` names them.
        constant_share: of the logits that is the same in every image, where known.
    """
    untrained = (
        f"{'Most' if constant_share is None else share_text(constant_share)} of the network's answer is the same in "
        "every image: it is hardly trained, and the factors tell little yet."
    )
    known = _CAUTIONS | {"untrained": untrained}
    return [known.get(state, state.replace("_", " ")) for state in states]


def figures(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """Write a number with so many significant digits, at most four of them behind the point.

    Example:
        >>> figures(12.345), figures(0.01234, signed=True), figures(-0.5), figures(0.0), figures(0.00002)
        ('12.3', '+0.0123', '-0.500', '0', '2e-05')
    """
    if not math.isfinite(value):
        return str(value)
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    decimals = min(max(digits - 1 - magnitude, 0), _MOST_DECIMALS)
    sign = "+" if signed and value else ""
    if value and abs(value) < 0.5 * 10**-_MOST_DECIMALS:
        return f"{value:{sign}.0e}"
    return f"{value:{sign}.{decimals}f}" if value else "0"


def share_text(share: float) -> str:
    """Write a share in per cent, and one that would round to none as below one.

    Example:
        >>> share_text(0.456), share_text(0.002), share_text(0.0)
        ('46%', '<1%', '0%')
    """
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _component(name: str, gain: float, share: float, exists: bool) -> str:
    return f"{name}{figures(gain, signed=True)} {share_text(share)}" if exists else ""
