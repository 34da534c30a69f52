"""Which layer to explain when nobody says."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_decom.evidence.candidates import Candidate, find_candidates
from lit_decom.evidence.cut import Exchange, Passage, redrawn
from lit_decom.evidence.layers import TargetLayer, TargetLayerError, resolve_layer, unwrapped
from lit_decom.evidence.network import Forward, ForwardError, Network
from lit_decom.evidence.observing import observing

_MOST_TRIED = 8


@dataclass(frozen=True)
class LayerChoice:
    """The layer that is explained when nobody names one, and why it may be.

    Attributes:
        layer: the layer.
        grid: ``(h, w)`` of what it returns.
        passage: how much of what an image does to the logits passes through it.
    """

    layer: TargetLayer
    grid: tuple[int, int]
    passage: Passage


def find_target_layer(
    model: nn.Module,
    name: str | None = None,
    images: Tensor | None = None,
    *,
    min_positions: int = 7,
    forward: Forward | None = None,
) -> TargetLayer:
    """Find the layer to explain, by name or as the deepest one that still tells where.

    Without a name the rule is this, our choice. All that an image does to the logits passes through the layer: were its
    output frozen, the logits would stay whatever the image. The logits depend on its positions (those of the last block
    of a vision transformer with a class token reach none). It runs once and returns at least ``min_positions`` x
    ``min_positions`` positions, or the finest grid there is. Of the layers for which this holds, those with the grid of
    the deepest are left; of these a stage that the network lists (``feature_info`` of timm) goes before a block, a
    block before a single operation, and then the deepest, outermost one is taken.

    It depends on the architecture and on the size of the images, and on nothing else: for the search the network
    computes with weights drawn for it, so that it is the same before, during and after a training. Where no layer with
    such a grid holds all that passes, the one with the smallest share that passes by is taken, with a warning.

    Args:
        model: the network.
        name: as in ``model.named_modules()``, or a dotted suffix that is unique.
        images: ``(B, C, H, W)``, of the size that the network is used on; by default 224 x 224.
        min_positions: the smallest grid, along each side.
        forward: as for :func:`lit_decom.capture`.

    Returns:
        The layer.

    Raises:
        TargetLayerError: if the name is unknown or ambiguous, no layer returns a feature grid, or no images are given
            and the network takes none of 224 x 224.
    """
    model = unwrapped(model)
    if name is not None:
        return resolve_layer(model, name)
    choice = choose_layer(model, images, min_positions=min_positions, forward=forward)
    found, passage = f"`target_layer={choice.layer.name!r}` of {type(model).__name__}", choice.passage
    if not passage.matters:
        warnings.warn(
            f"The logits do not depend on {found}, nor on any other layer with a grid fine enough that was tried. Name "
            "the layer to explain, or lower `min_positions`.",
            stacklevel=2,
        )
    elif not passage.is_cut:
        warnings.warn(
            f"Not all that an image does to the logits passes through {found}, the best that was found: a share of "
            f"{passage.beside:.2f} passes by and is not explained.",
            stacklevel=2,
        )
    return choice.layer


def choose_layer(
    model: nn.Module,
    images: Tensor | None = None,
    *,
    min_positions: int = 7,
    forward: Forward | None = None,
) -> LayerChoice:
    """Choose the layer as :func:`find_target_layer` does, and tell what was found out about it.

    It takes one forward pass with a graph, one without, and one or two for each of at most eight layers.

    Args:
        model: the network.
        images: as for :func:`find_target_layer`.
        min_positions: the smallest grid, along each side.
        forward: as for :func:`lit_decom.capture`.

    Returns:
        The layer, its grid, and how much passes through it.

    Raises:
        TargetLayerError: if no layer returns a feature grid, or no images are given and the network takes none of
            224 x 224.
    """
    model, noise = unwrapped(model), _noise(model, images)
    with observing(model), redrawn(model):
        network = Network(model, forward, channels_last=False)
        try:
            found, logits = find_candidates(network, noise[:1])
        except ForwardError as error:
            if images is not None:
                raise
            raise TargetLayerError(f"{error} If it takes images of another size, pass some as `images=`.") from error
        if not found:
            raise TargetLayerError(
                f"Expected {type(model).__name__} to have a layer with a feature grid, but found none."
            )
        shortlist = _best_first(found, min_positions)[:_MOST_TRIED]
        exchange = Exchange.between(network, noise, logits, [candidate.layer.module for candidate in shortlist])
        return _first_cut(shortlist, exchange)


def _best_first(found: list[Candidate], min_positions: int) -> list[Candidate]:
    enough = min(min_positions, max(min(candidate.grid) for candidate in found))
    deepest_first = [candidate for candidate in reversed(found) if min(candidate.grid) >= enough]
    grids = list(dict.fromkeys(candidate.grid for candidate in deepest_first))
    best_first = sorted(deepest_first, key=lambda candidate: (grids.index(candidate.grid), candidate.kind))
    # What several return unchanged is the outermost one's.
    by_tensor: dict[object, Candidate] = {}
    for candidate in best_first:
        by_tensor.setdefault(candidate if candidate.edge is None else candidate.edge[:2], candidate)
    return list(by_tensor.values())


def _first_cut(shortlist: list[Candidate], exchange: Exchange) -> LayerChoice:
    tried: list[LayerChoice] = []
    for candidate in shortlist:
        passage = exchange.passage(candidate.layer.module, candidate.to_map)
        tried.append(LayerChoice(candidate.layer, candidate.grid, passage))
        if passage.is_cut:
            break
    return min(tried, key=lambda choice: (not choice.passage.matters, choice.passage.beside))


def _noise(model: nn.Module, images: Tensor | None) -> Tensor:
    """Two images that differ in every pixel and in their mean colours."""
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    shape = (channels, 224, 224) if images is None else images.shape[1:]
    device = next(model.parameters(), torch.empty(0)).device if images is None else images.device
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((2, *shape), generator=generator) + torch.rand((2, shape[0], 1, 1), generator=generator)
    return noise.to(device)
