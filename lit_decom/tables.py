"""Scores as a table in the terminal."""

from collections.abc import Sequence

from rich.table import Table

from lit_decom.scoring import FIXED, Score


def score_table(scores: Sequence[Score], caption: str = "") -> Table:
    """Lay scores out: a row per metric and stratum, beside it the baselines and chance.

    A baseline's cell ends in ``✗`` where the explanation does not beat it: the interval of the difference, image by
    image, reaches down to 0.

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
        if score.explanation or score.stratum.startswith(FIXED):
            continue
        if previous and score.metric != previous:
            table.add_section()
        beside = [cells.get((score.metric, score.stratum, other)) for other in others]
        name = score.metric if score.metric != previous else ""
        table.add_row(name, score.stratum, _count(score), _value(score), *map(_value, beside))
        previous = score.metric
    return table


def _count(score: Score) -> str:
    return f"{score.count} ({score.undefined} undefined)" if score.undefined else str(score.count)


def _value(score: Score | None) -> str:
    if score is None or score.value != score.value:
        return "-"
    text = f"{score.value:.3f}"
    if score.interval is not None:
        text += f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]"
    if score.over is not None and not score.over[0] > 0:
        text += " ✗"
    return text
