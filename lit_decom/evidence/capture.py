"""What one forward and one backward pass leave behind at a layer, and how the model is asked again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_decom.evidence.layers import TargetLayer, TargetLayerError, resolve_layer, unwrapped
from lit_decom.evidence.network import Forward, Network, ScoreDtype
from lit_decom.evidence.observing import observing
from lit_decom.evidence.recorder import Recorder, arranged, backward, record
from lit_decom.evidence.room import Room
from lit_decom.evidence.tail import Tail
from lit_decom.evidence.targets import Targets, TargetScore, bind, counted_from
from lit_decom.functional.base import widened
from lit_decom.functional.labels import logits_of_label


@dataclass(frozen=True)
class Capture:
    """What one forward and one backward pass leave behind at one layer; it serves every explanation method.

    Attributes:
        images: ``(B, 3, H, W)``, as the model saw them.
        targets: ``(B,)``, the class explained; -1 where a callable scores the image.
        logits: ``(B, N)``.
        activations: ``(B, C, h, w)``, float32 or better.
        gradients: ``(B, C, h, w)``, of each image's target score.
        score: the target score, bound to each image: from altered logits ``(n, N)`` and the image ``(n,)`` each comes
            from to scores ``(n,)``. A pair of classes chosen on the unaltered image stays that pair.
        network: altered images ``(n, 3, H, W)`` to logits ``(n, N)``, with the weights of the model at the capture;
            reads the logits as the capture did.
        model: the model.
        layer: the layer explained.
        mean: normalisation of the images ``(C,)``, where known.
        std: normalisation of the images ``(C,)``, where known.
        chunk_size: altered images per forward pass, as long as they fit in memory.
        room: how many did, where they once did not.
        asked: for a network of independent labels, the label ``(B,)`` that each image is asked about: logits, targets
            and scores are those of :func:`lit_decom.functional.labels.logits_of_label`, of twice as many classes as
            the network has logits.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor
    activations: Tensor
    gradients: Tensor
    score: TargetScore = field(repr=False)
    network: Network = field(repr=False)
    model: nn.Module = field(repr=False)
    layer: TargetLayer = field(repr=False)
    mean: Tensor | None = None
    std: Tensor | None = None
    chunk_size: int = 10
    room: Room = field(default_factory=Room, repr=False)
    asked: Tensor | None = None

    def again(self, images: Tensor, targets: Targets | None = None) -> "Capture":
        """Explain altered versions of the same images in the same way.

        Layer, reading of the logits, normalisation, chunk size and weights are those of this capture, and so is the
        score of each image unless ``targets`` says otherwise: a class stays the class even where it is no longer the
        predicted one, a contrast stays the pair of classes chosen on the unaltered image, and a callable gets the
        same rows.

        Args:
            images: ``(B, 3, H, W)``, one altered version of every image of this capture, in the same order.
            targets: what is explained instead, as for :func:`capture`; ``"predicted"`` and ``"contrast"`` are chosen
                on the altered images then.

        Returns:
            The evidence at the altered images.

        Raises:
            ValueError: if there are not as many images, or a target is no class of the model.
            TargetLayerError: if the score of the altered images does not depend on the layer.
            RuntimeError: if the model's weights have changed since this capture.
        """
        images = _checked(images)
        if len(images) != len(self.images):
            raise ValueError(
                f"Expected `images` to be {len(self.images)} altered ones, one for each image, but got {len(images)}."
            )
        with observing(self.model):
            images = _outside_inference(images)
            parts = self.room.over(len(images), len(images), lambda part: self._again(images, part, targets))
            found = _Evidence(*map(torch.cat, zip(*parts, strict=True)))
            classes, score = (self.targets, self.score) if targets is None else bind(targets, found.logits)
        return replace(self, targets=classes, score=score, **found._asdict())

    def _again(self, images: Tensor, part: slice, targets: Targets | None) -> "_Evidence":
        """The evidence at some of the altered images."""
        asked, recorder = None if self.asked is None else self.asked[part], Recorder(self.layer)
        output = recorder.run(self.network, images[part])
        if targets is None:
            score = counted_from(part.start, self.score)
        else:
            _, score = bind(_of(targets, part), _read(output.detach(), asked))
        return _evidence(self.network, recorder, images[part], output, score, asked=asked)

    def rescore(self, rows: Tensor, alter: Callable[[slice], Tensor], dtype: ScoreDtype = "float32") -> Tensor:
        """Run the model on altered images that are made only when their chunk is due.

        Args:
            rows: the image ``(n,)`` that each altered one comes from; its length says how many there are.
            alter: from a slice of ``rows`` to those altered images ``(m, 3, H, W)``.
            dtype: ``"bfloat16"`` runs these forwards, and nothing else, under autocast.

        Returns:
            Logits ``(n, N)``, without gradients; no hook of ours is on the model.

        Raises:
            RuntimeError: if the model's weights have changed since the capture.
        """
        parts = [self.logits.new_zeros(0, self.logits.shape[1])]
        with observing(self.model), torch.no_grad():
            parts += self.room.over(
                len(rows),
                self.chunk_size,
                lambda part: _read(self.network(alter(part), dtype), self.asked, rows[part]),
            )
        return torch.cat(parts)

    def rescore_activations(self, rows: Tensor, alter: Callable[[slice], Tensor]) -> Tensor:
        """Run the model on altered activations of the layer, made only when their chunk is due.

        What comes before the layer is not run again for each of them, see :class:`lit_decom.evidence.tail.Tail`: an
        image costs about the square root of their number in forward passes of the whole network, and for each of them
        one of what follows the layer. Left out are submodules that end before the layer begins: for a layer inside a
        block, what stands before the block and before the layer in it. They run again where the model's submodules talk
        to one another past what they return.

        Args:
            rows: the image ``(n,)`` that each altered map comes from; those of an image one after another.
            alter: from a slice of ``rows`` to those altered activations ``(m, C, h, w)``. Tokens without a position,
                where the layer returns some, stay as they are.

        Returns:
            Logits ``(n, N)``, without gradients; no hook of ours is on the model.

        Raises:
            RuntimeError: if the model's weights have changed since the capture.
        """
        parts, end = [self.logits.new_zeros(0, self.logits.shape[1])], 0
        with observing(self.model), torch.no_grad():
            for row, own in groupby(rows.tolist()):
                count = len(list(own))
                # As many passes as images in each: every one in the first costs the whole network.
                start, end, size = end, end + count, min(self.chunk_size, isqrt(count - 1) + 1)
                parts += self.room.over(count, size, self._behind_layer(row, rows, alter, start, size))
        return torch.cat(parts)

    def _behind_layer(
        self, row: int, rows: Tensor, alter: Callable[[slice], Tensor], start: int, size: int
    ) -> Callable[[slice], Tensor]:
        """How to run what follows the layer on a part of one image's altered activations, from ``start`` on."""
        tails: dict[int, Tail] = {}

        def run(own: slice) -> Tensor:
            copies, part = self.room.at_most(size), slice(start + own.start, start + own.stop)
            if copies not in tails:
                tails.clear()
                tails[copies] = Tail(self.network, self.layer, self.images[row].expand(copies, -1, -1, -1))
            return _read(tails[copies](alter(part)), self.asked, rows[part])

        return run

    def target_scores(self, output: Tensor, rows: Tensor) -> Tensor:
        """Read what the network returns for some altered images as their target scores.

        Args:
            output: ``(n, N)``, of :attr:`network`.
            rows: the image ``(n,)`` that each comes from.

        Returns:
            ``(n,)``.
        """
        return self.score(_read(output, self.asked, rows), rows)

    def relogits(self, altered: Tensor) -> Tensor:
        """Run the model on ``M`` altered versions of every image.

        Args:
            altered: ``(B, M, 3, H, W)``.

        Returns:
            Logits ``(B, M, N)``, without gradients.
        """
        batch, versions = altered.shape[:2]
        flat = altered.flatten(0, 1)
        rows = torch.arange(batch, device=altered.device).repeat_interleave(versions)
        return self.rescore(rows, lambda part: flat[part]).view(batch, versions, -1)


def capture(
    model: nn.Module,
    layer: TargetLayer | str,
    images: Tensor,
    targets: Targets,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    forward: Forward | None = None,
    chunk_size: int | None = None,
    room: Room | None = None,
    asked: Tensor | None = None,
) -> Capture:
    """Run a model forward, and backward as far as one layer.

    The model may be in any mode and under any gradient mode; everything about it is as before afterwards. The graph
    begins at the layer, so a frozen network works like any other, and the backward pass stops there.

    Args:
        model: the network.
        layer: what :func:`lit_decom.find_target_layer` returned, or a name.
        images: ``(B, 3, H, W)``, as the model shall see them.
        targets: what is explained: class indices ``(B,)``, one class for all, ``"predicted"``, ``"contrast"`` (the
            largest logit of the unaltered image less its second largest), or a callable from logits ``(n, N)`` and the
            image ``(n,)`` each comes from to scores ``(n,)``.
        mean: normalisation ``(3,)`` of the images, where known.
        std: normalisation ``(3,)`` of the images, where known.
        forward: how the model is asked, where its own forward does not take images and return logits: a callable
            ``(model, images) -> output``, or the name of a submodule to be called on the images. The logits are the
            output itself, or its attribute or key ``logits``.
        chunk_size: altered images per forward pass later on; by default eight of 224 x 224 pixels on a CPU.
        room: what other captures have learnt of how many images fit in memory at once.
        asked: for a network of independent labels (sigmoids), the label ``(B,)`` that each image is asked about; None
            where classes exclude one another. See :attr:`Capture.asked` for what targets are then.

    Returns:
        The evidence.

    Raises:
        ForwardError: if the model raises on the images or returns no logits; it is a ValueError.
        ValueError: if there is no image, or a target or a label is none of the model's.
        TargetLayerError: if the layer is unknown, has no feature grid, or the logits do not depend on it.
    """
    images = _checked(images)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"Expected `chunk_size` to be at least 1, but got {chunk_size}.")
    model = unwrapped(model)
    layer = resolve_layer(model, layer) if isinstance(layer, str) else layer
    with observing(model):
        images = _outside_inference(images)
        network, recorder, output = record(model, layer, images, forward)
        asked = _checked_labels(asked, output)
        classes, score = bind(targets, _read(output.detach(), asked))
        found = _evidence(network, recorder, images, output, score, asked=asked)
        return Capture(
            **found._asdict(),
            targets=classes,
            score=score,
            network=network,
            model=model,
            layer=layer,
            mean=_per_channel("mean", mean, found.images),
            std=_per_channel("std", std, found.images),
            chunk_size=chunk_size or _default_chunk(images),
            room=room or Room(),
            asked=asked,
        )


def _read(output: Tensor, asked: Tensor | None, rows: Tensor | slice = slice(None)) -> Tensor:
    """From what the network returns for some rows to the logits that are explained, scored and kept."""
    return output if asked is None else logits_of_label(output, asked[rows])


def _of(targets: Targets, part: slice) -> Targets:
    """What is asked for of some of the images."""
    if isinstance(targets, Tensor):
        return targets[part] if targets.ndim else targets
    return counted_from(part.start, targets) if callable(targets) else targets


class _Evidence(NamedTuple):
    """The tensors of a capture that one forward and one backward pass give."""

    images: Tensor
    logits: Tensor
    activations: Tensor
    gradients: Tensor


def _evidence(
    network: Network, recorder: Recorder, images: Tensor, output: Tensor, score: TargetScore, *, asked: Tensor | None
) -> _Evidence:
    # A float64 network saw them widened.
    images = images.to(output.dtype)
    to_map = arranged(recorder, network, images)
    activations = to_map(recorder.leaf.detach())
    gradient = backward(network, recorder, images, output, lambda out, rows: score(_read(out, asked, rows), rows))
    if gradient is None:
        raise TargetLayerError(
            f"Expected the target score to depend on `target_layer` {recorder.layer.name!r}, but no gradient arrives "
            "there."
        )
    return _Evidence(images, _read(output.detach(), asked), activations, to_map(gradient))


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(f"Expected `images` to be (B, 3, H, W) with B >= 1, but got {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise ValueError(f"Expected `images` to be as the model sees them, floating point, but got {images.dtype}.")
    return widened(images)


def _checked_labels(asked: Tensor | None, output: Tensor) -> Tensor | None:
    if asked is None:
        return None
    batch, n_labels = output.shape
    asked = torch.as_tensor(asked, device=output.device)
    if asked.shape != (batch,) or asked.is_floating_point():
        raise ValueError(f"Expected `asked` to be ({batch},) labels, but got {tuple(asked.shape)} {asked.dtype}.")
    if asked.min() < 0 or asked.max() >= n_labels:
        raise ValueError(
            f"Expected `asked` to be between 0 and {n_labels - 1}, but got {int(asked.min())} to {int(asked.max())}."
        )
    return asked.long()


def _outside_inference(images: Tensor) -> Tensor:
    # A clone, since autograd refuses to save a tensor made in inference mode.
    return images.detach().clone() if images.is_inference() else images.detach()


def _per_channel(name: str, values: Tensor | Sequence[float] | None, images: Tensor) -> Tensor | None:
    if values is None:
        return None
    values = torch.as_tensor(values, dtype=images.dtype, device=images.device)
    if values.shape != (images.shape[1],):
        raise ValueError(f"Expected `{name}` to be ({images.shape[1]},), but got {tuple(values.shape)}.")
    return values


def _default_chunk(images: Tensor) -> int:
    """Eight images of 224 x 224 on a CPU (larger tensors outgrow its allocator), and many on an accelerator."""
    pixels = images.shape[-2] * images.shape[-1]
    most, at_224 = (100, 8) if images.device.type == "cpu" else (1024, 128)
    return max(1, min(most, round(at_224 * 224 * 224 / pixels)))
