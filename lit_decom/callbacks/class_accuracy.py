"""How often each class is answered right over a whole validation set."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_decom.evidence.network import Forward, Network
from lit_decom.evidence.observing import observing
from lit_decom.probe import Unpack, images_and_labels
from lit_decom.process import Process


class ClassAccuracy:
    """Counts right answers and images of every class, batch by batch.

    What a module's validation step returns is its own affair, so the images go through the network once more.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def count(self, model: nn.Module, batch: Any, unpack: Unpack | None, forward: Forward | None) -> None:
        """Add a batch as the validation step got it."""
        images, labels = images_and_labels(batch, unpack)
        with observing(model), torch.no_grad():
            logits = Network(model, forward, channels_last=False)(images)
        right, classes, n_classes = _answers(logits, labels)
        counts = torch.stack(
            [torch.bincount(classes, right.float(), n_classes), torch.bincount(classes, minlength=n_classes).float()]
        ).cpu()
        self._counts = counts if self._counts is None else self._counts + counts

    def accuracy(self, process: Process, known: Tensor | None = None) -> Tensor | None:
        """Give the accuracy of every class ``(N,)`` over all processes, NaN for one without images, and begin anew.

        Args:
            process: this one.
            known: what holds as long as nothing has been counted, between two validations.
        """
        # Forgotten in any case: a snapshot that fails leaves nothing to the next one.
        mine, self._counts = self._counts, None
        counts = [counts for counts in process.gather(mine) if counts is not None]
        if not counts:
            return known
        right, total = torch.stack(counts).sum(dim=0).unbind()
        return right / total


def _answers(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Whether each answer is right, the class that is right, and how many classes there are; -1 is no label."""
    n_classes = logits.shape[1]
    if labels.ndim == 1:
        labelled = labels >= 0
        return (logits.argmax(dim=1) == labels)[labelled], labels[labelled], n_classes
    # Every label is two classes, as in `lit_decom.functional.labels`.
    classes = torch.arange(n_classes, device=labels.device) + n_classes * ~labels
    return ((logits > 0) == labels).flatten(), classes.flatten(), 2 * n_classes
