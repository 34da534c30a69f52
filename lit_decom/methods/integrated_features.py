"""Integrated feature analysis of a data set (IFA, arXiv 2407.01142), piece of evidence by piece of evidence."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_decom.evidence import Capture
from lit_decom.functional.base import check_option
from lit_decom.functional.integrated_features import (
    FeatureDistribution,
    FeatureWeight,
    IntensityScale,
    correlation,
    weighted_features,
)
from lit_decom.methods.base import finite_images


class FeatureAnalysis:
    """Gathers what IFA says of a layer, over any number of captures whose target is each image's class.

    Only five numbers are kept of an image, and of its channels sums over the images of its class. An image whose
    evidence is not finite is left out of everything and counted. One capture per image, no pass more.

    The released code keeps the last image of a class in place of the class's mean; the mean is kept here.

    Args:
        n_classes: of the network.
        kind: how activations are weighed, as for
            :func:`lit_decom.functional.integrated_features.weighted_features`.

    Raises:
        ValueError: if the kind is unknown.

    Attributes:
        n_left_out: how many images were not finite.
    """

    def __init__(self, n_classes: int, kind: FeatureWeight = "elementwise") -> None:
        check_option("kind", kind, FeatureWeight)
        self.kind, self.n_left_out = kind, 0
        self._counts = torch.zeros(n_classes, dtype=torch.long)
        self._sums: Tensor | None = None
        self._images: list[Tensor] = []

    def update(self, capture: Capture) -> None:
        """Count a batch.

        Args:
            capture: of images, each explained for its class (``targets=labels``).

        Raises:
            ValueError: if the targets are no classes.
        """
        if (capture.targets < 0).any():
            raise ValueError("Expected `capture` to explain a class in each image, but got a score of the caller's.")
        weighted = weighted_features(capture.activations, capture.gradients, self.kind)
        kept = finite_images(capture.activations, capture.gradients, capture.logits, weighted)
        self.n_left_out += int((~kept).sum())
        weighted, targets, logits = weighted[kept], capture.targets[kept], capture.logits[kept]
        # On the CPU, since MPS has no float64.
        maps, importances = (weighted.sum(dim=axes).flatten(1).cpu().double() for axes in (1, (2, 3)))
        targets, logits = targets.cpu(), logits.cpu().double()
        score = logits.gather(1, targets[:, None])
        ends = torch.stack([maps.amax(dim=1), maps.amin(dim=1), maps.sum(dim=1)], dim=1)
        self._images.append(torch.cat([targets[:, None], score, ends], dim=1))
        right = logits.argmax(dim=1) == targets
        if self._sums is None:
            self._sums = torch.zeros(len(self._counts), weighted.shape[1], dtype=torch.float64)
        self._sums.index_add_(0, targets[right], importances[right])
        self._counts += targets[right].bincount(minlength=len(self._counts))

    @property
    def distribution(self) -> FeatureDistribution:
        """How important each channel is, overall and for each class, where the network is right.

        Raises:
            ValueError: if there is no image that the network gets right.
        """
        if self._sums is None or not self._counts.any():
            raise ValueError("Expected at least one image that the network gets right, but got none.")
        by_class = self._sums / self._counts[:, None]
        return FeatureDistribution(self._sums.sum(dim=0) / self._counts.sum(), by_class, self._counts.clone())

    @property
    def scale(self) -> IntensityScale:
        """The common intensity scale of all maps.

        Raises:
            ValueError: if there is no image, or no map has an extent.
        """
        images = self._table()
        return IntensityScale.of(images[:, 2], images[:, 3])

    @property
    def consistency(self) -> Tensor:
        """Correlation of the sum of a map with its class's logit over the images of each class, ``(N,)``.

        NaN for a class with fewer than three images. This is no evidence for an explanation where a network ends in
        global average pooling and a linear layer: there the sum of gradient times activation *is* the logit less its
        bias, in the Grad-CAM weighting as in the elementwise one, and the correlation is 1 whatever was learnt.
        Rectifying a map, or scaling each by itself, breaks the identity, and that is all that lower values of other
        methods say there. It tells something of layers and heads for which it is not an identity.
        """
        images = self._table()
        own = (images[images[:, 0] == index] for index in range(len(self._counts)))
        return torch.stack([correlation(rows[:, 4], rows[:, 1]) for rows in own])

    def _table(self) -> Tensor:
        """Of each image its class, its logit, and its map's largest and smallest value and sum, ``(n, 5)``."""
        return torch.cat([torch.zeros(0, 5, dtype=torch.float64), *self._images])


@dataclass(frozen=True)
class AccuracyLeft:
    """What a network still gets right when each class has only some of the layer's channels.

    Attributes:
        ratio: which share of the channels each class has.
        full: share of the images that the network gets right as it is.
        distinctive: the same with the channels that tell the class apart most.
        rest: the same with all other channels.
        random: the same with as many channels drawn at random.
        n_images: how many images.
    """

    ratio: float
    full: float
    distinctive: float
    rest: float
    random: float
    n_images: int


def reduced_logits(capture: Capture, kept: Tensor) -> Tensor:
    """Ask for the logit of each class with that class's channels alone, all others being 0.

    No label is needed, so none leaks into which class has which channels. An image costs one pass through what follows
    the layer for each class that has channels.

    Args:
        capture: of images.
        kept: ``(N, C)`` bool.

    Returns:
        Logits ``(B, N)``; minus infinity for a class without channels, NaN for an image that is not finite.
    """
    classes = kept.any(dim=1).nonzero().flatten().to(capture.logits.device)
    finite = finite_images(capture.activations, capture.logits)
    rows = finite.nonzero().flatten().repeat_interleave(len(classes))
    owners, masks = classes.repeat(int(finite.sum())), kept.to(capture.activations)

    def alter(part: slice) -> Tensor:
        return capture.activations[rows[part]] * masks[owners[part]][:, :, None, None]

    found = torch.full_like(capture.logits, -torch.inf).masked_fill(~finite[:, None], torch.nan)
    found[rows, owners] = capture.rescore_activations(rows, alter).gather(1, owners[:, None]).squeeze(1)
    return found


def accuracy_left(
    captures: Iterable[Capture], distribution: FeatureDistribution, ratio: float = 0.1, *, seed: int = 0
) -> AccuracyLeft:
    """Decompose features: how right is the network with the few channels that tell each class apart?

    IFA's claim is that 5 to 25 % of the channels suffice. It is one only beside ``random``: in a wide layer many
    channels say the same. Images should be others than those that the distribution is of.

    Args:
        captures: of images, each explained for its class; an image that is not finite counts as wrong.
        distribution: over the same layer.
        ratio: which share of the channels each class keeps.
        seed: of the channels that are drawn at random.

    Returns:
        The accuracies.

    Raises:
        ValueError: if the ratio is out of range or there is no image.
    """
    distinctive = distribution.distinctive(ratio)
    kept = {
        "distinctive": distinctive,
        "rest": ~distinctive & (distribution.counts > 0)[:, None],
        "random": distribution.random(ratio, torch.Generator().manual_seed(seed)),
    }
    right, n_images = dict.fromkeys(("full", *kept), 0), 0
    for capture in captures:
        answers = {name: reduced_logits(capture, channels) for name, channels in kept.items()}
        for name, logits in {"full": capture.logits, **answers}.items():
            known = logits.isnan().any(dim=1).logical_not()
            right[name] += int(((logits.argmax(dim=1) == capture.targets) & known).sum())
        n_images += len(capture.targets)
    if not n_images:
        raise ValueError("Expected at least one image, but got none.")
    return AccuracyLeft(ratio, **{name: count / n_images for name, count in right.items()}, n_images=n_images)
