"""Learning from images and their captions as a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lit_decom.models.image_text import ImageTextModel
from lit_decom.models.prompts import prompt_embeddings, scaled_cosines
from lit_decom.tasks.optimization import optimization


class ImageTextTask(L.LightningModule):
    """Train an image-text model on captions, and validate it as a zero-shot classifier.

    Batches are ``(images, target)`` with the texts ``target["caption"]`` and the classes ``target["label"]``, which are
    never learnt from. Calling the task gives zero-shot logits, so that a callback explains what the image tower looks
    for when it is asked for a class by its name. Logged at the end of each epoch: ``train/loss``, ``val/loss`` (both
    depend on the size of the batches), ``val/acc`` and ``test/acc`` (zero-shot).

    Args:
        words: Vocabulary of captions and prompts.
        class_names: Name of each class, made of these words, in the order of the labels.
        templates: Prompts with ``{}`` in the place of a class's name; a class is asked for by all of them.
        model_args: Further arguments of :class:`lit_decom.models.ImageTextModel`, such as ``width``.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning rate schedule from the optimizer; None for a constant rate.
        scheduler_interval: Whether the schedule advances once an epoch or once an optimizer step.
    """

    def __init__(
        self,
        words: Sequence[str],
        class_names: Sequence[str],
        templates: Sequence[str] = ("a photo of a {}",),
        model_args: dict[str, Any] | None = None,
        *,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        words, self.class_names, self.templates = list(words), list(class_names), list(templates)
        self.save_hyperparameters(ignore=["optimizer", "scheduler"])
        self.model = ImageTextModel(words, **(model_args or {}))
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.val_acc = MulticlassAccuracy(len(self.class_names), average="micro")
        self.test_acc = MulticlassAccuracy(len(self.class_names), average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Zero-shot logits ``(B, N)`` of images ``(B, 3, H, W)``, towards the classes' prompts as they are read now."""
        classes = prompt_embeddings(self.model.encode_texts, self.class_names, self.templates)
        return scaled_cosines(self.model.image_encoder(images), classes, self.model.logit_scale.exp())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The contrastive loss."""
        images, target = batch
        return self._contrast(images, target["caption"], "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the contrastive loss and the zero-shot accuracy."""
        images, target = batch
        self._contrast(images, target["caption"], "val")
        self._classify(images, target["label"], "val", self.val_acc)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the zero-shot accuracy."""
        images, target = batch
        self._classify(images, target["label"], "test", self.test_acc)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the similarities from being multiplied with more than 100, as CLIP does."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=self.model.largest_logit_scale)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the schedule if there is one."""
        return optimization(self.parameters(), self.optimizer, self.scheduler, self.scheduler_interval)

    def _contrast(self, images: Tensor, captions: Sequence[str], stage: str) -> Tensor:
        loss = contrastive_loss(self.model(images, captions))
        self._log(f"{stage}/loss", loss, images)
        return loss

    def _classify(self, images: Tensor, labels: Tensor, stage: str, accuracy: MulticlassAccuracy) -> None:
        accuracy.update(self(images), labels)
        self._log(f"{stage}/acc", accuracy, images)

    def _log(self, name: str, value: Any, images: Tensor) -> None:
        self.log(name, value, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))


def contrastive_loss(logits: Tensor) -> Tensor:
    """Compare every image of a batch with every caption: the mean of the cross entropies over rows and over columns.

    Args:
        logits: ``(B, B)``, image i with caption j; those on the diagonal belong together.

    Returns:
        One number. With equal captions in a batch it cannot reach 0.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021), figure 3.
    """
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
