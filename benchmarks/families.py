"""Architectures of torchvision, timm and Hugging Face, one small one of each family, with seeded weights."""

from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from lit_decom.isolation import isolated_random_state

Size = tuple[int, int]

TORCHVISION = (
    *("resnet18", "resnet50", "resnext50_32x4d", "regnet_y_400mf", "shufflenet_v2_x0_5", "densenet121"),
    *("efficientnet_b0", "convnext_tiny", "mobilenet_v2", "mobilenet_v3_small", "inception_v3", "googlenet"),
    *("squeezenet1_1", "vgg11", "vit_b_16", "swin_t", "maxvit_t"),
)
TIMM = (
    *("resnet26", "resnext26ts", "regnetx_002", "resnetv2_18", "nfnet_l0", "hrnet_w18_small", "densenet121"),
    *("efficientnet_b0", "convnext_atto", "mobilenetv3_small_050", "inception_v4", "vgg11", "vit_tiny_patch16_224"),
    *("deit3_small_patch16_224", "deit_tiny_distilled_patch16_224", "cait_xxs24_224", "xcit_nano_12_p16_224"),
    *("pit_ti_224", "levit_128s", "hiera_tiny_224", "swin_tiny_patch4_window7_224", "poolformer_s12", "volo_d1_224"),
    *("maxvit_rmlp_pico_rw_256", "mixer_s32_224", "coat_lite_tiny", "edgenext_xx_small", "mobilevit_xxs", "dla34"),
    *("repvgg_a0", "xception41", "eva02_tiny_patch14_224", "vit_small_patch14_reg4_dinov2", "mambaout_femto"),
)
_NARROW: dict[str, Any] = {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 192}
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "ViT": {"patch_size": 16, **_NARROW},
    # The default of 0.02 shrinks what an image does below the smallest number of float32.
    "EfficientNet": {
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 1280,
        "initializer_range": 0.2,
    },
    "Swin": {"embed_dim": 24},
    "ConvNext": {"hidden_sizes": [24, 48, 96, 192]},
    "Dinov2": {"patch_size": 14, "hidden_size": 96, "num_attention_heads": 3},
    "ResNet": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [32, 64, 128, 256]},
    "PoolFormer": {},
    "Levit": {},
    "MobileNetV2": {"initializer_range": 0.2},
}


class ClipTower(nn.Module):
    """The image tower of a CLIP model of Hugging Face, with a linear head on what it makes of an image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        config = transformers.CLIPVisionConfig(image_size=size, patch_size=16, projection_dim=32, **_NARROW)
        self.tower = transformers.CLIPVisionModelWithProjection(config)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, 10)`` of images ``(B, 3, H, W)``."""
        logits: Tensor = self.head(self.tower(images).image_embeds)
        return logits


def _of_torchvision(name: str, size: Size) -> nn.Module:
    sized = {"vit_b_16": {"image_size": size[0]}, "maxvit_t": {"input_size": size}}
    if name == "vit_b_16" and size[0] != size[1]:
        raise ValueError("it takes square images")
    slowly_drawn = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, num_classes=10, **sized.get(name, {}), **slowly_drawn)
    return model


def _of_timm(name: str, size: Size) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, num_classes=10, img_size=size)
    except TypeError:  # takes images of any size
        model = timm.create_model(name, num_classes=10)
    return model


def _of_hugging_face(name: str, size: Size) -> nn.Module:
    settings: dict[str, Any] = {"num_labels": 10, **HUGGING_FACE[name]}
    if name in ("ViT", "Swin"):
        settings["image_size"] = size
    config = getattr(transformers, f"{name}Config")(**settings)
    model: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    return model


def _clip_tower(size: Size) -> nn.Module:
    if size[0] != size[1]:
        raise ValueError("it takes square images")
    return ClipTower(size[0])


def _named(make: Callable[[str, Size], nn.Module], name: str) -> Callable[[Size], nn.Module]:
    return lambda size: make(name, size)


FAMILIES: dict[str, Callable[[Size], nn.Module]] = {
    **{f"torchvision {name}": _named(_of_torchvision, name) for name in TORCHVISION},
    **{f"timm {name}": _named(_of_timm, name) for name in TIMM},
    **{f"transformers {name}": _named(_of_hugging_face, name) for name in HUGGING_FACE},
    "transformers CLIP tower": _clip_tower,
}


def make_network(family: str, size: Size, seed: int = 0) -> nn.Module:
    """Build the network of a family for images of one size, in eval mode, with weights as they are initialised.

    Args:
        family: a key of ``FAMILIES``.
        size: ``(H, W)``.
        seed: of the weights.

    Raises:
        Exception: whatever the library raises where the architecture takes no images of this size.
    """
    with isolated_random_state(seed):
        return FAMILIES[family](size).eval()


def perturb(model: nn.Module, seed: int = 1) -> nn.Module:
    """Draw every parameter and every running statistic of a network anew, in place: no branch of it is closed by zeros.

    Args:
        model: the network.
        seed: of the weights.

    Returns:
        The same network.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(noise / fan_in**0.5 if parameter.ndim > 1 else 1 + 0.3 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model
