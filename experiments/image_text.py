"""The image-text model of the experiments: a small CLIP that learns critters, and words on them, from captions."""

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchvision.transforms import v2

from lit_decom.data import Critters, CrittersWithWordsDataModule
from lit_decom.data.captions import WORDS
from lit_decom.tasks import ImageTextTask, WarmupCosineLR

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}")


def trained_image_text(config: Any, folder: Path) -> ImageTextTask:
    """Train the model of a configuration, unless its weights are in the folder.

    Args:
        config: section ``network`` of an experiment.
        folder: where the weights go, in a file named by what tells a quick version from the full one.

    Returns:
        The task in evaluation mode.
    """
    data = CrittersWithWordsDataModule(
        n_train=config.n_train,
        n_val=config.n_val,
        n_test=8,
        image_size=config.image_size,
        word_rate=config.word_rate,
        alone_rate=config.alone_rate,
        captions=True,
        batch_size=config.batch_size,
    )
    pl.seed_everything(config.seed, verbose=False)
    task = ImageTextTask(
        WORDS,
        data.class_names,
        TEMPLATES,
        {"width": config.width},
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.01),
        scheduler=lambda optimizer: WarmupCosineLR(optimizer, config.epochs, config.warmup),
    )
    path = folder / f"image_text_{config.n_train}x{config.epochs}_width_{config.width}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _fit(task, data, config.epochs)
        torch.save(task.state_dict(), path)
    task.load_state_dict(torch.load(path, weights_only=True))
    return task.eval()


def _fit(task: ImageTextTask, data: CrittersWithWordsDataModule, epochs: int) -> None:
    with warnings.catch_warnings():
        # Loader workers are left out on purpose, and there are few batches.
        warnings.simplefilter("ignore")
        pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        ).fit(task, datamodule=data)


def as_seen(dataset: Critters) -> tuple[Tensor, dict[str, Tensor]]:
    """All images of a data set as the model sees them, ``(n, 3, H, W)``, and their annotations, each stacked."""
    dataset.transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)])
    samples = [dataset[index] for index in range(len(dataset))]
    names = [name for name, value in samples[0][1].items() if not isinstance(value, str) and name != "boxes"]
    target = {name: torch.stack([torch.as_tensor(target[name]) for _, target in samples]) for name in names}
    images = torch.stack([image for image, _ in samples]).as_subclass(Tensor)
    return images, {name: value.as_subclass(Tensor) for name, value in target.items()}
