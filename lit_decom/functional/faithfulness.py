"""Faithfulness: what a class score does when the network sees an image through its saliency map."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.base import check_option, has_order, widened

FollowedClass = Literal["predicted", "label"]
Quantity = Literal["probability", "logit", "accuracy"]


def target_classes(logits: Tensor, labels: Tensor | None = None, target: FollowedClass = "predicted") -> Tensor:
    """Return the class whose score is followed.

    Args:
        logits: logits ``(B, N)`` of the unaltered images.
        labels: true classes ``(B,)``, needed for ``target="label"``.
        target: ``"predicted"`` is the class of the largest logit, ``"label"`` the true one.

    Returns:
        Classes ``(B,)``.

    Raises:
        ValueError: if there are fewer than two classes, or labels are needed and missing, misshapen or no classes.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"Expected `logits` to be (B, N) with N >= 2, but got {tuple(logits.shape)}.")
    check_option("target", target, FollowedClass)
    if target == "predicted":
        return logits.argmax(dim=1)
    if labels is None or labels.shape != logits.shape[:1] or labels.is_floating_point():
        shape = None if labels is None else (tuple(labels.shape), labels.dtype)
        raise ValueError(f"Expected `labels` to be ({len(logits)},) classes for `target='label'`, but got {shape}.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(
            f"Expected `labels` to be between 0 and {logits.shape[1] - 1}, but got "
            f"{int(labels.min())} to {int(labels.max())}."
        )
    return labels.long()


def class_scores(logits: Tensor, classes: Tensor, quantity: Quantity = "probability") -> Tensor:
    """Return one number per row of logits: how much the network holds on to a class.

    Args:
        logits: logits ``(n, N)``.
        classes: classes ``(n,)``.
        quantity: softmax ``"probability"``, raw ``"logit"``, or ``"accuracy"``: 1 where the class is the predicted one.

    Returns:
        Scores ``(n,)``; NaN where a logit is.

    Raises:
        ValueError: if ``quantity`` is unknown.
    """
    check_option("quantity", quantity, Quantity)
    logits = widened(logits)
    if quantity == "accuracy":
        return torch.where(logits.isnan().any(dim=1), torch.nan, (logits.argmax(dim=1) == classes).to(logits))
    values = logits.softmax(dim=1) if quantity == "probability" else logits
    return values.gather(1, classes[:, None]).squeeze(1)


def average_drop(
    logits: Tensor, masked_logits: Tensor, labels: Tensor | None = None, *, target: FollowedClass = "predicted"
) -> Tensor:
    """Return which fraction of the class probability is lost when only the highlighted region is shown.

    ``max(0, p - o) / p``, with ``p`` and ``o`` the softmax probabilities of the class in the image and in the masked
    image (as in Opti-CAM, arXiv 2301.07002, there for the true class). Computed from log-probabilities, so that it
    neither divides by zero nor loses digits.

    Args:
        logits: logits ``(B, N)`` of the images.
        masked_logits: logits ``(B, N)`` of the masked images.
        labels: true classes ``(B,)``, for ``target="label"``.
        target: the class followed, that of the unaltered image.

    Returns:
        Drops ``(B,)`` in [0, 1], lower is better; NaN where a logit is.

    Raises:
        ValueError: if a shape or a label does not fit.

    Example:
        >>> logits = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
        >>> masked = torch.tensor([[0.2, 0.8], [0.9, 0.1]]).log()
        >>> average_drop(logits, masked)
        tensor([0.7500, 0.0000])
    """
    margins, masked = _margins(logits, masked_logits, labels, target)
    return (-torch.expm1(F.logsigmoid(masked) - F.logsigmoid(margins))).relu()


def average_increase(
    logits: Tensor, masked_logits: Tensor, labels: Tensor | None = None, *, target: FollowedClass = "predicted"
) -> Tensor:
    """Tell in which images the class probability rises when only the highlighted region is shown.

    ``1[p < o]`` in the words of :func:`average_drop`, whose arguments it takes.

    Args:
        logits: logits ``(B, N)`` of the images.
        masked_logits: logits ``(B, N)`` of the masked images.
        labels: true classes ``(B,)``, for ``target="label"``.
        target: the class followed, that of the unaltered image.

    Returns:
        0 or 1 per image ``(B,)``, higher is better; NaN where a logit is.

    Raises:
        ValueError: if a shape or a label does not fit.

    Example:
        >>> logits = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
        >>> masked = torch.tensor([[0.2, 0.8], [0.9, 0.1]]).log()
        >>> average_increase(logits, masked)
        tensor([0., 1.])
    """
    margins, masked = _margins(logits, masked_logits, labels, target)
    return torch.where((margins + masked).isnan(), torch.nan, (margins < masked).to(margins))


def average_gain(
    logits: Tensor, masked_logits: Tensor, labels: Tensor | None = None, *, target: FollowedClass = "predicted"
) -> Tensor:
    """Return which fraction of the possible gain of probability is reached when only the highlighted region is shown.

    ``max(0, o - p) / (1 - p)`` (Opti-CAM, arXiv 2301.07002): the drop of the probability of all other classes.
    Computed from log-probabilities, so that no constant guards ``p`` close to 1: a confident network is scored by the
    definition also where ``1 - p`` is below the resolution of a float.

    Args:
        logits: logits ``(B, N)`` of the images.
        masked_logits: logits ``(B, N)`` of the masked images.
        labels: true classes ``(B,)``, for ``target="label"``.
        target: the class followed, that of the unaltered image.

    Returns:
        Gains ``(B,)`` in [0, 1], higher is better; NaN where a logit is.

    Raises:
        ValueError: if a shape or a label does not fit.

    Example:
        >>> logits = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
        >>> masked = torch.tensor([[0.2, 0.8], [0.9, 0.1]]).log()
        >>> average_gain(logits, masked)
        tensor([0.0000, 0.8000])
    """
    margins, masked = _margins(logits, masked_logits, labels, target)
    return (-torch.expm1(F.logsigmoid(-masked) - F.logsigmoid(-margins))).relu()


def complexity(maps: Tensor) -> Tensor:
    """Return how much of the image a map highlights, the mean of its pixels (ADCC).

    Args:
        maps: maps ``(B, H, W)`` in [0, 1].

    Returns:
        Complexities ``(B,)`` in [0, 1]; NaN where a map is not finite or constant.

    Example:
        >>> complexity(torch.tensor([[[1.0, 0.0], [0.5, 0.0]]]))
        tensor([0.3750])
    """
    return torch.where(has_order(maps), widened(maps).abs().mean(dim=(1, 2)), torch.nan)


def adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """Combine coherency, complexity and drop into one score, their harmonic mean (ADCC).

    ``3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))``, and 0 where one of the three is as bad as can be.

    Args:
        coherency: ``(B,)`` in [0, 1].
        complexity: ``(B,)`` in [0, 1].
        drop: average drop ``(B,)`` in [0, 1].

    Returns:
        Scores ``(B,)`` in [0, 1], higher is better; NaN where a part is.

    Example:
        >>> half = torch.tensor([0.5, 0.5, 0.5])
        >>> adcc(half, half, torch.tensor([0.5, 1.0, float("nan")]))
        tensor([0.5000, 0.0000,    nan])
    """
    parts = torch.stack([coherency, 1 - complexity, 1 - drop])
    return 3 / (1 / parts.clamp(min=0)).sum(dim=0)


def _margins(
    logits: Tensor, masked_logits: Tensor, labels: Tensor | None, target: FollowedClass
) -> tuple[Tensor, Tensor]:
    """Return the log-odds of the class before and after masking; ``p`` is their sigmoid."""
    if masked_logits.shape != logits.shape:
        raise ValueError(
            f"Expected `masked_logits` to be {tuple(logits.shape)} like `logits`, but got {tuple(masked_logits.shape)}."
        )
    chosen = F.one_hot(target_classes(logits, labels, target), logits.shape[1]).bool()
    before, after = (
        out[chosen] - out.masked_fill(chosen, -torch.inf).logsumexp(dim=1)
        for out in (widened(logits), widened(masked_logits))
    )
    return before, after
