"""Who takes part in a run, and what their results say beyond the time they take."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from scipy.stats import spearmanr
from torch import Tensor

from lit_decom import METHODS, Capture, DecomCAM, Decomposition, capture
from lit_decom.evidence import ScoreDtype
from lit_decom.functional.cam import channel_weights
from lit_decom.functional.decomposition import decompose, select_channels
from lit_decom.methods.presets import Integration

from .floor import make_floor
from .published_style import PublishedStyle
from .subject import Subject, training_step
from .timing import Contestant

OURS: dict[ScoreDtype, str] = {"float32": "ours, fp32", "bfloat16": "ours, bf16"}
FLOOR: dict[ScoreDtype, str] = {"float32": "floor, fp32", "bfloat16": "floor, bf16"}
PUBLISHED = "published style"
DECOMPOSITION = "decomposition alone"
TRAINING = "training step"
CHEAP_METHODS = "all gradient and eigen methods"
_ONE_AT_A_TIME = 4  # images that show what one takes


@dataclass(frozen=True)
class Task:
    """An explanation to be timed.

    Attributes:
        subject: model and images.
        n_components: how many components.
        integration: the preset.
        chunk: altered images per forward; None for the default.
    """

    subject: Subject
    n_components: int
    integration: Integration = "v25"
    chunk: int | None = None

    def capture(self) -> Capture:
        """Evidence for the subject's images."""
        subject = self.subject
        half = torch.full((3,), 0.5, device=subject.images.device)
        return capture(
            subject.model,
            subject.layer,
            subject.images,
            subject.targets,
            mean=half,
            std=half / 2,
            chunk_size=self.chunk,
        )

    def method(self, dtype: ScoreDtype = "float32") -> DecomCAM:
        """Our method, with masked forwards in that precision."""
        return DecomCAM(self.n_components, integration=self.integration, score_dtype=dtype)

    def explain(self, dtype: ScoreDtype = "float32") -> Decomposition:
        """What is timed as ours: from images to maps and contributions."""
        explained = self.method(dtype).decompose(self.capture())
        _ = explained.cam
        return explained


def precisions(device: torch.device) -> tuple[ScoreDtype, ...]:
    """What masked forwards are timed in: bf16 only where it is computed in, since elsewhere it is slower than fp32."""
    native = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 -- no public way to ask
    return ("float32", "bfloat16") if native else ("float32",)


def make_contestants(task: Task) -> dict[str, Contestant]:
    """Ours and the floor in each precision, the published way, and parts of ours."""
    subject, n = task.subject, len(task.subject.images)
    evidence = task.capture()
    altered = int(task.explain().valid.sum()) + n
    runs: dict[str, Callable[[], object]] = {}
    for dtype in precisions(subject.images.device):
        runs[OURS[dtype]] = partial(task.explain, dtype)
        runs[FLOOR[dtype]] = make_floor(subject, altered, evidence.chunk_size, dtype)
    runs[DECOMPOSITION] = _decomposition(task, evidence)
    runs[TRAINING] = _training(subject)
    runs[CHEAP_METHODS] = partial(_cheap_methods, task)
    few = min(n, _ONE_AT_A_TIME)
    published = partial(make_published(task), subject.images[:few], subject.targets[:few])
    return {name: Contestant(run, n) for name, run in runs.items()} | {PUBLISHED: Contestant(published, few)}


def make_published(task: Task) -> PublishedStyle:
    """The published way on a copy of the model, since its hooks and gradients stay there."""
    return PublishedStyle(copy.deepcopy(task.subject.model), task.subject.layer, task.n_components)


def _decomposition(task: Task, evidence: Capture) -> Callable[[], object]:
    preset = task.method().preset
    weights = channel_weights(evidence.activations, evidence.gradients, preset.channel_weight)
    channels, _ = select_channels(weights, preset.top_p, positive_only=preset.positive_only)
    rows = torch.arange(len(channels), device=channels.device)[:, None]
    maps = evidence.activations[rows, channels] * weights.gather(1, channels)[:, :, None, None]
    return lambda: decompose(maps, task.n_components, centred=preset.centred)


def _training(subject: Subject) -> Callable[[], None]:
    model = copy.deepcopy(subject.model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return lambda: training_step(model, subject.images, subject.targets, optimizer)


def cheap_methods() -> list[str]:
    """Names of the methods that need nothing but a capture."""
    modules = {"lit_decom.methods.gradient", "lit_decom.methods.eigen"}
    return [name for name, method in METHODS.items() if method.__module__ in modules]


def _cheap_methods(task: Task) -> None:
    evidence = task.capture()
    for name in cheap_methods():
        METHODS[name]()(evidence)


def rank_correlations(one: Tensor, other: Tensor) -> Tensor:
    """Spearman correlation ``(B,)`` of contributions ``(B, K)``; NaN where one of the two tells no component apart."""
    pairs = zip(one.cpu().double().numpy(), other.cpu().double().numpy(), strict=True)
    return torch.tensor([spearmanr(a, b).statistic if a.std() * b.std() > 0 else torch.nan for a, b in pairs])
