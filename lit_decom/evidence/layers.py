"""Target layers: finding a submodule by name, and reading its output as an image of channels."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from lit_decom.evidence.grids import Layout, map_of_grid, map_of_tokens


class TargetLayerError(ValueError):
    """A layer cannot be explained: unknown name, no spatial map, or not part of the forward pass."""


@dataclass(frozen=True)
class TargetLayer:
    """A submodule whose output is explained.

    Attributes:
        name: as in ``model.named_modules()``.
        module: the submodule.
    """

    name: str
    module: nn.Module

    def to_map(self, output: Tensor, images: Tensor, layout: Layout | None = None) -> Tensor:
        """Arrange the layer's output as ``(B, C, h, w)``.

        Channels-first and channels-last maps are told apart by their shape: both strides of a feature grid over the
        image are equal. One that could be both, such as a square one with as many channels as rows, is channels-last
        where the model says so (``output_fmt`` of timm) and channels-first elsewhere. Tokens are ``(B, T, C)`` or, as
        in CLIP, ``(T, B, C)``; class, distillation and register tokens stand in front and are left out.

        Args:
            output: what the layer returned (or the gradient of the score with respect to it).
            images: the images ``(B, 3, H, W)`` that went in.
            layout: what the forward pass had shown of the grid by then; without it the grid of tokens is guessed from
                their number.

        Returns:
            ``(B, C, h, w)``, a view but for networks that keep their tokens in another order than that of the rows.

        Raises:
            TargetLayerError: if the output is no feature grid.
        """
        batch, size = images.shape[0], (images.shape[-2], images.shape[-1])
        found = None
        if output.ndim == 4 and output.shape[0] == batch:
            declared = layout is not None and self.module in layout.declared.channels_last
            found = map_of_grid(output, size, channels_last=declared)
        elif output.ndim == 3:
            tokens = output if output.shape[0] == batch else output.transpose(0, 1)
            if tokens.shape[0] == batch:
                found = map_of_tokens(tokens, size, self._declared_prefix(), layout, self.name)
        if found is None or found.shape[-2] * found.shape[-1] < 2:
            raise TargetLayerError(
                f"Expected `target_layer` {self.name!r} to return a feature grid of at least 2 positions, "
                f"but it returns {tuple(output.shape)} for images {tuple(images.shape)}."
            )
        return found

    def _declared_prefix(self) -> int | None:
        declared = getattr(self.module, "num_prefix_tokens", None)
        return declared if isinstance(declared, int) else None


def unwrapped(model: nn.Module) -> nn.Module:
    """Give the model inside a wrapper that spreads its training over devices: its submodules have its own names."""
    return model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model


def runs_hooks(module: nn.Module) -> bool:
    """Whether a submodule tells what goes through it: parts that are TorchScript do not."""
    return not isinstance(module, torch.jit.ScriptModule)


def resolve_layer(model: nn.Module, name: str) -> TargetLayer:
    """Find a submodule by its name or by a dotted suffix of it that is unique.

    Args:
        model: the network.
        name: as in ``model.named_modules()`` or one more name of the same submodule, or for instance ``layer4`` for
            ``model.layer4``.

    Returns:
        The layer.

    Raises:
        TargetLayerError: if no submodule, or more than one, goes by that name; with those spelt alike.
    """
    return TargetLayer(*resolve_submodule(model, name, "target_layer"))


def resolve_submodule(model: nn.Module, name: str, argument: str) -> tuple[str, nn.Module]:
    """Find a submodule as :func:`resolve_layer` does, whatever it is needed for.

    Args:
        model: the network.
        name: as in ``model.named_modules()``, or a dotted suffix that is unique.
        argument: what the caller gave the name for, as messages call it.

    Returns:
        The full name and the submodule.

    Raises:
        TargetLayerError: if no submodule, or more than one, goes by that name; with those spelt alike.
    """
    if (module := _by_path(model, name)) is not None:
        return name, module
    modules = {clean_name(full): module for full, module in model.named_modules() if full}
    matches = [full for full in modules if full.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0], modules[matches[0]]
    if matches:
        raise TargetLayerError(f"Expected `{argument}` to name one submodule, but {name!r} fits {_listed(matches)}.")
    alike = _spelt_alike(name, modules)
    outermost = [full for full in modules if full.count(".") <= 1]
    raise TargetLayerError(
        f"Expected `{argument}` to be a submodule of {type(model).__name__}, but got {name!r}. "
        + (f"Did you mean {' or '.join(alike)}?" if alike else f"The outermost are {_listed(outermost)}.")
    )


def _spelt_alike(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Which names, or the ends of which, are spelt nearly like this one; the nearest first."""
    ends: dict[str, list[str]] = {}
    for full in known:
        parts = full.split(".")
        for start in range(len(parts)):
            ends.setdefault(".".join(parts[start:]), []).append(full)
    near = [full for end in get_close_matches(name, ends, n=most) for full in ends[end]]
    return list(dict.fromkeys(near))[:most]


def _by_path(model: nn.Module, name: str) -> nn.Module | None:
    """Follow a dotted name; `named_modules` tells only the first name of a submodule that has several."""
    module: nn.Module | None = model
    for part in name.split("."):
        while module is not None and part not in module._modules and "_orig_mod" in module._modules:  # noqa: SLF001
            module = module._modules["_orig_mod"]  # noqa: SLF001
        # Not by `get`, which TorchScript does not have.
        module = module._modules[part] if module is not None and part in module._modules else None  # noqa: SLF001
    return module


def clean_name(name: str) -> str:
    """Leave out the wrapper that ``torch.compile`` puts into module names."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _listed(names: list[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown
