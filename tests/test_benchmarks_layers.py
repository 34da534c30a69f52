"""Over families of architectures: all influence passes through the layer found, and its map lies as the image does."""

import pytest
import torch
from torch import nn

from benchmarks import layers
from benchmarks.families import FAMILIES
from tests.helpers.networks import SmallCNN, noise_images, seeded

# At 64 pixels, where side branches have a grid fine enough and the last stages have not.
SAMPLE = {
    "torchvision resnet18": "layer2",
    "torchvision shufflenet_v2_x0_5": "stage2",
    "torchvision squeezenet1_1": "features.7",
    "torchvision googlenet": "inception3b",
    "torchvision mobilenet_v2": "features.6",
    "timm resnet26": "layer2",  # the last BatchNorm of each block begins at 0
    "timm vit_tiny_patch16_224": "blocks.10",
}
# Sizes that an architecture needs, where it does not take images of 96 x 128.
NEEDS = {
    "torchvision inception_v3": (160, 160),
    "torchvision vit_b_16": (64, 64),
    "torchvision maxvit_t": (224, 224),
    "timm inception_v4": (160, 160),
    "timm swin_tiny_patch4_window7_224": (96, 96),
    "timm pit_ti_224": (224, 224),
    "timm cait_xxs24_224": (96, 96),
    "timm volo_d1_224": (96, 96),
    "timm levit_128s": (224, 224),
    "transformers Swin": (224, 224),
    "transformers Levit": (224, 224),
    "transformers CLIP tower": (96, 96),
}
# Between its stages attention alone brings tokens on, and before a training it brings each the mean of all.
PLACELESS = ("timm levit_128s", "transformers Levit")


def check(family, size):
    found = layers.measure(family, size)
    assert found.again == found.layer
    assert found.beside < 1e-3
    assert found.seconds < 10
    if family not in PLACELESS:
        assert found.placed is not None
        assert found.placed >= 8
    return found.layer


@pytest.mark.parametrize("family", SAMPLE)
def test_all_influence_passes_through_the_layer_found_and_it_tells_where(family):
    assert check(family, (64, 64)) == SAMPLE[family]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_so_it_is_in_every_family(family):
    check(family, NEEDS.get(family, (96, 128)))


def test_what_passes_by_a_branch_is_noticed():
    class Branched(SmallCNN):
        def __init__(self):
            super().__init__()
            self.branch = nn.Conv2d(3, 12, 1)

        def forward(self, images):
            return super().forward(images) + self.head(self.branch(images).mean(dim=(2, 3)))

    images = noise_images(2)
    assert layers.passing_by(seeded(SmallCNN()), "stage1", images) < 1e-5
    assert layers.passing_by(seeded(Branched()), "stage1", images) > 0.1


def test_a_map_that_lies_elsewhere_is_noticed():
    class Turned(SmallCNN):
        def __init__(self):
            super().__init__()
            self.stage2.append(Turn())

    class Turn(nn.Module):
        def forward(self, features):
            return features.mT

    images = noise_images()
    assert layers.places_found(seeded(SmallCNN()), "stage2", images) == 9
    assert layers.places_found(seeded(Turned()), "stage2", images) <= 5


def test_the_command_prints_a_row_for_each_size(capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _n: None)
    layers.main(["--only", "timm mobilenetv3", "--size", "64", "64", "--size", "0", "64"])
    printed = capsys.readouterr().out
    assert "blocks.1" in printed
    assert "| takes no such image: " in printed
    assert "- 1 of 1 have the same layer" in printed
