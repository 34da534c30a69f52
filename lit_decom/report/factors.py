"""Decision factors in the report: what the network goes by, and what misled it where it is wrong."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.components.factors import wrong_decisions
from lit_decom.functional.decision_factors import factor_support
from lit_decom.functional.shared_basis import exemplars
from lit_decom.records import Snapshot
from lit_decom.render import UNNAMED, cautions
from lit_decom.report.cards import style_of
from lit_decom.report.charts import Line, finite
from lit_decom.report.columns import count, follow_columns, keep_columns
from lit_decom.report.factor_words import classes_of, facts_of, naming_facts, shown_codes, wrong_sentence
from lit_decom.report.overview import Panel, panel
from lit_decom.report.pictures import SignedMaps
from lit_decom.report.runs import Run
from lit_decom.report.timeline import Timeline

ON_THEIR_CHARTS: Mapping[str, str] = {
    "completeness": "of the differences between answers (R²)",
    "factor_agreement": "of the answers themselves",
    "factor_layer_r2": "predicted by the layer along the factors (R²)",
    "factor_random_r2": "predicted by it along random directions (R²)",
}
"""Logged numbers that are drawn with the factors, and what each line is called."""

_N_CROPS = 4
_CROP_CELLS = 4.0  # more than a part, so that one sees what it is part of
_MOST_WRONG = 32


@dataclass(frozen=True)
class FactorSection:
    """What a run's decision factors are.

    Attributes:
        styles: the colour of each column that a factor may have.
        frames: what is shown of each snapshot, see :func:`factors_of`.
        maps: the signed maps that the frames refer to by index.
        rows: of the images that are shown whole or in part.
    """

    styles: tuple[str, ...]
    frames: list[dict[str, Any]] = field(repr=False)
    maps: SignedMaps = field(repr=False)
    rows: tuple[int, ...]

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script draws from."""
        return {"frames": self.frames, **self.maps.data}


def factors_of(run: Run, rows: Sequence[int], letter: str = "a") -> FactorSection | None:
    """Arrange a run's decision factors, snapshot by snapshot; None if no record has any.

    Each frame has sentences (``facts``, ``cautions``), a card for each column (``factors``, None where there is none)
    and what misled the network (``wrong``).

    Args:
        run: whose factors; those of two runs are not matched.
        rows: of the images on which each factor's map is shown.
        letter: tells the run's factors from another one's.
    """
    if all(record.factor_codes is None for record in run.records):
        return None
    columns, maps = _columns(run), SignedMaps()
    frames = [_Frame(run, index, columns, letter, maps).described(rows) for index in range(len(run.records))]
    crops = {crop[0] for frame in frames for each in frame["factors"] if each for crop in each["high"] + each["low"]}
    wrong = {row["row"] for frame in frames for row in frame["wrong"]["rows"]}
    styles = tuple(style_of(column) for column in range(count(columns)))
    return FactorSection(styles, frames, maps, tuple(sorted(crops | wrong)))


def factor_panels(runs: Sequence[Run], timeline: Timeline) -> list[Panel]:
    """Draw the share of every factor over the snapshots, and how far all of them go together."""
    two = len(runs) > 1
    shares = [_share_lines(run, letter, f"{letter.upper()} " * two) for run, letter in zip(runs, "ab", strict=False)]
    reach = [_reach_lines(run) for run in runs]
    made = (
        panel("Share of the decision", "share of the decision", shares, timeline, include=[0.0]),
        panel("What all factors account for", "share", reach, timeline, include=[0.0, 1.0]),
    )
    return [each for each in made if each is not None]


def is_named(record: Snapshot) -> bool:
    """Whether single factors of a snapshot mean anything: there are some, and no other axes would do as well."""
    return _n_factors(record) > 0 and UNNAMED.isdisjoint(record.factor_states)


@dataclass(frozen=True)
class _Frame:
    """One snapshot of a run, to be described."""

    run: Run
    index: int
    columns: Mapping[int, int]
    letter: str
    maps: SignedMaps

    @property
    def record(self) -> Snapshot:
        return self.run.records[self.index]

    def described(self, rows: Sequence[int]) -> dict[str, Any]:
        cards: list[dict[str, Any] | None] = [None] * count(self.columns)
        if self.record.factor_codes is None:
            facts = ["No decision factors were found at this snapshot."]
            return {"facts": facts, "cautions": [], "factors": cards, "wrong": {"summary": facts[0], "rows": []}}
        for rank, name in enumerate(_names(self.record)):
            cards[self.columns[name]] = self._card(rank, name, rows)
        return {
            "facts": facts_of(self.record) + naming_facts(self.run.factor_names, _names(self.record)),
            "cautions": cautions(self.record.factor_states, self.record.numbers.get("factor_constant_share")),
            "factors": cards,
            "wrong": self._wrong(),
        }

    def _card(self, rank: int, name: int, rows: Sequence[int]) -> dict[str, Any]:
        """Everything by which a person can tell what one factor is."""
        codes, scores, maps = _evidence(self.record)
        classes = [self.run.class_name(index) for index in range(len(codes))]
        code = codes[:, rank].tolist()
        support = factor_support(codes, scores, self.record.labels)[:, rank].tolist()
        shares = self.record.factor_shares
        return {
            "key": f"{self.letter}{name}",
            "name": _called(name),
            "share": "" if shares is None else f"{shares[rank]:.1%}",
            "event": "new" if self._is_new(name) else "",
            "for": classes_of(code, classes),
            "against": classes_of([-value for value in code], classes),
            "words": self._words(name),
            "codes": shown_codes(code, classes),
            "high": self._crops(maps[:, rank], scores[:, rank]),
            "low": self._crops(-maps[:, rank], -scores[:, rank]),
            "tiles": [[row, _amount(support[row]), self._map(row, rank)] for row in rows],
        }

    def _words(self, name: int) -> list[str]:
        """What either side is called; nothing where nobody named the factor."""
        known = self.run.factor_names
        sides = None if known is None else known.sides.get(name)
        return ["", ""] if sides is None else [f"shows {side}" if side else "no name" for side in sides]

    def _is_new(self, name: int) -> bool:
        before = list(filter(None, map(_names, self.run.records[: self.index])))
        return bool(before) and not any(name in names for names in before)

    def _crops(self, maps: Tensor, scores: Tensor) -> list[list[int]]:
        """Where a factor is strongest, one region each of images that score above zero: image and box."""
        if self.run.probe is None:
            return []
        height, width = self.run.probe.images.shape[-2:]
        firing = maps.float().where((scores > 0)[:, None, None], 0.0)[:, None]
        found = exemplars(firing, _N_CROPS, (height, width), extent=_CROP_CELLS)
        pairs = zip(found.images[0].tolist(), found.boxes[0].tolist(), strict=True)
        return [[image, *box] for image, box in pairs if image >= 0]

    def _map(self, row: int, rank: int) -> int:
        """Keep where a factor speaks for the right class, and where against it."""
        codes, _, maps = _evidence(self.record)
        return self.maps.add(codes[self.record.labels[row], rank] * maps[row, rank].float(), row)

    def _wrong(self) -> dict[str, Any]:
        """Name the factor that misled the network in each image that it gets wrong, the worst first."""
        record, names = self.record, _names(self.record)
        found = wrong_decisions(record.logits, record.labels, *_evidence(record))
        order = found.support.nan_to_num(torch.inf).argsort(stable=True)
        least = found.factors[order].tolist()
        blamed = [_called(names[rank]) for rank in least if rank >= 0] if names else None
        summary = wrong_sentence(len(least), len(record.labels), blamed, self._last_wrong())
        listed = list(zip(found.images[order].tolist(), least, found.support[order].tolist(), strict=True))
        if len(listed) > _MOST_WRONG and names:
            summary += f" The {_MOST_WRONG} in which it speaks least for it are shown."
        return {"summary": summary, "rows": [self._wrong_row(*each) for each in listed[:_MOST_WRONG]] if names else []}

    def _last_wrong(self) -> int | None:
        """The epoch of the last snapshot until now with a wrong answer."""
        before = self.run.records[: self.index + 1]
        return next((each.epoch for each in reversed(before) if (each.logits.argmax(1) != each.labels).any()), None)

    def _wrong_row(self, row: int, rank: int, support: float) -> dict[str, Any]:
        true, logits = int(self.record.labels[row]), self.record.logits[row].float()
        answer = int(logits.argmax())
        told = {
            "row": row,
            "true": self.run.class_name(true),
            "answer": f"{self.run.class_name(answer)} {logits.softmax(dim=0)[answer]:.0%}",
        }
        if not logits.isfinite().all():
            told["answer"] = "not finite"
        if rank < 0:
            return told
        name = _names(self.record)[rank]
        return told | {
            "key": f"{self.letter}{name}",
            "column": self.columns[name],
            "factor": _called(name),
            "about": self._about(rank),
            "support": _amount(support),
            "map": self._map(row, rank),
        }

    def _about(self, rank: int) -> str:
        """What the factor tells apart, in a line."""
        code = _evidence(self.record)[0][:, rank].tolist()
        classes = [self.run.class_name(index) for index in range(len(code))]
        return f"for {classes_of(code, classes)}; against {classes_of([-value for value in code], classes)}"


def _called(name: int) -> str:
    return f"factor {keys.number(name)}"


def _amount(logit: float) -> str:
    return f"{logit:+.2f}" if math.isfinite(logit) else "not finite"


def _n_factors(record: Snapshot) -> int:
    return 0 if record.factor_codes is None else record.factor_codes.shape[1]


def _evidence(record: Snapshot) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scores and maps of a snapshot with factors."""
    codes, scores, maps = record.factor_codes, record.factor_scores, record.factor_maps
    if codes is None or scores is None or maps is None:
        raise ValueError("Expected a record with decision factors, but it has none.")
    return codes, scores, maps


def _names(record: Snapshot) -> list[int]:
    """What each factor is called over the snapshots; none where single factors mean nothing."""
    if not is_named(record):
        return []
    known = record.factor_identities
    return list(range(_n_factors(record))) if known is None else known.tolist()


def _columns(run: Run) -> dict[int, int]:
    """Give each factor a column, those last seen together by their share of the decision."""
    named = [record for record in run.records if is_named(record)]
    if not named:
        return {}
    names = torch.full((len(named), max(map(_n_factors, named))), -1)
    for row, record in zip(names, named, strict=True):
        row[: _n_factors(record)] = torch.tensor(_names(record))
    last = named[-1]
    shares = torch.zeros(_n_factors(last)) if last.factor_shares is None else last.factor_shares
    ranked = [_names(last)[rank] for rank in shares.argsort(descending=True, stable=True).tolist()]
    return follow_columns(keep_columns(names), {name: column for column, name in enumerate(ranked)})


def _share_lines(run: Run, letter: str, prefix: str) -> list[Line]:
    names = [_names(record) for record in run.records]
    seen = {name: [index for index, here in enumerate(names) if name in here] for name in set().union(*names)}
    start, end = min(map(min, seen.values()), default=0), len(names) - 1
    lines, before = [], Counter[int]()
    # Those that follow one another in a column share its colour, and each has a dash of its own.
    for name, column in sorted(_columns(run).items(), key=lambda item: (item[1], -seen[item[0]][-1])):
        values = tuple(_share(record, name) for record in run.records)
        style, born, ended = (
            f"{style_of(column)} dash{min(before[column], 2)}",
            seen[name][0] > start,
            seen[name][-1] < end,
        )
        lines.append(Line(prefix + _called(name), values, style, f"{letter}{name}", born=born, ended=ended))
        before[column] += 1
    return lines


def _share(record: Snapshot, name: int) -> float | None:
    if record.factor_shares is None or name not in _names(record):
        return None
    return finite(record.factor_shares[_names(record).index(name)].item())


def _reach_lines(run: Run) -> list[Line]:
    return [
        Line(words, tuple(finite(record.numbers.get(name)) for record in run.records), style_of(index), name)
        for index, (name, words) in enumerate(ON_THEIR_CHARTS.items())
    ]
