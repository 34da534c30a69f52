"""One number of a table, and many of them flattened to what is logged."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One number of a table.

    Attributes:
        metric: such as ``energy_pointing_game``.
        stratum: such as ``all`` or ``correct``; with the prefix ``fixed_`` the images that were in it at the reference
            epoch.
        explanation: empty for DecomCAM, else a baseline such as ``grad_cam`` or ``random_map``.
        value: NaN where no image is defined.
        count: images in the stratum.
        undefined: those among them on which the metric is undefined.
        interval: bootstrap interval of 95 %, where asked for.
        over: of a baseline, the bootstrap interval of what the explanation is better by, image by image, where asked
            for; above 0 the explanation beats it.
    """

    metric: str
    stratum: str
    explanation: str
    value: float
    count: int
    undefined: int
    interval: tuple[float, float] | None = None
    over: tuple[float, float] | None = None

    @property
    def key(self) -> str:
        """As it is logged: ``<metric>/<stratum>``, and the baseline's name behind it."""
        return "/".join(part for part in (self.metric, self.stratum, self.explanation) if part)


def numbers_of(scores: Sequence[Score]) -> dict[str, float]:
    """Flatten scores to what is logged.

    Returns:
        By key the value; ``count/<stratum>``; ``<metric>/gap`` (correct less incorrect, where both are there); and
        ``undefined/<metric>`` where a metric is undefined for some image. A stratum without a defined value is absent.
    """
    numbers: dict[str, float] = {}
    values = {score.key: score.value for score in scores if score.value == score.value}
    for score in scores:
        if not score.explanation:
            numbers[f"count/{score.stratum}"] = float(score.count)
            if score.stratum == "all" and score.undefined:
                numbers[f"undefined/{score.metric}"] = float(score.undefined)
            both = (f"{score.metric}/correct", f"{score.metric}/incorrect")
            if all(key in values for key in both):
                numbers[f"{score.metric}/gap"] = values[both[0]] - values[both[1]]
    return values | numbers
