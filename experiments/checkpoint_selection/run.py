"""Which epoch of a run: the one of best validation accuracy, of best interpretability, or both?"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from experiments.common import (
    accuracy,
    biased_world,
    ends,
    mean_interval,
    read_csv,
    settings_of,
    trained,
    write_csv,
)
from lit_decom import Components, DecomCAM, DecomCAMCallback, Log, Probe, Scoring
from lit_decom.data import Critters, CrittersDataModule
from lit_decom.metrics import EnergyPointingGame

FOLDER = Path(__file__).parent
ENERGY = "decomcam/energy_pointing_game/all"
Rule = Callable[[list[dict[str, Any]]], dict[str, Any]]


class Watch(pl.Callback):
    """Notes after every epoch what is known on biased images, and what is not known: the held-out accuracy."""

    def __init__(self, seed: int, val: Critters, held_out: Critters) -> None:
        self.seed, self.val, self.held_out = seed, val, held_out
        self.rows: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add a row."""
        self.rows.append(
            {
                "seed": self.seed,
                "epoch": trainer.current_epoch,
                "val_acc": accuracy(pl_module, self.val),
                "energy_on_critter": float(trainer.callback_metrics[ENERGY]),
                "held_out_acc": accuracy(pl_module, self.held_out),
            }
        )


def main() -> None:
    """Train, choose epochs by every rule, and compare the rules over seeds."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        write_csv(output / "results.csv", [row for seed in config.seeds for row in one_run(config, seed)])
    rows = read_csv(output / "results.csv")
    runs = [[row for row in rows if row["seed"] == seed] for seed in dict.fromkeys(row["seed"] for row in rows)]
    write_csv(output / "answer.csv", answers(runs, config.eps))
    figure_of(runs).savefig(output / "figure.png", dpi=110)


def one_run(config: Any, seed: int) -> list[dict[str, Any]]:
    """A row per epoch of one training."""
    data = CrittersDataModule(
        config.n_train, config.n_val, 8, config.image_size, shortcut_rate=config.shortcut_rate, seed=seed + 1
    )
    probe = Probe.from_dataset(
        biased_world(config, "probe", data), config.n_probe, config.seed, mean=data.mean, std=data.std
    )
    watch = Watch(seed, biased_world(config, "val", data), biased_world(config, "held_out", data))
    with tempfile.TemporaryDirectory() as directory:
        callback = DecomCAMCallback(
            DecomCAM(n_components=config.n_components),
            probe,
            "layer3",
            scores=Scoring([EnergyPointingGame()]),
            components=Components(n_shared=0),
            log=Log(n_images=0),
            dirpath=directory,
        )
        trained(
            data,
            epochs=config.epochs,
            lr=config.lr,
            model_args={"width": config.width},
            seed=seed,
            callbacks=[callback, watch],
        )
    return watch.rows


def rules(eps: float) -> dict[str, Rule]:
    """How an epoch is chosen; of equals the first."""

    def both(rows: list[dict[str, Any]]) -> dict[str, Any]:
        best = max(row["val_acc"] for row in rows)
        return max((row for row in rows if row["val_acc"] >= best - eps), key=lambda row: row["energy_on_critter"])

    return {
        "by_accuracy": lambda rows: max(rows, key=lambda row: row["val_acc"]),
        "by_energy": lambda rows: max(rows, key=lambda row: row["energy_on_critter"]),
        "by_both": both,
        "last": lambda rows: rows[-1],
        "oracle": lambda rows: max(rows, key=lambda row: row["held_out_acc"]),
    }


def answers(runs: list[list[dict[str, Any]]], eps: float) -> list[dict[str, Any]]:
    """Held-out accuracy of every rule, and what it gains over choosing by accuracy, run by run."""
    chosen = {name: np.array([rule(run)["held_out_acc"] for run in runs]) for name, rule in rules(eps).items()}
    chosen["at_random"] = np.array([np.mean([row["held_out_acc"] for row in run]) for run in runs])
    more = {name: values - chosen["by_accuracy"] for name, values in chosen.items()}
    return [
        {
            "rule": name,
            "runs": len(runs),
            "held_out_acc": float(values.mean()),
            "over_by_accuracy": float(more[name].mean()),
            **ends("over", mean_interval(more[name])),
            "lowest": float(more[name].min()),
            "highest": float(more[name].max()),
            "runs_above": int((more[name] > 0).sum()),
            "runs_below": int((more[name] < 0).sum()),
            "sign_test": sign_test(more[name]),
        }
        for name, values in chosen.items()
    ]


def sign_test(differences: np.ndarray) -> float:
    """Two-sided p value of as uneven a split of signs, ties left out; 1 where all are ties."""
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(above, above + below).pvalue) if above + below else 1.0


def figure_of(runs: list[list[dict[str, Any]]]) -> Figure:
    """The three curves over epochs, a line per run."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    names = ("val_acc", "energy_on_critter", "held_out_acc")
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for run in runs:
            axes.plot([row["epoch"] for row in run], [row[name] for row in run], lw=1)
        axes.set(title=name.replace("_", " "), xlabel="epoch")
    return figure


if __name__ == "__main__":
    main()
