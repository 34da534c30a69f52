"""Which stratum each image belongs to, from the network's own answers."""

from itertools import pairwise

from torch import Tensor

NO_STRATUM = -1
"""The index of an image that is in no stratum."""


def correctness_strata(logits: Tensor, labels: Tensor) -> Tensor:
    """Part the images that the network gets right (0) from those it gets wrong (1).

    Args:
        logits: ``(B, N)``.
        labels: true classes ``(B,)``.

    Returns:
        ``(B,)`` int64; :data:`NO_STRATUM` where a logit is NaN.

    Example:
        >>> import torch
        >>> correctness_strata(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
        tensor([0, 1])
    """
    wrong = (logits.argmax(dim=1) != labels.to(logits.device)).long()
    return wrong.where(_answered(logits), NO_STRATUM)


def confidence_strata(logits: Tensor, n_bins: int = 10) -> Tensor:
    """Bin the images by their largest softmax probability ``p``: bin ``min(n - 1, floor(n p))``.

    Args:
        logits: ``(B, N)``.
        n_bins: number of bins over [0, 1].

    Returns:
        ``(B,)`` int64; :data:`NO_STRATUM` where a logit is NaN.

    Example:
        >>> import torch
        >>> confidence_strata(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
        tensor([5, 9])
    """
    confidence = logits.float().softmax(dim=1).amax(dim=1)
    return bins_of(confidence, n_bins).where(_answered(logits), NO_STRATUM)


def class_accuracy_strata(logits: Tensor, labels: Tensor, class_accuracy: Tensor, n_bins: int = 10) -> Tensor:
    """Bin the correctly classified images by the accuracy ``a`` of their class: bin ``min(n - 1, floor(n a))``.

    Source: the accuracy-stratified protocol of Decom-CAM's authors, who leave open whether the accuracy is that of the
    class; we take it so.

    Args:
        logits: ``(B, N)``.
        labels: true classes ``(B,)``.
        class_accuracy: accuracy of every class ``(N,)`` over the whole validation set; NaN for a class without images.
        n_bins: number of bins over [0, 1].

    Returns:
        ``(B,)`` int64; :data:`NO_STRATUM` for a wrong answer, a NaN logit and a class of unknown accuracy.

    Raises:
        ValueError: when there is not one accuracy per class.

    Example:
        >>> import torch
        >>> logits, labels = torch.tensor([[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]]), torch.tensor([0, 1, 1])
        >>> class_accuracy_strata(logits, labels, torch.tensor([0.35, 1.0]))
        tensor([ 3,  9, -1])
    """
    if class_accuracy.shape != logits.shape[1:]:
        raise ValueError(
            f"Expected `class_accuracy` to have shape ({logits.shape[1]},), but got {tuple(class_accuracy.shape)}."
        )
    accuracy = class_accuracy.to(logits.device)[labels.to(logits.device)]
    counted = (correctness_strata(logits, labels) == 0) & ~accuracy.isnan()
    return bins_of(accuracy, n_bins).where(counted, NO_STRATUM)


def bins_of(fractions: Tensor, n_bins: int) -> Tensor:
    """Bin fractions ``f``: bin ``min(n - 1, floor(n f))``; NaN goes to the first one.

    Args:
        fractions: ``(B,)`` in [0, 1].
        n_bins: number of bins over [0, 1].

    Returns:
        ``(B,)`` int64.

    Example:
        >>> import torch
        >>> bins_of(torch.tensor([0.0, 0.3, 1.0]), 10)
        tensor([0, 3, 9])
    """
    # the small constant keeps 13/22 in bin 13 of 22, which float32 would round down
    return (fractions.nan_to_num() * n_bins + 1e-5).long().clamp(0, n_bins - 1)


def bin_names(prefix: str, n_bins: int) -> tuple[str, ...]:
    """Name bins by their edges.

    Args:
        prefix: what is binned.
        n_bins: number of bins over [0, 1], at most 100 so that two decimals tell them apart.

    Returns:
        One name per bin.

    Raises:
        ValueError: when the number of bins is not between 1 and 100.

    Example:
        >>> bin_names("confidence", 2), bin_names("confidence", 20)[0]
        (('confidence_0.0_0.5', 'confidence_0.5_1.0'), 'confidence_0.00_0.05')
    """
    if not 1 <= n_bins <= 100:
        raise ValueError(f"Expected `n_bins` to be between 1 and 100, but got {n_bins}.")
    digits = 1 if 10 % n_bins == 0 else 2
    edges = [f"{i / n_bins:.{digits}f}" for i in range(n_bins + 1)]
    return tuple(f"{prefix}_{low}_{high}" for low, high in pairwise(edges))


def _answered(logits: Tensor) -> Tensor:
    return ~logits.isnan().any(dim=1)
