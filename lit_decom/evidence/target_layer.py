"""Which layer to explain when nobody says."""

import re

import torch
from torch import Tensor, nn

from lit_decom.evidence.capture import depends_on, feature_grids
from lit_decom.evidence.layers import TargetLayer, TargetLayerError, clean_name, resolve_layer
from lit_decom.evidence.network import ReadLogits

_NOT_A_STAGE = re.compile(r"^(Pool|Dropout|Identity|Flatten)|Pool[123]d$")


def find_target_layer(
    model: nn.Module,
    name: str | None = None,
    images: Tensor | None = None,
    *,
    min_positions: int = 7,
    read_logits: ReadLogits | None = None,
) -> TargetLayer:
    """Find the layer to explain, by name or as the deepest one that still tells where.

    Without a name it is the last layer to finish in a forward pass that returns at least ``min_positions`` x
    ``min_positions`` positions and whose positions the logits can depend on (the last block of a vision transformer
    with a class token does not qualify: its patch tokens reach no logit). The rule is our choice.

    Args:
        model: the network.
        name: as in ``model.named_modules()``, or a dotted suffix that is unique.
        images: ``(B, C, H, W)``, what the network is used on; by default one image of noise, 224 x 224.
        min_positions: the smallest grid, along each side.
        read_logits: as for :func:`lit_decom.capture`.

    Returns:
        The layer.

    Raises:
        TargetLayerError: if the name is unknown or ambiguous, or no layer returns a feature grid.
    """
    if name is not None:
        return resolve_layer(model, name)
    images = _noise(model) if images is None else images[:1]
    layers = {clean_name(full): TargetLayer(clean_name(full), module) for full, module in model.named_modules()}
    grids = {
        layers[full]: grid
        for full, grid in feature_grids(model, images, read_logits).items()
        if not _NOT_A_STAGE.search(type(layers[full].module).__name__)
    }
    if not grids:
        raise TargetLayerError(f"Expected {type(model).__name__} to have a layer with a feature grid, but found none.")
    enough = min(min_positions, max(min(grid) for grid in grids.values()))
    deepest_first = [layer for layer, grid in reversed(grids.items()) if min(grid) >= enough]
    # Where nothing matters to the prediction there is no better choice than the deepest.
    return next((layer for layer in deepest_first if _matters(model, layer, images, read_logits)), deepest_first[0])


def _matters(model: nn.Module, layer: TargetLayer, images: Tensor, read_logits: ReadLogits | None) -> bool:
    try:
        return depends_on(model, layer, images, read_logits)
    except TargetLayerError:
        return False


def _noise(model: nn.Module) -> Tensor:
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    parameter = next(model.parameters(), torch.empty(0))
    noise = torch.randn(1, channels, 224, 224, generator=torch.Generator().manual_seed(0))
    return noise.to(parameter.device)
