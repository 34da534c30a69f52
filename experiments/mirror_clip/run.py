"""Does MirrorCLIP make a small CLIP proof against wrong words, and do its maps leave the word?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest
from torch import Tensor, nn

from experiments.common import UNKNOWN, Ends, ends, mean_interval, read_csv, settings_of, write_csv
from experiments.image_text import TEMPLATES, as_seen, trained_image_text
from lit_decom import METHODS, DecomCAM, Explainer, Probe, ZeroShotClassifier, observing
from lit_decom.data import CrittersWithWords
from lit_decom.data.words import Words
from lit_decom.functional.image import upsample
from lit_decom.functional.localization import energy_pointing_game
from lit_decom.models import MirrorCLIP

FOLDER = Path(__file__).parent
Row = dict[str, Any]
SETS: dict[str, tuple[Words, float]] = {
    "no word": ("right", 0.0),
    "right word": ("right", 1.0),
    "wrong word": ("wrong", 1.0),
}
READINGS = ("plain", "visual", "textual")
MIRRORED, AVERAGED = "plain, mirrored", "plain, both views"


def main() -> None:
    """Train the model, ask it and its two readings, explain them, and write tables and the figure."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        networks = readings_of(config, output)
        write_csv(output / "results.csv", list(answers(config, networks)))
        write_csv(output / "maps.csv", list(energies(config, networks)))
    figure_of(read_csv(output / "results.csv"), read_csv(output / "maps.csv")).savefig(output / "figure.png", dpi=110)


def readings_of(config: Any, output: Path) -> dict[str, tuple[nn.Module, str]]:
    """The classifier as it is and both of MirrorCLIP's readings of it, each with the layer that is explained."""
    task = trained_image_text(config.network, output / "weights")
    plain = ZeroShotClassifier.from_image_text(task.model, task.class_names, TEMPLATES)
    mirrors = {name: MirrorCLIP(plain, name, config.layer).eval() for name in ("visual", "textual")}
    return {"plain": (plain, config.layer)} | {name: (found, found.target_layer) for name, found in mirrors.items()}


def images_of(config: Any, name: str, n: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The same critters in every set, but for the word."""
    words, rate = SETS[name]
    size = config.network.image_size
    return as_seen(CrittersWithWords(n, size, seed=config.seed, stream="test", words=words, word_rate=rate))


def answers(config: Any, networks: dict[str, tuple[nn.Module, str]]) -> Iterator[Row]:
    """How often each reading gives the class shown, and the class named, with what it has more than simpler ones.

    Simpler are the plain classifier, and the mean of its logits of an image and of the mirror image: what two views
    gain without any reading of signs.
    """
    for name in SETS:
        images, target = images_of(config, name, config.n_test)
        shown, named = target["label"].numpy(), target["word_label"].numpy()
        logits = {reading: logits_of(networks[reading][0], images) for reading in READINGS}
        # How well a word is read in the mirror decides whether the method can work.
        logits[MIRRORED] = logits_of(networks["plain"][0], images.flip(-1))
        logits[AVERAGED] = (logits["plain"] + logits[MIRRORED]) / 2
        found = {reading: values.argmax(dim=1).numpy() for reading, values in logits.items()}
        for reading, answer in found.items():
            for quantity, right in (("class shown", shown), ("class named", named)):
                if quantity == "class named" and name != "wrong word":
                    continue
                hits = (answer == right).astype(float)
                yield {
                    "images": name,
                    "reading": reading,
                    "answers with the": quantity,
                    "n": len(hits),
                    "share": float(hits.mean()),
                    **ends("share", share_interval(hits)),
                    **more_than("plain", hits, found["plain"] == right),
                    **more_than("both_views", hits, found[AVERAGED] == right),
                }


def more_than(name: str, hits: np.ndarray, others: np.ndarray) -> Row:
    """What is right more often than by a simpler way, image by image, with its interval."""
    more = hits - others.astype(float)
    interval = mean_interval(more) if more.any() else UNKNOWN
    return {f"more_than_{name}": float(more.mean()), **ends(f"more_than_{name}", interval)}


def share_interval(hits: np.ndarray) -> Ends:
    """95 % interval (Wilson) of a share."""
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """What a network says of each class, ``(n, N)``."""
    with observing(network), torch.no_grad():
        return torch.cat([network(part) for part in torch.split(images, 100)])


def energies(config: Any, networks: dict[str, tuple[nn.Module, str]]) -> Iterator[Row]:
    """Where the maps of each reading are, for the class shown and the class named, and what the plain one has not."""
    for name in ("right word", "wrong word"):
        images, target = images_of(config, name, config.n_explained)
        places = {"animal": target["masks"][:, 0], "word": target["word"][:, 0]}
        for asked in ("label", "word_label")[: 1 if name == "right word" else 2]:
            maps = {
                (reading, method): found
                for reading in READINGS
                for method, found in maps_of(config, *networks[reading], images, target[asked]).items()
            }
            for (reading, method), found in maps.items():
                for place, masks in places.items():
                    energy = energy_pointing_game(found, masks).double().numpy()
                    before = energy_pointing_game(maps["plain", method], masks).double().numpy()
                    yield {
                        "images": name,
                        "explained": "class shown" if asked == "label" else "class named",
                        "method": method,
                        "reading": reading,
                        "energy on the": place,
                        "area": float(masks.float().mean()),
                        "n": int((~np.isnan(energy)).sum()),
                        "energy": float(np.nanmean(energy)) if (~np.isnan(energy)).any() else float("nan"),
                        **ends("energy", mean_interval(energy)),
                        "more_than_plain": float(np.nanmean(energy - before)),
                        **ends("more", mean_interval(energy - before) if reading != "plain" else UNKNOWN),
                    }


def maps_of(config: Any, network: nn.Module, layer: str, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Maps ``(n, H, W)`` of both methods on the same evidence."""
    method, grad_cam = DecomCAM(n_components=config.n_components), METHODS["grad_cam"]()
    found: dict[str, list[Tensor]] = {"decom_cam": [], "grad_cam": []}
    probe = Probe.from_tensors(images, targets, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))
    for piece in Explainer(method, layer).pieces(network, probe):
        found["decom_cam"].append(piece.decomposition.cam)
        found["grad_cam"].append(grad_cam(piece.capture))
    size = (images.shape[2], images.shape[3])
    return {name: upsample(torch.cat(parts), size) for name, parts in found.items()}


def figure_of(results: list[Row], maps: list[Row]) -> Figure:
    """Answers on every set, and where DecomCAM's maps are on images with wrong words."""
    figure = Figure(figsize=(11, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"plain": "tab:grey", "visual": "tab:green", "textual": "tab:purple"} | {
        MIRRORED: "tab:olive",
        AVERAGED: "tab:cyan",
    }
    groups = [(name, "class shown") for name in SETS] + [("wrong word", "class named")]
    for row in results:
        offset = 0.16 * (list(colours).index(row["reading"]) - 2)
        place = groups.index((row["images"], row["answers with the"])) + offset
        label = row["reading"] if row["images"] == "no word" else None
        left.bar(place, row["share"], 0.14, color=colours[row["reading"]], label=label)
        left.plot([place, place], [row["share_low"], row["share_high"]], color="black", lw=1)
    left.axhline(1 / 8, color="black", lw=0.8, ls=":")
    left.set_xticks(range(len(groups)), [f"{name}:\n{what}" for name, what in groups], fontsize="small")
    left.set(ylabel="share of answers", ylim=(0, 1), title="zero-shot answers (dotted: chance)")
    figure.legend(loc="outside lower left", ncols=len(colours), fontsize="small")
    panels = [(what, place) for what in ("class shown", "class named") for place in ("animal", "word")]
    for row in maps:
        if (row["images"], row["method"]) != ("wrong word", "decom_cam"):
            continue
        group = panels.index((row["explained"], row["energy on the"]))
        place = group + 0.25 * (READINGS.index(row["reading"]) - 1)
        right.bar(place, row["energy"], 0.22, color=colours[row["reading"]])
        right.plot([place, place], [row["energy_low"], row["energy_high"]], color="black", lw=1)
        right.plot([group - 0.4, group + 0.4], [row["area"]] * 2, color="black", lw=0.8, ls=":")
    right.set_xticks(range(len(panels)), [f"{what}:\non the {place}" for what, place in panels], fontsize="small")
    right.set(ylabel="share of the map's energy", title="wrong words, DecomCAM (dotted: share of the area)")
    return figure


if __name__ == "__main__":
    main()
