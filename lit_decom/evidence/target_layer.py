"""Which layer to explain when nobody says."""

import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_decom.evidence.grids import Layout, grids_seen
from lit_decom.evidence.layers import TargetLayer, TargetLayerError, clean_name, resolve_layer
from lit_decom.evidence.network import Forward, Network
from lit_decom.evidence.observing import observing
from lit_decom.evidence.outputs import first_tensor
from lit_decom.evidence.recorder import arranged, backward, record

_NOT_A_STAGE = re.compile(r"^(Pool|Dropout|Identity|Flatten)|Pool[123]d$")


def find_target_layer(
    model: nn.Module,
    name: str | None = None,
    images: Tensor | None = None,
    *,
    min_positions: int = 7,
    forward: Forward | None = None,
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
        forward: as for :func:`lit_decom.capture`.

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
        for full, grid in feature_grids(model, images, forward).items()
        if not _NOT_A_STAGE.search(type(layers[full].module).__name__)
    }
    if not grids:
        raise TargetLayerError(f"Expected {type(model).__name__} to have a layer with a feature grid, but found none.")
    enough = min(min_positions, max(min(grid) for grid in grids.values()))
    deepest_first = [layer for layer, grid in reversed(grids.items()) if min(grid) >= enough]
    # Where nothing matters to the prediction there is no better choice than the deepest.
    return next((layer for layer in deepest_first if _matters(model, layer, images, forward)), deepest_first[0])


def feature_grids(model: nn.Module, images: Tensor, forward: Forward | None = None) -> dict[str, tuple[int, int]]:
    """Tell which submodules run once per forward pass and return a feature grid, in the order in which they finish.

    Args:
        model: the network.
        images: ``(B, 3, H, W)``.
        forward: as for :func:`lit_decom.capture`.

    Returns:
        Grid ``(h, w)`` of each, by name.
    """
    notes = [_GridNote(TargetLayer(clean_name(name), module), images) for name, module in model.named_modules() if name]
    finished: list[_GridNote] = []
    with observing(model), torch.no_grad(), ExitStack() as stack:
        layout = stack.enter_context(grids_seen(model))
        for note in notes:
            stack.callback(note.layer.module.register_forward_hook(partial(note.hook, finished, layout)).remove)
        Network(model, forward, channels_last=False)(images)
    return {note.layer.name: note.grid for note in dict.fromkeys(finished) if note.grid and note.calls == 1}


@dataclass(eq=False)
class _GridNote:
    """What a forward pass shows of one submodule: how often it ran, and the grid that it returned."""

    layer: TargetLayer
    images: Tensor
    calls: int = 0
    grid: tuple[int, int] | None = None

    def hook(self, finished: list["_GridNote"], layout: Layout, _module: nn.Module, _args: Any, output: Any) -> None:
        self.calls += 1
        finished.append(self)
        found = first_tensor(output)
        if found is not None:
            with suppress(TargetLayerError):
                shape = self.layer.to_map(found.tensor, self.images, layout).shape
                self.grid = (shape[-2], shape[-1])


def depends_on(model: nn.Module, layer: TargetLayer, images: Tensor, forward: Forward | None = None) -> bool:
    """Tell whether the logits can depend on the positions of a layer.

    Weights that are all zero, as of a head that was not trained yet, are looked through.

    Args:
        model: the network.
        layer: the layer.
        images: ``(B, 3, H, W)``.
        forward: as for :func:`lit_decom.capture`.

    Returns:
        Whether any gradient arrives at a position of the feature grid.
    """
    with observing(model):
        network, recorder, out = record(model, layer, images, forward, perturbed=True)
        gradient = backward(network, recorder, images, out, lambda out, _: out.square().sum(dim=1))
        return gradient is not None and bool((arranged(recorder, network, images)(gradient) != 0).any())


def _matters(model: nn.Module, layer: TargetLayer, images: Tensor, forward: Forward | None) -> bool:
    try:
        return depends_on(model, layer, images, forward)
    except TargetLayerError:
        return False


def _noise(model: nn.Module) -> Tensor:
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    parameter = next(model.parameters(), torch.empty(0))
    noise = torch.randn(1, channels, 224, 224, generator=torch.Generator().manual_seed(0))
    return noise.to(parameter.device)
