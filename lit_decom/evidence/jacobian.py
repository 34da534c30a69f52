"""What a layer does for combinations of the classes: vector-Jacobian products, one backward pass for each."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lit_decom.evidence.capture import Capture
from lit_decom.evidence.observing import observing
from lit_decom.evidence.recorder import Recorder, arranged, gradients
from lit_decom.evidence.targets import TargetScore, counted_from
from lit_decom.functional.labels import logits_of_label


def combined_gradients(evidence: Capture, images: Tensor, combinations: Tensor) -> Tensor:
    """Differentiate combinations of the logits with respect to each channel of the layer.

    One forward pass and K backward passes that end at the layer. The gradient of a channel is summed over positions:
    how much the combination rises to first order where the channel rises by one at every position. With global average
    pooling and a linear head that is the head's weight, whatever the image.

    Args:
        evidence: a capture of the model; layer, reading of the logits and weights are its.
        images: ``(B, 3, H, W)``, as the model shall see them; any number, on any device.
        combinations: ``(N, K)``, the weight of every class in each combination.

    Returns:
        ``(B, K, C)``, on the device of the evidence.

    Raises:
        ValueError: if the combinations are not of the model's classes.
        RuntimeError: if the model's weights have changed since the capture.
    """
    n_classes, channels = evidence.logits.shape[1], evidence.activations.shape[1]
    if combinations.ndim != 2 or len(combinations) != n_classes:
        raise ValueError(f"Expected `combinations` to be ({n_classes}, K), but got {tuple(combinations.shape)}.")
    if combinations.shape[1] == 0:
        return evidence.activations.new_zeros(len(images), 0, channels)
    return _products(evidence, images, [partial(_combined, weights) for weights in combinations.T])


def class_gradients(evidence: Capture, classes: Tensor) -> Tensor:
    """Differentiate the logits of several classes of each image with respect to each channel of the layer.

    One forward pass and K backward passes that end at the layer; the gradient of a channel is summed over positions.

    Args:
        evidence: a capture of the model; layer, images, reading of the logits and weights are its.
        classes: ``(B, K)``, of each image of the capture.

    Returns:
        ``(B, K, C)``, on the device of the evidence.

    Raises:
        RuntimeError: if the model's weights have changed since the capture.
    """
    asked = evidence.asked

    def picked(own: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        read = logits if asked is None else logits_of_label(logits, asked[rows])
        return read.gather(1, own[rows, None]).squeeze(1)

    return _products(evidence, evidence.images, [partial(picked, own) for own in classes.T])


def _products(evidence: Capture, images: Tensor, scores: Sequence[TargetScore]) -> Tensor:
    """Gradients of several scores of each image, summed over positions, ``(B, K, C)``."""

    def products(part: slice) -> Tensor:
        own, recorder = images[part].to(evidence.images), Recorder(evidence.layer)
        logits = recorder.run(evidence.network, own)
        to_map = arranged(recorder, evidence.network, own)
        bound = [counted_from(part.start, score) for score in scores]
        found = gradients(evidence.network, recorder, own, logits, bound)
        nothing = evidence.activations.new_zeros(len(own), evidence.activations.shape[1])
        return torch.stack([nothing if one is None else to_map(one).sum(dim=(2, 3)) for one in found], dim=1)

    with observing(evidence.model):
        return torch.cat(list(evidence.room.over(len(images), len(images), products)))


def _combined(weights: Tensor, logits: Tensor, _rows: Tensor) -> Tensor:
    return logits @ weights.to(logits)
