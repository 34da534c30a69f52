"""Explaining and scoring a whole probe, with or without a Trainer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lit_decom.evidence import Capture, ReadLogits, Targets, capture
from lit_decom.evidence.layers import TargetLayer, resolve_layer
from lit_decom.functional.complexity import effective_rank
from lit_decom.isolation import isolated_random_state
from lit_decom.methods.decom_cam import DecomCAM, Decomposition
from lit_decom.metrics.base import PerImageMetric
from lit_decom.metrics.stratified import Strata
from lit_decom.probe import Probe
from lit_decom.scoring import Score, Scoreboard, default_metrics

NEW_HEAD = "new_head"
TargetPolicy = Literal["label", "predicted", "contrast"] | int | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Explained:
    """One piece of the probe, its evidence, and the decomposition of it.

    Attributes:
        probe: the piece, on the network's device.
        capture: its evidence.
        decomposition: its components.
    """

    probe: Probe
    capture: Capture
    decomposition: Decomposition


def explain(
    model: nn.Module,
    layer: TargetLayer,
    method: DecomCAM,
    probe: Probe,
    *,
    target: TargetPolicy = "label",
    batch_size: int = 16,
    chunk_size: int | None = None,
    read_logits: ReadLogits | None = None,
) -> Iterator[Explained]:
    """Explain a probe piece by piece, so that memory depends on the piece alone.

    Args:
        model: the network, in any mode; left as it is.
        layer: what is explained.
        method: with its hyperparameters.
        probe: on any device.
        target: ``"label"``, ``"predicted"``, ``"contrast"`` (the two largest logits), one class for all images, or a
            callable from logits ``(n, N)`` and labels ``(n,)`` to scores ``(n,)``.
        batch_size: images per piece.
        chunk_size: altered images per forward pass, as for :func:`lit_decom.capture`.
        read_logits: as for :func:`lit_decom.capture`.

    Yields:
        The pieces, in the order of the probe.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for part in probe.batches(batch_size):
        moved = part.to(device)
        evidence = capture(
            model,
            layer,
            moved.images,
            targets_of(target, moved.labels),
            mean=moved.mean,
            std=moved.std,
            read_logits=read_logits,
            chunk_size=chunk_size,
        )
        yield Explained(moved, evidence, method.decompose(evidence))


def targets_of(policy: TargetPolicy, labels: Tensor) -> Targets:
    """Turn a target policy into what :func:`lit_decom.capture` takes for images with these labels.

    Raises:
        ValueError: if the policy is unknown.
    """
    if isinstance(policy, str):
        if policy == "label":
            return labels
        if policy not in ("predicted", "contrast"):
            raise ValueError(
                "Expected `target` to be 'label', 'predicted', 'contrast', a class index or a callable, "
                f"but got {policy!r}."
            )
        return policy
    if callable(policy):
        return lambda logits, rows: policy(logits, labels[rows])
    return policy


@dataclass(frozen=True)
class Findings:
    """What was found for the images of a probe, or a share of them, on the CPU.

    Attributes:
        decomposition: of ``n`` images.
        logits: ``(n, N)`` of the unaltered images.
        targets: ``(n,)``, as in :class:`lit_decom.evidence.Capture`.
    """

    decomposition: Decomposition
    logits: Tensor
    targets: Tensor

    @classmethod
    def of(cls, piece: Explained) -> "Findings":
        """Keep what outlives the network's pass over one piece."""
        kept = {entry.name: getattr(piece.decomposition, entry.name).cpu() for entry in fields(Decomposition)}
        return cls(Decomposition(**kept), piece.capture.logits.cpu(), piece.capture.targets.cpu())

    @classmethod
    def joined(cls, parts: Sequence["Findings"]) -> "Findings":
        """Put the findings of consecutive pieces together."""
        return _mapped(lambda *tensors: torch.cat(tensors), *parts)

    @classmethod
    def interleaved(cls, shards: Sequence["Findings"]) -> "Findings":
        """Undo :meth:`lit_decom.Probe.shard`: bring the findings of all its shards into the order of the probe."""
        world = len(shards)
        owners = torch.cat([torch.arange(rank, len(shard.targets) * world, world) for rank, shard in enumerate(shards)])
        order = owners.argsort()
        return _mapped(lambda tensor: tensor[order], cls.joined(shards))


def _mapped(change: Callable[..., Tensor], *findings: Findings) -> Findings:
    decompositions = [found.decomposition for found in findings]
    names = [entry.name for entry in fields(Decomposition)]
    changed = {name: change(*(getattr(part, name) for part in decompositions)) for name in names}
    return Findings(
        Decomposition(**changed),
        change(*(found.logits for found in findings)),
        change(*(found.targets for found in findings)),
    )


def summary(decomposition: Decomposition) -> dict[str, float]:
    """Condense a probe's decompositions to the numbers worth a curve.

    Args:
        decomposition: of the whole probe, ``n`` images.

    Returns:
        By name: mean ``score_gain/rank_01`` and ``explained_energy/rank_01`` and so on, over the images for which that
        component is valid, absent where there is none; ``effective_rank`` (exponential of the entropy of the squared
        singular values) and ``valid_components``, means over the images with any; ``positive_gain_share``, the share of
        valid components that raise the score; and counts of ``blank_maps`` (all zero), ``nonfinite_images`` (whose
        evidence or scores are not finite; they enter no mean) and ``uniform_weights`` (the integration rule could not
        tell components apart).
    """
    gains, energy, finite = decomposition.score_gains, decomposition.explained_energy, decomposition.finite
    valid = decomposition.valid & finite[:, None]
    numbers: dict[str, float] = {}
    for rank in range(valid.shape[1]):
        if valid[:, rank].any():
            numbers[f"score_gain/rank_{rank + 1:02d}"] = gains[valid[:, rank], rank].mean().item()
            numbers[f"explained_energy/rank_{rank + 1:02d}"] = energy[valid[:, rank], rank].mean().item()
    explained = valid.any(dim=1)
    if explained.any():
        numbers["effective_rank"] = effective_rank(decomposition.singular_values[explained]).mean().item()
        numbers["valid_components"] = valid[explained].sum(dim=1).float().mean().item()
        numbers["positive_gain_share"] = (gains[valid] > 0).float().mean().item()
    numbers["blank_maps"] = float((finite & (decomposition.cam == 0).all(dim=(1, 2))).sum())
    numbers["nonfinite_images"] = float((~finite).sum())
    numbers["uniform_weights"] = float(decomposition.fallback.sum())
    return numbers


def evaluate(
    model: nn.Module,
    layer: TargetLayer,
    probe: Probe,
    method: DecomCAM = DecomCAM(),  # noqa: B008 -- frozen
    *,
    metrics: Sequence[PerImageMetric] | Mapping[str, PerImageMetric] | None = None,
    strata: Strata = "correctness",
    baselines: Sequence[str] = ("grad_cam",),
    target: TargetPolicy = "label",
    class_accuracy: Tensor | None = None,
    new_head: bool = True,
    intervals: bool = True,
    batch_size: int = 16,
) -> list[Score]:
    """Score the explanations of a network as it is, beside baselines and chance, with intervals.

    Args:
        model: the network; left as it is.
        layer: what is explained.
        probe: what is explained.
        method: how.
        metrics: as for :class:`lit_decom.scoring.Scoreboard`; the default set for this probe when None.
        strata: likewise.
        baselines: likewise.
        target: as for :func:`explain`.
        class_accuracy: ``(N,)`` over the whole validation set, for strata by it.
        new_head: whether the same network with a head drawn anew is scored, too: what explanations owe to the features
            alone.
        intervals: whether to bootstrap over the images.
        batch_size: images at once.

    Returns:
        Every score.
    """
    caption = target if isinstance(target, str) else repr(target)
    board = Scoreboard(
        default_metrics(probe) if metrics is None else metrics, strata=strata, baselines=baselines, target=caption
    )
    board.require(probe)
    bare = Scoreboard(board.metrics, strata=strata, baselines=(), chance=False, target=caption)
    networks = [(model, board)] + ([(with_new_head(model), bare)] if new_head else [])
    for network, scores in networks:
        # The layer of the copy goes by the same name.
        its_layer = layer if network is model else resolve_layer(network, layer.name)
        for piece in explain(network, its_layer, method, probe, target=target, batch_size=batch_size):
            scores.update(
                piece.probe,
                piece.capture,
                piece.decomposition,
                model=network,
                layer=its_layer,
                method=method,
                class_accuracy=class_accuracy,
            )
    found = board.scores(intervals=intervals)
    if new_head:
        over = bare.beaten_by(board) if intervals else {}
        found += [
            replace(score, explanation=NEW_HEAD, over=over.get(score.metric) if score.stratum == "all" else None)
            for score in bare.scores(intervals=intervals)
        ]
    return found


def with_new_head(model: nn.Module, seed: int = 0) -> nn.Module:
    """Copy a network and draw the parameters of its last layer anew, without touching any global random state.

    Raises:
        ValueError: if no submodule knows how to draw its parameters.
    """
    copy = deepcopy(model)
    heads = [module for module in copy.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not heads:
        raise ValueError(f"Expected {type(model).__name__} to end in a linear or convolutional layer, but found none.")
    with isolated_random_state(seed):
        heads[-1].reset_parameters()
    return copy
