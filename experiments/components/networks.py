"""The networks whose components are compared: trained once, with the weights of every epoch kept on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer
from torchvision.transforms import v2

from experiments.common import trained
from lit_decom.data import Critters, CrittersDataModule
from lit_decom.data.base import Split
from lit_decom.data.figure import SPECIES
from lit_decom.tasks import ClassificationTask


class SomeSpecies(CrittersDataModule):
    """Critters of a few species, labelled 0, 1, ... in the order given.

    Args:
        species: which of the eight, by number.
        args: of :class:`lit_decom.data.CrittersDataModule`.
    """

    def __init__(self, species: list[int], **args: Any) -> None:
        super().__init__(**args)
        self.species = species

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the species, in the order of the labels."""
        return tuple(SPECIES[kind].name for kind in self.species)

    def make_dataset(self, split: Split, transform: v2.Transform) -> Critters:
        """Draw every species equally often and label it by its place among those given."""
        return relabelled(
            Critters(
                self.sizes[split],
                self.image_size,
                self.seed,
                stream=split,
                class_proportions=[float(kind in self.species) for kind in range(len(SPECIES))],
                transform=transform,
                annotations=split != "train",
            ),
            self.species,
        )


def relabelled(dataset: Critters, species: list[int]) -> Critters:
    """Label each image by the place of its species among those given; the dataset is changed and returned."""
    dataset.targets = torch.tensor([species.index(kind) for kind in dataset.true_targets.tolist()])
    dataset.classes = tuple(SPECIES[kind].name for kind in species)
    return dataset


class KeepWeights(pl.Callback):
    """Writes the network's weights before the first step and after every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what training starts from, as epoch 0."""
        self._keep(pl_module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was learnt so far."""
        self._keep(pl_module, trainer.current_epoch + 1)

    def _keep(self, pl_module: pl.LightningModule, epoch: int) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"epoch_{epoch:02d}.pt")


def data_of(config: Any, spec: Any) -> CrittersDataModule:
    """What a network of the configuration learns from."""
    sizes = {"n_train": config.n_train, "n_val": config.n_val, "n_test": config.n_test}
    args = {**sizes, "image_size": config.image_size, "seed": config.data_seed}
    return SomeSpecies(list(spec.species), **args) if "species" in spec else CrittersDataModule(**args)


def network_of(spec: Any, num_classes: int, image_size: int) -> str | nn.Module:
    """The name of a network, or the vision transformer with a convolutional stem that torchvision has no name for."""
    if spec.model != "vision_transformer":
        return str(spec.model)
    stem = [ConvStemConfig(out_channels=channels, kernel_size=3, stride=2) for channels in spec.stem]
    return VisionTransformer(
        image_size=image_size,
        patch_size=2 ** len(stem),
        num_layers=spec.depth,
        num_heads=spec.heads,
        hidden_dim=spec.width,
        mlp_dim=2 * spec.width,
        num_classes=num_classes,
        conv_stem_configs=stem,
    )


def train(config: Any, name: str, folder: Path) -> None:
    """Train one network of the configuration, unless its last weights are there.

    Args:
        config: of the experiment.
        name: of the network in it.
        folder: where the weights of its epochs go.
    """
    spec = config.networks[name]
    if (folder / f"epoch_{spec.epochs:02d}.pt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = data_of(config, spec)
    pl.seed_everything(spec.seed, verbose=False)
    trained(
        data,
        epochs=spec.epochs,
        lr=spec.lr,
        seed=spec.seed,
        model=network_of(spec, data.num_classes, config.image_size),
        model_args=spec.get("model_args"),
        callbacks=[KeepWeights(folder)],
    )


def epochs_of(config: Any, name: str, folder: Path) -> Iterator[tuple[int, ClassificationTask]]:
    """Every kept epoch of a network with its task, in evaluation mode; epoch 0 is before training.

    Yields:
        One task again and again, with other weights each time.
    """
    spec = config.networks[name]
    data = data_of(config, spec)
    network = network_of(spec, data.num_classes, config.image_size)
    task = ClassificationTask(network, data.num_classes, dict(spec.get("model_args") or {}))
    for epoch in range(spec.epochs + 1):
        task.load_state_dict(torch.load(folder / f"epoch_{epoch:02d}.pt", weights_only=True))
        yield epoch, task.eval()
