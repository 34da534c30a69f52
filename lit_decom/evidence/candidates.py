"""Which submodules of a network may be explained: what they return in a forward pass, and what they are."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lit_decom.evidence.cut import are_cuts
from lit_decom.evidence.grids import Layout, grids_seen
from lit_decom.evidence.layers import TargetLayer, TargetLayerError, clean_name, runs_hooks
from lit_decom.evidence.network import Network
from lit_decom.evidence.outputs import first_tensor
from lit_decom.evidence.recorder import RecordingKept

# By their exact class: a user's `PoolFormerLayer` or `IdentityBlock` is what its author made of it.
_NO_STAGE_IN = ("torch.nn.modules.pooling", "torch.nn.modules.padding", "torch.nn.modules.dropout")
_NO_STAGE = (nn.Identity, nn.Flatten, nn.Unflatten)


class Kind(IntEnum):
    """What a submodule is, the most telling first."""

    STAGE = 0  # the network itself calls it one
    BLOCK = 1  # holds weights in more than two places, so it is more than a convolution with its normalisation
    PART = 2


@dataclass(eq=False)
class Candidate:
    """A submodule, and what a forward pass shows of it.

    Attributes:
        layer: the submodule.
        kind: what it is.
        images: the images ``(B, C, H, W)`` that went in.
        calls: how often it ran.
        channels: of what it returned.
        grid: ``(h, w)`` of it; ``(0, 0)`` if it is no feature grid.
        layout: what the forward pass had shown of the grid by then.
        edge: where the output stands in the graph; None if it does not depend on the images.
    """

    layer: TargetLayer
    kind: Kind
    images: Tensor
    calls: int = 0
    channels: int = 0
    grid: tuple[int, int] = (0, 0)
    layout: Layout | None = None
    edge: GradientEdge | None = None

    def to_map(self, output: Tensor) -> Tensor:
        """Arrange what the submodule returned as ``(B, C, h, w)``."""
        return self.layer.to_map(output, self.images, self.layout)

    def hook(self, finished: list["Candidate"], layout: Layout, _module: nn.Module, _args: Any, output: Any) -> None:
        """Note what a forward pass shows."""
        self.calls += 1
        finished.append(self)
        placed = first_tensor(output)
        if placed is None or isinstance(output, Mapping):  # a model within the model returns a mapping
            return
        self.layout = layout.until_now()
        with suppress(TargetLayerError):
            _, self.channels, *grid = self.to_map(placed.tensor).shape
            self.grid = (grid[0], grid[1])
            self.edge = get_gradient_edge(placed.tensor) if placed.tensor.requires_grad else None


def find_candidates(network: Network, image: Tensor) -> tuple[list[Candidate], Tensor]:
    """Run a network forward and tell which submodules may be explained.

    They run once and return a feature grid; where there is such a grid through which every path of the graph leads,
    only those. Pooling, padding, dropout and the like are left out. So are maps of the classes, with as many channels
    as there are logits and no weight behind them, unless there is nothing else.

    Args:
        network: the network.
        image: ``(1, C, H, W)``.

    Returns:
        The submodules in the order in which they finish, and the logits ``(1, N)``.
    """
    image = image.clone().requires_grad_()
    stages = set(_declared_stages(network.model))
    hooked = [(clean_name(name), module) for name, module in network.model.named_modules() if runs_hooks(module)]
    candidates = [
        Candidate(TargetLayer(n, m), _kind(n, m, stages), image) for n, m in hooked if n and not _is_no_stage(m)
    ]
    finished: list[Candidate] = []
    last_weights: list[int] = [0]

    def begin(_module: nn.Module, _args: Any) -> None:
        last_weights.append(len(finished))

    # A backbone that runs without recording has its paths as well.
    with ExitStack() as stack, RecordingKept(), grids_seen(network.model) as layout:
        for candidate in candidates:
            hook = partial(candidate.hook, finished, layout)
            stack.callback(candidate.layer.module.register_forward_hook(hook).remove)
        for _, module in hooked:
            if _holds_weights(module):
                stack.callback(module.register_forward_pre_hook(begin).remove)
        logits = network(image)
    at_the_end = {candidate for candidate in finished[last_weights[-1] :] if candidate.channels == logits.shape[1]}
    grids = [candidate for candidate in finished if min(candidate.grid) and candidate.calls == 1]
    found = [candidate for candidate in grids if candidate not in at_the_end] or grids
    return _cuts(found, image, logits) or found, logits


def _cuts(found: list[Candidate], image: Tensor, logits: Tensor) -> list[Candidate]:
    if not logits.requires_grad:  # a forward that detaches its features has no graph to read
        return []
    edges = {candidate: candidate.edge for candidate in found if candidate.edge is not None}
    return [c for c, is_cut in zip(edges, are_cuts(logits, image, list(edges.values())), strict=True) if is_cut]


def _kind(name: str, module: nn.Module, stages: set[str]) -> Kind:
    if name in stages:
        return Kind.STAGE
    return Kind.BLOCK if sum(map(_holds_weights, module.modules())) > 2 else Kind.PART


def _holds_weights(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())  # noqa: SLF001


def _is_no_stage(module: nn.Module) -> bool:
    return type(module).__module__ in _NO_STAGE_IN or type(module) in _NO_STAGE


def _declared_stages(model: nn.Module) -> Iterator[str]:
    """Names of the stages that networks of timm list as `feature_info`."""
    for name, module in model.named_modules():
        declared = getattr(module, "feature_info", None)
        for entry in declared if isinstance(declared, list) else ():
            if isinstance(entry, Mapping) and "module" in entry:
                yield clean_name(f"{name}.{entry['module']}".removeprefix("."))
