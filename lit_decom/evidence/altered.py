"""How the scores of altered images change with what those are made from."""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_decom.evidence.capture import Capture
from lit_decom.evidence.observing import observing
from lit_decom.evidence.recorder import RecordingKept


def score_gradients(
    evidence: Capture, rows: Tensor, variables: Tensor, alter: Callable[[Tensor, slice], Tensor]
) -> tuple[Tensor, Tensor]:
    """Score altered images, and differentiate each score with regard to what its image is made from.

    One forward pass for each chunk, and one backward pass through the whole network to its images.

    Args:
        evidence: a capture of the model; score, reading of the logits, chunk size and weights are its.
        rows: the image ``(n,)`` that each altered one comes from.
        variables: what it is made from, ``(n, P)``.
        alter: from the variables ``(m, P)`` of a slice of ``rows``, and that slice, to those altered images
            ``(m, 3, H, W)``; differentiable.

    Returns:
        Target scores ``(n,)``, and their gradients ``(n, P)``.

    Raises:
        ValueError: if a score does not depend on the image in a way that can be differentiated.
        RuntimeError: if the model's weights have changed since the capture.
    """

    def differentiated(part: slice) -> tuple[Tensor, Tensor]:
        leaf = variables[part].detach().clone().requires_grad_()
        score = _scored(evidence, alter(leaf, part), rows[part])
        # A checkpointed part runs again now, and must find the weights that it ran with.
        with evidence.network.weights_in_place():
            (gradient,) = torch.autograd.grad(score.sum(), leaf)
        return score.detach(), gradient

    parts = [(variables.new_zeros(0), variables.new_zeros(0, variables.shape[1]))]
    with observing(evidence.model):
        parts += evidence.room.over(len(rows), evidence.chunk_size, differentiated)
    scores, gradients = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(gradients)


def _scored(evidence: Capture, images: Tensor, rows: Tensor) -> Tensor:
    score = evidence.target_scores(evidence.network(images), rows)
    if not score.requires_grad:
        with RecordingKept():
            score = evidence.target_scores(evidence.network(images), rows)
    if not score.requires_grad:
        raise ValueError(
            "Expected the target score to be differentiable with regard to the images, but no gradient arrives there."
        )
    return score
