"""Faithfulness metrics: average drop and its kin, insertion and deletion, ADCC."""

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import blank_broken, check_option, widened
from lit_decom.functional.faithfulness import (
    FollowedClass,
    adcc,
    average_drop,
    average_gain,
    average_increase,
    complexity,
)
from lit_decom.functional.image import min_max_normalize
from lit_decom.functional.masking import MaskSpace, Substrate
from lit_decom.functional.stability import coherency
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.masking import MaskedMetric

Change = Callable[..., Tensor]
Explain = Callable[[Capture], Tensor]
SecondClass = Literal["explained", "predicted"]


class AverageDrop(MaskedMetric):
    """Mean fraction of the class probability lost when only the highlighted region is shown; lower is better.

    See :func:`lit_decom.functional.faithfulness.average_drop`. Undefined where a map is not finite or constant.

    FakeCAM (:class:`lit_decom.methods.FakeCAM`), which knows nothing, wins this score: it asks how little a map hides.
    Read it beside :class:`AverageGain` or :class:`Complexity`, which it loses.

    Args:
        target: the class followed: ``"predicted"`` by the network in the unaltered image, or the true ``"label"``.
        mask_space: see :class:`Masking`.
        substrate: see :class:`Masking`.
        scale_to_image: see :class:`Masking`.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> metric = AverageDrop()
        >>> metric.update(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.2, 0.8]]).log())
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = False
    _change: ClassVar[Change] = staticmethod(average_drop)

    def __init__(
        self,
        target: FollowedClass = "predicted",
        mask_space: MaskSpace = "input",
        substrate: Substrate = "zeros",
        *,
        scale_to_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(mask_space, substrate, scale_to_image=scale_to_image, **kwargs)
        check_option("target", target, FollowedClass)
        self.target = target
        self.add_rows()

    def update(
        self,
        logits: Tensor,
        masked_logits: Tensor | None = None,
        labels: Tensor | None = None,
        maps: Tensor | None = None,
        capture: Capture | None = None,
    ) -> None:
        """Count a batch.

        Args:
            logits: logits ``(B, N)`` of the images.
            masked_logits: logits ``(B, N)`` of the masked images, made by :attr:`masking`; computed when missing.
            labels: true classes ``(B,)``, for ``target="label"``.
            maps: maps ``(B, H, W)``, to compute ``masked_logits`` from.
            capture: the evidence, to compute ``masked_logits`` from.
        """
        masked = self._masked_logits(masked_logits, maps, capture)
        self.append(self._change(logits, masked, labels, target=self.target))


class AverageIncrease(AverageDrop):
    """Fraction of images whose class probability rises when only the highlighted region is shown; higher is better.

    See :func:`lit_decom.functional.faithfulness.average_increase`. Its arguments are those of :class:`AverageDrop`.

    FakeCAM (:class:`lit_decom.methods.FakeCAM`), which knows nothing, can win this score: however little the
    probability rises, it counts, so hiding a pixel that does not matter wins about every second image.

    Example:
        >>> metric = AverageIncrease()
        >>> metric.update(torch.tensor([[0.8, 0.2], [0.6, 0.4]]).log(), torch.tensor([[0.2, 0.8], [0.7, 0.3]]).log())
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True
    is_share = True
    _change: ClassVar[Change] = staticmethod(average_increase)


class AverageGain(AverageDrop):
    """Mean fraction of the possible gain of probability reached when only the highlighted region is shown.

    Higher is better. See :func:`lit_decom.functional.faithfulness.average_gain`. Its arguments are those of
    :class:`AverageDrop`.

    Example:
        >>> metric = AverageGain()
        >>> metric.update(torch.tensor([[0.6, 0.4]]).log(), torch.tensor([[0.9, 0.1]]).log())
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True
    _change: ClassVar[Change] = staticmethod(average_gain)


class Complexity(PerImageMetric):
    """Mean share of the image that a map highlights, after stretching it to [0, 1] (ADCC); lower is better.

    Undefined where a map is not finite or constant.

    Args:
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> metric = Complexity()
        >>> metric.update(torch.tensor([[[2.0, 0.0], [1.0, 0.0]]]))
        >>> metric.compute()
        tensor(0.3750)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, maps: Tensor) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)``.
        """
        self.append(complexity(min_max_normalize(widened(maps))))


class _CoherencyMetric(MaskedMetric, ABC):
    """A metric that compares each map with the map of the masked image."""

    second_class: SecondClass

    def _masked_maps(
        self,
        given: Tensor | None,
        maps: Tensor,
        masked_logits: Tensor | None,
        capture: Capture | None,
        explain: Explain | None,
    ) -> Tensor:
        if given is not None:
            return given
        if capture is None or explain is None:
            raise ValueError("Expected `masked_maps`, or `capture` and `explain` to compute them, but got neither.")
        predicted = self.second_class == "predicted"
        classes = self._masked_logits(masked_logits, maps, capture).argmax(dim=1) if predicted else None
        return explain(capture.again(self.masking.images(capture, maps), classes))


class Coherency(_CoherencyMetric):
    """Mean agreement of each map with the map of the image seen through it (ADCC); higher is better.

    See :func:`lit_decom.functional.stability.coherency`, also for where it is undefined.

    Every map that does not depend on the image wins this score, FakeCAM (:class:`lit_decom.methods.FakeCAM`) and
    ``CenterCAM`` among them. :class:`ADCC` weighs it against how much a map shows.

    Args:
        second_class: what the second map explains: the score ``"explained"`` in the image itself (a class, the contrast
            of two, or a score of the caller's own), or the class ``"predicted"`` in the masked image.
        mask_space: see :class:`Masking`.
        substrate: see :class:`Masking`.
        scale_to_image: see :class:`Masking`.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> metric = Coherency()
        >>> maps = torch.tensor([[[2.0, 0.0], [1.0, 0.0]]])
        >>> metric.update(maps, masked_maps=3 * maps)
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True

    def __init__(
        self,
        second_class: SecondClass = "explained",
        mask_space: MaskSpace = "input",
        substrate: Substrate = "zeros",
        *,
        scale_to_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(mask_space, substrate, scale_to_image=scale_to_image, **kwargs)
        check_option("second_class", second_class, SecondClass)
        self.second_class = second_class
        self.add_rows()

    @property
    def asks_for_masked_logits(self) -> bool:
        """Whether the masked images go through the network, beside being explained."""
        return self.second_class == "predicted"

    def update(
        self,
        maps: Tensor,
        masked_maps: Tensor | None = None,
        masked_logits: Tensor | None = None,
        capture: Capture | None = None,
        explain: Explain | None = None,
    ) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)``.
            masked_maps: maps ``(B, H, W)`` of the masked images; computed when missing.
            masked_logits: logits ``(B, N)`` of the masked images, where known, for ``second_class="predicted"``.
            capture: the evidence, to compute ``masked_maps`` from.
            explain: from evidence of the masked images to maps ``(B, H, W)``, to compute them with.
        """
        self.append(coherency(maps, self._masked_maps(masked_maps, maps, masked_logits, capture, explain)))


class ADCC(_CoherencyMetric):
    """Mean of the harmonic mean of coherency, 1 - complexity and 1 - average drop; higher is better.

    See :func:`lit_decom.functional.faithfulness.adcc`. Undefined where a map is not finite or constant. ``rows`` keeps
    the three parts, ``(n, 3)``.

    Args:
        target: as for :class:`AverageDrop`.
        second_class: as for :class:`Coherency`.
        mask_space: see :class:`Masking`.
        substrate: see :class:`Masking`.
        scale_to_image: see :class:`Masking`.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> metric = ADCC()
        >>> maps = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
        >>> logits = torch.tensor([[0.8, 0.2]]).log()
        >>> metric.update(maps, logits, masked_logits=torch.tensor([[0.4, 0.6]]).log(), masked_maps=maps)
        >>> metric.compute()
        tensor(0.6000)
    """

    higher_is_better = True

    def __init__(
        self,
        target: FollowedClass = "predicted",
        second_class: SecondClass = "explained",
        mask_space: MaskSpace = "input",
        substrate: Substrate = "zeros",
        *,
        scale_to_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(mask_space, substrate, scale_to_image=scale_to_image, **kwargs)
        check_option("target", target, FollowedClass)
        self.target = target
        check_option("second_class", second_class, SecondClass)
        self.second_class = second_class
        self.add_rows(width=3)

    def update(
        self,
        maps: Tensor,
        logits: Tensor,
        masked_logits: Tensor | None = None,
        masked_maps: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        capture: Capture | None = None,
        explain: Explain | None = None,
    ) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)``.
            logits: logits ``(B, N)`` of the images.
            masked_logits: logits ``(B, N)`` of the masked images, made by :attr:`masking`; computed when missing.
            masked_maps: maps ``(B, H, W)`` of the masked images; computed when missing.
            labels: true classes ``(B,)``, for ``target="label"``.
            capture: the evidence, to compute what is missing from.
            explain: as for :meth:`Coherency.update`.
        """
        masked = self._masked_logits(masked_logits, maps, capture)
        again = self._masked_maps(masked_maps, maps, masked, capture, explain)
        drops = average_drop(logits, masked, labels, target=self.target)
        stretched = min_max_normalize(widened(maps))
        self.append(blank_broken(torch.stack([coherency(maps, again), complexity(stretched), drops], dim=1)))

    def score(self, rows: Tensor) -> Tensor:
        """Return the combined score of each image, ``(n,)``."""
        return adcc(*rows.unbind(dim=1))
