"""ROAD: what is left of a class's score once relevant pixels are replaced by what their surroundings suggest."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import blank_broken, check_option
from lit_decom.functional.faithfulness import FollowedClass, Quantity, class_scores, target_classes
from lit_decom.functional.road import check_percentages, imputation_noise, road_logits
from lit_decom.metrics.base import PerImageMetric

Order = Literal["combined", "morf", "lerf"]
NoiseSpace = Literal["unit", "input"]


class ROAD(PerImageMetric):
    """Mean score of a class after noisy linear imputation of the most or the least relevant pixels.

    See :func:`lit_decom.functional.road.road_logits`. Undefined where a map is not finite or constant. ``rows``
    ``(n, 2)`` keep the mean score over all percentages of each image with its most, and with its least, relevant pixels
    removed.

    The reference reports a curve of accuracies for each order (``quantity="accuracy"``); half the difference of the two
    orders, averaged over the percentages, is pytorch-grad-cam's summary of it.

    Args:
        percentages: how many percent of the pixels are removed, each strictly between 0 and 100.
        order: ``"morf"`` removes the most relevant pixels first (lower is better), ``"lerf"`` the least relevant ones
            (higher is better), ``"combined"`` is ``(lerf - morf) / 2``, higher is better and 0 by chance.
        quantity: ``"probability"``, ``"logit"``, or ``"accuracy"``: 1 where the class is the predicted one.
        target: the class followed: ``"predicted"`` by the network in the unaltered image, or the true ``"label"``.
        noise: standard deviation of the noise added to imputed pixels.
        noise_space: the scale of the noise: ``"unit"`` is that of images in [0, 1] (the reference imputes before it
            normalises; the capture's ``std`` must be known), ``"input"`` that of the normalised images
            (pytorch-grad-cam).
        seed: seeds the noise and the order among equally relevant pixels.
        **kwargs: passed to ``torchmetrics.Metric``.

    Raises:
        ValueError: if an option is unknown or out of range.

    Example:
        >>> from torch import nn
        >>> from lit_decom.evidence import capture
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model[0].weight.data[:, 0, 0, 0] = torch.tensor([2.0, 0.0])
        >>> evidence = capture(model, "0", torch.tensor([[[[3.0, 1.0]]]]), "predicted")
        >>> metric = ROAD(percentages=(50,), quantity="logit", noise=0.0)
        >>> metric.update(torch.tensor([[[0.9, 0.2]]]), evidence)  # the images become (1, 1) and (3, 3)
        >>> metric.compute(), metric.rows
        (tensor(2.), tensor([[2., 6.]]))
    """

    def __init__(
        self,
        percentages: Sequence[float] = (10, 20, 30, 40, 50, 60, 70, 80, 90),
        order: Order = "combined",
        quantity: Quantity = "probability",
        target: FollowedClass = "predicted",
        noise: float = 0.01,
        *,
        noise_space: NoiseSpace = "unit",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_percentages(percentages)
        check_option("order", order, Order)
        check_option("quantity", quantity, Quantity)
        check_option("target", target, FollowedClass)
        check_option("noise_space", noise_space, NoiseSpace)
        if noise < 0:
            raise ValueError(f"Expected `noise` to be 0 or more, but got {noise}.")
        self.percentages = tuple(percentages)
        self.order = order
        self.quantity = quantity
        self.target = target
        self.noise = noise
        self.noise_space = noise_space
        self.seed = seed
        self.add_rows(width=2)

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a higher value is better, which depends on the order."""
        return self.order != "morf"

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """Where the axis of a plot begins: a logit has no bounds."""
        if self.quantity == "logit":
            return None
        return -0.5 if self.order == "combined" else 0.0

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """Where the axis of a plot ends."""
        if self.quantity == "logit":
            return None
        return 0.5 if self.order == "combined" else 1.0

    def update(self, maps: Tensor, capture: Capture, labels: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            maps: maps ``(B, H, W)`` of the images' size.
            capture: the evidence.
            labels: true classes ``(B,)``, for ``target="label"``.
        """
        logits = road_logits(
            capture.images, maps, capture.rescore, self._noise(capture), percentages=self.percentages, seed=self.seed
        )
        classes = target_classes(capture.logits, labels, self.target).repeat_interleave(2 * len(self.percentages))
        scores = class_scores(logits.flatten(0, 2), classes, self.quantity)
        self.append(blank_broken(scores.view(len(maps), 2, len(self.percentages)).mean(dim=2)))

    def score(self, rows: Tensor) -> Tensor:
        """Return the value of each image, ``(n,)``."""
        morf, lerf = rows.unbind(dim=1)
        return {"morf": morf, "lerf": lerf, "combined": (lerf - morf) / 2}[self.order]

    def _noise(self, capture: Capture) -> Tensor:
        shape = capture.images.shape[1:]
        if self.noise == 0:
            return torch.zeros(shape)
        noise = self.noise * imputation_noise(shape, self.seed)
        if self.noise_space == "input":
            return noise
        if capture.std is None:
            raise ValueError("Expected a capture with `std` for `noise_space='unit'`, but got None; or use 'input'.")
        return noise / capture.std.to(noise)[:, None, None]
