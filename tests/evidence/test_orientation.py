"""Maps of real architectures with seeded weights: what changes most when a patch is covered lies at that patch.

Nothing pretrained is needed: at every network's start each token still says most about its own patch.
"""

import pytest
import timm
import torch
import torchvision
import transformers
from open_clip.transformer import VisionTransformer
from torch import nn

from benchmarks.layers import places_found, smooth_images
from lit_decom import capture


class OpenClip(nn.Module):
    """The image tower of open_clip with a linear head."""

    def __init__(self, size, patch):
        super().__init__()
        self.visual = VisionTransformer(size, patch, 48, 3, 3, 2.0, output_dim=16)
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        return self.head(self.visual(images))


def from_timm(name, **options):
    return lambda: timm.create_model(name, num_classes=10, **options)


def hugging_face(name, **options):
    def build():
        config = getattr(transformers, f"{name}Config")(num_labels=10, **options)
        return getattr(transformers, f"{name}ForImageClassification")(config)

    return build


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


TOKENS = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
SMALL_VIT = {"embed_dim": 48, "depth": 3, "num_heads": 3}


# What builds the network, the layer, the images' size, and the grid there.
FAST = {
    "vit, filled up": (
        from_timm("vit_tiny_patch16_224", dynamic_img_size=True, dynamic_img_pad=True, **SMALL_VIT),
        "blocks.1",
        (100, 84),
        (7, 6),
    ),
    "vit, border left out": (
        from_timm("vit_tiny_patch16_224", img_size=(121, 90), **SMALL_VIT),
        "blocks.1",
        (121, 90),
        (7, 5),
    ),
    "hf vit": (
        hugging_face("ViT", image_size=(97, 120), patch_size=16, **TOKENS),
        ("layers.1", "layer.1"),  # now, and in transformers 5.0
        (97, 120),
        (6, 7),
    ),
    "open_clip": (lambda: OpenClip((112, 84), 14), "visual.transformer.resblocks.1", (112, 84), (8, 6)),
}


# Slow together: every way in which the libraries arrange tokens. Layers are ends of blocks before the last one, where a
# class token that is read alone would leave no gradient.
ALL = {
    "vit with registers": (
        from_timm("vit_small_patch16_dinov3", dynamic_img_size=True, **SMALL_VIT),
        "blocks.1",
        (96, 160),
        (6, 10),
    ),
    "vit without class token": (
        from_timm("vit_base_patch16_clip_224", img_size=100, class_token=False, global_pool="avg", **SMALL_VIT),
        "blocks.1",
        (100, 100),
        (6, 6),
    ),
    "deit distilled": (
        from_timm("deit_tiny_distilled_patch16_224", img_size=(84, 116), **SMALL_VIT),
        "blocks.1",
        (84, 116),
        (5, 7),
    ),
    "beit": (from_timm("beit_base_patch16_224", img_size=100, **SMALL_VIT), "blocks.1", (100, 100), (6, 6)),
    "cait": (from_timm("cait_xxs24_224", img_size=100, depth=3), "blocks.2", (100, 100), (6, 6)),
    "xcit": (from_timm("xcit_nano_12_p8_224", img_size=(96, 128), depth=2), "blocks.1", (96, 128), (12, 16)),
    "pit, last level": (from_timm("pit_ti_distilled_224"), "transformers.2.blocks.0", (224, 224), (7, 7)),
    "pit, first level": (from_timm("pit_ti_224"), "transformers.0.blocks.1", (224, 224), (27, 27)),
    "levit, first stage": (from_timm("levit_128s"), "stages.0", (224, 224), (14, 14)),
    "hiera, first stage": (from_timm("hiera_tiny_224", img_size=(128, 96)), "blocks.0", (128, 96), (32, 24)),
    "hiera, third stage": (from_timm("hiera_tiny_224", img_size=(128, 96)), "blocks.4", (128, 96), (8, 6)),
    "swin": (from_timm("swin_tiny_patch4_window7_224", img_size=(96, 160)), "layers.1", (96, 160), (12, 20)),
    "swin v2": (from_timm("swinv2_tiny_window8_256", img_size=(96, 160)), "layers.1", (96, 160), (12, 20)),
    "mixer": (from_timm("mixer_s32_224", img_size=(100, 130)), "blocks.1", (100, 130), (3, 4)),
    "crossvit, large patches": (from_timm("crossvit_tiny_240"), "blocks.0.blocks.1.0", (240, 240), (14, 14)),
    "mvit": (from_timm("mvitv2_tiny"), "stages.2.blocks.1", (224, 224), (14, 14)),
    "nest": (from_timm("nest_tiny"), "levels.1", (224, 224), (28, 28)),
    "convnext": (from_timm("convnext_atto"), "stages.2", (100, 140), (6, 8)),
    "hf deit": (hugging_face("DeiT", image_size=(84, 116), patch_size=16, **TOKENS), "layers.1", (84, 116), (5, 7)),
    "hf dinov2 with registers": (
        hugging_face("Dinov2WithRegisters", image_size=98, patch_size=14, num_register_tokens=4, **TOKENS),
        "layer.1",
        (98, 98),
        (7, 7),
    ),
    "hf swin, second stage": (
        hugging_face("Swin", image_size=100, embed_dim=24, depths=(2, 2, 2), num_heads=(1, 2, 3), window_size=5),
        "layers.1.blocks.1",
        (100, 100),
        (13, 13),
    ),
    "hf levit, first stage": (hugging_face("Levit"), "stages.0.layers.1", (224, 224), (14, 14)),
    "hf pvt v2": (hugging_face("PvtV2"), "encoder.layers.1.blocks.1", (96, 160), (12, 20)),
    "hf hiera, second stage": (
        hugging_face("Hiera", image_size=(128, 96), embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
        "stages.1",
        (128, 96),
        (16, 12),
    ),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(96, 16, 3, 3, 48, 96, num_classes=10),
        "encoder.layers.encoder_layer_1",
        (96, 96),
        (6, 6),
    ),
    "torchvision swin": (lambda: torchvision.models.swin_t(num_classes=10), "features.3", (96, 160), (12, 20)),
}


def check(build, layer, size, grid):
    network, images = seeded(build), smooth_images(4, size)
    if isinstance(layer, tuple):
        layer = next(one for one in layer if any(name.endswith(f".{one}") for name, _ in network.named_modules()))
    assert tuple(capture(network, layer, images[:1], 0).activations.shape[-2:]) == grid
    assert places_found(network, layer, images) >= 8


@pytest.mark.parametrize("case", FAST)
def test_what_changes_most_lies_at_the_covered_patch(case):
    check(*FAST[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL)
def test_what_changes_most_lies_at_the_covered_patch_in_every_family(case):
    check(*ALL[case])
