"""Explainer: what is explained and how, for a piece of the probe or all of it."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lit_decom import keys
from lit_decom.evidence import Capture, Forward, Room, Targets, capture, find_target_layer
from lit_decom.evidence.observing import device_of
from lit_decom.functional.complexity import effective_rank
from lit_decom.methods.base import CAM, ComponentMethod
from lit_decom.methods.decom_cam import DecomCAM
from lit_decom.methods.decomposition import Decomposition
from lit_decom.methods.fused import FMGCAM, ClassMaps
from lit_decom.probe import Probe

if TYPE_CHECKING:
    from PIL import Image

TargetPolicy = Literal["label", "predicted", "contrast"] | int | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Explainer:
    """What is explained, and how: everything that a network is asked, and nothing about when or what for.

    Attributes:
        method: how to explain.
        target_layer: a name as in ``model.named_modules()`` or a dotted suffix that is unique; None for the one that
            :func:`lit_decom.find_target_layer` finds, see :meth:`at`.
        target: ``"label"``, ``"predicted"``, ``"contrast"`` (the two largest logits), one class for all images, or a
            callable from logits ``(n, N)`` and labels ``(n,)`` to scores ``(n,)``. A sigmoid is two classes, there and
            not there, whose scores are plus and minus half its logit.
        batch_size: images explained at once; with the layer's size it sets the memory needed. Where they do not fit,
            it is halved until they do.
        chunk_size: altered images per forward pass, as for :func:`lit_decom.capture`.
        forward: as for :func:`lit_decom.capture`.

    Raises:
        TypeError: if the method gives no components.
        ValueError: if a number is out of range or the target is unknown.
    """

    method: ComponentMethod = DecomCAM()  # noqa: RUF009 -- frozen
    target_layer: str | None = None
    target: TargetPolicy = "label"
    batch_size: int = 32
    chunk_size: int | None = None
    forward: Forward | None = None
    _room: Room = field(default_factory=Room, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.method, ComponentMethod):
            raise TypeError(
                "Expected `method` to give components, such as DecomCAM(), but got "
                f"{self.method!r}. Methods that give one map are scored beside it: `scores=Scoring(baselines=[...])`."
            )
        for name in ("batch_size", "chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        targets_of(self.target, torch.zeros(1, dtype=torch.long))

    def at(self, model: nn.Module, images: Tensor) -> "Explainer":
        """Name the layer that is explained, once and for all.

        Args:
            model: the network.
            images: ``(B, 3, H, W)``, what it is used on; one is enough.

        Raises:
            TargetLayerError: if there is no such layer.
        """
        layer = find_target_layer(model, self.target_layer, images, forward=self.forward)
        return replace(self, target_layer=layer.name)

    def by(self, method: ComponentMethod) -> "Explainer":
        """Explain by another method, and go on knowing how many images fit in memory."""
        other = replace(self, method=method)
        other._room.learn_from(self._room)  # noqa: SLF001 -- one of its kind
        return other

    def capture(self, model: nn.Module, piece: Probe, targets: Targets | None = None) -> Capture:
        """Run the network once forward and once backward, as far as the layer.

        Args:
            model: the network, in any mode; left as it is.
            piece: of the probe, on the network's device.
            targets: what is explained instead of ``target``.

        Raises:
            ValueError: if the network has no such target, or other labels than the probe.
        """
        if self.target_layer is None:
            return self.at(model, piece.images).capture(model, piece, targets)
        if piece.multilabel and isinstance(self.target, int):
            raise ValueError(
                "Expected `target` to be 'label', 'predicted', 'contrast' or a callable where every row of the probe "
                f"asks about one label, but got {self.target}: `capture(..., targets={self.target})` explains that one."
            )
        found = capture(
            model,
            self.target_layer,
            piece.images,
            targets_of(self.target, piece.labels) if targets is None else targets,
            mean=piece.mean,
            std=piece.std,
            forward=self.forward,
            chunk_size=self.chunk_size,
            room=self._room,
            asked=piece.asked,
        )
        n_classes = found.logits.shape[1]
        if piece.multilabel and n_classes != len(piece.class_names or ()):
            raise ValueError(
                f"Expected one logit for each of the probe's {len(piece.class_names or ()) // 2} labels, but got "
                f"{n_classes // 2}."
            )
        return found

    def pieces(
        self, model: nn.Module, probe: Probe, starts: Callable[[Probe, Tensor], Sequence[Tensor]] | None = None
    ) -> Iterator["Explained"]:
        """Explain a probe piece by piece, so that memory depends on the piece alone.

        Args:
            model: the network, in any mode; left as it is.
            probe: on any device.
            starts: gives, for each image of a piece and the target explained, the components to begin from.

        Yields:
            The pieces, in the order of the probe.
        """

        def explained(part: slice) -> Explained:
            piece = probe.select(range(len(probe))[part]).to(device_of(model))
            evidence = self.capture(model, piece)
            begun = {} if starts is None else {"start": starts(piece, evidence.targets)}
            return Explained(piece, evidence, self.method.decompose(evidence, **begun))

        yield from self._room.over(len(probe), self.batch_size, explained)

    @property
    def settings(self) -> dict[str, Any]:
        """What a record must say about how it came to be."""
        return {
            "method": repr(self.method),
            "target_layer": self.target_layer,
            "target": self.target if isinstance(self.target, int) else _plain(self.target),
            "forward": _plain(self.forward),
            "batch_size": self.batch_size,
            "chunk_size": self.chunk_size,
        }


def _plain(asked: str | Callable[..., Any] | None) -> str | None:
    """Without the address in memory that the text of a function, or of an object that is called, ends in."""
    if isinstance(asked, str | None):
        return asked
    if isinstance(asked, partial):
        return f"partial({_plain(asked.func)})"
    return str(getattr(asked, "__qualname__", type(asked).__qualname__))


@dataclass(frozen=True)
class Explained:
    """One piece of the probe, its evidence, and the decomposition of it.

    Attributes:
        probe: the piece, on the network's device.
        capture: its evidence.
        decomposition: its components.
        class_maps: what speaks for which of the likeliest classes, where it was asked for.
    """

    probe: Probe
    capture: Capture
    decomposition: Decomposition
    class_maps: ClassMaps | None = None

    def told_apart(self, baselines: Iterable[CAM]) -> "Explained":
        """Add the maps of single classes, if one of the baselines makes any: that of several is drawn by class."""
        fused = next((method for method in baselines if isinstance(method, FMGCAM)), None)
        return self if fused is None else replace(self, class_maps=fused.class_maps(self.capture))

    def show(self, *, n_images: int = 8, outline: bool = False) -> "Image.Image":
        """Draw the images with their maps, and say under each whether the network is right.

        Args:
            n_images: how many of them, from the first on.
            outline: whether the objects' masks are outlined, where the probe has any.

        Returns:
            The picture, which a notebook shows and no window opens for.
        """
        from lit_decom.render import to_unit, verdict

        shown = self.probe.select(range(min(n_images, len(self.probe)))).to(torch.device("cpu"))
        confidences, answers = self.capture.logits[: len(shown)].detach().float().softmax(dim=1).max(dim=1)
        return self.decomposition.show(
            to_unit(shown.images, shown.mean, shown.std),
            captions=[
                verdict(shown.class_name(label), shown.class_name(answer), confidence)
                for label, answer, confidence in zip(
                    shown.labels.tolist(), answers.tolist(), confidences.tolist(), strict=True
                )
            ],
            masks=shown.masks if outline else None,
            title=f"{self.capture.layer.name}: score gain, share of energy",
            n_images=len(shown),
        )


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


def warn_of_embeddings(n_outputs: int, probe: Probe) -> None:
    """Warn where a network gives more numbers than there are classes: an encoder's output is no logits.

    Among 512 features the largest is hardly ever that of the label, so that every image would count as wrong.

    Args:
        n_outputs: numbers per image.
        probe: whose classes have names, or nothing is known of their number.
    """
    if probe.class_names is not None and n_outputs > len(probe.class_names):
        warnings.warn(
            f"The network returns {n_outputs} values per image for {len(probe.class_names)} classes. If these are "
            "features, every image counts as wrong: `forward=` says how the network is asked for its logits.",
            stacklevel=2,
        )


def explain(
    model: nn.Module,
    probe: Probe,
    explainer: Explainer = Explainer(),
) -> Explained:
    """Explain images at once: the short way for a few of them.

    Args:
        model: the network, in any mode; left as it is.
        probe: what is explained, on any device.
        explainer: how; its ``batch_size`` gives way to the number of images.

    Returns:
        Evidence and components; ``explain(model, probe).show()`` draws them.
    """
    piece = probe.to(device_of(model))
    evidence = explainer.capture(model, piece)
    return Explained(piece, evidence, explainer.method.decompose(evidence))


@dataclass(frozen=True)
class Explanations:
    """What was found for the images of a probe, or a share of them, on the CPU.

    Attributes:
        decomposition: of ``n`` images.
        logits: ``(n, N)`` of the unaltered images.
        targets: ``(n,)``, as in :class:`lit_decom.evidence.Capture`.
        class_maps: of ``n`` images, where they were asked for.
    """

    decomposition: Decomposition
    logits: Tensor
    targets: Tensor
    class_maps: ClassMaps | None = None

    @classmethod
    def of(cls, piece: Explained) -> "Explanations":
        """Keep what outlives the network's pass over one piece."""
        kept = {entry.name: getattr(piece.decomposition, entry.name).cpu() for entry in fields(Decomposition)}
        told = piece.class_maps
        maps = None if told is None else ClassMaps(told.classes.cpu(), told.maps.cpu())
        return cls(Decomposition(**kept), piece.capture.logits.cpu(), piece.capture.targets.cpu(), maps)

    @classmethod
    def joined(cls, parts: Sequence["Explanations"]) -> "Explanations":
        """Put the explanations of consecutive pieces together."""
        return _mapped(lambda *tensors: torch.cat(tensors), *parts)

    @classmethod
    def interleaved(cls, shards: Sequence["Explanations"]) -> "Explanations":
        """Undo :meth:`lit_decom.Probe.shard`: bring the explanations of all its shards into the order of the probe."""
        world = len(shards)
        owners = torch.cat([torch.arange(rank, len(shard.targets) * world, world) for rank, shard in enumerate(shards)])
        order = owners.argsort()
        return _mapped(lambda tensor: tensor[order], cls.joined(shards))


def _mapped(change: Callable[..., Tensor], *findings: Explanations) -> Explanations:
    decompositions = [found.decomposition for found in findings]
    names = [entry.name for entry in fields(Decomposition)]
    changed = {name: change(*(getattr(part, name) for part in decompositions)) for name in names}
    told = [found.class_maps for found in findings if found.class_maps is not None]
    return Explanations(
        Decomposition(**changed),
        change(*(found.logits for found in findings)),
        change(*(found.targets for found in findings)),
        ClassMaps(change(*(each.classes for each in told)), change(*(each.maps for each in told))) if told else None,
    )


def summary(decomposition: Decomposition) -> dict[str, float]:
    """Condense a probe's decompositions to the numbers worth a curve.

    Args:
        decomposition: of the whole probe, ``n`` images.

    Returns:
        By name: mean ``score_gain/rank_01`` and ``explained_energy/rank_01`` and so on, over the images for which that
        component is valid, absent where there is none; ``effective_rank`` (exponential of the entropy of the squared
        strengths) and ``valid_components``, means over the images with any; ``positive_gain_share``, the share of
        valid components that raise the score; and counts of ``blank_maps`` (all zero), ``nonfinite_images`` (whose
        evidence or scores are not finite; they enter no mean) and ``uniform_weights`` (the integration rule could not
        tell components apart).
    """
    gains, energy, finite = decomposition.score_gains, decomposition.explained_energy, decomposition.finite
    valid = decomposition.valid & finite[:, None]
    numbers: dict[str, float] = {}
    for rank in range(valid.shape[1]):
        if valid[:, rank].any():
            numbers[keys.rank_key("score_gain", rank)] = gains[valid[:, rank], rank].mean().item()
            numbers[keys.rank_key("explained_energy", rank)] = energy[valid[:, rank], rank].mean().item()
    explained = valid.any(dim=1)
    if explained.any():
        numbers["effective_rank"] = effective_rank(decomposition.strengths[explained]).mean().item()
        numbers["valid_components"] = valid[explained].sum(dim=1).float().mean().item()
        numbers["positive_gain_share"] = (gains[valid] > 0).float().mean().item()
    numbers["blank_maps"] = float((finite & (decomposition.cam == 0).all(dim=(1, 2))).sum())
    numbers["nonfinite_images"] = float((~finite).sum())
    numbers["uniform_weights"] = float(decomposition.fallback.sum())
    return numbers
