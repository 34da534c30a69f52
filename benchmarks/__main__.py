"""The command: ``python -m benchmarks``."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from lit_decom.methods import PRESETS

from .contestants import Task, make_contestants
from .peers import make_peers
from .report import memory_row, result_rows, show, speed_rows, write
from .subject import make_subject
from .timing import growth_per_run, interleave

_QUICK = {"size": 64, "rounds": 3, "train_images": 1024}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command; ``--quick`` changes the defaults of those not given."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Ratios measured in one interleaved run.")
    parser.add_argument("--model", default="resnet18", help="a torchvision classifier, or small_resnet")
    parser.add_argument(
        "--layer",
        help="target layer (default: the one that find_target_layer finds; goals of resnet18 are set for layer4 at "
        "224 pixels, which it finds, and for layer3 at 64)",
    )
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=16, help="images explained at once")
    parser.add_argument("-k", "--components", type=int, default=10)
    parser.add_argument(
        "--integration", choices=sorted(PRESETS), default="v25", help="preset (v25: the one of the published style)"
    )
    parser.add_argument("--chunk", type=int, help="altered images per forward (default: the package's)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train-images", type=int, default=4096, help="images that the network learns from beforehand")
    parser.add_argument("--snapshots", type=int, default=100, help="over which the memory growth is measured")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; the goals are set for one")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that others use")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-peers", action="store_true", help="leave out other packages")
    parser.add_argument("--quick", action="store_true", help="less than a minute: small images, a rough answer")
    parser.add_argument("--json", type=Path, help="file for every measured number")
    known = parser.parse_known_args(arguments)[0]
    if known.quick:
        # The layer that goals are set for, at the size that ``--quick`` takes.
        parser.set_defaults(**_QUICK, layer="layer3" if known.model == "resnet18" else None)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    torch.set_num_threads(options.threads)
    with console.status("memory") as status:
        small = make_subject("small_resnet", 32, 2, train_images=0, device=options.device)
        growth = growth_per_run(Task(small, 4).explain, options.snapshots, warm_up=20)
        status.update("training the network")
        make = partial(make_subject, train_images=options.train_images, layer=options.layer, device=options.device)
        subject = make(options.model, options.size, options.batch)
        task = Task(subject, options.components, options.integration, options.chunk)
        contestants = make_contestants(task) | ({} if options.no_peers else make_peers(subject))
        timings = interleave(contestants, options.rounds, options.clock, status.update)
        status.update("ranks")
        rows = [*speed_rows(task, timings), *result_rows(task), memory_row(growth, options.snapshots)]
    title = (
        f"{options.model}, {subject.layer}, {options.size} x {options.size}, batch {options.batch}, "
        f"K = {options.components}, {options.integration}, {options.rounds} rounds, {options.threads} threads, "
        f"{options.clock} clock"
    )
    show(console, title, timings, rows)
    if options.json:
        settings = {name: str(value) for name, value in vars(options).items()}
        write(options.json, settings, timings, rows)


if __name__ == "__main__":
    main()
