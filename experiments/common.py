"""What the experiments share: settings with a quick variant, a trained network, tables on disk."""

import argparse
import csv
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lit_decom import observing
from lit_decom.data import Critters, CrittersDataModule
from lit_decom.tasks import ClassificationTask, WarmupCosineLR


def settings_of(folder: Path, description: str) -> tuple[Any, Path]:
    """Read ``config.yaml``, with its section ``quick`` on top where ``--quick`` is given.

    Returns:
        The settings, and the folder to write to.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small version, within three minutes")
    parser.add_argument("--output", type=Path, default=folder, help="where results are written (default: %(default)s)")
    given = parser.parse_args()
    config = OmegaConf.load(folder / "config.yaml")
    quick = config.pop("quick")
    if given.quick:
        config = OmegaConf.merge(config, quick)
    given.output.mkdir(parents=True, exist_ok=True)
    return config, given.output


def trained(
    data: CrittersDataModule,
    *,
    epochs: int,
    lr: float,
    width: int,
    seed: int,
    weight_decay: float = 0.01,
    callbacks: Sequence[pl.Callback] = (),
    before: Callable[[ClassificationTask], None] | None = None,
) -> tuple[ClassificationTask, pl.Trainer]:
    """Train a small ResNet on critters, as the quickstart does.

    Args:
        data: what it learns from.
        epochs: how long.
        lr: the largest learning rate of the schedule.
        width: of the network.
        seed: of the weights and of the order of the images.
        weight_decay: of AdamW.
        callbacks: of the Trainer.
        before: looks at the task before the first step.

    Returns:
        The task and its Trainer.
    """
    pl.seed_everything(seed, verbose=False)
    task = ClassificationTask(
        model="small_resnet",
        num_classes=8,
        model_args={"width": width},
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay),
        scheduler=lambda optimizer: WarmupCosineLR(optimizer, epochs),
    )
    if before is not None:
        before(task)
    with warnings.catch_warnings():
        # Loader workers are left out on purpose, and there are few batches.
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=list(callbacks),
        )
        trainer.fit(task, datamodule=data)
    return task, trainer


def biased_world(config: Any, name: str, data: CrittersDataModule) -> Critters:
    """One of the sets ``val``, ``probe`` and ``held_out`` that all networks share, each of a stream of its own.

    The patch goes with the class in all of them but in ``held_out``.
    """
    n, size, rate = config[f"n_{name}"], config.image_size, config.evaluation_rate
    return _world(name, n, size, config.seed, rate, tuple(data.mean.tolist()), tuple(data.std.tolist()))


@lru_cache(maxsize=8)
def _world(  # noqa: PLR0917
    name: str, n: int, size: int, seed: int, rate: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> Critters:
    # Kept, so that it is drawn once and not for every network.
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    mode = "broken" if name == "held_out" else "aligned"
    return Critters(n, size, seed=seed, stream=name, shortcut_rate=rate, shortcut_mode=mode, transform=normalize)


def accuracy(task: nn.Module, dataset: Critters) -> float:
    """Share of right answers."""
    right = []
    with observing(task), torch.no_grad():
        for images, target in DataLoader(dataset, batch_size=100):
            right.append(task(images).argmax(dim=1) == target["label"])
    return float(torch.cat(right).float().mean())


def ends(name: str, values: np.ndarray) -> dict[str, float]:
    """The 95 % percentile interval, under ``<name>_low`` and ``<name>_high``."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys, numbers to five digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
