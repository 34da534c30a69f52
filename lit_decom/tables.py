"""Scores as a table in the terminal."""

from collections.abc import Sequence

from rich.table import Table

from lit_decom import keys
from lit_decom.scores import Score


def score_table(scores: Sequence[Score], caption: str = "") -> Table:
    """Lay scores out: a row per metric and stratum, beside it the baselines and chance.

    A baseline's cell ends in ``✗`` where the explanation does not beat it: the interval of the paired difference, image
    by image, reaches down to 0. A value without an interval comes from too few images to give one.

    Args:
        scores: of one probe.
        caption: says how they came to be.

    Returns:
        The table.
    """
    others = list(dict.fromkeys(score.explanation for score in scores if score.explanation))
    cells = {(score.metric, score.stratum, score.explanation): score for score in scores}
    table = Table(title="Interpretability scores", caption=caption, title_justify="left", caption_justify="left")
    for name in ("metric", "stratum", "images", "DecomCAM", *others):
        table.add_column(name, justify="left" if name in ("metric", "stratum") else "right")
    previous = ""
    for score in scores:
        if score.explanation or score.stratum.startswith(keys.FIXED):
            continue
        if previous and score.metric != previous:
            table.add_section()
        beside = [cells.get((score.metric, score.stratum, other)) for other in others]
        name = score.metric if score.metric != previous else ""
        table.add_row(name, score.stratum, _count(score), _value(score), *map(_value, beside))
        previous = score.metric
    return table


def _count(score: Score) -> str:
    return f"{score.n} ({score.undefined} undefined)" if score.undefined else str(score.n)


def _value(score: Score | None) -> str:
    if score is None or not score.is_defined:
        return "-"
    text = f"{score.value:.3f}"
    if score.interval is not None:
        text += f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]"
    return text if score.is_beaten in (None, True) else f"{text} ✗"
