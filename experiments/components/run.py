"""Which decomposition gives components that mean something, on networks that differ in make and classes?"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.common import UNKNOWN, accuracy, ends, mean_interval, read_csv, settings_of, write_csv
from experiments.components.causal import changed, selectivity
from experiments.components.evolution import agreement_of, stories
from experiments.components.maps import (
    N_TURNS,
    PER_IMAGE,
    PIECE,
    Found,
    evidence_of,
    per_image,
    shared,
    turns,
    weighted_maps,
)
from experiments.components.networks import data_of, epochs_of, train
from lit_decom import Capture, Probe
from lit_decom.data import Critters, CrittersDataModule
from lit_decom.evidence import capture
from lit_decom.functional.bca import weighted_interval
from lit_decom.functional.decision_factors import DecisionFactors
from lit_decom.functional.image import upsample
from lit_decom.functional.part_identity import (
    fixed_index_average_precision,
    information_floor,
    part_information,
)
from lit_decom.functional.parts import match_parts, part_average_precision, part_iou
from lit_decom.functional.shared_basis import basis_from_gram, channel_gram

FOLDER = Path(__file__).parent
TABLES = ("results", "evolution", "factors", "codes", "causal")
# The comparisons named before the full run; every other one is an observation.
PRIMARY = {("decision_factors", "fixed_index_part_ap"): "shared_svd", ("nmf", "part_ap"): "svd"}
Row = dict[str, Any]
Pooled = Callable[[Tensor], Tensor]


def main() -> None:
    """Train what is not there, compare, and write tables and the figure."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    config.networks = config.get("quick_networks") or config.networks
    if not analyse:
        tables: dict[str, list[Row]] = {name: [] for name in TABLES}
        for name, spec in config.networks.items():
            train(config, name, output / "weights" / name)
            for layer in spec.layers:
                for table, rows in one_layer(config, name, layer, output / "weights" / name).items():
                    tables[table] += [{"network": name, "layer": layer, **row} for row in rows]
                    # Written after every layer, so that a run that is ended leaves those that are done.
                    write_csv(output / f"{table}.csv", tables[table])
    figure_of(read_csv(output / "results.csv")).savefig(output / "figure.png", dpi=110)


def one_layer(config: Any, name: str, layer: str, weights: Path) -> dict[str, list[Row]]:
    """Rows of every table for one layer of one network."""
    data = data_of(config, config.networks[name])
    probe = held_out(data, config.n_probe)
    *_, (_, task) = epochs_of(config, name, weights)
    pieces = list(evidence_of(task, layer, probe))
    each = per_image(pieces, config.n_components)
    together, factors = shared(pieces, (config.image_size, config.image_size), config.n_components)
    followed = stories(config, epochs_of(config, name, weights), layer, probe.select(range(config.n_followed)))
    *_, (_, task) = epochs_of(config, name, weights)
    return {
        "results": compare(each | together, probe, config.n_resamples),
        "factors": [{"quantity": key, "value": value} for key, value in numbers_of(factors, task, data).items()],
        "codes": codes_of(factors, data.class_names),
        "causal": causal(pieces, factors, data, partial(pooled_activations, task, layer), config),
        "evolution": [
            {"followed": kind, "quantity": quantity, "value": value}
            for kind, story in followed.items()
            for quantity, value in story.numbers(config.late_epochs).items()
        ],
    }


def held_out(data: CrittersDataModule, n: int) -> Probe:
    """The test images with their parts, in balance."""
    return Probe.from_dataset(data.test_dataset, n, 0, mean=data.mean, std=data.std)


# ----- rulers


def compare(found: dict[str, Found], probe: Probe, n_resamples: int) -> list[Row]:
    """Every ruler of every decomposition, and how much more each has than the SVD of its kind, with intervals."""
    per = {name: rulers_per_image(one.draws, probe) for name, one in found.items()}
    sets = {name: rulers_of_the_set(one.draws, probe) for name, one in found.items() if name != "grad_cam"}
    rows = []
    for name, one in found.items():
        reference = "svd" if name in PER_IMAGE else "shared_svd"
        base = {
            "decomposition": name,
            "components": one.draws[0].shape[1],
            "seconds": one.seconds,
            "images": len(probe),
        }
        for ruler, values in per[name].items():
            better = mean_interval(values - per[reference][ruler]) if name != reference else UNKNOWN
            numbers = {"value": float(np.nanmean(values)), **ends("value", mean_interval(values))}
            difference = {"better_by": float(np.nanmean(values - per[reference][ruler])), **ends("better_by", better)}
            rows.append({**base, "ruler": ruler, **numbers, **difference})
        for ruler, statistic in sets.get(name, {}).items():
            numbers = of_the_set(statistic, sets[reference][ruler], len(probe), n_resamples)
            rows.append({**base, "ruler": ruler, **numbers})
    return rows


def rulers_per_image(draws: Sequence[Tensor], probe: Probe) -> dict[str, np.ndarray]:
    """Part average precision and part IoU of every image, the mean over draws."""
    found = [agreement_of(maps, probe) for maps in draws]
    rulers = {"part_ap": part_average_precision, "part_iou": part_iou}
    return {
        name: torch.stack([ruler(one) for one in found]).mean(dim=0).double().numpy() for name, ruler in rulers.items()
    }


def rulers_of_the_set(draws: Sequence[Tensor], probe: Probe) -> dict[str, Callable[[Tensor], Tensor]]:
    """Rulers that need an index that means the same in every image: functions of how often each image counts."""
    if probe.parts is None:
        raise ValueError("Expected the probe to have parts, but got none.")
    size = (probe.images.shape[-2], probe.images.shape[-1])
    tables = [agreement_of(maps, probe).average_precision.double() for maps in draws]
    matched = [match_parts(upsample(maps.float(), size), probe.parts).part for maps in draws]
    floors = [information_floor(parts) for parts in matched]

    def fixed(times: Tensor) -> Tensor:
        return torch.stack([fixed_index_average_precision(table, times) for table in tables]).mean(dim=0)

    def information(times: Tensor) -> Tensor:
        found = [part_information(parts, times) - floor for parts, floor in zip(matched, floors, strict=True)]
        return torch.stack(found).mean(dim=0)

    return {"fixed_index_part_ap": fixed, "part_information": information}


def of_the_set(
    statistic: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], n: int, n_resamples: int
) -> dict[str, float]:
    """Value, interval, and paired difference of a ruler of the set of ``n`` images."""

    def summary(of: Callable[[Tensor], Tensor], name: str, *, known: bool = True) -> dict[str, float]:
        images = torch.arange(float(n), dtype=torch.float64)[:, None]
        low, high = weighted_interval(images, lambda _: of, n_resamples=n_resamples).tolist() if known else UNKNOWN
        return {name: float(of(torch.ones(1, n, dtype=torch.float64))), **ends(name, (low, high))}

    difference = summary(lambda w: statistic(w) - reference(w), "better_by", known=statistic is not reference)
    return summary(statistic, "value") | difference


# ----- decision factors


def numbers_of(factors: DecisionFactors, task: nn.Module, data: CrittersDataModule) -> dict[str, float]:
    """How far the factors go, and whether anything speaks against them."""
    found = {
        "test_accuracy": accuracy(task, data.test_dataset),  # type: ignore[arg-type]
        "factors": float(factors.codes.shape[1]),
        "r2": float(factors.r2),
        "equal_predictions": float(factors.agreement),
        "layer_r2": float(factors.layer_r2),
        "random_directions_r2": float(factors.random_r2),
        "image_constant_share": float(factors.constant_share),
        "rotation_margin": float(factors.rotation_margin),
    }
    return found | {f"state: {state}": 1.0 for state in factors.states}


def codes_of(factors: DecisionFactors, class_names: tuple[str, ...]) -> list[Row]:
    """How each class uses each factor."""
    return [
        {"factor": column + 1, "share": float(factors.shares[column]), "class": name, "code": float(code)}
        for column in range(factors.codes.shape[1])
        for name, code in zip(class_names, factors.codes[:, column], strict=True)
    ]


# ----- the causal test


def causal(
    pieces: list[Capture], factors: DecisionFactors, data: CrittersDataModule, pooled: Pooled, config: Any
) -> list[Row]:
    """Selectivity of every set of directions that the probe shares: pooled activations along them.

    Those of the network's decision are left out: of a changed part the logits know by themselves.
    """
    dataset = data.test_dataset
    if not isinstance(dataset, Critters):
        raise TypeError(f"Expected critters, but got {type(dataset).__name__}.")
    before, after = changed(dataset, list(range(min(config.n_changed, len(dataset)))))
    k, gram = factors.directions.shape[1], channel_gram(weighted_maps(pieces))
    noise = torch.randn(N_TURNS, len(gram), k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = {
        "decision_factors": [factors.directions],
        "turned_factors": [factors.directions @ turn for turn in turns(k)],
        "shared_svd_as_many": [basis_from_gram(gram, k).directions],
        "shared_svd": [basis_from_gram(gram, config.n_components).directions],
        "random_directions": [torch.linalg.qr(draw).Q for draw in noise],
    }
    responses = [pooled(images) for images in (before, *after.unbind(dim=1))]
    rows = []
    for name, draws in directions.items():
        seen = [[one @ columns for one in responses] for columns in draws]
        found = np.mean([selectivity(one[0], torch.stack(one[1:], dim=1)) for one in seen], axis=0)
        base = {"components": name, "count": draws[0].shape[1], "images": len(found)}
        rows.append({**base, "value": float(found.mean()), **ends("value", mean_interval(found))})
    return rows


def pooled_activations(task: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Mean activation of each channel of a layer in each image, ``(n, C)``."""
    parts = [capture(task, layer, part, 0).activations.mean(dim=(2, 3)) for part in images.split(PIECE)]
    return torch.cat(parts).double()


def figure_of(rows: list[Row]) -> Figure:
    """Every ruler of every decomposition, networks side by side, with intervals."""
    rulers = list(dict.fromkeys(row["ruler"] for row in rows))
    networks = list(dict.fromkeys((row["network"], row["layer"]) for row in rows))
    figure = Figure(figsize=(13, 3.2 * len(rulers)), layout="constrained")
    panels = figure.subplots(len(rulers), 1, squeeze=False)[:, 0]
    names = list(dict.fromkeys(row["decomposition"] for row in rows))
    for axes, ruler in zip(panels, rulers, strict=True):
        for place, network in enumerate(networks):
            shown = [row for row in rows if row["ruler"] == ruler and (row["network"], row["layer"]) == network]
            at = [names.index(row["decomposition"]) + 0.1 * (place - (len(networks) - 1) / 2) for row in shown]
            values = np.array([row["value"] for row in shown])
            low, high = (np.array([row[f"value_{end}"] for row in shown]) for end in ("low", "high"))
            axes.errorbar(
                at, values, np.clip([values - low, high - values], 0, None), fmt="o", ms=3, label=" ".join(network)
            )
        axes.set_xticks(range(len(names)), names, fontsize="small")
        axes.set(title=ruler.replace("_", " "), ylim=(0, None))
    panels[0].legend(fontsize="x-small", ncols=2)
    return figure


if __name__ == "__main__":
    main()
