"""The stratified scores of a run, against chance and against other methods."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lit_decom import keys
from lit_decom.functional.intervals import MIN_IMAGES
from lit_decom.report.cards import style_of
from lit_decom.report.charts import SMALL, Line, finite, interval_text, value_text
from lit_decom.report.overview import Panel, panel, words
from lit_decom.report.runs import Run
from lit_decom.report.timeline import Timeline
from lit_decom.scores import Score

_TOO_FEW = "too few images"


@dataclass(frozen=True)
class ScoreCell:
    """A value of the table, as text, and what is to be known about it."""

    value: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a run's last snapshot.

    Attributes:
        caption: what they are.
        columns: heads: strata with their number of images, chance, other methods, the gap.
        rows: the name of a metric, which direction is better, and its cells.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[ScoreCell, ...]], ...]


@dataclass(frozen=True)
class ChanceVerdict:
    """How a run's last snapshot stands against explanations that know nothing of the image.

    Attributes:
        sentence: the outcome.
        details: the comparisons that the explanation does not win, and where nobody can tell.
        is_won: whether it wins every comparison over all images.
    """

    sentence: str
    details: tuple[str, ...]
    is_won: bool


@dataclass(frozen=True)
class ScoreSection:
    """Everything there is to show of the scores.

    Attributes:
        panels: one per metric, a line per stratum.
        fixed_panels: the same over the images that were in the strata at the reference epoch.
        legend: name, style and key of every stratum and baseline.
        fixed_legend: the same of the panels over fixed strata.
        tables: one per run; None where it has no scores.
        verdicts: for each run, how it stands against chance; None where nothing was compared.
    """

    panels: tuple[Panel, ...]
    fixed_panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str, str], ...]
    fixed_legend: tuple[tuple[str, str, str], ...]
    tables: tuple[ScoreTable | None, ...]
    verdicts: tuple[ChanceVerdict | None, ...]


def scores_of(runs: Sequence[Run], timeline: Timeline) -> ScoreSection | None:
    """Arrange the scores that the records keep; None if there are none."""
    known = [_RunScores(run) for run in runs]
    metrics = _merged([each.metrics for each in known])
    if not metrics:
        return None
    strata = _merged([each.strata for each in known])
    baselines = _merged([each.baselines for each in known])
    moving = [keys.ALL, *(name for name in strata if name != keys.ALL and keys.unfixed(name) == name)]
    fixed = [name for name in strata if keys.unfixed(name) != name]
    styles = _stratum_styles([*moving, *fixed])
    dashes = {name: f"base{min(index, 5)}" for index, name in enumerate(baselines)}
    return ScoreSection(
        _panels(known, metrics, {name: styles[name] for name in moving}, dashes, timeline),
        _panels(known, metrics, {name: styles[name] for name in fixed}, {}, timeline),
        (
            *((words(name), styles[name], name) for name in moving),
            *((_baseline_name(name), dashes[name], name) for name in baselines),
        ),
        tuple((words(name), styles[name], keys.unfixed(name)) for name in fixed),
        tuple(each.table(metrics, [*moving, *fixed], baselines) if each.metrics else None for each in known),
        tuple(each.verdict() for each in known),
    )


def dropped_metrics(run: Run) -> list[str]:
    """Say which metrics raised an error and are missing from how many of a run's snapshots."""
    counts = Counter(name for record in run.records for name in record.dropped)
    said = {name: why for record in run.records for name, why in record.dropped.items()}
    return [
        f"{words(name)} raised an error in {count} of {len(run.records)} snapshots and has no score there: {said[name]}"
        for name, count in counts.items()
    ]


class _RunScores:
    """The scores of one run, by what they are of."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._found = [
            {(score.metric, score.stratum, score.explanation): score for score in record.metric_scores}
            for record in run.records
        ]
        scores = [score for record in run.records for score in record.metric_scores]
        self.metrics = list(dict.fromkeys(score.metric for score in scores))
        self.strata = [name for name in dict.fromkeys(score.stratum for score in scores) if name != keys.GAP]
        explanations = [name for name in dict.fromkeys(score.explanation for score in scores) if name != keys.OWN]
        self.baselines = sorted(explanations, key=lambda name: name not in keys.CHANCE)
        self._directions = {score.metric: score.higher_is_better for score in scores if score.stratum != keys.GAP}

    def over_time(self, metric: str, stratum: str, explanation: str = keys.OWN) -> list[Score | None]:
        """One score per snapshot."""
        return [found.get((metric, stratum, explanation)) for found in self._found]

    def at_end(self, metric: str, stratum: str, explanation: str = keys.OWN) -> Score | None:
        """The score of the last snapshot."""
        return self._found[-1].get((metric, stratum, explanation))

    def arrow(self, metric: str) -> str:
        """Which way is better, if either."""
        return {True: "↑", False: "↓", None: ""}[self._directions.get(metric)]

    def table(self, metrics: Sequence[str], strata: Sequence[str], baselines: Sequence[str]) -> ScoreTable:
        """The scores of the last snapshot."""
        present = [name for name in strata if self._n_images(name) is not None]
        rivals = [name for name in baselines if any(self.at_end(metric, keys.ALL, name) for metric in metrics)]
        has_gaps = any(self.at_end(metric, keys.GAP) for metric in metrics)
        rows = []
        for metric in metrics:
            cells = [_cell(self.at_end(metric, name)) for name in present]
            cells += [_rival_cell(self.at_end(metric, keys.ALL, name)) for name in rivals]
            cells += [self._gap_cell(metric)] if has_gaps else []
            rows.append((words(metric), self.arrow(metric), tuple(cells)))
        space = "\N{NO-BREAK SPACE}"
        heads = [f"{words(name)} (n{space}={space}{self._n_images(name)})" for name in present]
        heads += [_baseline_name(name) for name in rivals] + (["correct less incorrect"] if has_gaps else [])
        last = self.run.last
        return ScoreTable(f"Scores at epoch {last.epoch}, step {last.step}", tuple(heads), tuple(rows))

    def verdict(self) -> ChanceVerdict | None:
        """Compare the last snapshot with what knows nothing of the image, over all images."""
        rivals = self._chance_scores(keys.ALL)
        told = [rival for rival in rivals if rival.paired_difference is not None]
        lost = [self._loss(rival) for rival in told if not rival.is_beaten]
        if not rivals:
            return None
        epoch = f"At epoch {self.run.last.epoch}"
        if not told:
            why = "there are too few images, or their differences are too much alike"
            return ChanceVerdict(
                f"{epoch} nobody can tell whether the explanation beats chance: {why}.", (), is_won=False
            )
        if lost:
            sentence = f"{epoch} the explanation does not beat chance in {len(lost)} of {len(told)} comparisons:"
        else:
            scores = _counted(len({rival.metric for rival in told}), "score")
            sentence = f"{epoch} the explanation beats chance in {len(told)} of {len(told)} comparisons ({scores})."
        return ChanceVerdict(sentence, (*lost, *self._untold(rivals)), is_won=not lost)

    def _untold(self, rivals: Sequence[Score]) -> list[str]:
        """Name the comparisons that have no interval, and the strata in which none has."""
        unknown = [
            f"{words(rival.metric)} against {keys.CHANCE[rival.explanation]}"
            for rival in rivals
            if rival.paired_difference is None
        ]
        strata = [
            f"{words(name)} ({_counted(scores[0].n, 'image')})"
            for name in self.strata
            if name != keys.ALL and (scores := self._chance_scores(name))
            if all(score.paired_difference is None for score in scores)
        ]
        said = [f"Nobody can tell: {', '.join(unknown)}."] if unknown else []
        if strata:
            said.append(f"Nobody can tell from the images of these strata alone: {', '.join(strata)}.")
        return said

    def _chance_scores(self, stratum: str) -> list[Score]:
        """What chance has in the last snapshot, in every metric with a direction."""
        found = [self.at_end(metric, stratum, name) for metric in self.metrics for name in keys.CHANCE]
        return [score for score in found if score is not None and score.higher_is_better is not None]

    def _loss(self, rival: Score) -> str:
        own = self.at_end(rival.metric, rival.stratum)
        low, high = rival.paired_difference or (0.0, 0.0)
        values = f"{_text(own)} against {_text(rival)} of {keys.CHANCE[rival.explanation]}"
        reason = (
            f"chance is better by {interval_text((-high, -low))}"
            if high < 0
            else f"the difference may be 0, its interval is {interval_text((low, high), signed=True)}"
        )
        return f"{words(rival.metric)}: {values}; {reason}."

    def _n_images(self, stratum: str) -> int | None:
        found = [score for score in (self.at_end(metric, stratum) for metric in self.metrics) if score is not None]
        return found[0].n if found else None

    def _gap_cell(self, metric: str) -> ScoreCell:
        sides = [self.at_end(metric, name) for name in (keys.CORRECT, keys.INCORRECT)]
        n_defined = min((side.n - side.undefined for side in sides if side is not None), default=0)
        return _cell(self.at_end(metric, keys.GAP), n_defined, signed=True)


def _panels(
    known: Sequence[_RunScores],
    metrics: Sequence[str],
    strata: dict[str, str],
    baselines: dict[str, str],
    timeline: Timeline,
) -> tuple[Panel, ...]:
    """One panel per metric; strata and baselines come with their styles."""
    panels = []
    for metric in metrics:
        lines = []
        for run in known:
            own = [
                _line(words(name), run.over_time(metric, name), style, keys.unfixed(name), with_band=True)
                for name, style in strata.items()
            ]
            rivals = [
                _line(_baseline_name(name), run.over_time(metric, keys.ALL, name), style, name)
                for name, style in baselines.items()
            ]
            lines.append([*own, *rivals])
        arrow = next((run.arrow(metric) for run in known if metric in run.metrics), "")
        panels.append(panel(f"{words(metric)} {arrow}".strip(), words(metric), lines, timeline, size=SMALL))
    return tuple(each for each in panels if each is not None)


def _line(name: str, scores: Sequence[Score | None], style: str, key: str, *, with_band: bool = False) -> Line:
    values = tuple(None if score is None else finite(score.value) for score in scores)
    if not with_band:
        return Line(name, values, style, key)
    ends = [(None, None) if score is None or score.interval is None else score.interval for score in scores]
    return Line(name, values, style, key, tuple(low for low, _ in ends), tuple(high for _, high in ends))


def _stratum_styles(strata: Sequence[str]) -> dict[str, str]:
    """Neutral for all images; a stratum and its fixed twin look the same."""
    plain = list(dict.fromkeys(keys.unfixed(name) for name in strata))
    coloured = [name for name in plain if name != keys.ALL]
    styles = {keys.ALL: "ink"} | {name: style_of(index) for index, name in enumerate(coloured)}
    return {name: styles[keys.unfixed(name)] for name in strata}


def _cell(score: Score | None, n_defined: int | None = None, *, signed: bool = False) -> ScoreCell:
    """A value with its interval, or why there is none.

    Args:
        score: None where there is no such score.
        n_defined: how many images its interval rests on; by default those on which the metric is defined.
        signed: whether a plus stands before it.
    """
    if score is None or not score.is_defined:
        return ScoreCell(_text(score), _undefined(score))
    n_defined = score.n - score.undefined if n_defined is None else n_defined
    if score.interval is not None:
        interval = interval_text(score.interval, signed=signed)
    else:
        interval = _TOO_FEW if n_defined < MIN_IMAGES else "no interval: values too much alike"
    return ScoreCell(_text(score, signed=signed), (interval, *_undefined(score)))


def _rival_cell(score: Score | None) -> ScoreCell:
    """A baseline's value, and the interval of what the explanation is better by, image by image."""
    if score is None or score.higher_is_better is None:
        return _cell(score)
    if score.paired_difference is None:
        notes = (_cell(score).notes[0],) if _cell(score).notes[:1] == (_TOO_FEW,) else ("cannot be told apart",)
        return ScoreCell(_text(score), notes)
    return ScoreCell(_text(score), (f"better by {interval_text(score.paired_difference, signed=True)}",))


def _undefined(score: Score | None) -> tuple[str, ...]:
    return (f"undefined in {score.undefined} of {score.n}",) if score is not None and score.undefined else ()


def _baseline_name(name: str) -> str:
    return keys.CHANCE.get(name, words(name))


def _text(score: Score | None, *, signed: bool = False) -> str:
    return value_text(None) if score is None else value_text(finite(score.value), score.interval, signed=signed)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _merged(lists: Sequence[Sequence[str]]) -> list[str]:
    """All names in the order in which they first come."""
    return list(dict.fromkeys(name for names in lists for name in names))
