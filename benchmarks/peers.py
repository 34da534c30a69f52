"""Other packages, where they are installed: ``pip install grad-cam torchcam``."""

import copy
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any

from torch import Tensor

from .subject import Subject
from .timing import Contestant

GRAD_CAM = "pytorch-grad-cam GradCAM"
SCORE_CAM = "pytorch-grad-cam ScoreCAM"
ABLATION_CAM = "pytorch-grad-cam AblationCAM"
TORCHCAM = "torchcam GradCAM"


def make_peers(subject: Subject) -> dict[str, Contestant]:
    """Contestants by name; those that ask the network once per channel explain one image, in one round."""
    peers: dict[str, Contestant] = {}
    if find_spec("pytorch_grad_cam"):
        peers[GRAD_CAM] = Contestant(pytorch_grad_cam("GradCAM", subject, subject.images), len(subject.images))
        for name, method in ((SCORE_CAM, "ScoreCAM"), (ABLATION_CAM, "AblationCAM")):
            peers[name] = Contestant(pytorch_grad_cam(method, subject, subject.images[:1]), 1, rounds=1)
    if find_spec("torchcam"):
        peers[TORCHCAM] = Contestant(_torchcam(subject), len(subject.images))
    return peers


def pytorch_grad_cam(method: str, subject: Subject, images: Tensor) -> Callable[[], Any]:
    """A method of pytorch-grad-cam on the first images of a subject; it returns maps ``(n, H, W)``."""
    package, targets_of = import_module("pytorch_grad_cam"), import_module("pytorch_grad_cam.utils.model_targets")
    # Its hooks stay on the model.
    model = copy.deepcopy(subject.model)
    explainer = getattr(package, method)(model=model, target_layers=[model.get_submodule(subject.layer)])
    targets = [targets_of.ClassifierOutputTarget(int(target)) for target in subject.targets[: len(images)]]

    def run() -> Any:
        with redirect_stderr(StringIO()):  # some draw progress bars
            return explainer(input_tensor=images, targets=targets)

    return run


def _torchcam(subject: Subject) -> Callable[[], object]:
    model = copy.deepcopy(subject.model)
    explainer = import_module("torchcam.methods").GradCAM(model, subject.layer)
    targets = subject.targets.tolist()
    return lambda: explainer(targets, model(subject.images))
