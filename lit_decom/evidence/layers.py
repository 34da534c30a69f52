"""Target layers: finding a submodule by name, and reading its output as an image of channels."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from math import isclose

from torch import Tensor, nn

# Numbers of class, distillation and register tokens of the vision transformers in use. With any number of them allowed,
# any number of tokens would be a grid.
_PREFIXES = (0, 1, 2, 4, 5, 8, 9)


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

    def to_map(self, output: Tensor, images: Tensor) -> Tensor:
        """Arrange the layer's output as ``(B, C, h, w)``.

        Channels-first and channels-last maps are told apart by their shape: both strides of a feature grid over the
        image are equal. Tokens are ``(B, T, C)`` or, as in CLIP, ``(T, B, C)``; class and register tokens stand in
        front and are left out.

        Args:
            output: what the layer returned (or the gradient of the score with respect to it).
            images: the images ``(B, 3, H, W)`` that went in.

        Returns:
            A view ``(B, C, h, w)``.

        Raises:
            TargetLayerError: if the output is no feature grid.
        """
        batch, size = images.shape[0], (images.shape[-2], images.shape[-1])
        found = None
        if output.ndim == 4 and output.shape[0] == batch:
            found = _map_of_grid(output, size)
        elif output.ndim == 3:
            tokens = output if output.shape[0] == batch else output.transpose(0, 1)
            found = _map_of_tokens(tokens, size, self._declared_prefix()) if tokens.shape[0] == batch else None
        if found is None or found.shape[-2] * found.shape[-1] < 2:
            raise TargetLayerError(
                f"Expected `target_layer` {self.name!r} to return a feature grid of at least 2 positions, "
                f"but it returns {tuple(output.shape)} for images {tuple(images.shape)}."
            )
        return found

    def _declared_prefix(self) -> int | None:
        declared = getattr(self.module, "num_prefix_tokens", None)
        return declared if isinstance(declared, int) else None


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
    if (module := _by_path(model, name)) is not None:
        return TargetLayer(name, module)
    modules = {clean_name(full): module for full, module in model.named_modules() if full}
    matches = [full for full in modules if full.endswith(f".{name}")]
    if len(matches) == 1:
        return TargetLayer(matches[0], modules[matches[0]])
    if matches:
        raise TargetLayerError(f"Expected `target_layer` to name one submodule, but {name!r} fits {_listed(matches)}.")
    alike = _spelt_alike(name, modules)
    outermost = [full for full in modules if full.count(".") <= 1]
    raise TargetLayerError(
        f"Expected `target_layer` to be a submodule of {type(model).__name__}, but got {name!r}. "
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
        module = None if module is None else module._modules.get(part)  # noqa: SLF001
    return module


def clean_name(name: str) -> str:
    """Leave out the wrapper that ``torch.compile`` puts into module names."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _listed(names: list[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown


def _map_of_grid(output: Tensor, size: tuple[int, int]) -> Tensor | None:
    if _fits(output.shape[2], output.shape[3], size):
        return output
    if _fits(output.shape[1], output.shape[2], size):
        return output.permute(0, 3, 1, 2)
    return None


def _map_of_tokens(tokens: Tensor, size: tuple[int, int], prefix: int | None) -> Tensor | None:
    grids = {}
    for skipped in _PREFIXES if prefix is None else (prefix,):
        positions = tokens.shape[1] - skipped
        rows = round((positions * size[0] / size[1]) ** 0.5) if positions > 0 else 0
        if rows > 1 and positions % rows == 0 and _are_patches(rows, positions // rows, size):
            grids[skipped] = (rows, positions // rows)
    if not grids:
        return None
    # 25 tokens of 56 x 56 pixels may be 5 x 5 patches of 11, or 4 x 4 of 14 and 9 prefix tokens: no pixel is left then.
    exact = (n for n, grid in grids.items() if size[0] % grid[0] == 0 and grid[0] * size[1] == grid[1] * size[0])
    skipped = next(exact, min(grids))
    return tokens[:, skipped:].reshape(len(tokens), *grids[skipped], -1).permute(0, 3, 1, 2)


def _are_patches(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Whether square patches of some size, and pixels left over at the border, make this grid."""
    smallest = max(size[0] / (rows + 1), size[1] / (columns + 1))
    return smallest < min(size[0] / rows, size[1] / columns)


def _fits(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Whether both strides agree, up to one position that padding or rounding adds or takes."""
    if rows > size[0] or columns > size[1]:
        return False
    expected = rows * size[1] / size[0]
    return isclose(columns, expected, abs_tol=1.0, rel_tol=0.1)
