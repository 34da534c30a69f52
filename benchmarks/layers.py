"""The layer that is explained when nobody names one, over families of architectures: ``python -m benchmarks.layers``.

Printed for each network and size of image: the layer that is found with the weights that the architecture begins with,
and whether it is the same with every weight drawn anew; its grid; the share of what an image does to the logits that
passes by it, under both sets of weights, by a plain hook; at how many of nine places the cell of its output that
changes most lies at the patch that is covered; and the processor time of the search, on one thread.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_decom import capture, find_target_layer

from .families import FAMILIES, Size, make_network, perturb

SIZES: tuple[Size, ...] = ((64, 64), (96, 96), (160, 160), (224, 224), (128, 192))
_COVERED = 1 / 5  # of each side
_ROUNDING = 1e-6  # of a layer's output in float32
_COLUMNS = ("network", "image", "layer", "grid", "passes by", "places", "CPU seconds")


@dataclass(frozen=True)
class Found:
    """What was measured of one network.

    Attributes:
        layer: that is found.
        grid: ``(h, w)`` of its output.
        again: the layer that is found when every weight is drawn anew.
        beside: share of what an image does to the logits that passes by it, the larger one of both sets of weights.
        placed: at how many of nine places the change of its output lies where the image was changed; None where images
            move it by less than can be told from rounding.
        seconds: of processor time that the search took.
    """

    layer: str
    grid: Size
    again: str
    beside: float
    placed: int | None
    seconds: float


def smooth_images(n: int, size: Size, seed: int = 0) -> Tensor:
    """Images ``(n, 3, H, W)`` of smooth noise around 0."""
    coarse = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic")


def passing_by(model: nn.Module, layer: str, images: Tensor) -> float:
    """Measure how far the logits still move with the image when the layer's output is held.

    Args:
        model: the network, in eval mode.
        layer: its name.
        images: at least two, ``(B, 3, H, W)``.

    Returns:
        The distance as a share of that without holding it; 0 where the image does nothing.
    """
    module, held = model.get_submodule(layer), []

    def hold(_module: nn.Module, _args: Any, output: Any) -> Any:
        held.append(output[0].clone() if isinstance(output, tuple | list) else output.clone())
        return (held[0], *output[1:]) if isinstance(output, tuple | list) else held[0].clone()

    with torch.no_grad():
        first, second = (_logits(model, image[None]) for image in images[:2])
        handle = module.register_forward_hook(hold)
        _logits(model, images[:1])
        still = _logits(model, images[1:2])
        handle.remove()
    moved = (second - first).norm()
    return float((still - first).norm() / moved) if moved > 0 else 0.0


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    output: Any = model(images)
    return output if isinstance(output, Tensor) else output.logits


def places_found(model: nn.Module, layer: str, images: Tensor) -> int | None:
    """Cover a patch in the middle of each ninth of some images, and count where the layer's output changes most there.

    Args:
        model: the network.
        layer: its name.
        images: ``(B, 3, H, W)``; what changes is added up over them.

    Returns:
        At how many of the nine places the cell that changes most overlaps the patch; None where what differs between
        the images is rounding.
    """
    size = (images.shape[-2], images.shape[-1])
    before = capture(model, layer, images, 0).activations.double()
    if (before - before.mean(dim=0)).norm() < _ROUNDING * before.norm():
        return None
    found = 0
    for place in range(9):
        rows, columns = (_span(third, side) for third, side in zip(divmod(place, 3), size, strict=True))
        covered = images.clone()
        covered[:, :, slice(*rows), slice(*columns)] = 0
        change = (capture(model, layer, covered, 0).activations - before).square().sum(dim=1)
        change = (change / change.sum(dim=(1, 2), keepdim=True)).sum(dim=0)
        cell = divmod(int(change.argmax()), change.shape[1])
        ends = zip(cell, change.shape, size, (rows, columns), strict=True)
        found += all(at * side < end * n and (at + 1) * side > begin * n for at, n, side, (begin, end) in ends)
    return found


def _span(third: int, side: int) -> tuple[int, int]:
    centre = (2 * third + 1) / 6
    return round(side * (centre - _COVERED / 2)), round(side * (centre + _COVERED / 2))


def measure(family: str, size: Size, n_images: int = 4) -> Found:
    """Build a network, find its layer, and hold it to what is promised of it.

    Args:
        family: a key of ``FAMILIES``.
        size: ``(H, W)``.
        n_images: over which the changes at each of the nine places are added up.

    Raises:
        Exception: whatever the library raises where the architecture takes no images of this size.
    """
    model, images = make_network(family, size), smooth_images(n_images, size)
    with torch.no_grad():
        _logits(model, images)
    begun = time.process_time()
    layer = find_target_layer(model, images=images).name
    seconds = time.process_time() - begun
    grid = capture(model, layer, images[:1], 0).activations.shape[-2:]
    beside = passing_by(model, layer, images)
    placed = places_found(model, layer, images)
    again = find_target_layer(perturb(model), images=images).name
    beside = max(beside, passing_by(model, layer, images))
    return Found(layer, (grid[0], grid[1]), again, beside, placed, seconds)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.layers", description="The layer found in each architecture.")
    parser.add_argument("--only", default="", help="families whose name contains this")
    parser.add_argument("--size", type=int, nargs=2, action="append", metavar=("H", "W"), help=f"default: {SIZES}")
    parser.add_argument("--images", type=int, default=4, help="over which changes are added up; default: 4")
    return parser.parse_args(arguments)


def attempt(family: str, size: Size, n_images: int) -> Found | str:
    """Measure one network, or give the first line of what it raises."""
    try:
        return measure(family, size, n_images)
    except Exception as error:  # noqa: BLE001 -- any library's
        return (str(error).splitlines() or [type(error).__name__])[0]


def cells(found: Found | str) -> list[str]:
    """What is said of a network in the columns after its name and the size of the image."""
    if isinstance(found, str):
        return [f"takes no such image: {found[:60].replace('|', '/')}", "", "", "", ""]
    again = "" if found.again == found.layer else f" (then `{found.again}`)"
    grid = f"{found.grid[0]} x {found.grid[1]}"
    places = "below rounding" if found.placed is None else f"{found.placed} of 9"
    return [f"`{found.layer}`{again}", grid, f"{found.beside:.1e}", places, f"{found.seconds:.1f}"]


def summary(measured: Sequence[Found]) -> str:
    """How many of the networks keep each promise."""
    promises = {
        "have the same layer with every weight drawn anew": [found.layer == found.again for found in measured],
        "let less than 1e-3 of what an image does pass by it": [found.beside < 1e-3 for found in measured],
        "change most where the image was changed, at 8 of 9 places or more": [
            found.placed is not None and found.placed >= 8 for found in measured
        ],
        "took less than 10 s": [found.seconds < 10 for found in measured],
    }
    return "\n".join(f"- {sum(kept)} of {len(kept)} {promise}" for promise, kept in promises.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table in Markdown, row by row."""
    options = parse(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the libraries' own, about weights that are not pretrained
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "transformers"))
    description = " ".join((__doc__ or "").replace("``", "`").split())
    print(f"# Target layers\n\n{description}\n\nVersions: {versions}.\n")
    print(f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}", flush=True)
    measured: list[Found] = []
    for family in (family for family in FAMILIES if options.only in family):
        for height, width in options.size or SIZES:
            found = attempt(family, (height, width), options.images)
            print(f"| {' | '.join([family, f'{height} x {width}', *cells(found)])} |", flush=True)
            measured += [found] if isinstance(found, Found) else []
    print(f"\nOf the networks that take such images\n\n{summary(measured)}")


if __name__ == "__main__":
    main()
