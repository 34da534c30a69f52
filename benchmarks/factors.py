"""What decision factors cost, and whether few backward passes find them: ``python -m benchmarks.factors``.

A ResNet-18 with 10, 100 and 1000 classes explains images of noise. Its head is drawn such that the logits vary in
twelve directions alike: about as many factors as there may be, the most that they can cost. Printed are the error of
the codes against those from the gradients of every class, and what a snapshot takes with factors, with the shared SVD
and with neither: of an observer that scores nothing, since whatever is scored costs the same in all three.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from lit_decom import Components, DecomCAM, Explainer, Probe, Scoring, capture, find_target_layer
from lit_decom.evidence import combined_gradients
from lit_decom.functional.decision_factors import DecisionFactors, decision_factors, factors_from_products
from lit_decom.functional.principal_logits import principal_logits
from lit_decom.isolation import isolated_random_state
from lit_decom.models.small_resnet import SmallResNet
from lit_decom.observer import Observer

from . import goals
from .timing import Contestant, Timings, interleave

WITHOUT, SVD, FACTORS = "without", "shared SVD", "decision factors"
_COMPONENTS = {
    WITHOUT: Components(0),
    SVD: Components(shared="svd"),
    FACTORS: Components(shared="decision_factors"),
}
_SPREAD = 12


@dataclass(frozen=True)
class Agreement:
    """Factors from a backward pass for each principal component, beside those from one for each class.

    Attributes:
        passes: backward passes that they take.
        error: of the codes, relative to their norm.
        scores_error: of the scores, likewise.
        held: share of the squared gradients of all classes, centred over them, that the principal components hold.
    """

    passes: int
    error: float
    scores_error: float
    held: float


def make_network(model: str, n_classes: int, images: Tensor, device: str) -> nn.Module:
    """Draw a network, and a head such that the logits of these images vary in up to twelve directions alike."""
    with isolated_random_state(0):
        network = (
            SmallResNet(n_classes)
            if model == "small_resnet"
            else torchvision.models.get_model(model, num_classes=n_classes)
        )
        network = network.to(device).eval()
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        weights = torch.randn(n_classes, _SPREAD)
    pooled: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _module, args: pooled.append(args[0]))
    with torch.no_grad():
        for piece in torch.split(images, 16):
            network(piece.to(device))
        handle.remove()
        features = torch.cat(pooled).double().cpu()
        mean = features.mean(dim=0)
        _, values, right = torch.linalg.svd(features - mean, full_matrices=False)
        spread = min(_SPREAD, len(images) - 1)  # of so few images, once centred, there are no more directions
        whitening = right[:spread] / values[:spread, None] * len(images) ** 0.5
        head.weight.copy_(weights[:, :spread].double() @ whitening)
        head.bias.copy_(-head.weight.double().cpu() @ mean)
    return network


def agreement(network: nn.Module, layer: str, images: Tensor) -> Agreement:
    """Compare both ways on the same images, which are in one piece."""
    evidence = capture(network, layer, images, "predicted")
    pooled, logits = evidence.activations.mean(dim=(2, 3)), evidence.logits
    principal = principal_logits(logits)
    products = combined_gradients(evidence, images, principal.directions.float()).mean(dim=0)
    few = factors_from_products(logits, principal, products, pooled)
    n_classes = logits.shape[1]
    classes = torch.eye(n_classes)
    parts = [
        combined_gradients(evidence, images, classes[:, start : start + 100]).mean(dim=0)
        for start in range(0, n_classes, 100)
    ]
    jacobian = torch.cat(parts).double().cpu()
    every = decision_factors(logits, jacobian, pooled)
    centred = jacobian - jacobian.mean(dim=0)
    held = (principal.directions.T @ centred).square().sum() / centred.square().sum()
    return Agreement(len(products), _error(few, every, "codes"), _error(few, every, "scores"), float(held))


def _error(found: DecisionFactors, expected: DecisionFactors, name: str) -> float:
    wanted = getattr(expected, name)
    return float((getattr(found, name) - wanted).norm() / wanted.norm())


def snapshot_times(network: nn.Module, layer: str, images: Tensor, options: argparse.Namespace) -> Timings:
    """Time snapshots of the same network and probe with each kind of shared components, turn by turn."""
    probe = Probe.from_tensors(images, torch.arange(len(images)) % 2)
    contestants = {}
    for name, components in _COMPONENTS.items():
        observer = Observer(Explainer(DecomCAM(), target_layer=layer), Scoring(metrics=()), components)
        observer.prepare(network, probe)
        contestants[name] = Contestant(partial(observer.observe, network, epoch=0, step=0), len(images))
    return interleave(contestants, options.rounds, options.clock, lambda _what: None)


def rows(options: argparse.Namespace, n_classes: int, n_images: int) -> list[str]:
    """Measure one number of classes and images, and say what came out."""
    coarse = torch.randn(n_images, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=(options.size, options.size), mode="bicubic")
    network = make_network(options.model, n_classes, images, options.device)
    layer = find_target_layer(network, options.layer, images[:1].to(options.device)).name
    found = agreement(network, layer, images[: options.compared].to(options.device))
    timings = snapshot_times(network, layer, images, options)
    ratio = timings.ratio(FACTORS, WITHOUT)
    low, high = timings.spread(FACTORS, WITHOUT)
    verdict = "met" if goals.FACTORS.met(ratio) else "not met"
    return [
        f"{n_classes}",
        f"{n_images}",
        f"{found.passes}",
        f"{found.error:.1e}",
        f"{found.scores_error:.1e}",
        f"{found.held:.3f}",
        f"{1000 * timings.typical(WITHOUT):.1f}",
        f"{timings.ratio(SVD, WITHOUT):.2f}",
        f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
        f"{goals.FACTORS}: {verdict}",
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.factors", description="What decision factors cost.")
    parser.add_argument("--model", default="resnet18", help="a torchvision classifier, or small_resnet")
    parser.add_argument("--layer", help="target layer (default: the one that find_target_layer finds)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--images", type=int, nargs="+", default=[64], help="of the probe")
    parser.add_argument("--compared", type=int, default=16, help="images that the agreement is measured on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that others use")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 150)
    title = (
        f"{options.model}, {options.layer or 'default layer'}, {options.size} x {options.size}, {options.rounds} "
        f"rounds, {options.threads} threads, {options.clock} clock, {options.device}; ratios to a snapshot without"
    )
    heads: list[Any] = ["classes", "images", "passes", "codes off by", "scores off by", "gradients held"]
    heads += ["ms per image without", SVD, f"{FACTORS} [range]", "goal"]
    table = Table(*heads, title=title, title_justify="left")
    for n_classes in options.classes:
        for n_images in options.images:
            with console.status(f"{n_classes} classes, {n_images} images"):
                table.add_row(*rows(options, n_classes, n_images))
    console.print(table)


if __name__ == "__main__":
    main()
