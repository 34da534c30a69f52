"""One number of a table, with what says how to read it; and the rows of the images that such numbers come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.functional.strata import NO_STRATUM

Column = tuple[str, str]
"""A metric's name and the explanation that it is computed for."""


@dataclass(frozen=True)
class Score:
    """The value of one metric, for one explanation, over the images of one stratum.

    Attributes:
        metric: such as ``energy_pointing_game``.
        stratum: such as ``all`` or ``correct``; after ``fixed_`` the images that were in it at the reference epoch;
            ``gap`` for the value over the correct images less that over the incorrect ones.
        explanation: empty for the method itself, else a baseline such as ``grad_cam`` or ``random_map``.
        value: NaN where the metric is defined for no image.
        n: images in the stratum.
        undefined: those among them on which the metric is undefined.
        interval: of 95 % over images; None where there are too few to say.
        paired_difference: of a baseline: the interval of 95 % of what the method is better by, image by image; above 0
            the method beats it. None where neither direction is better, and where there are too few images.
        higher_is_better: the metric's direction; None where neither is.
        always_there: whether every snapshot has a finite value here, as long as the network's evidence is finite.
    """

    metric: str
    stratum: str
    explanation: str
    value: float
    n: int
    undefined: int = 0
    interval: tuple[float, float] | None = None
    paired_difference: tuple[float, float] | None = None
    higher_is_better: bool | None = None
    always_there: bool = False

    @property
    def key(self) -> str:
        """As it is logged, without prefix."""
        return keys.score_key(self.metric, self.stratum, self.explanation)

    @property
    def is_defined(self) -> bool:
        """Whether there is a value: not NaN."""
        return self.value == self.value

    @property
    def is_beaten(self) -> bool | None:
        """Of a baseline, whether the method is better beyond doubt; None where nobody can say."""
        return None if self.paired_difference is None else self.paired_difference[0] > 0

    def as_dict(self) -> dict[str, Any]:
        """Give the attributes as JSON can hold them."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> "Score":
        """Undo :meth:`as_dict`."""
        intervals = {
            name: None if known[name] is None else tuple(known[name]) for name in ("interval", "paired_difference")
        }
        return cls(**{**known, **intervals})


def numbers_of(scores: Sequence[Score]) -> dict[str, float]:
    """Flatten scores to what is logged.

    Returns:
        By key the value, where there is one; ``count/<stratum>``, the images of each stratum; and
        ``undefined/<metric>`` where a metric is undefined for some image.
    """
    numbers = {score.key: score.value for score in scores if score.is_defined}
    for score in scores:
        if score.explanation == keys.OWN and score.stratum != keys.GAP:
            numbers[keys.count_key(score.stratum)] = float(score.n)
            if score.stratum == keys.ALL and score.undefined:
                numbers[keys.undefined_key(score.metric)] = float(score.undefined)
    return numbers


@dataclass(frozen=True, eq=False)
class RowTable:
    """Rows of numbers, one per image in every column, and the stratum of each image.

    Attributes:
        ids: of the ``n`` images; empty where nobody needs them.
        codes: ``(n,)``, the index of each image's stratum; -1 for none.
        columns: rows ``(n, width)`` by column.
        names: of the strata 0, 1, ...; a stratum without one is called by its number.
        dropped: by the name of a metric that raised an error, what it said; it has no column.
    """

    ids: tuple[str, ...]
    codes: Tensor
    columns: Mapping[Column, Tensor]
    names: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence["RowTable"]) -> "RowTable":
        """Put tables below one another; a column that one of them lacks is left out.

        Args:
            parts: at least one, of the same strata.
        """
        first, *rest = parts
        common = [column for column in first.columns if all(column in part.columns for part in rest)]
        return cls(
            tuple(image for part in parts for image in part.ids),
            torch.cat([part.codes for part in parts]),
            {column: torch.cat([part.columns[column] for part in parts]) for column in common},
            first.names,
            {name: why for part in parts for name, why in part.dropped.items()},
        )

    def ordered(self, ids: Sequence[str]) -> "RowTable":
        """Bring the rows into the order of these ids, so that a sum does not depend on who explained which image."""
        position = {image: row for row, image in enumerate(self.ids)}
        order = torch.tensor([position[image] for image in ids], dtype=torch.long)
        columns = {column: rows[order] for column, rows in self.columns.items()}
        return replace(self, ids=tuple(ids), codes=self.codes[order], columns=columns)

    def strata(self, fixed: Mapping[str, str] | None = None, *, keep_empty: bool = False) -> dict[str, Tensor]:
        """Tell which rows belong to each stratum, ``all`` first.

        Args:
            fixed: the stratum that each image was in at the reference epoch, by id; these follow under ``fixed_``.
            keep_empty: whether strata without images are there too.

        Returns:
            Indices ``(m,)`` of rows, by the name of the stratum.
        """
        found = {keys.ALL: torch.arange(len(self.codes))}
        codes = self.codes.long().cpu()
        present = set(codes.tolist()) - {NO_STRATUM}
        for code in sorted(present | (set(range(len(self.names))) if keep_empty else set())):
            found[self.name(code)] = (codes == code).nonzero().flatten()
        if fixed:
            membership = [fixed.get(image) for image in self.ids]
            for name in sorted({name for name in membership if name is not None}):
                found[keys.FIXED + name] = torch.tensor([row for row, own in enumerate(membership) if own == name])
        return found

    def name(self, code: int) -> str:
        """Name a stratum by its index."""
        return self.names[code] if code < len(self.names) else str(code)

    def names_by_id(self) -> dict[str, str]:
        """Name the stratum of each image by id; those in none are left out."""
        return {
            image: self.name(code)
            for image, code in zip(self.ids, self.codes.long().tolist(), strict=True)
            if code != NO_STRATUM
        }
