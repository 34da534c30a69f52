"""The accuracy-stratified protocol: insertion, deletion and overall, in ten bins of class accuracy, several methods."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments.common import settings_of, trained, write_csv
from lit_decom import DecomCAM, Probe, find_target_layer
from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.data import CrittersDataModule
from lit_decom.evaluation import evaluate
from lit_decom.metrics import DeletionAUC, InsertionAUC, InsertionDeletion
from lit_decom.observer import Process

FOLDER = Path(__file__).parent


def main() -> None:
    """Train on classes of unequal difficulty, explain the validation images, and write the table and the figure."""
    config, output = settings_of(FOLDER, __doc__ or "")
    data = CrittersDataModule(
        config.n_train, config.n_val, 8, config.image_size, difficulty=list(config.difficulty), seed=config.seed
    )
    task, _ = trained(data, epochs=config.epochs, lr=config.lr, width=config.width, seed=config.seed)
    loader = data.val_dataloader()
    answers = ClassAccuracy()
    for batch in loader:
        answers.count(task, batch, None, None)
    accuracy = answers.accuracy(Process())
    probe = Probe.from_dataset(loader.dataset, config.n_probe, config.seed, mean=data.mean, std=data.std)
    options = {"n_steps": config.n_steps, "target": "label", "scale_to_image": True}
    scores = evaluate(
        task,
        find_target_layer(task, "layer3"),
        probe,
        DecomCAM(),
        metrics={
            "insertion": InsertionAUC(**options),
            "deletion": DeletionAUC(**options),
            "overall": InsertionDeletion(**options),
        },
        strata="class_accuracy",
        baselines=tuple(config.methods),
        class_accuracy=accuracy,
        new_head=False,
    )
    rows: list[dict[str, Any]] = [
        {
            "metric": score.metric,
            "bin": score.stratum,
            "method": score.explanation or "decom_cam",
            "images": score.count,
            "value": score.value,
            "low": (score.interval or (float("nan"),) * 2)[0],
            "high": (score.interval or (float("nan"),) * 2)[1],
        }
        for score in scores
    ]
    write_csv(output / "results.csv", rows)
    known = torch.full((8,), float("nan")) if accuracy is None else accuracy
    named = zip(probe.class_names or (), known.tolist(), config.difficulty, strict=True)
    write_csv(
        output / "classes.csv", [{"class": name, "accuracy": value, "difficulty": hard} for name, value, hard in named]
    )
    figure_of(rows).savefig(output / "figure.png", dpi=110)


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    """One panel per metric, one line per method over the bins, with intervals."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    binned = [row for row in rows if row["bin"] != "all"]
    names = sorted({row["bin"] for row in binned})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for axes, metric in zip(figure.subplots(1, 3), ("insertion", "deletion", "overall"), strict=True):
        for number, method in enumerate(methods):
            shown = sorted(
                (row for row in binned if (row["metric"], row["method"]) == (metric, method)),
                key=lambda row: row["bin"],
            )
            places = [names.index(row["bin"]) + 0.08 * (number - len(methods) / 2) for row in shown]
            values = [row["value"] for row in shown]
            spread = [[row["value"] - row["low"] for row in shown], [row["high"] - row["value"] for row in shown]]
            axes.errorbar(places, values, spread, fmt="o-", ms=3, lw=1, label=method)
        axes.set_xticks(range(len(names)), [name.replace("class_accuracy_", "") for name in names], fontsize="small")
        axes.set(title=metric, xlabel="accuracy of the class")
    axes.legend(fontsize="small", frameon=False)
    return figure


if __name__ == "__main__":
    main()
