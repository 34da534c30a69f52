"""Do DecomCAM's components fall on parts, before and after training, more than chance? And do they keep to them?"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common import (
    OWN,
    UNKNOWN,
    ends,
    mean_interval,
    read_csv,
    rows_of_images,
    settings_of,
    trained,
    write_csv,
)
from lit_decom import Components, DecomCAM, DecomCAMCallback, Log, Probe, Scoring
from lit_decom.data import CrittersDataModule
from lit_decom.functional.curves import mean_absolute_change
from lit_decom.metrics import EnergyPointingGame, PartAveragePrecision, PartIoU
from lit_decom.records import RunDirectory

FOLDER = Path(__file__).parent
METRICS = {
    "energy_pointing_game": EnergyPointingGame,
    "part_average_precision": PartAveragePrecision,
    "part_iou": PartIoU,
}
Row = dict[str, Any]
NO_ENDS = {"low": float("nan"), "high": float("nan")}


def main() -> None:
    """Train, evaluate before and after, follow the components, and write tables and the figure."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        tables: dict[str, list[Row]] = {"results": [], "evolution": [], "components": []}
        for seed in config.seeds:
            for name, rows in one_seed(config, seed).items():
                tables[name] += rows
                # Written after every network, so that a run that is ended leaves those that are done.
                write_csv(output / f"{name}.csv", tables[name])
    figure_of(read_csv(output / "results.csv")).savefig(output / "figure.png", dpi=110)


def one_seed(config: Any, seed: int) -> dict[str, list[Row]]:
    """Rows of every table for one network."""
    data = CrittersDataModule(config.n_train, config.n_val, 8, config.image_size, seed=seed)
    data.setup("fit")
    probe = Probe.from_dataset(data.val_dataset, config.n_probe, seed, mean=data.mean, std=data.std)
    method = DecomCAM(n_components=config.n_components)
    results: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        callback = DecomCAMCallback(
            method,
            probe,
            "layer3",
            scores=Scoring([EnergyPointingGame()]),
            components=Components(n_shared=0),
            log=Log(n_images=0),
            dirpath=directory,
        )
        task, trainer = trained(
            data,
            epochs=config.epochs,
            lr=config.lr,
            model_args={"width": config.width},
            seed=seed,
            callbacks=[callback],
            before=lambda fresh: results.extend(scores_of(fresh, probe, method, seed, "before")),
        )
        results += scores_of(task, probe, method, seed, "after")
        records = list(RunDirectory(Path(directory)).records())
    accuracy = float(trainer.callback_metrics["val/acc"])
    return {
        "results": results,
        "evolution": [
            {"seed": seed, "quantity": "val_acc", "images": config.n_val, "value": accuracy, **NO_ENDS},
            *({"seed": seed, **row} for row in follow(records)),
        ],
        "components": [{"seed": seed, **row} for record in records for row in by_rank(record)],
    }


def scores_of(task: torch.nn.Module, probe: Probe, method: DecomCAM, seed: int, moment: str) -> list[Row]:
    """Every metric of every explanation, and how much more DecomCAM has, image by image."""
    metrics = {name: metric() for name, metric in METRICS.items()}
    rows = rows_of_images(task, "layer3", probe, method, metrics, new_head=True)
    values = {key: metrics[key[0]].score(found).double().numpy() for key, found in rows.items()}
    return [
        {
            "seed": seed,
            "moment": moment,
            "metric": metric,
            "explanation": explanation,
            "images": int((~np.isnan(found)).sum()),
            **mean_of(found),
            **ends("better_by", mean_interval(values[metric, OWN] - found) if explanation != OWN else UNKNOWN),
        }
        for (metric, explanation), found in values.items()
    ]


def mean_of(values: np.ndarray) -> dict[str, float]:
    """The mean over images and its interval."""
    low, high = mean_interval(values)
    return {"value": float(np.nanmean(values)), "low": low, "high": high}


def by_rank(record: Any) -> list[Row]:
    """Share of the energy and score gain of the components of each rank at one epoch, over all images that have one."""
    found = record.decomposition
    rows = []
    for rank in range(found.valid.shape[1]):
        inside = found.valid[:, rank]
        for quantity in ("explained_energy", "score_gains"):
            values = getattr(found, quantity)[inside, rank].double().numpy()
            if len(values):
                where = {"epoch": record.epoch, "rank": rank + 1, "quantity": quantity, "images": len(values)}
                rows.append(where | mean_of(values))
    return rows


def follow(records: list[Any]) -> list[Row]:
    """How smooth curves by identity and by rank are, and what the first components hold."""
    identities = torch.stack([record.identities for record in records])
    gains = torch.stack([record.decomposition.score_gains for record in records])
    last_found = records[-1].decomposition
    energy = last_found.explained_energy.where(last_found.valid, 0.0).double()
    per_image = changes(identities, gains) | {
        f"energy_of_the_first_{k}": energy[:, :k].sum(dim=1).numpy() for k in (1, 2, 4)
    }
    return [{"quantity": name, "images": len(values), **mean_of(values)} for name, values in per_image.items()]


def changes(identities: Tensor, gains: Tensor) -> dict[str, np.ndarray]:
    """Mean absolute change of a score gain from epoch to epoch, image by image, of curves drawn in three ways.

    ``by_identity`` and ``by_rank`` are over the same components, those that go on and whose rank was taken before;
    ``by_rank_all`` has no such restriction: it is what a curve by rank shows.
    """
    images = [
        mean_absolute_change(identities[:, image : image + 1], gains[:, image : image + 1])
        for image in range(identities.shape[1])
    ]
    found = {name: np.array([getattr(each, name) for each in images]) for name in ("by_identity", "by_rank")}
    found["by_rank_all"] = np.array([each.by_rank_all for each in images])
    return found | {
        "by_identity_less_by_rank": found["by_identity"] - found["by_rank"],
        "by_identity_less_by_rank_all": found["by_identity"] - found["by_rank_all"],
    }


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    """Every metric over all images, before and after, with intervals, seeds side by side."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(METRICS))
    for axes, metric in zip(panels, dict.fromkeys(row["metric"] for row in rows), strict=True):
        shown = [row for row in rows if row["metric"] == metric]
        names = list(dict.fromkeys(row["explanation"] for row in shown))
        for row in shown:
            place = names.index(row["explanation"]) + (-0.17 if row["moment"] == "before" else 0.17)
            colour = "tab:grey" if row["moment"] == "before" else "tab:orange"
            spread = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            axes.errorbar(place + 0.06 * (row["seed"] - 1), row["value"], spread, fmt="o", ms=3, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize="small")
        axes.set(title=metric.replace("_", " "), ylim=(0, 1))
    figure.suptitle(
        "grey: before training, orange: after; one point per seed, 95 % intervals over images", fontsize="small"
    )
    return figure


if __name__ == "__main__":
    main()
