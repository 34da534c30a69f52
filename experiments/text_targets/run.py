"""With two animals in one image: does the map of a prompt lie on the animal that it names?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import v2

from experiments.common import mean_interval, read_csv, settings_of, write_csv
from lit_decom import METHODS, DecomCAM, Explainer, Probe, ZeroShotClassifier, shipped_configs
from lit_decom.cli import main as main_of_package
from lit_decom.data import CritterPairs, CrittersDataModule
from lit_decom.data.figure import SPECIES
from lit_decom.functional.chance import center_maps
from lit_decom.functional.image import upsample
from lit_decom.functional.localization import energy_pointing_game
from lit_decom.render import overlay, to_unit
from lit_decom.tasks import ImageTextTask

FOLDER = Path(__file__).parent
SHIPPED = yaml.safe_load(shipped_configs.find("clip_critters.yaml").read_text())["model"]["init_args"]
NAMES = [species.name for species in SPECIES]
SIDES = ("left", "right")
PARTS = ("ears", "eyes", "nose")
IN_COMMON = torch.tensor(
    [[sum(getattr(one, part) == getattr(other, part) for part in PARTS) for other in SPECIES] for one in SPECIES]
)
GROUP = ("seed", "val_acc", "target", "asked", "explanation")
Row = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """Images of two critters, as the network sees them.

    Attributes:
        images: ``(n, 3, H, W)``.
        kinds: ``(n, 2)``, left and right.
        masks: ``(n, 2, H, W)`` bool.
        data: whose normalisation the images have.
    """

    images: Tensor
    kinds: Tensor
    masks: Tensor
    data: CrittersDataModule

    @classmethod
    def draw(cls, data: CrittersDataModule, n: int) -> "Pairs":
        """Draw `n` of them, of the size that fits the critters of `data`."""
        normalised = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean.tolist(), data.std.tolist())]
        )
        pairs = CritterPairs(n, 2 * data.image_size, transform=normalised)
        images, target = default_collate([pairs[index] for index in range(n)])
        return cls(images, target["labels"], torch.as_tensor(target["masks"]), data)

    def probe(self, kinds: Tensor) -> Probe:
        """The images, each with one kind ``(n,)`` as the class that is asked for."""
        return Probe.from_tensors(self.images, kinds, mean=self.data.mean, std=self.data.std)


def main() -> None:
    """Train, explain both prompts of every image, and write tables and the figure."""
    config, output, analyse = settings_of(FOLDER, __doc__ or "")
    if not analyse:
        images: list[Row] = []
        for seed in config.seeds:
            data = CrittersDataModule(
                config.n_train, config.n_val, 8, config.image_size, captions=True, batch_size=64, seed=0
            )
            task, accuracy = network_of(config, data, seed, output / "weights")
            pairs = Pairs.draw(data, config.n_pairs)
            images += [{"seed": seed, "val_acc": accuracy, **row} for row in rows_of(config, task, pairs)]
            # Written after every network, so that a run that is ended leaves those that are done.
            write_csv(output / "images.csv", images)
            if seed == config.seeds[0]:
                examples_of(config, task, pairs).savefig(output / "examples.png", dpi=110)
    rows = results(read_csv(output / "images.csv"))
    write_csv(output / "results.csv", rows)
    figure_of(rows).savefig(output / "figure.png", dpi=110)


def network_of(config: Any, data: CrittersDataModule, seed: int, folder: Path) -> tuple[ImageTextTask, float]:
    """The network that the shipped configuration trains, and its zero-shot accuracy on single critters.

    It is kept in `folder`, and not trained again where it lies there.
    """
    file = folder / f"seed_{seed}_{config.n_train}x{config.epochs}.ckpt"
    if not file.exists():
        words = {
            "seed_everything": seed,
            "trainer.max_epochs": config.epochs,
            "trainer.logger": "false",
            "trainer.enable_progress_bar": "false",
            "trainer.callbacks+": "lightning.pytorch.callbacks.ModelCheckpoint",
            "trainer.callbacks.dirpath": folder,
            "trainer.callbacks.filename": f"{file.stem}_unfinished",  # it is written after every epoch
            "data.init_args.n_train": config.n_train,
            "data.init_args.n_val": config.n_val,
            "callback.every_n_epochs": 1000,  # explaining changes nothing about the training, and takes time
            "callback.report": "false",
        }
        main_of_package(
            ["fit", "--config", "clip_critters.yaml", *(f"--{name}={word}" for name, word in words.items())]
        )
        file.with_stem(f"{file.stem}_unfinished").rename(file)
    task = ImageTextTask.load_from_checkpoint(file, map_location="cpu").eval()
    right = []
    with torch.no_grad():
        for images, target in data.val_dataloader():
            right.append(task(images).argmax(dim=1) == target["label"])
    return task, float(torch.cat(right).float().mean())


def classifiers(task: ImageTextTask) -> dict[str, ZeroShotClassifier]:
    """What is asked: the prompts alone, and the prompts against a background of all of them."""
    templates = SHIPPED["templates"]
    everything = [template.format(name) for template in templates for name in NAMES]
    return {
        "prompt": ZeroShotClassifier.from_image_text(task.model, NAMES, templates),
        "against_background": ZeroShotClassifier.from_image_text(task.model, NAMES, templates, background=everything),
    }


def asked_kinds(kinds: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """What is asked in the name of each animal: its own kind, and two kinds that neither animal is of.

    Args:
        kinds: ``(n, 2)``, left and right, different.
        seed: of the strangers.

    Returns:
        ``(n, 2)`` each. ``"named"``: the kinds themselves. ``"relative"``: a kind that has two of three parts in common
        with that animal and as few as can be with the other; where two or three do, they take turns over the images.
        ``"stranger"``: any kind, another one for each side.
    """
    generator = torch.Generator().manual_seed(seed)
    relatives, strangers = kinds.clone(), kinds.clone()
    for image, pair in enumerate(kinds.tolist()):
        absent = torch.tensor([kind for kind in range(len(SPECIES)) if kind not in pair])
        strangers[image] = absent[torch.randperm(len(absent), generator=generator)[:2]]
        for side in range(2):
            near = absent[IN_COMMON[absent, pair[side]] == len(PARTS) - 1]
            others = IN_COMMON[near, pair[1 - side]]
            nearest = near[others == others.min()]
            relatives[image, side] = nearest[image % len(nearest)]
    return {"named": kinds, "relative": relatives, "stranger": strangers}


def rows_of(config: Any, task: ImageTextTask, pairs: Pairs) -> list[Row]:
    """One row per image, target, kind of prompt and explanation."""
    rows: list[Row] = []
    for target, model in classifiers(task).items():
        with torch.no_grad():
            best = model(pairs.images).topk(2, dim=1).indices.sort(dim=1).values
        both = (best == pairs.kinds.sort(dim=1).values).all(dim=1).tolist()
        for asked, kinds in asked_kinds(pairs.kinds).items():
            maps = [maps_of(config, model, pairs.probe(of_side)) for of_side in kinds.T]
            known = ("center", "uniform") if asked == "named" else ()  # they are the same whatever is asked
            for explanation in ("decom_cam", "grad_cam", *known):
                shares = shares_of(pairs, [found[explanation] for found in maps])
                rows += [
                    {
                        "target": target,
                        "asked": asked,
                        "explanation": explanation,
                        "image": image,
                        "left": NAMES[left],
                        "right": NAMES[right],
                        "parts_differ": len(PARTS) - int(IN_COMMON[left, right]),
                        "both_found": int(both[image]),
                        **{name: float(values[image]) for name, values in shares.items()},
                    }
                    for image, (left, right) in enumerate(pairs.kinds.tolist())
                ]
    return rows


def maps_of(config: Any, model: ZeroShotClassifier, probe: Probe) -> dict[str, Tensor]:
    """Maps ``(n, H, W)`` of each image's prompt, and two that know nothing."""
    size = (probe.images.shape[-2], probe.images.shape[-1])
    own, baseline = [], []
    for piece in Explainer(DecomCAM(n_components=config.n_components), "image_encoder.layer3").pieces(model, probe):
        own.append(upsample(piece.decomposition.cam, size))
        baseline.append(upsample(METHODS["grad_cam"]()(piece.capture), size))
    return {
        "decom_cam": torch.cat(own),
        "grad_cam": torch.cat(baseline),
        "center": center_maps((len(probe), *size)),
        "uniform": torch.ones(len(probe), *size),
    }


def shares_of(pairs: Pairs, maps: list[Tensor]) -> dict[str, Tensor]:
    """Energy of the two prompts' maps on the animal that each names.

    Args:
        pairs: the images.
        maps: of the prompt in the left one's name and of that in the right one's, each ``(n, H, W)``.

    Returns:
        ``named_left`` and ``named_right``, the share on that animal of the energy on both; ``named``, the mean of the
        two, 0.5 for maps that do not depend on the prompt; ``on_named``, the mean share of the energy of the whole
        image. A map without energy on either animal says nothing: 0.5.
    """
    either = pairs.masks.any(dim=1)
    sides = [
        energy_pointing_game(found * either, pairs.masks[:, side]).nan_to_num(0.5) for side, found in enumerate(maps)
    ]
    whole = [energy_pointing_game(found, pairs.masks[:, side]).nan_to_num(0.0) for side, found in enumerate(maps)]
    return {
        "named_left": sides[0],
        "named_right": sides[1],
        "named": (sides[0] + sides[1]) / 2,
        "on_named": (whole[0] + whole[1]) / 2,
    }


def results(images: list[Row]) -> list[Row]:
    """Means over images with their intervals, over all pairs and over some apart."""
    strata = {
        "all": lambda row: True,
        "both_found": lambda row: row["both_found"] == 1,
        "not_both_found": lambda row: row["both_found"] == 0,
        **{f"{n}_parts_differ": lambda row, n=n: row["parts_differ"] == n for n in (1, 2, 3)},
    }
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in images:
        groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
    rows: list[Row] = []
    for group, members in groups.items():
        for stratum, inside in strata.items():
            chosen = [row for row in members if inside(row)]
            known = dict(zip(GROUP, group, strict=True))
            rows.append({**known, "stratum": stratum, "images": len(chosen), **summary_of(chosen)})
    return rows


def summary_of(chosen: list[Row]) -> Row:
    """The named animal's share with its interval, the share of prompts with more than half, and the whole image's."""
    if not chosen:
        return dict.fromkeys(("named", "low", "high", "prompts_right", "on_named"), float("nan"))
    named = np.array([row["named"] for row in chosen])
    low, high = mean_interval(named)
    right = [row[f"named_{side}"] > 0.5 for row in chosen for side in SIDES]
    on_named = np.mean([row["on_named"] for row in chosen])
    return {
        "named": float(named.mean()),
        "low": low,
        "high": high,
        "prompts_right": float(np.mean(right)),
        "on_named": float(on_named),
    }


def figure_of(rows: list[Row]) -> Figure:
    """The named animal's share of the energy on both, with intervals, over pairs apart and over what is asked."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    strata = ("all", "both_found", "1_parts_differ", "2_parts_differ", "3_parts_differ")
    for axes, column, ticks in zip(
        panels, ("stratum", "asked"), (strata, ("named", "relative", "stranger")), strict=True
    ):
        rest = {"stratum": "all", "asked": "named", "target": "against_background"} | {column: None}
        axes.axhline(0.5, color="tab:grey", linewidth=1)
        for explanation, colour, shift in (("decom_cam", "tab:orange", -0.17), ("grad_cam", "tab:blue", 0.17)):
            for row in rows:
                shown = row["explanation"] == explanation and row[column] in ticks
                if not shown or any(value is not None and row[name] != value for name, value in rest.items()):
                    continue
                place = ticks.index(row[column]) + shift + 0.07 * (seeds.index(row["seed"]) - 1)
                spread = [[row["named"] - row["low"]], [row["high"] - row["named"]]]
                label = explanation if (row[column], row["seed"]) == (ticks[0], seeds[0]) else None
                axes.errorbar(place, row["named"], spread, fmt="o", ms=3, color=colour, label=label)
        axes.set_xticks(range(len(ticks)), [name.replace("_", " ") for name in ticks], rotation=25, ha="right")
    panels[0].set(title="asked for the animal's own kind", ylabel="share of the energy\non both animals")
    panels[0].legend(fontsize="small")
    panels[1].set_title("all pairs, by the kind asked for")
    figure.suptitle("energy on the named animal; grey: maps that do not depend on the prompt; one point per seed")
    return figure


def examples_of(config: Any, task: ImageTextTask, pairs: Pairs) -> Figure:
    """The first images with the maps of their two prompts, each against the background."""
    n, data = config.examples, pairs.data
    model = classifiers(task)["against_background"]
    some = Pairs(pairs.images[:n], pairs.kinds[:n], pairs.masks[:n], data)
    pictures = to_unit(some.images, data.mean, data.std)
    tiles = [pictures] + [
        overlay(pictures, maps_of(config, model, some.probe(kinds))["decom_cam"]) for kinds in some.kinds.T
    ]
    figure = Figure(figsize=(2.2 * n, 7), layout="constrained")
    panels = figure.subplots(3, n, squeeze=False)
    for row, images in enumerate(tiles):
        for column, image in enumerate(images):
            axes = panels[row, column]
            axes.imshow(image.permute(1, 2, 0).clamp(0, 1))
            axes.set_axis_off()
            kinds = [NAMES[kind] for kind in some.kinds[column].tolist()]
            axes.set_title(" and ".join(kinds) if row == 0 else f"“{kinds[row - 1]}” ({SIDES[row - 1]})", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
