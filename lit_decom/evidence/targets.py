"""What is explained in each image: a class, the contrast of two, or a score of the caller's own."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Targets = Tensor | int | Literal["predicted", "contrast"] | Callable[[Tensor, Tensor], Tensor]
"""What is asked for: class indices ``(B,)``, one class for all, the predicted class, the largest logit less the second
largest, or a score of the caller's own."""
TargetScore = Callable[[Tensor, Tensor], Tensor]
"""The target score, bound to the images of one capture: from logits ``(n, N)``, of those images or of altered versions
of them, and the image ``(n,)`` that each comes from, to scores ``(n,)``."""


def bind(targets: Targets, logits: Tensor) -> tuple[Tensor, TargetScore]:
    """Freeze what is explained in each image: a class, a pair of classes, or the caller's own score.

    Args:
        targets: as for :func:`lit_decom.capture`.
        logits: of the unaltered images, ``(B, N)``.

    Returns:
        The class of each image ``(B,)``, int64, -1 where a callable scores it; and the function from altered logits
        ``(n, N)`` and the image ``(n,)`` each comes from to scores ``(n,)``.

    Raises:
        ValueError: if the targets are no classes, or unknown.
    """
    batch, n_classes = logits.shape
    if callable(targets) and not isinstance(targets, Tensor):
        return torch.full((batch,), -1, device=logits.device), targets
    if isinstance(targets, str):
        if targets == "contrast":
            first, second = logits.topk(2, dim=1).indices.unbind(1)
            return first, lambda out, rows: _pick(out, first[rows]) - _pick(out, second[rows])
        if targets != "predicted":
            raise ValueError(f"Expected `targets` to be classes, 'predicted' or 'contrast', but got {targets!r}.")
        targets = logits.argmax(dim=1)
    classes = torch.as_tensor(targets, device=logits.device).clone()
    classes = classes.expand(batch) if classes.ndim == 0 else classes
    if classes.shape != (batch,) or classes.is_floating_point():
        raise ValueError(
            f"Expected `targets` to be ({batch},) class indices, but got {tuple(classes.shape)} {classes.dtype}."
        )
    classes = classes.long()
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(
            f"Expected `targets` to be between 0 and {n_classes - 1}, but got "
            f"{int(classes.min())} to {int(classes.max())}."
        )
    return classes, lambda out, rows: _pick(out, classes[rows])


def counted_from(start: int, score: TargetScore) -> TargetScore:
    """Give the score of the images from ``start`` on, which whoever asks for it counts from 0."""
    return lambda logits, rows: score(logits, rows + start)


def _pick(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)
