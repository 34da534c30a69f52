"""The accuracy-stratified protocol: insertion, deletion and overall, in ten bins of class accuracy, several methods."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.common import (
    OWN,
    answered_right,
    ends,
    mean_interval,
    read_csv,
    rows_of_images,
    settings_of,
    trained,
    write_csv,
)
from lit_decom import DecomCAM, Probe
from lit_decom.data import CrittersDataModule
from lit_decom.metrics import InsertionDeletion

FOLDER = Path(__file__).parent
CURVES = ("insertion", "deletion", "overall")
EVERY_BIN = "every_bin"
Row = dict[str, Any]


def main() -> None:
    """Train networks on classes of unequal frequency, explain validation images, and write tables and the figure."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        classes: list[Row] = []
        images: list[Row] = []
        for network in config.networks:
            of_classes, of_images = one_network(config, network)
            classes += of_classes
            images += of_images
            # Written after every network, so that a run that is ended leaves those that are done.
            write_csv(output / "classes.csv", classes)
            write_csv(output / "images.csv", images)
    images = read_csv(output / "images.csv")
    methods = [OWN, *config.methods]
    rows = table(images, methods)
    write_csv(output / "results.csv", rows)
    write_csv(output / "answer.csv", firsts(images, methods))
    figure_of(rows, methods).savefig(output / "figure.png", dpi=110)


def one_network(config: Any, network: Any) -> tuple[list[Row], list[Row]]:
    """A row per class and a row per explained image of one network."""
    # Another order of the classes for every network, so that an accuracy does not belong to one species.
    proportions = np.random.default_rng(network.seed).permutation(list(config.class_proportions)).tolist()
    data = CrittersDataModule(
        config.n_train,
        config.n_val,
        8,
        config.image_size,
        corruption=config.corruption,
        class_proportions=proportions,
        seed=network.seed,
    )
    task, _ = trained(
        data,
        epochs=min(network.epochs, config.max_epochs),
        lr=network.lr,
        seed=network.seed,
        model=network.model,
        model_args=network.get("model_args"),
    )
    dataset = data.val_dataset
    right, labels = answered_right(task, dataset), dataset.targets.numpy()
    accuracy = [float(right[labels == label].mean()) for label in range(8)]
    probe = Probe.from_dataset(dataset, config.n_probe, network.seed, mean=data.mean, std=data.std)
    metric = InsertionDeletion(n_steps=config.n_steps, target="label", scale_to_image=True)
    rows = rows_of_images(
        task,
        network.layer,
        probe,
        DecomCAM(),
        {"overall": metric},
        baselines=tuple(config.methods),
        chance=False,
    )
    explained = [int(name) for name in probe.ids]
    areas = {explanation: torch.round(found, decimals=5).tolist() for (_, explanation), found in rows.items()}
    return (
        [
            {"network": network.name, "class": name, "trained_on": count, "accuracy": share}
            for name, count, share in zip(
                data.class_names,
                data.train_dataset.targets.bincount(minlength=8).tolist(),
                accuracy,
                strict=True,
            )
        ],
        [
            {
                "network": network.name,
                "image": image,
                "class": data.class_names[labels[image]],
                "bin": bin_of(accuracy[labels[image]]) if right[image] else "answered_wrong",
            }
            | {
                f"{curve}_{method}": value
                for method, found in areas.items()
                for curve, value in zip(CURVES, found[row], strict=False)
            }
            for row, image in enumerate(explained)
        ],
    )


def bin_of(accuracy: float) -> str:
    """The tenth in which the accuracy of a class lies, as in :mod:`lit_decom.functional.strata`."""
    tenth = min(9, int(accuracy * 10 + 1e-5))
    return f"{tenth / 10:.1f}_{(tenth + 1) / 10:.1f}"


def samples(images: list[Row], network: str, where: str, curve: str, methods: list[str]) -> dict[str, np.ndarray]:
    """By method the areas of the images in a bin, in one order; ``every_bin`` has all that are answered right."""
    inside = [
        row
        for row in images
        if row["network"] == network
        and (row["bin"] == where or (where == EVERY_BIN and row["bin"] != "answered_wrong"))
    ]
    areas = {
        (name, method): np.array([row[f"{name}_{method}"] for row in inside], dtype=float)
        for name in CURVES[:2]
        for method in methods
    }
    if curve == "overall":
        return {method: areas["insertion", method] - areas["deletion", method] for method in methods}
    return {method: areas[curve, method] for method in methods}


def places(images: list[Row]) -> list[tuple[str, str]]:
    """Every network with each of its bins, and with all of them together."""
    found = sorted({(row["network"], row["bin"]) for row in images if row["bin"] != "answered_wrong"})
    return found + [(network, EVERY_BIN) for network in dict.fromkeys(network for network, _ in found)]


def table(images: list[Row], methods: list[str]) -> list[Row]:
    """Mean areas per bin and method with intervals, and what DecomCAM has more, image by image."""
    rows = []
    for network, where in places(images):
        for curve in CURVES:
            areas = samples(images, network, where, curve, methods)
            for method in methods:
                more = areas[OWN] - areas[method]
                rows.append(
                    {
                        "network": network,
                        "bin": where,
                        "metric": curve,
                        "method": method,
                        "images": len(more),
                        "value": float(np.nanmean(areas[method])),
                        **ends("value", mean_interval(areas[method])),
                        "decom_cam_more_by": float(np.nanmean(more)),
                        **ends("more_by", mean_interval(more) if method != OWN else (0.0, 0.0)),
                    }
                )
    return rows


def firsts(images: list[Row], methods: list[str]) -> list[Row]:
    """Which method is first by the overall area in each bin: only one whose paired differences all lie above 0."""
    rows = []
    for network, where in places(images):
        areas = samples(images, network, where, "overall", methods)
        lowest = {
            method: min(mean_interval(areas[method] - areas[other])[0] for other in methods if other != method)
            for method in methods
        }
        n = len(areas[OWN])
        leading = [method for method, low in lowest.items() if low > 0]
        unknown = any(np.isnan(low) for low in lowest.values())
        rows.append(
            {
                "network": network,
                "bin": where,
                "images": n,
                "first": leading[0] if leading else "too few" if unknown else "none",
                "highest_mean": max(methods, key=lambda method: float(np.nanmean(areas[method]))),
            }
        )
    return rows


def figure_of(rows: list[Row], methods: list[str]) -> Figure:
    """What DecomCAM has more of the overall area than each other method, per bin, one panel per network."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(3.6 * len(networks), 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(networks)))
    for axes, network in zip(panels, networks, strict=True):
        shown = [row for row in rows if (row["network"], row["metric"]) == (network, "overall")]
        bins = list(dict.fromkeys(row["bin"] for row in shown))
        for number, method in enumerate(methods[1:]):
            of_method = [row for row in shown if row["method"] == method]
            at = [bins.index(row["bin"]) + 0.12 * (number - 1.5) for row in of_method]
            values = np.array([row["decom_cam_more_by"] for row in of_method])
            low, high = (np.array([row[f"more_by_{end}"] for row in of_method]) for end in ("low", "high"))
            spread = np.nan_to_num(np.stack([values - low, high - values]))
            label = method if network == networks[0] else None
            axes.errorbar(at, values, spread, fmt="o", ms=3, lw=1, color=f"C{number}", label=label)
            few = np.isnan(low)
            axes.plot(np.array(at)[few], values[few], "o", ms=6, mfc="none", mec="0.4", mew=0.6)
        axes.axhline(0, color="0.6", lw=0.8)
        axes.set_xticks(range(len(bins)), [name.replace("_", "-", 1) for name in bins], rotation=50, fontsize="small")
        axes.set(title=network, xlabel="accuracy of the class")
    panels[0].set_ylabel("overall area of DecomCAM less that of")
    figure.legend(loc="outside upper center", ncols=len(methods), fontsize="small", frameon=False)
    figure.supxlabel("95 % intervals over images; ringed: fewer than ten images, too few for one", fontsize="x-small")
    return figure


if __name__ == "__main__":
    main()
