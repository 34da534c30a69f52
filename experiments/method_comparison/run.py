"""Every registered method on the same evidence: localization against exact masks, faithfulness, strata, cost."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from experiments.common import OWN, ends, read_csv, settings_of, trained, write_csv
from lit_decom import DecomCAM, compare
from lit_decom.comparison import Comparison
from lit_decom.comparison.base import UNINFORMED
from lit_decom.data import CrittersDataModule
from lit_decom.methods import METHODS
from lit_decom.metrics import AverageDrop, AverageGain, EnergyPointingGame, InsertionDeletion, MaskIoU

FOLDER = Path(__file__).parent
PRESET = "decom_cam_pp"
_UNKNOWN = (float("nan"), float("nan"))
Row = dict[str, Any]


def main() -> None:
    """Train networks, compare every method on images of each, and write tables and the figure."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        results: list[Row] = []
        costs: list[Row] = []
        for network in config.networks:
            found = one_network(OmegaConf.merge(config, network))
            results += standings_of(network.name, found)
            costs += costs_of(network.name, found)
            # Written after every network, so that a run that is ended leaves those that are done.
            write_csv(output / "results.csv", results)
            write_csv(output / "cost.csv", costs)
    results = read_csv(output / "results.csv")
    write_csv(output / "answer.csv", answers(results))
    figure_of(results).savefig(output / "figure.png", dpi=110)


def one_network(config: Any) -> Comparison:
    """Train a network and compare all methods on validation images.

    Args:
        config: the settings, those of the network on top.
    """
    data = CrittersDataModule(
        config.n_train, config.n_val, 8, config.image_size, corruption=config.corruption, seed=config.seed
    )
    task, _ = trained(
        data, epochs=config.epochs, lr=config.lr, seed=config.seed, model=config.model, model_args=config.model_args
    )
    curves = InsertionDeletion(n_steps=config.n_steps, target="label", scale_to_image=True)
    return compare(
        task.model,
        config.layer,
        {OWN: DecomCAM(), PRESET: DecomCAM(integration="predecessor_pp")}
        | {name: method() for name, method in sorted(METHODS.items()) if name != OWN},
        data,
        {
            "energy_pointing_game": EnergyPointingGame(),
            "mask_iou": MaskIoU(),
            "average_drop": AverageDrop(),
            "average_gain": AverageGain(),
            "overall": curves,
        },
        limit=config.n_images,
        batch_size=config.batch_size,
        progress=False,
    )


def standings_of(network: str, found: Comparison) -> list[Row]:
    """A row per measure, stratum and method: its value, its rank, and what it is better by than DecomCAM."""
    return [
        {
            "network": network,
            "measure": each.measure,
            "stratum": each.stratum,
            "method": each.method,
            "images": each.n - each.undefined,
            "undefined": each.undefined,
            "value": each.value,
            **ends("value", each.interval or _UNKNOWN),
            "rank": each.rank if each.rank is not None else float("nan"),
            **ends("better_by", each.better_than_first or _UNKNOWN),
        }
        for each in found.standings
    ]


def costs_of(network: str, found: Comparison) -> list[Row]:
    """A row per method: what it takes beyond the forward and the backward pass that all share, which has one too."""
    shared = {"method": "evidence", "seconds": found.evidence_seconds, "forwards": 1.0, "mebibytes": float("nan")}
    own = [
        {"method": c.method, "seconds": c.seconds, "forwards": c.forwards, "mebibytes": c.peak_bytes / 2**20}
        for c in found.costs
    ]
    return [{"network": network} | row for row in (shared, *own)]


def answers(results: list[Row]) -> list[Row]:
    """By measure and method: in how many networks DecomCAM is better, or worse, beyond doubt, over all images."""
    everywhere = [row for row in results if row["stratum"] == "all" and row["method"] != OWN]
    found = []
    for measure in dict.fromkeys(row["measure"] for row in everywhere):
        for method in dict.fromkeys(row["method"] for row in everywhere):
            rows = [row for row in everywhere if (row["measure"], row["method"]) == (measure, method)]
            better = sum(row["better_by_high"] < 0 for row in rows)
            worse = sum(row["better_by_low"] > 0 for row in rows)
            found.append(
                {
                    "measure": measure,
                    "method": method,
                    "networks": len(rows),
                    "decom_cam_better": better,
                    "decom_cam_worse": worse,
                    "undecided": len(rows) - better - worse,
                }
            )
    return found


def figure_of(results: list[Row]) -> Figure:
    """One panel per measure: each method's value over all images of each network, those that know nothing below."""
    rows = [row for row in results if row["stratum"] == "all"]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    networks = list(dict.fromkeys(row["network"] for row in rows))
    named = list(dict.fromkeys(row["method"] for row in rows))
    methods = [name for name in named if name not in UNINFORMED] + [name for name in named if name in UNINFORMED]
    figure = Figure(figsize=(2.6 * len(measures) + 1.2, 0.3 * len(methods) + 1.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for axes, measure in zip(panels, measures, strict=True):
        for number, network in enumerate(networks):
            shown = [row for row in rows if (row["measure"], row["network"]) == (measure, network)]
            at = [methods.index(row["method"]) + 0.16 * (number - (len(networks) - 1) / 2) for row in shown]
            values, low, high = (np.array([row[key] for row in shown]) for key in ("value", "value_low", "value_high"))
            spread = np.nan_to_num(np.stack([values - low, high - values]))
            label = network if measure == measures[0] else None
            axes.errorbar(values, at, xerr=spread, fmt="o", ms=2.5, lw=1, color=f"C{number}", label=label)
        axes.axhspan(len(methods) - len(UNINFORMED) - 0.5, len(methods) - 0.5, color="0.93", zorder=0)
        axes.set_yticks(range(len(methods)), methods, fontsize="small")
        axes.set_title(measure, fontsize="medium")
        axes.grid(axis="x", color="0.9")
    panels[0].invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(networks), fontsize="small", frameon=False)
    figure.supxlabel("95 % intervals over images; grey: methods that know nothing of the target", fontsize="x-small")
    return figure


if __name__ == "__main__":
    main()
