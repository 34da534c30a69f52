"""Image classification as a LightningModule."""

from __future__ import annotations

from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MultilabelAccuracy
from torchvision import models as torchvision_models

from lit_decom.models.small_resnet import SmallResNet
from lit_decom.models.zero_shot import ZeroShotClassifier
from lit_decom.probe.normalisation import per_channel
from lit_decom.tasks.optimization import optimization

Task = Literal["multiclass", "binary", "multilabel"]


class ClassificationTask(L.LightningModule):
    """Train, validate and test an image classifier.

    Batches are ``(images, labels)`` or ``(images, target)`` with ``target["label"]``. Logged at the end of each epoch:
    ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc``, ``test/loss``, ``test/acc``. The network itself is the
    attribute ``model``; calling the task gives its logits.

    Args:
        model: "small_resnet", the name of any classification model of torchvision, or a network that returns logits
            ``(B, num_classes)``, or one for each image, ``(B, 1)``, where the task is binary.
        num_classes: Number of classes or labels, 2 where the task is binary; a data module that has another number is
            refused before the first step.
        model_args: Further arguments of a model given by name, such as ``width`` of "small_resnet".
        trains: "all" parameters, or the "head" alone: a linear probe, for which everything but the last linear or
            convolutional layer is frozen, in evaluation mode throughout (BatchNorm's statistics stay). A
            :class:`lit_decom.ZeroShotClassifier` has no such layer: with "all" its image tower learns towards the
            prompts, which stay; with "head" it gets a linear layer that begins as the prompts.
        weights: Pretrained weights of a torchvision model, such as "DEFAULT" or "IMAGENET1K_V1"; its last layer is
            replaced by a new one of `num_classes`. None trains from scratch.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning rate schedule from the optimizer; None for a constant rate.
        scheduler_interval: Whether the schedule advances once an epoch or once an optimizer step.
        label_smoothing: Share of the label, 0..1, that the training loss spreads over all classes.
        task: "multiclass" for classes that exclude one another, under cross entropy; "binary" for labels 0 and 1, and
            "multilabel" for as many of these per image as there are classes, under the cross entropy of sigmoids.

    Raises:
        ValueError: If the model is not known, or an argument does not fit the kind of model or of task.
    """

    def __init__(
        self,
        model: str | nn.Module = "small_resnet",
        num_classes: int = 8,
        model_args: dict[str, Any] | None = None,
        weights: str | None = None,
        *,
        trains: Literal["all", "head"] = "all",
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        label_smoothing: float = 0.0,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        if task not in get_args(Task):
            raise ValueError(f"Expected `task` to be one of {', '.join(get_args(Task))}, but got {task!r}.")
        if task == "binary" and num_classes != 2:
            raise ValueError(f"Expected `num_classes` to be 2 for `task='binary'`, but got {num_classes}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"Expected `label_smoothing` to be at least 0 and less than 1, but got {label_smoothing}.")
        # the state dict holds a network's weights, and functions cannot be loaded from a checkpoint safely
        self.save_hyperparameters(ignore=["optimizer", "scheduler"] + ["model"] * isinstance(model, nn.Module))
        self.num_classes = num_classes
        self.task: Task = task
        self.model = _resolve(model, 1 if task == "binary" else num_classes, model_args, weights)
        self.trains = trains
        self.normalisation = _normalisation(self.model)
        if trains == "head":
            self.model = _linear_probe(self.model).eval()
        elif isinstance(self.model, ZeroShotClassifier):
            self.model.train()  # made in evaluation mode, in which Lightning would leave it
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.label_smoothing = label_smoothing
        self.train_acc, self.val_acc, self.test_acc = (_accuracy(task, num_classes) for _ in range(3))

    def setup(self, stage: str) -> None:
        """Compare with the classes and the normalisation of the data, where a data module knows them.

        Raises:
            MisconfigurationException: if the number of classes or the task differs.
        """
        data = getattr(self.trainer, "datamodule", None)
        task = getattr(data, "task", None)
        if task in get_args(Task) and task != self.task:
            raise MisconfigurationException(
                f"Expected `task` to be {task!r}, as that of {type(data).__name__}, but got {self.task!r}. "
                f"On the command line: `--model.init_args.task={task}`."
            )
        n_known = getattr(data, "num_classes", None)
        if isinstance(n_known, int) and n_known != self.num_classes:
            raise MisconfigurationException(
                f"Expected `num_classes` to be {n_known}, as many as {type(data).__name__} has, but got "
                f"{self.num_classes}. On the command line: `--model.init_args.num_classes={n_known}`."
            )
        for name, trained in self.normalisation.items():
            given = per_channel(getattr(data, name, None), len(trained))
            # In units of 0..1, or of 0..255, which gives the same images.
            if given is not None and not any(
                torch.allclose(given / white, torch.tensor(trained), atol=1e-3) for white in (1, 255)
            ):
                rank_zero_warn(
                    f"Expected the data's `{name}` to be {list(trained)}, as the model was trained with, but got "
                    f"{given.tolist()}."
                )

    def train(self, mode: bool = True) -> ClassificationTask:
        """Go into training mode, except for what is frozen; a head alone has no modes."""
        super().train(mode)
        if self.trains == "head":
            self.model.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)``, or ``(B, 1)`` where the task is binary, of images ``(B, 3, H, W)``."""
        logits = self.model(images)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"Expected `model` to return one tensor of logits, but got {type(logits).__name__}. "
                "Inception and GoogLeNet do with `model_args={'aux_logits': False}`."
            )
        return logits

    @staticmethod
    def unpack(batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch whose target is a tensor or a dictionary with the key "label"."""
        images, target = batch
        if isinstance(target, dict):
            if "label" not in target:
                raise ValueError(f"Expected the target to have the key 'label', but got {sorted(target)}.")
            target = target["label"]
        return images, target

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy, smoothed if asked for."""
        return self._step(batch, "train", self.train_acc, self.label_smoothing)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._step(batch, "val", self.val_acc)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._step(batch, "test", self.test_acc)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities ``(B, num_classes)``, or ``(B, 1)`` of label 1 where the task is binary."""
        images, _ = self.unpack(batch)
        logits: Tensor = self(images)
        return logits.softmax(1) if self.task == "multiclass" else logits.sigmoid()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the schedule if there is one."""
        trained = (parameter for parameter in self.parameters() if parameter.requires_grad)
        return optimization(trained, self.optimizer, self.scheduler, self.scheduler_interval)

    def _step(self, batch: Any, stage: str, accuracy: Metric, label_smoothing: float = 0.0) -> Tensor:
        images, labels = self.unpack(batch)
        logits = self(images)
        if self.task == "multiclass":
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            accuracy.update(logits, labels)
        else:
            labels = labels.view_as(logits)
            smoothed = labels.to(logits).lerp(logits.new_tensor(0.5), label_smoothing)
            loss = F.binary_cross_entropy_with_logits(logits, smoothed)
            # Not of logits: torchmetrics takes those that all lie in 0..1 for probabilities.
            accuracy.update(logits.sigmoid(), labels.long())
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/acc": accuracy},
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(labels),
        )
        return loss


def _accuracy(task: Task, num_classes: int) -> Metric:
    if task == "multiclass":
        return MulticlassAccuracy(num_classes, average="micro")
    return BinaryAccuracy() if task == "binary" else MultilabelAccuracy(num_classes, average="micro")


def build_model(name: str, num_classes: int, weights: str | None = None, **model_args: Any) -> nn.Module:
    """A network by name.

    Args:
        name: "small_resnet" or a classification model of torchvision.
        num_classes: Number of logits.
        weights: Pretrained weights of a torchvision model, whose last layer is then replaced.
        model_args: Further arguments of the network.

    Raises:
        ValueError: If there is no such model, or "small_resnet" is asked for pretrained weights.
    """
    if name == "small_resnet":
        if weights is not None:
            raise ValueError(f"Expected `weights` to be None for 'small_resnet' (it has none), but got {weights!r}.")
        return SmallResNet(num_classes, **model_args)
    known = torchvision_models.list_models(module=torchvision_models)
    if name not in known:
        raise ValueError(f"Expected `model` to be one of {', '.join(['small_resnet', *known])}, but got {name!r}.")
    if weights is None:
        network: nn.Module = torchvision_models.get_model(name, weights=None, num_classes=num_classes, **model_args)
        return network
    return replace_head(torchvision_models.get_model(name, weights=weights, **model_args), num_classes)


def replace_head(network: nn.Module, num_classes: int) -> nn.Module:
    """Replace the last linear or convolutional layer by a freshly initialised one of `num_classes` outputs.

    Args:
        network: A network whose last such layer, in the order of registration, gives the logits; changed in place.
        num_classes: Number of logits.

    Returns:
        The network.

    Raises:
        ValueError: If the network has no such layer.
    """
    name, last = _last_layer(network)
    if isinstance(last, nn.Linear):
        head: nn.Module = nn.Linear(last.in_features, num_classes, bias=last.bias is not None)
    else:
        head = nn.Conv2d(last.in_channels, num_classes, 1, bias=last.bias is not None)
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, head)
    return network


def _last_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError(
            f"Expected `network` to have a linear or convolutional layer, but got {type(network).__name__}."
        )
    return layers[-1]


def _linear_probe(network: nn.Module) -> nn.Module:
    """Freeze all but the last layer, which a zero-shot classifier is given."""
    if isinstance(network, ZeroShotClassifier):
        network = network.with_linear_head()
    network.requires_grad_(requires_grad=False)
    _last_layer(network)[1].requires_grad_(requires_grad=True)
    return network


def _normalisation(network: nn.Module) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of the images that a zero-shot classifier was trained on, where it knows them."""
    if not isinstance(network, ZeroShotClassifier):
        return {}
    return {name: known for name in ("mean", "std") if (known := getattr(network, name)) is not None}


def _resolve(
    model: str | nn.Module, num_classes: int, model_args: dict[str, Any] | None, weights: str | None
) -> nn.Module:
    if isinstance(model, str):
        return build_model(model, num_classes, weights, **(model_args or {}))
    if model_args or weights:
        raise ValueError(
            f"Expected `model_args` and `weights` to be None for a network, but got {model_args!r} and {weights!r}."
        )
    return model
