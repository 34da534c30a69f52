"""Labels that are there or not: networks that end in sigmoids, read as if they ended in a softmax.

The logit ``z`` of a sigmoid is that of a softmax over two logits, ``-z/2`` (not there) and ``z/2`` (there): both give
the probability ``1 / (1 + exp(-z))``, and the larger of the two is the answer at the threshold ``z = 0``. So whatever
is defined by softmax and largest logit needs to know nothing of sigmoids. The score towards a label is half its logit,
``z/2`` where it is there and ``-z/2`` where it is not. This reading is our choice: it treats both answers alike, and a
network with one logit and its twin with two give the same numbers.
"""

import torch
from torch import Tensor


def two_logits(logit: Tensor) -> Tensor:
    """Read the logit of one sigmoid as those of two classes.

    Args:
        logit: ``(n, 1)``.

    Returns:
        ``(n, 2)``, of class 0 (not there) and class 1 (there).

    Example:
        >>> two_logits(torch.tensor([[2.0]]))
        tensor([[-1.,  1.]])
    """
    return torch.cat([-logit / 2, logit / 2], dim=1)


def logits_of_label(logits: Tensor, asked: Tensor) -> Tensor:
    """Read the logits of ``N`` sigmoids as those of ``2 N`` classes, of which each row is about two.

    Class ``k`` says that label ``k`` is there, class ``N + k`` that it is not. All classes but the two of the label
    that a row is asked about are impossible in that row: their logits are minus infinity, their probability is 0.

    Args:
        logits: ``(n, N)``.
        asked: ``(n,)`` int64, a label for each row.

    Returns:
        ``(n, 2 N)``.

    Example:
        >>> logits_of_label(torch.tensor([[2.0, -6.0], [2.0, -6.0]]), torch.tensor([0, 1]))
        tensor([[ 1., -inf, -1., -inf],
                [-inf, -3., -inf,  3.]])
    """
    n, n_labels = logits.shape
    pair = two_logits(logits.gather(1, asked[:, None])).flip(1)
    return logits.new_full((n, 2 * n_labels), -torch.inf).scatter(1, torch.stack([asked, asked + n_labels], 1), pair)


def as_labels(labels: Tensor) -> Tensor:
    """Tell class indices from yes or no, and both from vectors of yes and no.

    Args:
        labels: of ``n`` images: class indices ``(n,)`` or ``(n, 1)``, which may be 0 and 1 in floating point, as binary
            cross-entropy takes them; or 0 and 1 for each of ``N > 1`` labels, ``(n, N)``, in any type.

    Returns:
        Class indices ``(n,)`` int64, or which labels each image has, ``(n, N)`` bool.

    Raises:
        ValueError: if they are none of these.

    Example:
        >>> as_labels(torch.tensor([[1.0], [0.0]]))
        tensor([1, 0])
        >>> as_labels(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[ True, False],
                [ True,  True]])
    """
    one_each = labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    if one_each and not labels.is_floating_point():
        return labels.flatten().long()
    if labels.ndim in {1, 2} and ((labels == 0) | (labels == 1)).all():
        return labels.flatten().long() if one_each else labels.bool()
    raise ValueError(
        "Expected `labels` to be class indices (n,), or 0 and 1 for each of N labels (n, N), but got "
        f"{tuple(labels.shape)} {labels.dtype}."
    )
