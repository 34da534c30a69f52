"""Promise 1 for the networks that are fine-tuned today: a ViT, a Swin, and both towers of CLIP, small and seeded."""

import pytest
import timm
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn

from tests.helpers.modules import CLASSES, SIDE, Wrapped, callback, seed_all
from tests.helpers.training import assert_same, train


class FineTuned(Wrapped):
    """Trains a network by AdamW with a schedule and weights of which some are frozen."""

    def __init__(self, net, frozen):
        super().__init__(net)
        net.get_submodule(frozen).requires_grad_(requires_grad=False)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW([weight for weight in self.parameters() if weight.requires_grad], lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)]


class ZeroShot(nn.Module):
    """CLIP as a classifier of four prompts; fine-tuning moves both towers and the temperature."""

    def __init__(self):
        super().__init__()
        vision = CLIPVisionCfg(layers=3, width=48, head_width=16, patch_size=8, image_size=SIDE)
        text = CLIPTextCfg(context_length=6, vocab_size=32, width=24, heads=2, layers=1)
        self.clip = CLIP(16, vision, text)
        self.register_buffer("prompts", torch.arange(6 * len(CLASSES)).view(len(CLASSES), 6) % 31)

    def forward(self, images):
        towards, prompts, scale = self.clip(images, self.prompts)
        return scale * towards @ prompts.T


def vit():
    options = {"embed_dim": 48, "depth": 3, "num_heads": 3, "img_size": SIDE, "patch_size": 8}
    dropping = {"drop_rate": 0.1, "drop_path_rate": 0.1, "proj_drop_rate": 0.1}
    net = timm.create_model("vit_tiny_patch16_224", num_classes=len(CLASSES), **options, **dropping)
    return FineTuned(net, "patch_embed")


def swin():
    stages = {"embed_dim": 24, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
    sizes = {"img_size": SIDE, "patch_size": 2, "drop_path_rate": 0.1, "num_classes": len(CLASSES)}
    return FineTuned(timm.create_model("swin_tiny_patch4_window7_224", **stages, **sizes), "patch_embed")


def clip():
    return FineTuned(ZeroShot(), "clip.visual.conv1")


def built(network):
    seed_all(0)
    return network()


LAYERS = {vit: "net.blocks.1", swin: "net.layers.1", clip: "net.clip.visual.transformer.resblocks.1"}


@pytest.mark.slow
@pytest.mark.parametrize("sought", [False, True], ids=["layer named", "layer sought"])
@pytest.mark.parametrize("network", LAYERS)
def test_fine_tuning_is_bit_identical_with_the_callback(tmp_path, network, sought):
    observer = callback(target_layer=None if sought else LAYERS[network], metrics="default")
    watched = train(tmp_path / "watched", observer, module=built(network))
    alone = train(tmp_path / "alone", module=built(network))
    assert len(observer.run_log.history) == 3
    assert observer.errors == 0
    assert observer.last_snapshot.decomposition.valid.any()
    assert_same(watched, alone)
    # The comparison sees what it must: weights moved, and what was frozen stayed.
    assert len({page["weights"] for page in alone}) > 3


@pytest.mark.parametrize("network", LAYERS)
def test_one_epoch_of_fine_tuning_is_bit_identical_with_the_callback(tmp_path, network):
    arguments = {"max_epochs": 1, "accumulate_grad_batches": 2}
    watched = train(tmp_path / "watched", callback(target_layer=LAYERS[network]), module=built(network), **arguments)
    assert_same(watched, train(tmp_path / "alone", module=built(network), **arguments))
