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
        n_classes, labelled = logits.shape[1], labels >= 0
        logits, labels = logits[labelled], labels[labelled]
        right = (logits.argmax(dim=1) == labels).float()
        counts = torch.stack(
            [torch.bincount(labels, right, n_classes), torch.bincount(labels, minlength=n_classes).float()]
        ).cpu()
        self._counts = counts if self._counts is None else self._counts + counts

    def accuracy(self, process: Process) -> Tensor | None:
        """Give the accuracy of every class ``(N,)`` over all processes, NaN for one without images, and begin anew."""
        counts = [counts for counts in process.gather(self._counts) if counts is not None]
        self._counts = None
        if not counts:
            return None
        right, total = torch.stack(counts).sum(dim=0).unbind()
        return right / total
