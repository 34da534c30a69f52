"""Where the tokens of a layer lie on the image: read from the forward pass and the model before it is guessed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import isclose, prod
from typing import Any

import torch
from torch import Tensor, nn

Grid = tuple[int, int]

# Numbers of class, distillation and register tokens of the vision transformers in use. With any number of them allowed,
# any number of tokens would be a grid.
_USUAL_PREFIXES = (0, 1, 2, 4, 5, 8, 9)
_MOST_PREFIX = 17  # a class token and 16 registers, where the grid itself is known
_HALVINGS = 4  # 224 pixels in patches of 4 end as 4 x 4


@dataclass(frozen=True)
class Declared:
    """What a model says of its tokens, whatever the images; read once, when it is first asked for.

    Attributes:
        model: the network.
    """

    model: nn.Module

    @cached_property
    def patches(self) -> frozenset[Grid]:
        """Sizes of patches that a part of the model, or its configuration, names: ``(height, width)`` in pixels."""
        found = set()
        for module in self.model.modules():
            for holder in (module, vars(module).get("config")):
                patch = getattr(holder, "__dict__", {}).get("patch_size")
                sides = [patch, patch] if isinstance(patch, int) else patch
                if isinstance(sides, Sequence) and len(sides) == 2 and all(isinstance(s, int) and s > 0 for s in sides):
                    found.add((sides[0], sides[1]))
        return frozenset(found)

    @cached_property
    def channels_last(self) -> frozenset[nn.Module]:
        """Parts that return maps as ``(B, h, w, C)``: those inside models of timm that say so of what they return.

        Convolutions never do, and what is inside an embedding of patches need not.
        """
        found: set[nn.Module] = set()
        inside_embeddings: set[nn.Module] = set()
        for name, module in self.model.named_modules():
            if vars(module).get("output_fmt") == "NHWC":
                found |= set(module.modules())
            if "embed" in name.rpartition(".")[2]:
                inside_embeddings |= set(module.modules()) - {module}
        return frozenset(part for part in found - inside_embeddings if not isinstance(part, nn.Conv2d))

    @cached_property
    def strides_apart(self) -> dict[Grid, Sequence[Grid]]:
        """By the grid of the tokens, the strides by which they are still taken apart; empty for most models.

        Hiera keeps tokens together that will be pooled together, and has a table of what is left to be pooled.
        """
        found: dict[Grid, Sequence[Grid]] = {}
        for module in self.model.modules():
            schedule = vars(module).get("schedule")
            for entry in schedule.values() if isinstance(schedule, Mapping) else ():
                match entry:
                    case [list(strides), [int(rows), int(columns)]]:
                        found[rows, columns] = strides
        return found


@dataclass(frozen=True)
class Layout:
    """What a model shows of where its tokens lie.

    Attributes:
        declared: what it says of them.
        grids: what its convolutions have returned so far in a forward pass, ``(h, w)`` each, in the order of their
            first appearance. Patches are embedded by a convolution nearly everywhere, so this is the grid of the tokens
            at the size of these very images, whatever was padded or left over at the border.
    """

    declared: Declared
    grids: list[Grid] = field(default_factory=list)

    def until_now(self) -> "Layout":
        """Keep what has been seen, while the forward pass goes on."""
        return Layout(self.declared, list(self.grids))

    def known(self, size: Grid) -> list[Grid]:
        """Grids that tokens of images ``(H, W)`` may have: those seen, and those of patches that a part declares."""
        declared = {grid for patch in self.declared.patches for grid in _grids_of_patches(size, patch)}
        return list(dict.fromkeys([*self.grids, *sorted(declared)]))

    def taken_apart(self, positions: int) -> tuple[Grid, Sequence[Grid]] | None:
        """Grid of so many tokens, and the strides by which they are still taken apart; None in most models."""
        apart = self.declared.strides_apart.items()
        return next(((grid, strides) for grid, strides in apart if prod(grid) == positions), None)


@contextmanager
def grids_seen(model: nn.Module) -> Iterator[Layout]:
    """Note, while a block runs, the grids that a model's convolutions return."""
    layout = Layout(Declared(model))

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            grid = (output.shape[2], output.shape[3])
            if prod(grid) > 1 and grid not in layout.grids:
                layout.grids.append(grid)

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                stack.callback(module.register_forward_hook(note).remove)
        yield layout


def map_of_grid(output: Tensor, size: Grid, *, channels_last: bool = False) -> Tensor | None:
    """Arrange ``(B, C, h, w)`` or ``(B, h, w, C)`` as the former.

    Args:
        output: what a layer returned.
        size: of the images, ``(H, W)``.
        channels_last: which it is where it could be both, as a square map with as many channels as rows.

    Returns:
        A view; None where neither is a grid over the image.
    """
    turned = output.permute(0, 3, 1, 2)
    readings = (turned, output) if channels_last else (output, turned)
    return next((found for found in readings if _fits(found.shape[2], found.shape[3], size)), None)


def map_of_tokens(tokens: Tensor, size: Grid, prefix: int | None, layout: Layout | None, name: str) -> Tensor | None:
    """Arrange tokens ``(B, T, C)`` as ``(B, C, h, w)``.

    Args:
        tokens: in the order of the rows, after those that stand for no place.
        size: of the images, ``(H, W)``.
        prefix: how many tokens stand for no place, where the layer says so.
        layout: what the model shows; None to go by their number alone.
        name: of the layer.

    Returns:
        A view, or a copy where tokens are taken apart; None where they are no grid.
    """
    apart = None if layout is None or "embed" in name else layout.taken_apart(tokens.shape[1])
    if apart is not None:
        grid, strides = apart
        return _gridded(tokens[:, _taken_apart(grid, strides).argsort()], 0, grid)
    known = [] if layout is None else layout.known(size)
    allowed = range(_MOST_PREFIX + 1) if prefix is None else (prefix,)
    for grids in (known, [_halved(grid, times) for times in range(1, _HALVINGS + 1) for grid in known]):
        fitting = {tokens.shape[1] - prod(grid): grid for grid in reversed(grids)}
        for skipped in allowed:
            if skipped in fitting:
                return _gridded(tokens, skipped, fitting[skipped])
    guessed = _guess(tokens.shape[1], size, _USUAL_PREFIXES if prefix is None else (prefix,))
    return None if guessed is None else _gridded(tokens, *guessed)


def _gridded(tokens: Tensor, skipped: int, grid: Grid) -> Tensor:
    return tokens[:, skipped:].reshape(len(tokens), *grid, -1).permute(0, 3, 1, 2)


def _halved(grid: Grid, times: int) -> Grid:
    """Every second position, as Swin merges and LeViT skips them: what is left over at the border counts."""
    for _ in range(times):
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    return grid


def _taken_apart(grid: Grid, strides: Sequence[Grid]) -> Tensor:
    """Of every token the position ``row * w + column``, where tokens to be pooled are taken apart stride by stride."""
    positions = torch.arange(prod(grid)).view(1, *grid)
    for down, across in strides:
        rows, columns = positions.shape[1] // down, positions.shape[2] // across
        parted = positions.view(-1, rows, down, columns, across)
        positions = parted.permute(0, 2, 4, 1, 3).reshape(-1, rows, columns)
    return positions.flatten()


def _grids_of_patches(size: Grid, patch: Grid) -> set[Grid]:
    """With the border left out, and with the border filled up."""
    inside = (size[0] // patch[0], size[1] // patch[1])
    filled = (-(-size[0] // patch[0]), -(-size[1] // patch[1]))
    return {grid for grid in (inside, filled) if prod(grid) > 1}


def _guess(count: int, size: Grid, prefixes: Sequence[int]) -> tuple[int, Grid] | None:
    """How many of so many tokens stand for no place, and the grid of the others, by the image's proportions."""
    grids = {}
    for skipped in prefixes:
        positions = count - skipped
        rows = round((positions * size[0] / size[1]) ** 0.5) if positions > 0 else 0
        if rows > 1 and positions % rows == 0 and _are_patches(rows, positions // rows, size):
            grids[skipped] = (rows, positions // rows)
    if not grids:
        return None
    # 25 tokens of 56 x 56 pixels may be 5 x 5 patches of 11, or 4 x 4 of 14 and 9 prefix tokens: no pixel is left then.
    exact = (n for n, grid in grids.items() if size[0] % grid[0] == 0 and grid[0] * size[1] == grid[1] * size[0])
    skipped = next(exact, min(grids))
    return skipped, grids[skipped]


def _are_patches(rows: int, columns: int, size: Grid) -> bool:
    """Whether square patches of some size, and pixels left over at the border, make this grid."""
    smallest = max(size[0] / (rows + 1), size[1] / (columns + 1))
    return smallest < min(size[0] / rows, size[1] / columns)


def _fits(rows: int, columns: int, size: Grid) -> bool:
    """Whether both strides agree, up to one position that padding or rounding adds or takes."""
    if rows > size[0] or columns > size[1]:
        return False
    if size[0] == size[1]:
        # 16 windows of 196 tokens with 192 channels are no 196 x 192 positions.
        return rows == columns
    expected = rows * size[1] / size[0]
    return isclose(columns, expected, abs_tol=1.0, rel_tol=0.1)
