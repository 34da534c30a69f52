"""Decision factors of a probe, followed over snapshots: what the layer does to tell the classes apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_decom import keys
from lit_decom.components.shared import interleaved
from lit_decom.components.tracked import Tracked, summarize
from lit_decom.components.tracking import ComponentTracker
from lit_decom.evidence import Capture, combined_gradients
from lit_decom.functional.decision_factors import (
    DecisionFactors,
    factor_maps,
    factor_support,
    factors_from_products,
    least_supporting_factor,
)
from lit_decom.functional.principal_logits import PrincipalLogits, principal_logits
from lit_decom.functional.shared_basis import exemplars
from lit_decom.methods.base import finite_images

_PSEUDO_IMAGE = "probe"


@dataclass(frozen=True)
class FactorFindings:
    """What one snapshot found of the decision factors.

    Attributes:
        factors: codes, directions, scores and how far they go; signs are those of each identity's first snapshot.
        maps: ``(n, K, h, w)`` signed map of each score in every image; NaN where not finite. What speaks for a class is
            :func:`lit_decom.functional.decision_factors.factor_maps` of it.
        tracked: their identities.
        images: ``(K, m)``, the images in which each speaks most for the image's target, padded with -1.
        boxes: ``(K, m, 4)``, where: x1, y1, x2, y2 in pixels.
    """

    factors: DecisionFactors
    maps: Tensor
    tracked: Tracked
    images: Tensor
    boxes: Tensor

    @property
    def identities(self) -> list[int]:
        """What each factor is called over the snapshots."""
        return self.tracked.identities[0].tolist()

    def numbers(self) -> dict[str, float]:
        """Give the values worth a curve; those that are not defined are left out.

        ``factor_share/<identity>``; ``completeness`` (R2 of the centred logits) and ``factor_agreement`` (share of
        equal predictions) of codes times scores; ``factor_layer_r2`` and ``factor_random_r2``, how well the layer's
        activations along the factors and along random directions predict them; ``factor_constant_share`` and
        ``factor_rotation_margin``, which the states are read from; and ``factor_births``, ``factor_deaths``,
        ``factor_confidence`` and ``factor_drift`` since the last snapshot.
        """
        found, events = self.factors, summarize(self.tracked)
        numbers = {
            keys.factor_key("share", name): float(share)
            for name, share in zip(self.identities, found.shares, strict=True)
        }
        numbers |= {"completeness": float(found.r2), "factor_agreement": float(found.agreement)}
        for name in ("layer_r2", "random_r2", "constant_share", "rotation_margin"):
            numbers[f"factor_{name}"] = float(getattr(found, name))
        numbers |= {f"factor_{name}": events[name] for name in ("births", "deaths", "confidence", "drift")}
        return {name: value for name, value in numbers.items() if value == value}  # noqa: PLR0124 -- not NaN

    def stratum_numbers(self, strata: Mapping[str, Tensor]) -> dict[str, float]:
        """Give each factor's mean score over some images, ``factor_score/<stratum>/<identity>``.

        Args:
            strata: rows of the images of each, by name.
        """
        means = {stratum: self.factors.scores[rows].nanmean(dim=0) for stratum, rows in strata.items()}
        return {
            keys.factor_key("score", name, stratum): float(mean)
            for stratum, values in means.items()
            for name, mean in zip(self.identities, values, strict=True)
            if mean.isfinite()
        }

    def fields(self) -> dict[str, Any]:
        """Give what a record keeps, by the names that it has there."""
        found = self.factors
        return {
            "factor_codes": found.codes.float(),
            "factor_directions": found.directions.float(),
            "factor_scores": found.scores.float(),
            "factor_shares": found.shares.float(),
            "factor_maps": self.maps.half(),
            "factor_identities": self.tracked.identities[0],
            "factor_images": self.images,
            "factor_boxes": self.boxes,
            "factor_states": found.states,
        }


class FollowedFactors:
    """Finds the decision factors of the probe at every snapshot, and which of them it knew before.

    Factors are matched by their codes and directions together, each up to a sign that both share, so a factor may be
    found under another rank or with the opposite sign and stays the same one. Those of an untrained network are no
    result that could go on: after it, names begin anew.

    In one snapshot: :meth:`begin`, :meth:`add` each piece, :meth:`finish`.

    Args:
        max_factors: at most so many.
        n_exemplars: image regions kept for each factor.
    """

    def __init__(self, max_factors: int = 12, *, n_exemplars: int = 4) -> None:
        if max_factors < 1:
            raise ValueError(f"Expected `max_factors` to be at least 1, but got {max_factors}.")
        self.max_factors, self.n_exemplars = max_factors, n_exemplars
        self._follow_anew()
        self.begin()

    def _follow_anew(self) -> None:
        self.tracker = ComponentTracker(patience=2)
        self._signs: dict[int, int] = {}
        self._untrained = False

    def begin(self, rank: int = 0, world: int = 1) -> None:
        """Forget the last snapshot's evidence, and keep what the factors were; every process does the same."""
        self._evidence: Capture | None = None
        self._pieces: list[_Piece] = []

    def add(self, evidence: Capture) -> None:
        """Take in the evidence of one piece of the probe."""
        self._evidence = self._evidence or evidence
        classes = torch.where(evidence.targets < 0, evidence.logits.argmax(dim=1), evidence.targets)
        kept = (evidence.images, evidence.activations, evidence.logits, classes)
        # On the CPU: the memory of a device holds one piece, not the probe.
        self._pieces.append(_Piece(*(tensor.cpu() for tensor in kept)))

    def finish(
        self,
        image_size: tuple[int, int],
        *,
        step: int,
        share: Callable[[Callable[[], Any]], list[Any]] = lambda work: [work()],
    ) -> FactorFindings | None:
        """Find the factors of all pieces of all processes.

        Args:
            image_size: ``(H, W)`` of the probe's images.
            step: number of the snapshot, rising.
            share: does this process's work and collects that of every process.

        Returns:
            What was found, the same in every process; None where no image has finite evidence.
        """
        logits, classes = _gathered(share(self._answers))
        principal = principal_logits(logits, max_components=self.max_factors)
        gradients, pooled, maps = _gathered(share(partial(self._responses, principal)))
        usable = finite_images(logits, gradients.flatten(1), pooled)
        self.begin()
        if not usable.any():
            return None
        products = gradients[usable].double().mean(dim=0)
        pooled = pooled.masked_fill(~usable[:, None], torch.nan)
        factors = factors_from_products(logits, principal, products, pooled)
        mixing = (principal.directions.T @ factors.readout).to(maps)
        maps = torch.einsum("nkhw,kj->njhw", maps, mixing).masked_fill(~usable[:, None, None, None], torch.nan)
        if self._untrained:
            self._follow_anew()
        self._untrained = "untrained" in factors.states
        tracked = self._track(factors, step)
        factors, maps = self._signed(factors, maps, tracked)
        found = exemplars(factor_maps(factors.codes, maps, classes), self.n_exemplars, image_size)
        return FactorFindings(factors, maps, tracked, found.images, found.boxes)

    def _answers(self) -> "tuple[Tensor, ...] | None":
        """This process's logits ``(n, N)``, and the class ``(n,)`` whose maps are shown."""
        if not self._pieces:
            return None
        return tuple(torch.cat([getattr(piece, name) for piece in self._pieces]) for name in ("logits", "classes"))

    def _responses(self, principal: PrincipalLogits) -> "tuple[Tensor, ...] | None":
        """Gradients of the principal components ``(n, K, C)``, mean activations ``(n, C)``, maps ``(n, K, h, w)``."""
        if self._evidence is None:
            return None
        parts = []
        for piece in self._pieces:
            found = combined_gradients(self._evidence, piece.images, principal.directions.float()).cpu()
            maps = torch.einsum("nkc,nchw->nkhw", found, piece.activations)
            parts.append((found, piece.activations.mean(dim=(2, 3)), maps))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _track(self, factors: DecisionFactors, step: int) -> Tracked:
        return self.tracker.update(
            factors.codes.T[None],
            factors.shares.clamp(min=0).sqrt()[None],
            ids=[_PSEUDO_IMAGE],
            step=step,
            loadings=factors.directions[None],
        )

    def _signed(self, factors: DecisionFactors, maps: Tensor, tracked: Tracked) -> tuple[DecisionFactors, Tensor]:
        """Give each factor the sign that its identity began with."""
        for name, flipped in zip(tracked.identities[0].tolist(), tracked.flips[0].tolist(), strict=True):
            self._signs[name] = self._signs.get(name, 1) * (-1 if flipped else 1)
        signs = torch.tensor([self._signs[name] for name in tracked.identities[0].tolist()]).to(factors.codes)
        turned = {name: getattr(factors, name) * signs for name in ("codes", "readout", "directions", "scores")}
        return replace(factors, **turned), maps * signs.to(maps)[:, None, None]

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs, as tensors and primitives."""
        return {"tracker": self.tracker.state_dict(), "signs": dict(self._signs), "untrained": self._untrained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self.tracker.load_state_dict(state["tracker"])
        self._signs = dict(state["signs"])
        self._untrained = state["untrained"]


@dataclass(frozen=True)
class WrongDecisions:
    """The images that the network gets wrong, and the factor of each that speaks least for the right class.

    Attributes:
        images: ``(m,)`` int64, which images of the probe.
        factors: ``(m,)`` int64, the column of the factor; -1 where its scores are not finite or there is none.
        support: ``(m,)``, what it says for the right class, in logits; negative speaks against it. NaN without one.
        maps: ``(m, h, w)``, where it speaks for the right class, non-negative; NaN without one.
    """

    images: Tensor
    factors: Tensor
    support: Tensor
    maps: Tensor


def wrong_decisions(logits: Tensor, labels: Tensor, codes: Tensor, scores: Tensor, maps: Tensor) -> WrongDecisions:
    """Tell which factor misled the network in each image that it gets wrong.

    The tensors may be those of :class:`FactorFindings` or of a record.

    Args:
        logits: ``(n, N)``.
        labels: ``(n,)``.
        codes: ``(N, K)``.
        scores: ``(n, K)``.
        maps: ``(n, K, h, w)`` signed.
    """
    images = (logits.argmax(dim=1) != labels).nonzero().flatten()
    labels, scores, maps = labels[images], scores[images], maps[images].float()
    least = least_supporting_factor(codes, scores, labels)
    if codes.shape[1] == 0:
        nothing = maps.new_full((len(images), *maps.shape[2:]), torch.nan)
        return WrongDecisions(images, least, nothing.new_full((len(images),), torch.nan), nothing)
    rows, columns = torch.arange(len(images)), least.clamp(min=0)
    support = factor_support(codes, scores, labels)[rows, columns].masked_fill(least < 0, torch.nan)
    shown = factor_maps(codes, maps, labels)[rows, columns].masked_fill((least < 0)[:, None, None], torch.nan)
    return WrongDecisions(images, least, support, shown)


class _Piece(NamedTuple):
    """What is kept of a piece of the probe until all logits are known, on the CPU."""

    images: Tensor
    activations: Tensor
    logits: Tensor
    classes: Tensor


def _gathered(shards: list[tuple[Tensor, ...] | None]) -> tuple[Tensor, ...]:
    """Put the findings of the processes that had any images into the order of the probe."""
    found = [shard for shard in shards if shard is not None]
    return tuple(interleaved(list(column)) for column in zip(*found, strict=True))
