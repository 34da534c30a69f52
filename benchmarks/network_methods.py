"""What the methods take that ask the network again: ``python -m benchmarks.network_methods``.

Score-CAM beside that of pytorch-grad-cam, with the same weighting and so nearly the same maps; Ablation-CAM that does
not run again what comes before the layer, beside the same forward passes of the whole network; Opti-CAM of a whole
batch beside one image after another, and beside what batching does for the passes of the network alone. Everything in
one interleaved run, on one thread.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_decom import Capture, capture, observing
from lit_decom.evidence import ScoreDtype
from lit_decom.functional.image import upsample
from lit_decom.methods import AblationCAM, OptiCAM, ScoreCAM

from . import goals, peers
from .contestants import precisions, rank_correlations
from .goals import Goal
from .subject import Subject, make_subject
from .timing import Contestant, Timings, interleave

SCORE: dict[ScoreDtype, str] = {"float32": "Score-CAM, fp32", "bfloat16": "Score-CAM, bf16"}
ABLATION, ABLATION_WHOLE = "Ablation-CAM", "Ablation-CAM, whole network"
OPTI, OPTI_SINGLY = "Opti-CAM, a batch", "Opti-CAM, one by one"
PASSES, PASSES_SINGLY = "its passes alone, a batch", "its passes alone, one by one"


@dataclass(frozen=True)
class Task:
    """What is timed.

    Attributes:
        subject: model and images.
        few: how many of the images the methods explain that take a forward pass per channel.
        iterations: of Opti-CAM, each of which takes the same time.
    """

    subject: Subject
    few: int
    iterations: int

    def evidence(self, part: slice) -> Capture:
        """Of some of the images."""
        subject = self.subject
        return capture(subject.model, subject.layer, subject.images[part], subject.targets[part])


def score_cam(dtype: ScoreDtype = "float32") -> ScoreCAM:
    """Weighted as by pytorch-grad-cam."""
    return ScoreCAM("softmax", score_dtype=dtype)


def make_peer(task: Task) -> Callable[[], Any] | None:
    """Score-CAM of pytorch-grad-cam, which returns maps ``(few, H, W)``; None where that is not installed."""
    if not find_spec("pytorch_grad_cam"):
        return None
    return peers.pytorch_grad_cam("ScoreCAM", task.subject, task.subject.images[: task.few])


def make_contestants(task: Task) -> dict[str, Contestant]:
    """Ours, and what each is held against."""
    n, few, peer = len(task.subject.images), task.evidence(slice(task.few)), make_peer(task)
    runs: dict[str, Callable[[], Any]] = {
        SCORE[dtype]: partial(score_cam(dtype), few) for dtype in precisions(task.subject.images.device)
    }
    runs |= {ABLATION: partial(AblationCAM(), few), ABLATION_WHOLE: partial(ablated_weights, few)}
    if peer is not None:
        runs[peers.SCORE_CAM] = peer
    opti, everything = OptiCAM(max_iterations=task.iterations), task.evidence(slice(n))
    singly = [task.evidence(slice(row, row + 1)) for row in range(n)]
    return {name: Contestant(run, len(few.images)) for name, run in runs.items()} | {
        OPTI: Contestant(partial(opti, everything), n),
        OPTI_SINGLY: Contestant(lambda: [opti(evidence) for evidence in singly], n),
        PASSES: Contestant(partial(passes, task.subject, slice(n)), n),
        PASSES_SINGLY: Contestant(lambda: [passes(task.subject, slice(row, row + 1)) for row in range(n)], n),
    }


def passes(subject: Subject, part: slice) -> Tensor:
    """What an iteration of Opti-CAM cannot do without: the gradient of the target's logit in the images."""
    images = subject.images[part].clone().requires_grad_()
    with observing(subject.model):
        logits = subject.model(images).gather(1, subject.targets[part, None])
        return torch.autograd.grad(logits.sum(), images)[0]


def ablated_weights(evidence: Capture) -> Tensor:
    """The weights ``(B, C)`` of Ablation-CAM by a hook on the layer, with forward passes from the images."""
    maps = evidence.activations
    rows, channels = (maps != 0).any(dim=3).any(dim=2).nonzero(as_tuple=True)
    due = slice(0)

    def alter(part: slice) -> Tensor:
        nonlocal due
        due = part
        return evidence.images[rows[part]]

    def ablate(_module: Any, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[torch.arange(len(output), device=output.device), channels[due]] = 0
        return output

    handle = evidence.layer.module.register_forward_hook(ablate)
    try:
        logits = evidence.rescore(rows, alter)
    finally:
        handle.remove()
    score = evidence.score(evidence.logits, torch.arange(len(maps), device=maps.device))[rows]
    return torch.zeros_like(maps[:, :, 0, 0]).index_put(
        (rows, channels), (score - evidence.score(logits, rows)) / score.abs()
    )


def results(task: Task) -> Iterator[tuple[str, float, Goal]]:
    """What the times rest on: that both sides say the same."""
    evidence, peer = task.evidence(slice(task.few)), make_peer(task)
    if peer is not None:
        size = task.subject.size
        maps = upsample(score_cam()(evidence), (size, size), "bilinear").cpu().flatten(1).numpy()
        pairs = zip(maps, peer().reshape(len(maps), -1), strict=True)
        lowest = min(float(np.corrcoef(one, other)[0, 1]) for one, other in pairs)
        yield "maps of both Score-CAMs, lowest correlation", lowest, goals.EQUAL_MAPS
    if "bfloat16" in precisions(evidence.images.device):
        ranks = rank_correlations(score_cam("bfloat16").weights(evidence), score_cam().weights(evidence))
        yield "weights of Score-CAM, bf16 with fp32, lowest rank correlation", float(ranks.min()), goals.RANKS
    off = (AblationCAM().weights(evidence) - ablated_weights(evidence)).abs().max()
    yield "weights of both Ablation-CAMs, largest difference", float(off), goals.ABLATION_WEIGHTS


def ratios(timings: Timings, device: torch.device) -> Iterator[tuple[str, str, Goal | None]]:
    """Which time is held against which, and the goal, if there is one."""
    for dtype in precisions(device):
        if peers.SCORE_CAM in timings:
            yield peers.SCORE_CAM, SCORE[dtype], goals.SCORE_CAM[dtype]
    yield ABLATION_WHOLE, ABLATION, goals.ABLATION_TAIL
    yield OPTI_SINGLY, OPTI, goals.OPTI_BATCH
    yield PASSES_SINGLY, PASSES, None


def make_table(task: Task, timings: Timings) -> Table:
    """Each time beside the one that it is held against, and each result beside its goal."""
    table = Table("", "ms / image", "", "measured", "goal", "")
    for over, under, goal in ratios(timings, task.subject.images.device):
        low, high = timings.spread(over, under)
        times = " / ".join(f"{1000 * timings.typical(name):.1f}" for name in (over, under))
        ratio = timings.ratio(over, under)
        table.add_row(f"{over} / {under}", times, f"{low:.2f} to {high:.2f}", f"{ratio:.2f} x", *_verdict(goal, ratio))
    for what, value, goal in results(task):
        table.add_row(what, "", "", f"{value:.3g}", *_verdict(goal, value))
    return table


def _verdict(goal: Goal | None, value: float) -> tuple[str, str]:
    return ("", "") if goal is None else (str(goal), "met" if goal.met(value) else "not met")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.network_methods", description="What methods take that ask the network again."
    )
    parser.add_argument("--model", default="resnet18", help="a torchvision classifier, or small_resnet")
    parser.add_argument("--layer", help="target layer (default: the one that find_target_layer finds)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=16, help="images that Opti-CAM explains")
    parser.add_argument("--few", type=int, default=1, help="of them, that Score-CAM and Ablation-CAM explain")
    parser.add_argument("--iterations", type=int, default=5, help="of Opti-CAM; each takes the same time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train-images", type=int, default=1024, help="images that the network learns from beforehand")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; the goals are set for one")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that others use")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 150)
    with console.status("training the network") as status:
        subject = make_subject(
            options.model,
            options.size,
            options.batch,
            train_images=options.train_images,
            layer=options.layer,
            device=options.device,
        )
        task = Task(subject, options.few, options.iterations)
        table = make_table(task, interleave(make_contestants(task), options.rounds, options.clock, status.update))
    table.title = (
        f"{options.model}, {subject.layer}, {options.size} x {options.size}, {options.few} and {options.batch} images, "
        f"{options.rounds} rounds, {options.threads} threads, {options.clock} clock, {options.device}"
    )
    console.print(table)


if __name__ == "__main__":
    main()
