"""What the experiments share: settings with a quick variant, a trained network, intervals, tables on disk."""

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
from scipy.stats import bootstrap
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lit_decom import DecomCAM, Explainer, Probe, Scoring, observing
from lit_decom.data import Critters, CrittersDataModule
from lit_decom.evaluation import NEW_HEAD, with_new_head
from lit_decom.functional.intervals import mean_intervals
from lit_decom.metrics.base import PerImageMetric
from lit_decom.scoring import Scoreboard
from lit_decom.tasks import ClassificationTask, WarmupCosineLR

OWN = "decom_cam"
FEWEST = 10  # images or networks that are given an interval
RESAMPLES = 4999
Ends = tuple[float, float]
UNKNOWN: Ends = (float("nan"), float("nan"))


def settings_of(folder: Path, description: str) -> tuple[Any, Path, bool]:
    """Read ``config.yaml``, with its section ``quick`` on top where ``--quick`` is given.

    Returns:
        The settings, the folder to write to, and whether nothing is trained: the tables of what was measured are read
        from that folder, and only what follows from them is written.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small version, within three minutes")
    parser.add_argument("--output", type=Path, default=folder, help="where results are written (default: %(default)s)")
    parser.add_argument("--analyse", action="store_true", help="train nothing, only redo what follows from the tables")
    given = parser.parse_args()
    config = OmegaConf.load(folder / "config.yaml")
    quick = config.pop("quick")
    if given.quick:
        config = OmegaConf.merge(config, quick)
    given.output.mkdir(parents=True, exist_ok=True)
    return config, given.output, given.analyse


def trained(
    data: CrittersDataModule,
    *,
    epochs: int,
    lr: float,
    seed: int,
    model: str | nn.Module = "small_resnet",
    model_args: Mapping[str, Any] | None = None,
    weight_decay: float = 0.01,
    callbacks: Sequence[pl.Callback] = (),
    before: Callable[[ClassificationTask], None] | None = None,
) -> tuple[ClassificationTask, pl.Trainer]:
    """Train a network on critters, as the quickstart does.

    Args:
        data: what it learns from.
        epochs: how long.
        lr: the largest learning rate of the schedule.
        seed: of the weights and of the order of the images.
        model: "small_resnet", the name of a classification model of torchvision, or a network.
        model_args: further arguments of a network that is given by name.
        weight_decay: of AdamW.
        callbacks: of the Trainer.
        before: looks at the task before the first step.

    Returns:
        The task and its Trainer.
    """
    pl.seed_everything(seed, verbose=False)
    task = ClassificationTask(
        model=model,
        num_classes=data.num_classes,
        model_args=dict(model_args or {}),
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


def rows_of_images(
    task: nn.Module,
    layer: str,
    probe: Probe,
    method: DecomCAM,
    metrics: Mapping[str, PerImageMetric],
    *,
    baselines: Sequence[str] = ("grad_cam",),
    chance: bool = True,
    new_head: bool = False,
) -> dict[tuple[str, str], Tensor]:
    """Score the explanations of every image; the only place where the experiments call for an evaluation.

    Args:
        task: the network; left as it is.
        layer: the name of what is explained.
        probe: the images, explained for their label.
        method: DecomCAM with its hyperparameters.
        metrics: by name.
        baselines: methods that are scored on the same evidence.
        chance: whether maps that know nothing are scored, too.
        new_head: whether the same network with its head drawn anew is scored, too.

    Returns:
        By name of the metric and of the explanation (``"decom_cam"`` for the method itself) what the metric keeps of
        each image, ``(n, width)`` in the order of the probe: ``metric.score(rows)`` is one value per image, and
        ``metric.reduce(rows)`` that of all of them.
    """
    board = Scoreboard(metrics, Scoring(metrics, baselines=tuple(baselines), chance=chance), strict=True)
    for piece in Explainer(method, layer).pieces(task, probe):
        board.update(piece.probe, piece.capture, piece.decomposition, method=method)
    table = board.table()
    if table is None:
        raise ValueError("Expected the probe to have at least one image, but got none.")
    found = {(name, explanation or OWN): rows for (name, explanation), rows in table.columns.items()}
    if new_head:
        bare = rows_of_images(with_new_head(task), layer, probe, method, metrics, baselines=(), chance=False)
        found |= {(name, NEW_HEAD): rows for (name, _), rows in bare.items()}
    return found


def answered_right(task: nn.Module, dataset: Critters) -> np.ndarray:
    """Whether the network answers each image right, bool ``(n,)``."""
    right = []
    with observing(task), torch.no_grad():
        for images, target in DataLoader(dataset, batch_size=100):
            right.append(task(images).argmax(dim=1) == target["label"])
    return torch.cat(right).numpy()


def accuracy(task: nn.Module, dataset: Critters) -> float:
    """Share of right answers."""
    return float(answered_right(task, dataset).mean())


def mean_interval(values: np.ndarray) -> Ends:
    """95 % studentised bootstrap interval of the mean of ``(n,)``, NaN left out; NaN for fewer than ten."""
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        return UNKNOWN
    low, high = mean_intervals(torch.from_numpy(known)[:, None], n_resamples=RESAMPLES)[0].tolist()
    return low, high


def bca_interval(samples: Sequence[np.ndarray], statistic: Callable[..., Any], n_resamples: int) -> Ends:
    """95 % BCa bootstrap interval (SciPy) of a statistic that is no mean.

    Args:
        samples: each ``(n,)``, over the same networks, which are drawn with all that is known of them.
        statistic: of the samples along an axis.
        n_resamples: number of draws of ``n``, of a generator that begins at 0.

    Returns:
        Both ends; NaN for fewer than ten networks.
    """
    if len(samples[0]) < FEWEST:
        return UNKNOWN
    found = bootstrap(
        tuple(samples),
        statistic,
        paired=True,
        vectorized=True,
        method="BCa",
        n_resamples=n_resamples,
        batch=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def ends(name: str, interval: Ends) -> dict[str, float]:
    """An interval under ``<name>_low`` and ``<name>_high``."""
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def read_csv(path: Path) -> list[dict[str, Any]]:
    """What :func:`write_csv` wrote, numbers as numbers."""
    with path.open(newline="") as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys, numbers to five digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
