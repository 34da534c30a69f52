"""What follows a layer, run on activations of the caller's own; what comes before it is not run again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lit_decom.evidence.layers import TargetLayer, runs_hooks
from lit_decom.evidence.network import Network
from lit_decom.evidence.recorder import Recorder, arranged

_KEPT = (Tensor, int, float, str, bool, type(None))


class Tail:
    """The part of a network that follows a layer, for one image.

    One forward pass keeps what submodules return that end before the layer begins. From then on they return the same
    again without running, and only what a forward does between them is repeated. Where submodules talk to one another
    past what they return, so that this does not give the logits of that first pass, the whole network runs each time.

    Args:
        network: the network; inside :func:`observing`, without gradients.
        layer: the layer.
        copies: the image ``(n, 3, H, W)``, as many times as there shall be altered activations in a pass.
    """

    def __init__(self, network: Network, layer: TargetLayer, copies: Tensor) -> None:
        self._network, self._layer, self._copies = network, layer, copies
        recorder, ended = Recorder(layer), _Ended(network.model, layer.module)
        with ended.kept():
            logits = recorder.run(network, copies)
        self._output, self._place = recorder.leaf.detach(), recorder.placed
        to_map = arranged(recorder, network, copies)
        # Where each entry of the maps stands in what the layer returns, which may have tokens without a position.
        places = torch.arange(self._output.numel(), device=self._output.device).view(self._output.shape)
        self._entries = to_map(places).flatten()
        self._kept = ended.outputs
        self._is_whole = not self._gives(logits)

    def __call__(self, maps: Tensor) -> Tensor:
        """Run the network with other activations at the layer.

        Args:
            maps: at most as many as there are copies, ``(m, C, h, w)``.

        Returns:
            What the network returns for them, ``(m, N)``.
        """
        # The last ones again, up to the number of copies that everything kept is of.
        missing = len(self._copies) - len(maps)
        full = torch.cat([maps, maps[-1:].expand(missing, *maps.shape[1:])]) if missing else maps
        output = self._output.flatten().index_copy(0, self._entries, full.to(self._output).flatten())
        return self._run(output.view(self._output.shape))[: len(maps)]

    def _run(self, output: Tensor) -> Tensor:
        module, answer = self._layer.module, self._place.replaced(output)
        if self._is_whole:
            handle = module.register_forward_hook(lambda *_: answer)
            try:
                return self._network(self._copies)
            finally:
                handle.remove()
        given = {one: _Answers(one, kept) for one, kept in self._kept.items()}
        with _answering({**given, module: lambda *_args, **_kwargs: answer}):
            return self._network(self._copies)

    def _gives(self, logits: Tensor) -> bool:
        """Try it on the layer's own output, and learn which of what was kept the network writes into."""
        self._is_whole = False
        found = self._run(self._output.clone())
        for output in (output for outputs in self._kept.values() for output in outputs):
            output.settle()
        scale = logits[logits.isfinite()].abs().max() if logits.isfinite().any() else 0.0
        return torch.allclose(found, logits, rtol=0.0, atol=1e-5 * float(scale), equal_nan=True)


class _Output:
    """What a submodule returned in the first pass, given again: a copy each time where the network writes into it."""

    def __init__(self, output: Any) -> None:
        self._output, self._given, self._is_written = _copy(output), None, True

    def give(self) -> Any:
        self._given = _copy(self._output) if self._is_written else self._output
        return self._given

    def settle(self) -> None:
        """After the first time, when what was given is a copy: find out whether it has been written into."""
        tensors = [leaf for leaf in pytree.tree_leaves(self._given) if isinstance(leaf, Tensor)]
        self._is_written = any(tensor._version for tensor in tensors)  # noqa: SLF001 -- no public way to ask
        self._given = None


class _Answers:
    """Stands for a submodule's forward in one pass: what was kept of its calls, in their order, and then itself."""

    def __init__(self, module: nn.Module, kept: list[_Output]) -> None:
        self._forward, self._kept = module.forward, iter(kept)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kept = next(self._kept, None)
        return self._forward(*args, **kwargs) if kept is None else kept.give()


class _Ended:
    """What the outermost submodules return that end before a layer begins, call by call."""

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.outputs: dict[nn.Module, list[_Output]] = {}
        self._layer, self._model = layer, model
        self._around = {module for module in model.modules() if any(inner is layer for inner in module.modules())}
        self._depth, self._is_over = 0, False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep it while a block runs the network once."""
        with ExitStack() as stack:
            stack.callback(self._layer.register_forward_pre_hook(self._layer_begins).remove)
            for module in self._model.modules():
                if module not in self._around and runs_hooks(module):
                    stack.callback(module.register_forward_pre_hook(self._begin).remove)
                    stack.callback(module.register_forward_hook(self._end).remove)
            yield

    def _layer_begins(self, _module: nn.Module, _args: Any) -> None:
        self._is_over = True

    def _begin(self, _module: nn.Module, _args: Any) -> None:
        self._depth += 1

    def _end(self, module: nn.Module, _args: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and not self._is_over and _can_be_kept(output):
            self.outputs.setdefault(module, []).append(_Output(output))


def _can_be_kept(output: Any) -> bool:
    return all(isinstance(leaf, _KEPT) for leaf in pytree.tree_leaves(output))


def _copy(output: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.clone, output)


@contextmanager
def _answering(answers: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let submodules answer otherwise than by their forward while a block runs."""
    # Where an instance keeps a forward of its own; `setattr` would run a module's own code.
    held = [(vars(module), vars(module).get("forward")) for module in answers]
    try:
        for module, answer in answers.items():
            vars(module)["forward"] = answer
        yield
    finally:
        for attributes, own in held:
            if own is None:
                del attributes["forward"]
            else:
                attributes["forward"] = own
