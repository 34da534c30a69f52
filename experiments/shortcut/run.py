"""Does an interpretability score computed on biased data predict accuracy in a world where the bias is broken?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.common import accuracy, biased_world, ends, settings_of, trained, write_csv
from lit_decom import DecomCAM, Probe, find_target_layer
from lit_decom.data import CrittersDataModule
from lit_decom.evaluation import evaluate
from lit_decom.metrics import AverageGain, EnergyPointingGame

FOLDER = Path(__file__).parent
PRIMARY = "energy_on_critter"
SCORES = (PRIMARY, "grad_cam_energy_on_critter", "average_gain", "less_energy_on_patch", "val_acc")


def main() -> None:
    """Train the networks, score them, and answer the question that README.md names."""
    config, output = settings_of(FOLDER, __doc__ or "")
    rows = [one_network(config, number) for number in range(config.networks)]
    write_csv(output / "results.csv", rows)
    write_csv(output / "answer.csv", answers(rows, config.n_bootstrap, config.seed))
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
        width=chosen["width"],
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
    layer, method = find_target_layer(task, "layer3"), DecomCAM(n_components=config.n_components)

    def energies(masks: Tensor | None, metrics: list[Any]) -> dict[str, float]:
        shown = Probe.from_tensors(probe.images, probe.labels, masks=masks, mean=data.mean, std=data.std)
        found = evaluate(task, layer, shown, method, metrics=metrics, new_head=False, intervals=False)
        return {score.key: score.value for score in found}

    on_critter = energies(probe.masks, [EnergyPointingGame(), AverageGain()])
    on_patch = energies(patches, [EnergyPointingGame()])
    return {
        PRIMARY: on_critter["energy_pointing_game/all"],
        "grad_cam_energy_on_critter": on_critter["energy_pointing_game/all/grad_cam"],
        "average_gain": on_critter["average_gain/all"],
        "less_energy_on_patch": -on_patch["energy_pointing_game/all"],
        "val_acc": accuracy(task, biased_world(config, "val", data)),
    }


def answers(rows: list[dict[str, Any]], n_bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """For every score: how it ranks the networks, how much better than validation accuracy, and what it picks."""
    columns = {name: np.array([row[name] for row in rows]) for name in (*SCORES, "held_out_acc")}
    held_out = columns["held_out_acc"]
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(rows), size=(n_bootstrap, len(rows)))
    by_accuracy = np.array([spearman(columns["val_acc"][draw], held_out[draw]) for draw in draws])
    found = []
    for name in SCORES:
        score = columns[name]
        resampled = np.array([spearman(score[draw], held_out[draw]) for draw in draws])
        difference = resampled - by_accuracy
        found.append(
            {
                "score": name,
                "rank_correlation": spearman(score, held_out),
                **ends("correlation", resampled),
                "less_that_of_val_acc": spearman(score, held_out) - spearman(columns["val_acc"], held_out),
                **ends("difference", difference),
                "given_val_acc": partial(score, held_out, columns["val_acc"]) if name != "val_acc" else float("nan"),
                "held_out_acc_of_pick": float(held_out[score.argmax()]),
                "at_random": float(held_out.mean()),
                "oracle": float(held_out.max()),
            }
        )
    return found


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation with mean ranks for ties; 0 where one of them is constant."""
    a, b = rankdata(first), rankdata(second)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def partial(first: np.ndarray, second: np.ndarray, given: np.ndarray) -> float:
    """Rank correlation of two, the ranks of a third taken out of both."""
    ab, ac, bc = spearman(first, second), spearman(first, given), spearman(second, given)
    spread = (1 - ac**2) * (1 - bc**2)
    return float("nan") if spread <= 0 else (ab - ac * bc) / spread**0.5


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
