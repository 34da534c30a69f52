"""Are the names right that an image-text model gives to parts, components and decision factors?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from experiments.common import UNKNOWN, ends, mean_interval, read_csv, settings_of, write_csv
from experiments.image_text import TEMPLATES, as_seen, trained_image_text
from lit_decom import DecomCAM, Explainer, Probe, ZeroShotClassifier, observing
from lit_decom.components.factors import FollowedFactors
from lit_decom.concepts import ConceptTree, Name, Namer, PartClassifiers
from lit_decom.concepts.naming import region_of
from lit_decom.data import Critters
from lit_decom.data.figure import PART_NAMES, SPECIES
from lit_decom.models import ImageTextModel

FOLDER = Path(__file__).parent
EXACT, ELSEWHERE = "exact part", "its place in another image"
Row = dict[str, Any]


def main() -> None:
    """Train the model, name what is known, and write tables and the figure."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        task = trained_image_text(config.network, output / "weights")
        write_csv(output / "votes.csv", list(votes(config, task.model)))
        write_csv(output / "factors.csv", factors(config, task.model, task.class_names))
        write_csv(output / "names.csv", list(names(config, task.model, task.class_names)))
    named = read_csv(output / "names.csv")
    write_csv(output / "results.csv", [row for what, rows in kinds(named).items() for row in accuracy(what, rows)])
    figure_of(read_csv(output / "results.csv")).savefig(output / "figure.png", dpi=110)


def namer_of(model: ImageTextModel) -> Namer:
    """What gives names, from the critters' own tree."""
    tree = ConceptTree.load("critters")
    return Namer(ZeroShotClassifier.from_image_text(model, tree.texts, ["{}"]), tree)


def critters_of(config: Any, stream: str, n: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Critters without words, none of which the model learnt from."""
    return as_seen(Critters(n, config.network.image_size, config.seed, stream))


def votes(config: Any, model: ImageTextModel) -> Iterator[Row]:
    """How many images the classifiers of parts get right, alone and together, beside asking for the class itself."""
    namer = namer_of(model)
    classes = ZeroShotClassifier.from_image_text(model, list(namer.tree.classes), TEMPLATES)
    sets = {name: critters_of(config, name, config[f"n_{name}"]) for name in ("fit", "test")}
    with observing(namer.scorer), torch.no_grad():
        scores = {name: namer.scorer(images) for name, (images, _) in sets.items()}
        asked = classes(sets["test"][0]).argmax(dim=1)
    found = PartClassifiers.fit(namer.tree, scores["fit"], sets["fit"][1]["label"])
    answers = {"soft vote": found.predict(scores["test"]), "hard vote": found.predict(scores["test"], "hard")}
    answers |= {part: found.votes(scores["test"])[:, row].argmax(dim=1) for row, part in enumerate(namer.tree.parts)}
    for name, answer in (answers | {"asked for the class": asked}).items():
        hits = (answer == sets["test"][1]["label"]).double().numpy()
        yield {"by": name, "n": len(hits), "share_right": float(hits.mean()), **ends("right", mean_interval(hits))}


def names(config: Any, model: ImageTextModel, class_names: list[str]) -> Iterator[Row]:
    """The name of every part of every image, of its place in another image, and of every component.

    With each goes what it really is; in another image that is the part that lends its place and shape.
    """
    namer = namer_of(model)
    images, target = critters_of(config, "named", config.n_named)
    for k, part in enumerate(PART_NAMES[: len(namer.tree.parts)]):
        # The pixel around a part tells its outline.
        masks = F.max_pool2d(target["parts"][:, k].float()[:, None], 3, 1, 1)[:, 0] > 0
        for image in range(len(images)):
            yield row_of(EXACT, namer, images, masks, target, image, part)
            # The same place and shape, and other pixels in it.
            yield row_of(ELSEWHERE, namer, images.roll(1, 0), masks, target, image, part)
    classifier = ZeroShotClassifier.from_image_text(model, class_names, TEMPLATES)
    probe = Probe.from_tensors(images, target["label"])
    explainer = Explainer(DecomCAM(n_components=config.n_components), config.layer, batch_size=len(images))
    (piece,) = explainer.pieces(classifier, probe)
    for rank in range(config.n_components):
        regions = region_of(piece.decomposition.ossms[:, rank], (images.shape[2], images.shape[3]))
        for image in range(len(images)):
            part = part_of(regions[image], target["parts"][image], config.least_iou)
            yield row_of(f"component {rank + 1}", namer, images, regions, target, image, part)


def row_of(  # noqa: PLR0917
    what: str, namer: Namer, images: Tensor, regions: Tensor, target: dict[str, Tensor], image: int, part: str
) -> Row:
    """Name one region of one image."""
    name = namer.name(images[image : image + 1], regions[image : image + 1])
    species = SPECIES[int(target["label"][image])].name
    given = name is not None and name.given
    return {
        "what": what,
        "image": image,
        "is": part,
        "given": int(given),
        "named": name.concept.part if name else "",
        "words": name.concept.words if name else "",
        "confidence": name.confidence if name else float("nan"),
        "true_of_the_class": int(name is not None and namer.tree.holds(species, name.concept)),
    }


def part_of(region: Tensor, parts: Tensor, least: float) -> str:
    """Which part a region is, by the largest intersection over union; "none" below the least that counts."""
    iou = (region & parts).sum(dim=(1, 2)) / (region | parts).sum(dim=(1, 2)).clamp(min=1)
    best = int(iou.argmax())
    return PART_NAMES[best] if iou[best] >= least else "none"


def kinds(named: list[Row]) -> dict[str, list[Row]]:
    """The rows of each kind of thing that was named, components also all together."""
    found = {
        what: [row for row in named if row["what"] == what] for what in dict.fromkeys(row["what"] for row in named)
    }
    return found | {"every component": [row for row in named if row["what"] not in (EXACT, ELSEWHERE)]}


def accuracy(what: str, known: list[Row]) -> Iterator[Row]:
    """How often the part is right, by those that got a name and by the best guess of all, beside chance.

    Chance is that the same names, dealt out anew among the same things, are right: the sum over parts of the share that
    is called so and the share that is so. Intervals are over images.
    """
    for group in ("named", "all"):
        rows = [row for row in known if row["named"] and (row["given"] or group == "all")]
        if not rows:
            continue
        right = np.array([row["named"] == row["is"] for row in rows], dtype=float)
        called = {part: np.mean([row["named"] == part for row in rows]) for part in {row["named"] for row in rows}}
        # A name that is right is worth what it is more than the share of things that are called so by chance.
        by_chance = np.array([called.get(row["is"], 0.0) for row in rows])
        true = [row["true_of_the_class"] for row, hit in zip(rows, right, strict=True) if hit]
        yield {
            "what": what,
            "group": group,
            "n": len(rows),
            "share_of_all": len(rows) / len(known),
            "part_right": float(right.mean()),
            "chance": float(by_chance.mean()),
            "more_than_chance": float((right - by_chance).mean()),
            **ends("more", over_images(rows, right - by_chance)),
            "words_right_where_part_is": float(np.mean(true)) if true else float("nan"),
        }


def over_images(rows: list[Row], values: np.ndarray) -> tuple[float, float]:
    """The interval of a mean over images, each with the mean of what is known of it."""
    images = np.array([row["image"] for row in rows])
    means = np.array([values[images == image].mean() for image in np.unique(images)])
    return mean_interval(means) if len(means) > 1 and np.ptp(means) > 0 else UNKNOWN


def factors(config: Any, model: ImageTextModel, class_names: list[str]) -> list[Row]:
    """The name of both sides of every decision factor, with the part that its code tells apart."""
    images, target = critters_of(config, "probe", config.n_probe)
    probe = Probe.from_tensors(images, target["label"])
    explainer = Explainer(DecomCAM(n_components=config.n_components), config.layer, batch_size=len(images))
    classifier = ZeroShotClassifier.from_image_text(model, class_names, TEMPLATES)
    follow = FollowedFactors()
    for piece in explainer.pieces(classifier, probe):
        follow.add(piece.capture)
    found = follow.finish((images.shape[2], images.shape[3]), step=0)
    if found is None:
        raise ValueError("Expected the network to have finite evidence, but found none.")
    named = namer_of(model).name_factors(images, found.factors.scores, found.maps, states=found.factors.states)
    states = " ".join(found.factors.states) or "none"
    return [
        {"factor": j + 1, "states": states, "share": float(found.factors.shares[j])}
        | tells(found.factors.codes[:, j])
        | {"high": words_of(high), "low": words_of(low)}
        for j, (high, low) in enumerate(named)
    ]


def tells(code: Tensor) -> Row:
    """Which part a code tells apart: the largest share of its variance that one part's two forms explain."""
    centred = code.double() - code.double().mean()
    found = {}
    for part in ("ears", "eyes", "nose"):
        forms = [getattr(species, part) for species in SPECIES]
        side = torch.tensor([1.0 if form == forms[0] else -1.0 for form in forms], dtype=torch.float64)
        found[part] = float((centred @ side) ** 2 / (side @ side) / (centred @ centred)), float(centred @ side), forms
    part = max(found, key=lambda name: found[name][0])
    share, sign, forms = found[part]
    other = next(form for form in forms if form != forms[0])
    high, low = (forms[0], other) if sign > 0 else (other, forms[0])
    return {"tells": part, "share_of_code": share, "truly_high": high, "truly_low": low}


def words_of(name: Name | None) -> str:
    """A name with its confidence, or that there is none."""
    return "no name" if name is None else str(name)


def figure_of(rows: list[Row]) -> Figure:
    """How often the part is right, beside chance."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    whats = list(dict.fromkeys(row["what"] for row in rows))
    for row in rows:
        place = whats.index(row["what"]) + (-0.18 if row["group"] == "named" else 0.18)
        colour = "tab:green" if row["group"] == "named" else "tab:grey"
        axes.bar(place, row["part_right"], 0.34, color=colour)
        low, high = row["chance"] + row["more_low"], row["chance"] + row["more_high"]
        axes.plot([place, place], [low, high], color="black", lw=1)
        axes.plot([place - 0.17, place + 0.17], [row["chance"]] * 2, color="black", ls=":")
        axes.text(place, 0.02, str(row["n"]), ha="center", fontsize="small")
    axes.set_xticks(range(len(whats)), [what.replace(" in ", "\nin ") for what in whats])
    axes.set(ylabel="share whose part is right", ylim=(0, 1))
    axes.set_title("green: names given, grey: best guess of all; dotted: chance; numbers of regions", fontsize="small")
    return figure


if __name__ == "__main__":
    main()
