"""One card per drawn image: what each run found in it, snapshot by snapshot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.functional.alignment import match_components
from lit_decom.functional.curves import settled_since
from lit_decom.methods.decomposition import Decomposition
from lit_decom.render import figures, share_text, verdict
from lit_decom.report.charts import LARGE, TALL, Chart, Line, drawn, finite, limits_of
from lit_decom.report.columns import count, follow_columns, keep_columns, names_of
from lit_decom.report.pictures import packed
from lit_decom.report.runs import Run
from lit_decom.report.timeline import Timeline

GAIN = "score gain over the blurred image (logit)"
_N_COLOURS = 10


@dataclass(frozen=True, eq=False)
class RunFindings:
    """What a run found, arranged for drawing.

    Attributes:
        run: the run.
        decompositions: of every snapshot.
        names: ``(T, n, K)``, what each component is called within its image; -1 for padding.
        gains: ``(T, n, K)``; NaN where there is none.
        shares: ``(T, n, K)``, of the energy.
    """

    run: Run
    decompositions: tuple[Decomposition, ...]
    names: Tensor
    gains: Tensor
    shares: Tensor

    @classmethod
    def of(cls, run: Run) -> "RunFindings":
        """Arrange the records of a run."""
        decompositions = tuple(record.decomposition for record in run.records)
        valid = [record.valid for record in run.records]
        identities = [record.identities if run.is_tracked else None for record in run.records]
        return cls(
            run,
            decompositions,
            torch.stack(names_of(identities, valid)),
            torch.stack([found.score_gains for found in decompositions]).float(),
            torch.stack([found.explained_energy for found in decompositions]).float(),
        )

    @cached_property
    def settled(self) -> list[int | None]:
        """The epoch since which each image's explanation has hardly changed; None if it has not, or nobody knows."""
        drifts = [record.drift for record in self.run.records]
        if not self.run.is_tracked or any(drift is None for drift in drifts):
            return [None] * self.names.shape[1]
        known = torch.stack([drift for drift in drifts if drift is not None])
        return settled_since(self.names, known, [record.epoch for record in self.run.records])


@dataclass(frozen=True)
class Pairs:
    """Components of two runs that are the same one, per image.

    Attributes:
        epoch: at which they were compared.
        partners: for each image, from the name of a component in the first run to its name in the second one.
        similarities: like ``partners``, how similar the two are, in [0, 1].
        n_components: valid components of the first run at that epoch, over all images.
    """

    epoch: int
    partners: tuple[dict[int, int], ...]
    similarities: tuple[dict[int, float], ...]
    n_components: int

    @property
    def n_pairs(self) -> int:
        """How many pairs there are, over all images."""
        return sum(len(partners) for partners in self.partners)

    @property
    def similarity(self) -> float:
        """Mean over all pairs; NaN without any."""
        values = [value for image in self.similarities for value in image.values()]
        return sum(values) / len(values) if values else math.nan


def pair(first: RunFindings, second: RunFindings, at: tuple[int, ...]) -> Pairs | None:
    """Match the components of two runs of one probe by their patterns alone, as between any two networks.

    Args:
        first: one run.
        second: the other one.
        at: which record of each to compare.

    Returns:
        The pairs; None where the layers have different grids.
    """
    one, other = first.run.records[at[0]], second.run.records[at[1]]
    if one.patterns.shape[2:] != other.patterns.shape[2:]:
        return None
    match = match_components(one.patterns.float(), other.patterns.float(), valid=one.valid, new_valid=other.valid)
    partners, similarities = [], []
    for image, assignment in enumerate(match.assignment):
        mine, theirs = first.names[at[0], image], second.names[at[1], image]
        ranks = (assignment >= 0).nonzero().flatten().tolist()
        partners.append({int(mine[rank]): int(theirs[assignment[rank]]) for rank in ranks})
        similarities.append({int(mine[rank]): float(match.similarity[image, rank]) for rank in ranks})
    return Pairs(one.epoch, tuple(partners), tuple(similarities), int(one.valid.sum()))


@dataclass(frozen=True)
class Block:
    """One run's part of a card.

    Attributes:
        n_columns: of maps, beside the integrated one.
        styles: the colour of each column.
        chart: its gain curves.
        note: what there is to say of the whole course.
        data: what the page's script draws from.
    """

    n_columns: int
    styles: tuple[str, ...]
    chart: Chart
    note: str
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Card:
    """An image and what the runs found in it.

    Attributes:
        row: of the image in the probe.
        title: its class and id.
        blocks: one per run.
    """

    row: int
    title: str
    blocks: tuple[Block, ...]


def cards(found: Sequence[RunFindings], timeline: Timeline, rows: Sequence[int], pairs: Pairs | None) -> list[Card]:
    """Make the cards of some images."""
    return [_card(found, timeline, row, pairs) for row in rows]


def style_of(column: int) -> str:
    """The CSS classes of a column: ten colours, and another dash for every further ten."""
    dashes = column // _N_COLOURS
    return f"c{column % _N_COLOURS}" + (f" dash{min(dashes, 2)}" if dashes else "")


def _card(found: Sequence[RunFindings], timeline: Timeline, row: int, pairs: Pairs | None) -> Card:
    columns = [keep_columns(each.names[:, row]) for each in found]
    own_keys = [{name: str(name) for name in columns[0]}]
    if len(found) > 1:
        partners = {} if pairs is None else pairs.partners[row]
        columns[1] = follow_columns(columns[1], {theirs: columns[0][mine] for mine, theirs in partners.items()})
        own_name = {theirs: mine for mine, theirs in partners.items()}
        own_keys.append({name: str(own_name[name]) if name in own_name else f"b{name}" for name in columns[1]})
    n_columns = count(*columns)
    likenesses = _likenesses(found, row, pairs)
    lines = [_gain_lines(*each, row) for each in zip(found, columns, own_keys, strict=True)]
    limits = limits_of([line for each in lines for line in each], include=[0.0])
    size = TALL if len(found) == 1 else LARGE
    blocks = tuple(
        Block(
            n_columns,
            tuple(style_of(column) for column in range(n_columns)),
            Chart(
                GAIN,
                lines[index],
                timeline.positions[index],
                timeline.labels,
                limits,
                size,
            ),
            _settled_note(each, row),
            _data(each, row, _Places(columns[index], own_keys[index], likenesses[index], n_columns)),
        )
        for index, each in enumerate(found)
    )
    first = found[0].run
    name, image = first.class_name(int(first.last.labels[row])), first.last.ids[row]
    # The id of an image and one of its labels names the label, too.
    return Card(row, f"{name} · image {image.removesuffix(f':{name}')}", blocks)


def _likenesses(found: Sequence[RunFindings], row: int, pairs: Pairs | None) -> list[dict[int, str]]:
    """For each run, what to say of the components that have a partner in the other one."""
    texts: list[dict[int, str]] = [{} for _ in found]
    if pairs is not None:
        for mine, theirs in pairs.partners[row].items():
            similar = f"{pairs.similarities[row][mine]:.2f}"
            texts[0][mine] = f"B {called(found[1].run, theirs)} · {similar}"
            texts[1][theirs] = f"A {called(found[0].run, mine)} · {similar}"
    return texts


def _gain_lines(found: RunFindings, columns: dict[int, int], keys: dict[int, str], row: int) -> tuple[Line, ...]:
    names, gains = found.names[:, row], found.gains[:, row]
    lines = []
    ended = {
        int(name)
        for record in found.run.records
        if found.run.is_tracked and record.deaths is not None
        for name in record.deaths[row]
    }
    for name, column in sorted(columns.items(), key=lambda item: item[1]):
        here = names == name
        values = [finite(gain[at].item()) if at.any() else None for gain, at in zip(gains, here, strict=True)]
        born = found.run.is_tracked and not bool(here[0].any())
        label = called(found.run, name)
        lines.append(Line(label, tuple(values), style_of(column), keys[name], born=born, ended=name in ended))
    return drawn(lines)


def called(run: Run, name: int) -> str:
    """Say which component it is."""
    return f"{'component' if run.is_tracked else 'rank'} {keys.number(name)}"


def _settled_note(found: RunFindings, row: int) -> str:
    if not found.run.is_tracked or len(found.run.records) < 2:
        return ""
    epoch = found.settled[row]
    return "Still changing at the end." if epoch is None else f"Settled since epoch {epoch}."


@dataclass(frozen=True)
class _Places:
    """Column, key and partner of each component of an image, by its name, and how many columns there are."""

    columns: dict[int, int]
    keys: dict[int, str]
    likenesses: dict[int, str]
    n_columns: int


def _data(found: RunFindings, row: int, places: _Places) -> dict[str, Any]:
    """Maps, limits and captions of one image over all snapshots of one run."""
    maps = []
    for decomposition in found.decompositions:
        maps += [decomposition.cam[row, None], decomposition.ossms[row]]
    text, limits = packed(torch.cat(maps))
    per_snapshot = 1 + found.names.shape[2]
    by_snapshot = [limits[start : start + per_snapshot] for start in range(0, len(limits), per_snapshot)]
    return {
        "maps": text,
        "limits": by_snapshot,
        "shared": [
            max((each[0] or 0 for each in by_snapshot), default=0),
            max((limit or 0 for each in by_snapshot for limit in each[1:]), default=0),
        ],
        "verdicts": [_verdict(found.run, index, row) for index in range(len(by_snapshot))],
        "tiles": [_tiles(found, index, row, places) for index in range(len(by_snapshot))],
    }


def _verdict(run: Run, index: int, row: int) -> str:
    record = run.records[index]
    logits = record.logits[row]
    if not logits.amax().isfinite():
        return "the network's answer is not finite"
    answer, label = int(logits.argmax()), int(record.labels[row])
    confidence = float(logits.float().softmax(dim=0)[answer])
    # What is true stands in the title of the card.
    return verdict(run.class_name(label), run.class_name(answer), confidence).split("\n")[0]


def _tiles(found: RunFindings, index: int, row: int, places: _Places) -> list[list[Any] | None]:
    """What is in each column at one snapshot: rank, key, name, gain, share, confidence, event, partner."""
    record = found.run.records[index]
    tiles: list[list[Any] | None] = [None] * places.n_columns
    for rank, name in enumerate(found.names[index, row].tolist()):
        if name < 0:
            continue
        gain, share = found.gains[index, row, rank].item(), found.shares[index, row, rank].item()
        confidence = None if record.confidence is None else finite(record.confidence[row, rank].item())
        tiles[places.columns[name]] = [
            rank,
            places.keys[name],
            called(found.run, name),
            figures(gain, signed=True),
            share_text(share),
            "" if confidence is None or not found.run.is_tracked else f"{confidence:.2f}",
            _event(found, index, row, rank),
            places.likenesses.get(name, ""),
        ]
    return tiles


def _event(found: RunFindings, index: int, row: int, rank: int) -> str:
    """Whether a component is new or turned its sign; in the first snapshot everything is new, so nothing is."""
    record = found.run.records[index]
    if not found.run.is_tracked or index == 0:
        return ""
    if record.births is not None and record.births[row, rank]:
        return "new"
    return "turned" if record.flips is not None and record.flips[row, rank] else ""
