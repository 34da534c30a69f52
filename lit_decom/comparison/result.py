"""What a comparison found, and how it is written down."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_decom import keys
from lit_decom.comparison.base import UNINFORMED
from lit_decom.comparison.measures import Measure
from lit_decom.comparison.summary import Cost, Standing


@dataclass(frozen=True, eq=False)
class Disagreement:
    """An image on which two methods disagree.

    Attributes:
        place: of the image in the data.
        image: ``(3, H, W)`` in [0, 1].
        maps: of the two methods, ``(2, h, w)``.
        agreement: Pearson correlation of the maps.
        label: name of the right class.
        answer: name of the class predicted.
    """

    place: int
    image: Tensor
    maps: Tensor
    agreement: float
    label: str
    answer: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Where methods stand on a data set.

    Attributes:
        standings: every measure, by stratum and method.
        costs: of every method, in the same order.
        evidence_seconds: per image, of the forward and the backward pass that all methods share.
        measures: what was measured.
        bins: names of the strata, those without images included, where strata are bins of one number.
        settings: what the numbers depend on.
        n_images: labelled images that count.
        n_explained: images that were explained, those of an earlier call with a larger limit included.
        pair: two methods; None where there is only one.
        disagreements: the images on which the maps of these two agree least, those first.
    """

    standings: tuple[Standing, ...]
    costs: tuple[Cost, ...]
    evidence_seconds: float
    measures: tuple[Measure, ...]
    bins: tuple[str, ...]
    settings: dict[str, Any]
    n_images: int
    n_explained: int
    pair: tuple[str, str] | None = None
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Their names, the first of which the others are compared with image by image."""
        return tuple(cost.method for cost in self.costs)

    @property
    def strata(self) -> tuple[str, ...]:
        """Their names, ``all`` first."""
        return tuple(dict.fromkeys(standing.stratum for standing in self.standings))

    @property
    def title(self) -> str:
        """How much was compared."""
        which = " that the network gets right" if self.settings["correct_only"] else ""
        return f"{len(self.methods)} methods on {self.n_images} images{which}"

    def of(self, measure: str, stratum: str = keys.ALL) -> dict[str, Standing]:
        """Where every method stands by one measure, by its name."""
        return {
            standing.method: standing
            for standing in self.standings
            if (standing.measure, standing.stratum) == (measure, stratum)
        }

    @property
    def cautions(self) -> tuple[str, ...]:
        """What measures cannot be trusted for, a sentence each: those that methods win which know nothing."""
        found = []
        for measure in self.measures:
            here = self.of(measure.name)
            winners = [name for name in UNINFORMED if name in here and here[name].rank == 1]
            if winners:
                know = "does not know" if len(winners) == 1 else "do not know"
                found.append(
                    f"{measure.name}: no method is better beyond doubt than {' and '.join(winners)}, which {know} what "
                    "is explained: ranks by it mean nothing here."
                )
        return tuple(found)

    @property
    def omissions(self) -> tuple[str, ...]:
        """Which methods have no value on some images, a sentence each: their means are of the others."""
        here = [each for each in self.standings if each.stratum == keys.ALL and each.undefined]
        of_method: dict[str, dict[str, int]] = {}
        for each in here:
            of_method.setdefault(each.method, {})[each.measure] = each.undefined
        alike: dict[tuple[tuple[str, int], ...], list[str]] = {}
        for method, counts in of_method.items():
            alike.setdefault(tuple(counts.items()), []).append(method)
        return tuple(f"{', '.join(methods)}: {self._left_out(dict(counts))}" for counts, methods in alike.items())

    def _left_out(self, counts: dict[str, int]) -> str:
        """Say how many images have no value, by measure."""
        if len(counts) == len(self.measures) and len(set(counts.values())) == 1:
            share = f"{next(iter(counts.values()))} of {self.n_images} images"
        else:
            share = ", ".join(f"{n} of {self.n_images} images by {measure}" for measure, n in counts.items())
        return f"{share} have no value, such as those with a blank map, and are left out."

    def write(self, folder: Path) -> None:
        """Write ``results.csv``, ``results.md``, ``figure.png`` and ``comparison.html``.

        Args:
            folder: is made where there is none.
        """
        from lit_decom.comparison.figure import figure_of
        from lit_decom.comparison.page import page_of
        from lit_decom.comparison.tables import markdown, write_csv

        folder.mkdir(parents=True, exist_ok=True)
        write_csv(self, folder / "results.csv")
        (folder / "results.md").write_text(markdown(self), encoding="utf-8")
        figure_of(self).savefig(folder / "figure.png", dpi=150)
        (folder / "comparison.html").write_text(page_of(self), encoding="utf-8")
