"""Do DecomCAM's components fall on parts, before and after training, more than chance? And do they keep to them?"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments.common import settings_of, trained, write_csv
from lit_decom import DecomCAM, DecomCAMCallback, Probe, find_target_layer
from lit_decom.data import CrittersDataModule
from lit_decom.evaluation import evaluate
from lit_decom.functional.curves import mean_absolute_change
from lit_decom.functional.image import upsample
from lit_decom.functional.parts import match_parts
from lit_decom.metrics import EnergyPointingGame, PartCoverage, PartPurity
from lit_decom.records import RunDirectory

FOLDER = Path(__file__).parent
METRICS = (EnergyPointingGame, PartCoverage, PartPurity)


def main() -> None:
    """Train, evaluate before and after, follow the components, and write tables and the figure."""
    config, output = settings_of(FOLDER, __doc__ or "")
    scores: list[dict[str, Any]] = []
    evolution: list[dict[str, Any]] = []
    for seed in config.seeds:
        found, followed = one_seed(config, seed)
        scores += found
        evolution += followed
    write_csv(output / "results.csv", scores)
    write_csv(output / "evolution.csv", evolution)
    figure_of(scores).savefig(output / "figure.png", dpi=110)


def one_seed(config: Any, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables for one network."""
    data = CrittersDataModule(config.n_train, config.n_val, 8, config.image_size, seed=seed)
    data.setup("fit")
    dataset = data.val_dataloader().dataset
    probe = Probe.from_dataset(dataset, config.n_probe, seed, mean=data.mean, std=data.std)
    method = DecomCAM(n_components=config.n_components)
    rows: list[dict[str, Any]] = []

    def look(moment: str, task: torch.nn.Module) -> None:
        layer = find_target_layer(task, "layer3")
        for score in evaluate(task, layer, probe, method, metrics=[metric() for metric in METRICS]):
            low, high = score.interval or (float("nan"),) * 2
            over = score.over or (float("nan"),) * 2
            rows.append(
                {
                    "seed": seed,
                    "moment": moment,
                    "metric": score.metric,
                    "stratum": score.stratum,
                    "explanation": score.explanation or "decom_cam",
                    "images": score.count,
                    "value": score.value,
                    "low": low,
                    "high": high,
                    "better_by_low": over[0],
                    "better_by_high": over[1],
                }
            )

    with tempfile.TemporaryDirectory() as directory:
        callback = DecomCAMCallback(
            method, probe, "layer3", dirpath=directory, shared_components=config.shared_components, n_drawn=0
        )
        task, trainer = trained(
            data,
            epochs=config.epochs,
            lr=config.lr,
            width=config.width,
            seed=seed,
            callbacks=[callback],
            before=lambda fresh: look("before", fresh),
        )
        look("after", task)
        records = list(RunDirectory(Path(directory)).records())
    accuracy = float(trainer.callback_metrics["val/acc"])
    return rows, follow(seed, accuracy, records, probe, config.last_epochs)


def follow(seed: int, accuracy: float, records: list[Any], probe: Probe, last: int) -> list[dict[str, Any]]:
    """How smooth curves by identity and by rank are, and whether shared components keep to their part."""
    identities = torch.stack([record.identities for record in records])
    gains = torch.stack([record.decomposition.score_gains for record in records])
    change = mean_absolute_change(identities, gains)
    found = [("val_acc", accuracy), *((name, float(value)) for name, value in vars(change).items())]
    parts = [parts_of_shared(record, probe) for record in records[-last:]]
    kept = [len({part.get(identity) for part in parts}) == 1 for identity in parts[-1]]
    found += [("shared_components_on_a_part", float(len(kept))), ("of_these_on_it_throughout", float(sum(kept)))]
    names = probe.part_names or ()
    found += [(f"shared_{identity}_on_{names[part]}", purity) for identity, (part, purity) in best(records[-1], probe)]
    return [{"seed": seed, "quantity": name, "value": value} for name, value in found]


def parts_of_shared(record: Any, probe: Probe) -> dict[int, int]:
    """By identity the part that a shared component claims: a mean balanced purity above 0.9."""
    return {identity: part for identity, (part, purity) in best(record, probe) if purity > 0.9}


def best(record: Any, probe: Probe) -> list[tuple[int, tuple[int, float]]]:
    """By identity the part on which a shared component lies in most images, and its mean purity there."""
    size = (probe.images.shape[-2], probe.images.shape[-1])
    maps = upsample(record.shared_patterns.float(), size).clamp(min=0)
    match = match_parts(maps, probe.parts)
    found = []
    for column, identity in enumerate(record.shared_identities.tolist()):
        on = match.part[:, column][match.part[:, column] >= 0]
        if identity >= 0 and len(on):
            part = int(on.mode().values)
            where = match.part[:, column] == part
            share = float(where.float().mean())
            found.append((identity, (part, share * float(match.purity[where, column].mean()))))
    return found


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    """Every metric over all images, before and after, with intervals, seeds side by side."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, len(METRICS))
    everywhere = [row for row in rows if row["stratum"] == "all"]
    for axes, metric in zip(panels, dict.fromkeys(row["metric"] for row in rows), strict=True):
        shown = [row for row in everywhere if row["metric"] == metric]
        names = list(dict.fromkeys(row["explanation"] for row in shown))
        for row in shown:
            place = names.index(row["explanation"]) + (-0.17 if row["moment"] == "before" else 0.17)
            colour = "tab:grey" if row["moment"] == "before" else "tab:orange"
            spread = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            axes.errorbar(place + 0.06 * (row["seed"] - 1), row["value"], spread, fmt="o", ms=3, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize="small")
        axes.set(title=metric.replace("_", " "), ylim=(0, 1))
    figure.suptitle(
        "grey: before training, orange: after; one point per seed, 95 % bootstrap intervals", fontsize="small"
    )
    return figure


if __name__ == "__main__":
    main()
