"""Insertion and deletion metrics: the score of a class while pixels come or go."""

from abc import ABC
from typing import Any

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import blank_broken, check_option
from lit_decom.functional.faithfulness import FollowedClass, Quantity, class_scores, target_classes
from lit_decom.functional.insertion_deletion import Curve, area_under_curve, perturbation_logits
from lit_decom.functional.masking import MaskSpace, Substrate, substrate_images
from lit_decom.metrics.base import PerImageMetric


class _CurveMetric(PerImageMetric, ABC):
    """A metric of curves; a subclass says which ones, and ends its constructor with ``add_rows``."""

    _least = 0.0

    def __init__(
        self,
        n_steps: int,
        quantity: Quantity,
        target: FollowedClass,
        mask_space: MaskSpace,
        *,
        scale_to_image: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if n_steps < 1:
            raise ValueError(f"Expected `n_steps` to be at least 1, but got {n_steps}.")
        check_option("quantity", quantity, Quantity)
        check_option("target", target, FollowedClass)
        check_option("mask_space", mask_space, MaskSpace)
        self.n_steps = n_steps
        self.quantity = quantity
        self.target = target
        self.mask_space = mask_space
        self.scale_to_image = scale_to_image

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """Where the axis of a plot begins: a logit has no bounds."""
        return None if self.quantity == "logit" else self._least

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """Where the axis of a plot ends."""
        return None if self.quantity == "logit" else 1.0

    def areas(
        self, curve: Curve, substrate: Substrate, maps: Tensor, capture: Capture, labels: Tensor | None
    ) -> Tensor:
        """Return the area under one curve of each image, ``(B,)``; NaN where a map is not finite or constant."""
        background = substrate_images(
            capture.images,
            substrate,
            mask_space=self.mask_space,
            mean=capture.mean,
            std=capture.std,
            scale_to_image=self.scale_to_image,
        )
        logits = perturbation_logits(
            capture.images, maps, capture.rescore, background, curve=curve, n_steps=self.n_steps
        )
        classes = target_classes(capture.logits, labels, self.target).repeat_interleave(self.n_steps + 1)
        scores = class_scores(logits.flatten(0, 1), classes, self.quantity)
        return area_under_curve(scores.view(len(maps), self.n_steps + 1))


class InsertionAUC(_CurveMetric):
    """Mean area under the score of a class while pixels are put on a blurred image, most salient first (RISE).

    Higher is better. See :func:`lit_decom.functional.insertion_deletion.perturbation_logits`. The defaults are those of
    RISE at 224 x 224 (224 pixels a step, blur of 11 pixels with sigma 5). Undefined where a map is not finite or
    constant.

    Args:
        n_steps: steps of equal size; there is one forward pass more per image.
        quantity: ``"probability"``, ``"logit"``, or ``"accuracy"``: the fraction of the curve in which the class is
            the predicted one.
        target: the class followed: ``"predicted"`` by the network in the unaltered image, or the true ``"label"``.
        substrate: what pixels are put on, as for :func:`lit_decom.functional.masking.substrate_images`.
        mask_space: the space in which the substrate is made, as there.
        scale_to_image: take the blur's pixels as pixels of an image of 224 and scale them.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> from torch import nn
        >>> from lit_decom.evidence import capture
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model[0].weight.data[:, 0, 0, 0] = torch.tensor([2.0, 0.0])
        >>> evidence = capture(model, "0", torch.tensor([[[[3.0, 1.0]]]]), "predicted")
        >>> metric = InsertionAUC(n_steps=2, quantity="logit", substrate="zeros")
        >>> metric.update(torch.tensor([[[0.9, 0.2]]]), evidence)  # the logit goes 0, 3, 4
        >>> metric.compute()
        tensor(2.5000)
    """

    higher_is_better = True

    def __init__(
        self,
        n_steps: int = 224,
        quantity: Quantity = "probability",
        target: FollowedClass = "predicted",
        substrate: Substrate = "blur",
        mask_space: MaskSpace = "input",
        *,
        scale_to_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_steps, quantity, target, mask_space, scale_to_image=scale_to_image, **kwargs)
        check_option("substrate", substrate, Substrate)
        self.substrate = substrate
        self.add_rows()

    def update(self, maps: Tensor, capture: Capture, labels: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)`` of the images' size.
            capture: the evidence.
            labels: true classes ``(B,)``, for ``target="label"``.
        """
        self.append(self.areas("insertion", self.substrate, maps, capture, labels))


class DeletionAUC(_CurveMetric):
    """Mean area under the score of a class while pixels are removed, most salient first (RISE); lower is better.

    Undefined where a map is not finite or constant.

    Args:
        n_steps: as for :class:`InsertionAUC`.
        quantity: as for :class:`InsertionAUC`.
        target: as for :class:`InsertionAUC`.
        substrate: what removed pixels become; RISE takes ``"zeros"`` of the normalised image, its mean colour.
        mask_space: as for :class:`InsertionAUC`.
        scale_to_image: as for :class:`InsertionAUC`.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> from torch import nn
        >>> from lit_decom.evidence import capture
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model[0].weight.data[:, 0, 0, 0] = torch.tensor([2.0, 0.0])
        >>> evidence = capture(model, "0", torch.tensor([[[[3.0, 1.0]]]]), "predicted")
        >>> metric = DeletionAUC(n_steps=2, quantity="logit")
        >>> metric.update(torch.tensor([[[0.9, 0.2]]]), evidence)  # the logit goes 4, 1, 0
        >>> metric.compute()
        tensor(1.5000)
    """

    higher_is_better = False

    def __init__(
        self,
        n_steps: int = 224,
        quantity: Quantity = "probability",
        target: FollowedClass = "predicted",
        substrate: Substrate = "zeros",
        mask_space: MaskSpace = "input",
        *,
        scale_to_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_steps, quantity, target, mask_space, scale_to_image=scale_to_image, **kwargs)
        check_option("substrate", substrate, Substrate)
        self.substrate = substrate
        self.add_rows()

    def update(self, maps: Tensor, capture: Capture, labels: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)`` of the images' size.
            capture: the evidence.
            labels: true classes ``(B,)``, for ``target="label"``.
        """
        self.append(self.areas("deletion", self.substrate, maps, capture, labels))


class InsertionDeletion(_CurveMetric):
    """Mean of insertion minus deletion, the "overall" score of the accuracy-stratified protocol; higher is better.

    It runs both curves: where all three numbers are wanted, take this metric alone, whose ``rows`` ``(n, 2)`` keep the
    area under the insertion and under the deletion curve of each image.

    Args:
        n_steps: as for :class:`InsertionAUC`.
        quantity: as for :class:`InsertionAUC`.
        target: as for :class:`InsertionAUC`.
        insertion_substrate: as the substrate of :class:`InsertionAUC`.
        deletion_substrate: as the substrate of :class:`DeletionAUC`.
        mask_space: as for :class:`InsertionAUC`.
        scale_to_image: as for :class:`InsertionAUC`.
        **kwargs: passed to ``torchmetrics.Metric``.

    Example:
        >>> from torch import nn
        >>> from lit_decom.evidence import capture
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model[0].weight.data[:, 0, 0, 0] = torch.tensor([2.0, 0.0])
        >>> evidence = capture(model, "0", torch.tensor([[[[3.0, 1.0]]]]), "predicted")
        >>> metric = InsertionDeletion(n_steps=2, quantity="logit", insertion_substrate="zeros")
        >>> metric.update(torch.tensor([[[0.9, 0.2]]]), evidence)
        >>> metric.compute(), metric.rows
        (tensor(1.), tensor([[2.5000, 1.5000]]))
    """

    higher_is_better = True
    _least = -1.0

    def __init__(
        self,
        n_steps: int = 224,
        quantity: Quantity = "probability",
        target: FollowedClass = "predicted",
        insertion_substrate: Substrate = "blur",
        deletion_substrate: Substrate = "zeros",
        *,
        mask_space: MaskSpace = "input",
        scale_to_image: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_steps, quantity, target, mask_space, scale_to_image=scale_to_image, **kwargs)
        check_option("insertion_substrate", insertion_substrate, Substrate)
        check_option("deletion_substrate", deletion_substrate, Substrate)
        self.insertion_substrate = insertion_substrate
        self.deletion_substrate = deletion_substrate
        self.add_rows(width=2)

    def update(self, maps: Tensor, capture: Capture, labels: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)`` of the images' size.
            capture: the evidence.
            labels: true classes ``(B,)``, for ``target="label"``.
        """
        insertion = self.areas("insertion", self.insertion_substrate, maps, capture, labels)
        deletion = self.areas("deletion", self.deletion_substrate, maps, capture, labels)
        self.append(blank_broken(torch.stack([insertion, deletion], dim=1)))

    def score(self, rows: Tensor) -> Tensor:
        """Return insertion minus deletion of each image, ``(n,)``."""
        return rows[:, 0] - rows[:, 1]
