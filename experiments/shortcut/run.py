"""Does an interpretability score computed on biased data predict accuracy in a world where the bias is broken?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.common import (
    OWN,
    UNKNOWN,
    accuracy,
    bca_interval,
    biased_world,
    ends,
    read_csv,
    rows_of_images,
    settings_of,
    trained,
    write_csv,
)
from lit_decom import DecomCAM, Probe
from lit_decom.data import CrittersDataModule
from lit_decom.metrics import AverageGain, EnergyPointingGame

FOLDER = Path(__file__).parent
PRIMARY = "energy_on_critter"
SCORES = (PRIMARY, "grad_cam_energy_on_critter", "average_gain", "less_energy_on_patch", "val_acc")


def main() -> None:
    """Train the networks, score them, and answer the question that README.md names."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        write_csv(output / "results.csv", [one_network(config, number) for number in range(config.networks)])
    rows = read_csv(output / "results.csv")
    write_csv(output / "answer.csv", answers(rows, config.n_bootstrap))
    figure_of(rows).savefig(output / "figure.png", dpi=110)


def one_network(config: Any, number: int) -> dict[str, Any]:
    """Hyperparameters, scores on the biased data, and accuracy in the held-out world of one network."""
    rng = np.random.default_rng([config.seed, number])
    space = config.space
    chosen = {
        name: float(rng.uniform(*space[name]))
        for name in ("shortcut_rate", "erasing", "log10_weight_decay", "log10_lr")
    }
    chosen["width"] = int(rng.choice(space.width))
    flip = v2.RandomHorizontalFlip()
    erasing = v2.RandomErasing(chosen["erasing"], scale=(0.02, 0.15), value=0.5)
    data = CrittersDataModule(
        config.n_train,
        8,
        8,
        config.image_size,
        shortcut_rate=chosen["shortcut_rate"],
        augmentation=[flip, erasing],
        seed=config.seed + 1,
    )
    task, _ = trained(
        data,
        epochs=config.epochs,
        lr=10 ** chosen["log10_lr"],
        weight_decay=10 ** chosen["log10_weight_decay"],
        model_args={"width": chosen["width"]},
        seed=number,
    )
    scores = scores_of(config, task, data)
    return {
        "network": number,
        **chosen,
        **scores,
        "held_out_acc": accuracy(task, biased_world(config, "held_out", data)),
    }


def scores_of(config: Any, task: nn.Module, data: CrittersDataModule) -> dict[str, float]:
    """Everything that can be known without the held-out world."""
    dataset = biased_world(config, "probe", data)
    probe = Probe.from_dataset(dataset, config.n_probe, config.seed, mean=data.mean, std=data.std)
    patches = torch.stack([dataset[int(image)][1]["shortcut"][0].bool() for image in probe.ids])
    method = DecomCAM(n_components=config.n_components)

    def reduced(masks: Tensor | None, metrics: dict[str, Any]) -> dict[tuple[str, str], float]:
        shown = Probe.from_tensors(probe.images, probe.labels, masks=masks, mean=data.mean, std=data.std)
        rows = rows_of_images(task, "layer3", shown, method, metrics, chance=False)
        return {(name, explanation): float(metrics[name].reduce(found)) for (name, explanation), found in rows.items()}

    on_critter = reduced(probe.masks, {"energy": EnergyPointingGame(), "gain": AverageGain()})
    on_patch = reduced(patches, {"energy": EnergyPointingGame()})
    return {
        PRIMARY: on_critter["energy", OWN],
        "grad_cam_energy_on_critter": on_critter["energy", "grad_cam"],
        "average_gain": on_critter["gain", OWN],
        "less_energy_on_patch": -on_patch["energy", OWN],
        "val_acc": accuracy(task, biased_world(config, "val", data)),
    }


def answers(rows: list[dict[str, Any]], n_resamples: int) -> list[dict[str, Any]]:
    """For every score: how it ranks the networks, how much better than validation accuracy, and what it picks.

    Intervals are BCa over networks: a draw takes a network with all of its scores.
    """
    columns = {name: np.array([row[name] for row in rows], dtype=float) for name in (*SCORES, "held_out_acc")}
    held_out, val_acc = columns["held_out_acc"], columns["val_acc"]
    rate = np.array([row["shortcut_rate"] for row in rows], dtype=float)

    def interval(statistic: Callable[..., Any], *samples: np.ndarray) -> tuple[float, float]:
        return bca_interval(samples, statistic, n_resamples)

    found = []
    for name in SCORES:
        score, other = columns[name], name != "val_acc"
        found.append(
            {
                "score": name,
                "networks": len(rows),
                "rank_correlation": float(spearman(score, held_out)),
                **ends("correlation", interval(spearman, score, held_out)),
                "less_that_of_val_acc": float(advantage(score, held_out, val_acc)),
                **ends("difference", interval(advantage, score, held_out, val_acc) if other else (0.0, 0.0)),
                "less_that_of_primary": float(advantage(score, held_out, columns[PRIMARY])),
                **ends(
                    "primary_difference",
                    interval(advantage, score, held_out, columns[PRIMARY]) if name != PRIMARY else (0.0, 0.0),
                ),
                "given_val_acc": float(partial(score, held_out, val_acc)) if other else float("nan"),
                **ends("given", interval(partial, score, held_out, val_acc) if other else UNKNOWN),
                "given_rate_too": float(partial(score, held_out, val_acc, rate)) if other else float("nan"),
                **ends("given_both", interval(partial, score, held_out, val_acc, rate) if other else UNKNOWN),
                "held_out_acc_of_pick": float(held_out[score.argmax()]),
                "at_random": float(held_out.mean()),
                "oracle": float(held_out.max()),
            }
        )
    return found


def advantage(score: np.ndarray, held_out: np.ndarray, val_acc: np.ndarray, axis: int = -1) -> Any:
    """How much better a score ranks held-out accuracy than validation accuracy does."""
    return spearman(score, held_out, axis) - spearman(val_acc, held_out, axis)


def spearman(first: np.ndarray, second: np.ndarray, axis: int = -1) -> Any:
    """Rank correlation along an axis with mean ranks for ties; 0 where one of them is constant."""
    a, b = (_standardized(rankdata(values, axis=axis), axis) for values in (first, second))
    return (a * b).mean(axis)


def _standardized(values: np.ndarray, axis: int) -> np.ndarray:
    centred = values - values.mean(axis, keepdims=True)
    spread = values.std(axis, keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def partial(first: np.ndarray, second: np.ndarray, *given: np.ndarray, axis: int = -1) -> Any:
    """Rank correlation of two, the ranks of others taken out of both; NaN where one follows from the others."""
    if not given:
        return spearman(first, second, axis)
    *others, last = given
    pairs = ((first, second), (first, last), (second, last))
    between, of_first, of_second = (partial(*pair, *others, axis=axis) for pair in pairs)
    left = (1 - of_first**2) * (1 - of_second**2)
    return np.where(left > 1e-12, between - of_first * of_second, np.nan) / np.sqrt(np.maximum(left, 1e-12))


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    """Every score against held-out accuracy, one point per network."""
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SCORES), sharey=True), SCORES, strict=True):
        rates = [row["shortcut_rate"] for row in rows]
        points = axes.scatter(
            [row[name] for row in rows], [row["held_out_acc"] for row in rows], c=rates, s=18, cmap="viridis"
        )
        axes.set(xlabel=name.replace("_", " "))
    figure.supylabel("accuracy where the patch is broken", fontsize="small")
    figure.colorbar(points, label="training images with a patch")
    return figure


if __name__ == "__main__":
    main()
