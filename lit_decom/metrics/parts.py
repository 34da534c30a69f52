"""Agreement of components with annotated parts of the object, over the images of a set.

Formulas, and what makes an image undefined, are those of :mod:`lit_decom.functional.parts`; whether a component is the
same part in every image is a matter of :mod:`lit_decom.functional.part_identity`.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_decom.functional.part_identity import (
    fixed_index_average_precision,
    fixed_indices,
    information_floor,
    part_information,
    pointwise_information,
)
from lit_decom.functional.parts import (
    PartAgreement,
    PartMatch,
    Purity,
    match_parts,
    part_agreement,
    part_average_precision,
    part_coverage,
    part_iou,
    part_purity,
)
from lit_decom.metrics.base import PerImageMetric, SetMetric

_FEWEST_PIXELS = 56  # along the shorter side, to compare components with parts on


class PartMetric(PerImageMetric):
    """A metric of components and parts; metrics that compare them by one convention may share what they find.

    Attributes:
        shared: the keyword under which ``update`` takes what :meth:`compare` finds.
    """

    higher_is_better = True
    shared: ClassVar[Literal["agreement", "match"]]

    @property
    @abstractmethod
    def convention(self) -> object:
        """What the comparison depends on beside components and parts."""

    @abstractmethod
    def compare(self, ossms: Tensor, parts: Tensor, valid: Tensor | None = None) -> PartAgreement | PartMatch:
        """Compare ``ossms`` (B, K, H, W) with ``parts`` (B, R, H, W) bool, as far as ``valid`` (B, K) bool."""


class _AgreementMetric(PartMetric):
    """A metric of how well components outline parts."""

    shared = "agreement"
    numbers_per_image: ClassVar[int | None] = 1
    """How many are kept; None where the first images say."""

    def __init__(self, n_levels: int = 256, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_levels = n_levels
        self.add_rows(width=self.numbers_per_image)

    @abstractmethod
    def rows_of(self, agreement: PartAgreement) -> Tensor:
        """What is kept of each image, ``(B,)`` or ``(B, width)``."""

    def update(
        self, ossms: Tensor, parts: Tensor, valid: Tensor | None = None, agreement: PartAgreement | None = None
    ) -> None:
        """Add images: ``ossms`` (B, K, H, W), ``parts`` (B, R, H, W) bool, ``valid`` (B, K), their ``agreement``."""
        self.append(self.rows_of(agreement or self.compare(ossms, parts, valid)))

    @property
    def convention(self) -> int:
        """Number of levels that values are read on."""
        return self.n_levels

    def compare(self, ossms: Tensor, parts: Tensor, valid: Tensor | None = None) -> PartAgreement:
        """Find how well each component outlines each part, see :func:`lit_decom.functional.parts.part_agreement`.

        Of images whose shorter side has 112 pixels or more, only every second, third, ... row and column is read, so
        that at least 56 are left (our choice): components are smooth, since they come from a coarse grid. A part none
        of whose pixels is read counts as not shown.
        """
        step = max(1, min(ossms.shape[-2:]) // _FEWEST_PIXELS)
        return part_agreement(ossms[..., ::step, ::step], parts[..., ::step, ::step], valid, n_levels=self.n_levels)


class _MatchMetric(PartMetric):
    """A metric of which part each component falls on."""

    shared = "match"
    purity: Purity

    @property
    def convention(self) -> Purity:
        """How purity is reckoned."""
        return self.purity

    def compare(self, ossms: Tensor, parts: Tensor, valid: Tensor | None = None) -> PartMatch:
        """Find the part that each component falls on, see :func:`lit_decom.functional.parts.match_parts`."""
        return match_parts(ossms, parts, valid, self.purity)


class PartAveragePrecision(_AgreementMetric):
    """The mean average precision of an image's parts, each with the component that outlines it best.

    Args:
        n_levels: of the values, see :func:`lit_decom.functional.parts.part_agreement`.
        kwargs: torchmetrics' own.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> metric = PartAveragePrecision()
        >>> metric.update(ossms=torch.tensor([[[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 2.0, 0.0]]]]), parts=parts)
        >>> metric.compute()
        tensor(0.6250)
    """

    def rows_of(self, agreement: PartAgreement) -> Tensor:
        """Value of each image, see :func:`lit_decom.functional.parts.part_average_precision`."""
        return part_average_precision(agreement)


class PartIoU(_AgreementMetric):
    """The mean intersection over union of an image's parts, each with the component that has most of it.

    A component is cut at half its maximum.

    Args:
        n_levels: of the values, see :func:`lit_decom.functional.parts.part_agreement`.
        kwargs: torchmetrics' own.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> metric = PartIoU()
        >>> metric.update(ossms=torch.tensor([[[[0.5, 0.2, 0.0, 0.0]], [[0.0, 0.0, 2.0, 0.0]]]]), parts=parts)
        >>> metric.compute()
        tensor(0.7500)
    """

    def rows_of(self, agreement: PartAgreement) -> Tensor:
        """Value of each image, see :func:`lit_decom.functional.parts.part_iou`."""
        return part_iou(agreement)


class FixedIndexPartAP(_AgreementMetric, SetMetric):
    """The mean average precision of parts that keep one component index over all images.

    The index belongs to the set: a stratum chooses its own, and so does every draw of the bootstrap behind the
    interval. The value of an image, in :attr:`values`, is the mean over its parts at the indices of the images seen so
    far. Where the index is only a rank, the metric tells whether ranks mean the same in every image.

    Args:
        n_levels: of the values, see :func:`lit_decom.functional.parts.part_agreement`.
        kwargs: torchmetrics' own.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]]).expand(2, 2, 1, 4)
        >>> one = torch.tensor([[[0.5, 0.5, 0.0, 0.0]], [[0.0, 2.0, 2.0, 0.0]]])
        >>> metric = FixedIndexPartAP()
        >>> metric.update(ossms=torch.stack([one, one.flip(0)]), parts=parts)
        >>> metric.compute(), metric.values
        (tensor(0.5625), tensor([0.5000, 0.6250]))
    """

    numbers_per_image = None

    def rows_of(self, agreement: PartAgreement) -> Tensor:
        """The number of parts, and the average precision of every component for every part."""
        tables = agreement.average_precision
        batch, _, n_parts = tables.shape
        # a row says how many parts there are and is NaN only where nothing is defined
        undefined = tables.isnan().flatten(1).all(dim=1, keepdim=True)
        rows = torch.cat([tables.new_full((batch, 1), n_parts), tables.nan_to_num(_NOT_SHOWN).flatten(1)], dim=1)
        return rows.masked_fill(undefined, torch.nan)

    def score(self, rows: Tensor) -> Tensor:
        """Return each image's mean over its parts, at the indices of the images with these rows."""
        defined = ~rows[:, 0].isnan()
        found = rows.new_full((len(rows),), torch.nan)
        if defined.any():
            tables = _tables(rows[defined])
            chosen = fixed_indices(tables).clamp(min=0).expand(len(tables), 1, -1)
            found[defined] = tables.gather(1, chosen).squeeze(1).nanmean(dim=1)
        return found

    def reduction(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Return how the mean over the parts follows from how often each image is drawn."""
        return partial(fixed_index_average_precision, _tables(rows))


class PartInformation(_MatchMetric, SetMetric):
    """The information in bits that a component's index gives of the part it falls on, beyond that of permuted indices.

    The floor, the mean information that is left when the components of every image are permuted, is taken off; 0 is an
    index that means nothing. In a draw of the bootstrap the floor grows with the sum of the squared multiplicities of
    the images, as the bias of the plug-in estimate does. The most that can be reached is the logarithm of the number of
    components or of parts; it says nothing of how sharply a part is outlined.

    Args:
        purity: ``"balanced"`` or ``"energy"``, see :func:`lit_decom.functional.parts.match_parts`.
        n_permutations: behind the floor.
        kwargs: torchmetrics' own.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]]).expand(9, 2, 1, 4)
        >>> ossms = torch.tensor([[[0.5, 0.2, 0.0, 0.0]], [[0.0, 2.0, 2.0, 0.0]]]).expand(9, 2, 1, 4)
        >>> metric = PartInformation()
        >>> metric.update(ossms=ossms, parts=parts)
        >>> round(metric.floor(metric.rows).item(), 1), round(metric.compute().item(), 1)
        (0.1, 0.9)
    """

    plot_lower_bound = None
    plot_upper_bound = None

    def __init__(self, purity: Purity = "balanced", n_permutations: int = 50, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.purity = purity
        self.n_permutations = n_permutations
        self.add_rows(width=None)

    def update(self, ossms: Tensor, parts: Tensor, valid: Tensor | None = None, match: PartMatch | None = None) -> None:
        """Add images: ``ossms`` (B, K, H, W), ``parts`` (B, R, H, W) bool, ``valid`` (B, K) bool, their ``match``."""
        found = (match or self.compare(ossms, parts, valid)).part
        undefined = (found < 0).all(dim=1, keepdim=True)
        self.append(found.float().masked_fill(undefined, torch.nan))

    def floor(self, rows: Tensor) -> Tensor:
        """Return the information of permuted indices in the images with these rows, in bits."""
        return information_floor(rows[~rows[:, 0].isnan()].long(), self.n_permutations)

    def score(self, rows: Tensor) -> Tensor:
        """Return what each image adds to the value of the images with these rows; their mean is the value."""
        defined = ~rows[:, 0].isnan()
        found = rows.new_full((len(rows),), torch.nan)
        if defined.any():
            found[defined] = pointwise_information(rows[defined].long()).to(rows) - self.floor(rows)
        return found

    def reduction(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Return how the information beyond the floor follows from how often each image is drawn."""
        floor = self.floor(rows)

        def beyond_floor(times: Tensor) -> Tensor:
            growth = len(rows) * times.square().sum(dim=1) / times.sum(dim=1).square()
            return part_information(rows.long(), times) - floor.to(times) * growth

        return beyond_floor


class PartCoverage(_MatchMetric):
    """The mean share of an image's parts that some component claims.

    It rewards sparsity: eight random cells of a grid cover .32 of a critter's parts, eight blobs of its mask .82, and
    any maps more of them once they are thresholded. So it is no default; :class:`PartAveragePrecision` is.

    Args:
        min_purity: purity at which a component claims the part it falls on.
        purity: ``"balanced"`` or ``"energy"``, see :func:`lit_decom.functional.parts.match_parts`.
        kwargs: torchmetrics' own.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> metric = PartCoverage()
        >>> metric.update(ossms=torch.tensor([[[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 2.0, 0.0]]]]), parts=parts)
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, min_purity: float = 0.9, purity: Purity = "balanced", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.min_purity = min_purity
        self.purity = purity
        self.add_rows()

    def update(self, ossms: Tensor, parts: Tensor, valid: Tensor | None = None, match: PartMatch | None = None) -> None:
        """Add images: ``ossms`` (B, K, H, W), ``parts`` (B, R, H, W) bool, ``valid`` (B, K) bool, their ``match``."""
        self.append(part_coverage(match or self.compare(ossms, parts, valid), self.min_purity))


class PartPurity(_MatchMetric):
    """The mean purity of an image's components, each with respect to the part it falls on.

    It rewards any mask of the object: that of a whole critter has .89 and tells no part from another. So it is no
    default; :class:`PartAveragePrecision` is.

    Args:
        purity: ``"balanced"`` or ``"energy"``, see :func:`lit_decom.functional.parts.match_parts`.
        kwargs: torchmetrics' own.

    Example:
        >>> parts = torch.tensor([[[[True, False, False, False]], [[False, True, True, False]]]])
        >>> metric = PartPurity(purity="energy")
        >>> metric.update(ossms=torch.tensor([[[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 2.0, 0.0]]]]), parts=parts)
        >>> metric.compute()
        tensor(0.7500)
    """

    def __init__(self, purity: Purity = "balanced", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.purity = purity
        self.add_rows()

    def update(self, ossms: Tensor, parts: Tensor, valid: Tensor | None = None, match: PartMatch | None = None) -> None:
        """Add images: ``ossms`` (B, K, H, W), ``parts`` (B, R, H, W) bool, ``valid`` (B, K) bool, their ``match``."""
        self.append(part_purity(match or self.compare(ossms, parts, valid)))


_NOT_SHOWN = -1.0


def _tables(rows: Tensor) -> Tensor:
    """Average precisions ``(n, K, R)`` from defined rows, NaN for a part that an image does not show."""
    n_parts = int(rows[0, 0])
    tables = rows[:, 1:].reshape(len(rows), -1, n_parts)
    return tables.masked_fill(tables == _NOT_SHOWN, torch.nan)
