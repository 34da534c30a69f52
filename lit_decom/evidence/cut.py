"""Whether all that an image does to the logits passes through one layer: read from the graph, and put to the test."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from lit_decom.evidence.network import Network
from lit_decom.evidence.outputs import first_tensor
from lit_decom.evidence.substitution import slots, substituted

_RUNNING = ("running_mean", "running_var")


@contextmanager
def redrawn(model: nn.Module) -> Iterator[None]:
    """Let a network compute with weights of order one that do not depend on its own, while a block runs.

    What the logits can depend on is then a matter of the architecture alone: no branch is closed by zeros, such as
    those that the last BatchNorm of a residual block, LayerScale or a head may begin with. Every parameter and the
    running statistics of every BatchNorm are drawn, and what several places share stays shared: a matrix or kernel from
    U(-a, a) with variance 1 / fan-in, all else from U(0.5, 1.5). Our choice.

    Args:
        model: the network; at the end it holds its own tensors again.
    """
    generator = torch.Generator().manual_seed(0)
    places = slots(model, "_parameters") + [place for place in slots(model, "_buffers") if place[0].name in _RUNNING]
    drawn: dict[Tensor, Tensor] = {}
    for _, tensor in places:
        if tensor not in drawn and tensor.is_floating_point():
            drawn[tensor] = _drawn(tensor, generator)
    with substituted([(slot, drawn[tensor]) for slot, tensor in places if tensor in drawn]):
        yield


def _drawn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    fan_in = tensor[0].numel() if tensor.ndim > 1 and len(tensor) else 0
    low, high = (-((3 / fan_in) ** 0.5), (3 / fan_in) ** 0.5) if fan_in else (0.5, 1.5)
    return torch.empty(tensor.shape).uniform_(low, high, generator=generator).to(tensor.device, tensor.dtype)


def are_cuts(logits: Tensor, images: Tensor, edges: Sequence[GradientEdge]) -> list[bool]:
    """Tell through which tensors of a forward pass every path from the images to the logits leads.

    Args:
        logits: what came out, with its graph.
        images: what went in, a leaf of that graph.
        edges: where the tensors stand in the graph.

    Returns:
        Whether as many paths lead through each tensor as there are paths.
    """
    start, end = get_gradient_edge(logits).node, get_gradient_edge(images).node
    behind = _behind(start)
    images_first = list(TopologicalSorter({node: {n for n, _ in behind[node]} for node in behind}).static_order())
    to_images: dict[Node, int] = {}
    for node in images_first:
        to_images[node] = 1 if node is end else sum(to_images[n] for n, _ in behind[node])
    from_logits, through = Counter({start: 1}), Counter({(start, 0): 1})
    for node in reversed(images_first):
        for n, output in behind[node]:
            from_logits[n] += from_logits[node]
            through[n, output] += from_logits[node]
    return [through[edge.node, edge.output_nr] * to_images.get(edge.node, 0) == to_images[start] for edge in edges]


def _behind(start: Node) -> dict[Node, list[tuple[Node, int]]]:
    """For each node of a graph, where its inputs come from: a node, and which of that one's outputs."""
    found: dict[Node, list[tuple[Node, int]]] = {}
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = [(n, output) for n, output in node.next_functions if n is not None]
            waiting += [n for n, _ in found[node]]
    return found


@dataclass(frozen=True)
class Passage:
    """How much of what an image does to the logits passes through a layer, in shares of all that it does.

    Attributes:
        beside: what passes by: how far the logits stay from those of another image when the layer's output is that
            image's. 0 for a cut; above 1 where what passes by is in conflict with it.
        positions: how far they move when only the positions of the feature grid are another image's, and class or
            register tokens are not.
    """

    beside: float
    positions: float

    @property
    def matters(self) -> bool:
        """Whether the logits depend on the positions of the feature grid; rounding is far below this."""
        return self.positions > 1e-3

    @property
    def is_cut(self) -> bool:
        """Whether the logits depend on the image through this layer alone."""
        return self.matters and self.beside < 0.01


@dataclass(frozen=True)
class Exchange:
    """A test with two images: what one layer returns for the second is put into the forward pass of the first.

    Attributes:
        network: the network.
        image: the first image, ``(1, C, H, W)``.
        logits: of both images, ``(2, N)``.
        outputs: what layers return for the second image.
    """

    network: Network
    image: Tensor
    logits: Tensor
    outputs: Mapping[nn.Module, Tensor]

    @classmethod
    def between(cls, network: Network, images: Tensor, logits: Tensor, layers: Sequence[nn.Module]) -> "Exchange":
        """Prepare the test of some layers.

        Args:
            network: the network.
            images: two, ``(2, C, H, W)``.
            logits: of the first, ``(1, N)``.
            layers: submodules that return tensors, each once in a forward pass.
        """
        outputs: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, output: Tensor) -> None:
            outputs[module] = output.clone()  # in-place operations may follow

        others = _hooked(network, images[1:], {layer: partial(keep, layer) for layer in layers})
        return cls(network, images[:1], torch.cat([logits.detach(), others]), outputs)

    def passage(self, layer: nn.Module, to_map: Callable[[Tensor], Tensor]) -> Passage:
        """Put a layer to the test.

        Args:
            layer: one of those that it was prepared for.
            to_map: arranges what the layer returns as ``(1, C, h, w)``.
        """
        other = self.outputs[layer]
        # Where each entry of the map stands in the output: a map need be no view of it.
        entries = to_map(torch.arange(other.numel(), device=other.device).view(other.shape)).flatten()

        def on_grid(output: Tensor) -> Tensor:
            return output.flatten().index_copy(0, entries, other.flatten()[entries]).view(output.shape)

        replaced = _hooked(self.network, self.image, {layer: lambda _: other.clone()})
        is_all = len(entries) == other.numel()
        on_positions = replaced if is_all else _hooked(self.network, self.image, {layer: on_grid})
        return Passage(beside=self._share(replaced, 1), positions=self._share(on_positions, 0))

    def _share(self, logits: Tensor, image: int) -> float:
        distance = (self.logits[1] - self.logits[0]).norm()
        # Where the image does nothing, nothing passes anywhere.
        return ((logits[0] - self.logits[image]).norm() / distance).item() if distance > 0 else 0.0


def _hooked(network: Network, image: Tensor, hooks: Mapping[nn.Module, Callable[[Tensor], Tensor | None]]) -> Tensor:
    """Run a network, each hook on what its layer returns; what a hook gives back takes the place of that."""

    def hook(act: Callable[[Tensor], Tensor | None], _module: nn.Module, _args: Any, output: Any) -> Any:
        placed = first_tensor(output)
        new = None if placed is None else act(placed.tensor)
        return None if placed is None or new is None else placed.replaced(new)

    with torch.no_grad(), ExitStack() as stack:
        for layer, act in hooks.items():
            stack.callback(layer.register_forward_hook(partial(hook, act)).remove)
        return network(image)
