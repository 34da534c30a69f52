"""DecomCAM: class-weighted channel maps, decomposed and integrated by what each component does for the decision."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lit_decom.evidence import Capture, observing
from lit_decom.functional.base import check_option
from lit_decom.functional.cam import ChannelWeight, channel_weights
from lit_decom.functional.decomposition import (
    ComponentWeighting,
    Factors,
    SignRule,
    components_for_energy,
    fix_signs,
    integrate,
    select_channels,
)
from lit_decom.functional.factorisation import FACTORISERS, takes
from lit_decom.functional.image import Blend, blend, gaussian_blur, min_max_normalize, upsample
from lit_decom.methods.base import ComponentMethod, finite_images, register
from lit_decom.methods.decomposition import Decomposition
from lit_decom.methods.precision import ChosenScoreDtype, has_bfloat16_units
from lit_decom.methods.presets import PRESETS, BlendSpace, Integration, Preset

_DEFAULT_COMPONENTS = 10
_OPTIONS = {
    "score_dtype": ChosenScoreDtype,
    "channel_weight": ChannelWeight,
    "sign": SignRule,
    "composite": Blend,
    "composite_space": BlendSpace,
    "weighting": ComponentWeighting,
}


@register("decom_cam")
@dataclass(frozen=True, repr=False)
class DecomCAM(ComponentMethod):
    """Decomposition-based class activation maps (DecomCAM, arXiv 2405.18882; Decom-CAM, arXiv 2306.04644).

    The weighted maps of the channels that matter most for the target are decomposed into orthogonal components. The
    image is shown to the network through each of them over its blurred self, and the components are integrated by how
    well the target scores there. The paper and the released codes do this in different ways: ``integration``
    names one, and every field below it, where given, replaces that preset's. The released codes re-quantise the
    composed image to bytes; no preset here does. Their branch for more than 500 channels, another algorithm, is left
    out as well.

    Attributes:
        n_components: how many components; the default is lowered, with a warning, where a layer has less. A fraction
            asks for as many as explain that share of the energy of each image, at most ``max_components``.
        top_p: how many channels; more than there are means all of them. None: the preset's.
        integration: ``"paper"``, ``"v25"``, ``"notebook"``, ``"predecessor"``, ``"predecessor_pp"`` (Decom-CAM++: the
            predecessor with the channel weights of Grad-CAM++, the variant that its evaluation ran) or ``"relu_gain"``
            (ours: the paper's with weights ``relu(gain) / sum relu(gain)``, comparable over images and epochs).
        max_components: the cap where ``n_components`` is a fraction.
        score_dtype: precision of the masked forward passes alone. ``"bfloat16"`` is several times faster on hardware
            that has it and keeps the ranking of the contributions; the decomposition stays in float32 or better.
            ``"auto"`` is one of the two, chosen at the first snapshot of a run and kept throughout: see
            :func:`lit_decom.methods.precision.chosen_score_dtype`. Outside of a run it is float32.
        decomposition: how the maps become components, a name in
            :data:`lit_decom.functional.factorisation.FACTORISERS`. ``"svd"``, which all publications use: orthogonal,
            the best approximation of each rank, with signs. ``"nmf"`` (ours here): nowhere negative, so nothing is
            rectified away and no sign rule is needed, but not orthogonal, with other components for another number of
            them, and slower: see :func:`lit_decom.functional.nmf.decompose_non_negative`.
        warm_start: whether each image's components begin where those of the snapshot before ended, so that they keep
            identity and rank; ``"nmf"`` alone can. A snapshot then depends on all before it. Metrics that explain
            altered images, ``validate``, ``test`` and the first checkpoint of a replay begin anew.
        channel_weight: as in :func:`lit_decom.functional.cam.channel_weights`.
        positive_only: whether only channels with a positive weight take part (our choice in ``"paper"``).
        centred: whether each channel's mean over positions is taken out first.
        sign: as in :func:`lit_decom.functional.decomposition.fix_signs`.
        composite: as in :func:`lit_decom.functional.image.blend`.
        composite_space: ``"input"``, or ``"unit"`` for the image in [0, 1], which needs its mean and std.
        blur_sigma: standard deviation of the blur in pixels.
        blur_scaled: whether ``blur_sigma`` is meant at 224 pixels and grows with the shorter side (our choice).
        blur_truncate: radius of the blur's window in standard deviations.
        subtract_reference: whether the blurred image's score is taken off before weighing.
        score_threshold: below it a score counts as 0.
        weighting: as in :func:`lit_decom.functional.decomposition.integrate`.

    Raises:
        ValueError: if a value is out of range or a preset is unknown.
    """

    n_components: int | float = _DEFAULT_COMPONENTS
    top_p: int | None = None
    integration: Integration = "paper"
    max_components: int = 20
    score_dtype: ChosenScoreDtype = "float32"
    decomposition: str = "svd"
    warm_start: bool = False
    channel_weight: ChannelWeight | None = None
    positive_only: bool | None = None
    centred: bool | None = None
    sign: SignRule | None = None
    composite: Blend | None = None
    composite_space: BlendSpace | None = None
    blur_sigma: float | None = None
    blur_scaled: bool | None = None
    blur_truncate: float | None = None
    subtract_reference: bool | None = None
    score_threshold: float | None = None
    weighting: ComponentWeighting | None = None
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.integration not in PRESETS:
            raise ValueError(f"Expected `integration` to be one of {sorted(PRESETS)}, but got {self.integration!r}.")
        fraction = isinstance(self.n_components, float)
        if fraction and not 0 < self.n_components <= 1:
            raise ValueError(f"Expected a fractional `n_components` to be in (0, 1], but got {self.n_components}.")
        for name in ("max_components", "top_p") if fraction else ("n_components", "max_components", "top_p"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Expected `{name}` to be a whole number of at least 1, but got {value!r}.")
        if self.blur_sigma is not None and self.blur_sigma <= 0:
            raise ValueError(f"Expected `blur_sigma` to be positive, but got {self.blur_sigma}.")
        for name, options in _OPTIONS.items():
            if getattr(self, name) is not None:
                check_option(name, getattr(self, name), options)
        self._check_decomposition()

    def _check_decomposition(self) -> None:
        name = self.decomposition
        if name not in FACTORISERS:
            raise ValueError(f"Expected `decomposition` to be one of {sorted(FACTORISERS)}, but got {name!r}.")
        if self.preset.centred and not takes(name, "centred"):
            raise ValueError(
                f"Expected `centred` to be False, since {name!r} takes the maps as they are, but got True "
                f"(`integration` is {self.integration!r})."
            )
        if self.warm_start and not takes(name, "start"):
            able = [known for known in sorted(FACTORISERS) if takes(known, "start")]
            raise ValueError(f"Expected `decomposition` to be one of {able} for a `warm_start`, but got {name!r}.")

    def __repr__(self) -> str:
        shown = {"n_components", "integration"} | {
            entry.name for entry in fields(self) if entry.repr and getattr(self, entry.name) != entry.default
        }
        given = (f"{entry.name}={getattr(self, entry.name)!r}" for entry in fields(self) if entry.name in shown)
        return f"{type(self).__name__}({', '.join(given)})"

    @property
    def preset(self) -> Preset:
        """The preset with the fields that were given."""
        given = {entry.name: getattr(self, entry.name) for entry in fields(Preset)}
        return replace(PRESETS[self.integration], **{name: value for name, value in given.items() if value is not None})

    def decompose(self, capture: Capture, start: Sequence[Tensor] | None = None) -> Decomposition:
        """Decompose a batch of evidence and score its components.

        Args:
            capture: what :func:`lit_decom.capture` returned.
            start: for each image the components ``(M, h, w)`` of an earlier snapshot to begin from, where
                ``warm_start`` is on; ``M`` may be 0.

        Returns:
            The decomposition, on the device of the evidence.

        Raises:
            ValueError: if ``n_components`` is above what the layer can have, or the preset works in [0, 1] and the mean
                and std of the images are unknown.
        """
        with observing(capture.model), torch.no_grad():
            factors, channels, finite = self._factors(capture, start if self.warm_start else None)
            scores, reference = self.score(capture, factors.components, factors.valid)
            preset = self.preset
            weights = integrate(
                scores,
                reference,
                factors.valid,
                weighting=preset.weighting,
                subtract_reference=preset.subtract_reference,
                score_threshold=preset.score_threshold,
            )
            return Decomposition(
                components=_fill_non_finite(factors.components, finite),
                strengths=_fill_non_finite(factors.strengths, finite),
                channels=channels,
                loadings=_fill_non_finite(factors.loadings, finite),
                valid=factors.valid,
                energy=_fill_non_finite(factors.energy, finite),
                removed=_fill_non_finite(factors.removed, finite),
                scores=scores,
                reference_scores=_fill_non_finite(reference, finite),
                contributions=_fill_non_finite(weights.contributions, finite),
                fallback=weights.fallback & finite,
            )

    def weighted_maps(self, capture: Capture) -> Tensor:
        """Weigh every channel of the layer by what it does for the target: ``(B, C, h, w)``."""
        weights = channel_weights(capture.activations, capture.gradients, self.preset.channel_weight)
        weights = weights.relu() if self.preset.positive_only else weights
        return capture.activations * weights[:, :, None, None]

    def _factors(self, capture: Capture, start: Sequence[Tensor] | None) -> tuple[Factors, Tensor, Tensor]:
        """Components with their sign, the channels they are made of, and which images have finite evidence."""
        preset = self.preset
        activations, gradients = capture.activations, capture.gradients
        weights = channel_weights(activations, gradients, preset.channel_weight)
        channels, takes_part = select_channels(
            weights, self._channels_used(activations), positive_only=preset.positive_only
        )
        rows = torch.arange(len(channels), device=channels.device)[:, None]
        maps = activations[rows, channels] * (weights.gather(1, channels) * takes_part)[:, :, None, None]
        finite = finite_images(activations, weights, maps)
        maps = maps.masked_fill(~finite[:, None, None, None], 0)
        rank = self._rank(maps)
        options: dict[str, Any] = {"centred": True} if preset.centred else {}
        if start is not None:
            options["start"] = _padded(start, maps, rank)
        factors = fix_signs(FACTORISERS[self.decomposition](maps, rank, **options), preset.sign)
        if isinstance(self.n_components, float):
            factors = _without(factors, ~components_for_energy(factors, self.n_components))
        return factors, channels, finite

    def _channels_used(self, activations: Tensor) -> int:
        top_p = self.preset.top_p
        if self.top_p is not None and top_p > activations.shape[1]:
            self._warn_once(
                f"`top_p` is {top_p}, but the layer has {activations.shape[1]} channels: all of them are used."
            )
        return min(top_p, activations.shape[1])

    def _rank(self, maps: Tensor) -> int:
        """How many components to compute: what was asked for, within what the layer can have."""
        positions = maps.shape[-2] * maps.shape[-1]
        bound = min(maps.shape[1], positions - 1 if self.preset.centred else positions)
        if isinstance(self.n_components, float):
            return min(self.max_components, bound)
        if self.n_components <= bound:
            return self.n_components
        why = f"{maps.shape[1]} channels, {maps.shape[-2]} x {maps.shape[-1]} positions"
        if self.preset.centred:
            why += ", less one for the mean"
        if self.n_components != _DEFAULT_COMPONENTS:
            raise ValueError(
                f"Expected `n_components` to be between 1 and {bound} ({why}), but got {self.n_components}."
            )
        self._warn_once(f"`n_components` is lowered from {self.n_components} to {bound}: there are no more ({why}).")
        return bound

    def score(self, capture: Capture, components: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Show every image to the network through maps of its own, see :meth:`ComponentMethod.score`."""
        dtype, device = "float32" if self.score_dtype == "auto" else self.score_dtype, capture.images.device
        if dtype == "bfloat16" and device.type in {"cpu", "cuda"} and not has_bfloat16_units(device):
            self._warn_once("`score_dtype='bfloat16'` is slower than float32 on a processor without bfloat16 units.")
        batch, k = valid.shape
        rows, columns = valid.nonzero(as_tuple=True)
        everyone = torch.arange(batch, device=rows.device)
        compose = self._composer(capture, components.relu()[rows, columns], rows.tolist())
        logits = capture.rescore(torch.cat([rows, everyone]), compose, dtype)
        seen, reference = logits[: len(rows)], logits[len(rows) :]
        scores = torch.full((batch, k), torch.nan, dtype=seen.dtype, device=seen.device)
        scores[rows, columns] = capture.score(seen, rows)
        return scores, capture.score(reference, everyone)

    def _composer(self, capture: Capture, masks: Tensor, owners: list[int]) -> Callable[[slice], Tensor]:
        """How to make a part of the altered images: first through each mask ``(n, h, w)``, then blurred."""
        n, size = len(masks), (capture.images.shape[-2], capture.images.shape[-1])
        to_input, images = _composing_space(capture, self.preset.composite_space)
        blurred = self._blur(images)
        buffer = images[:0]

        def compose(part: slice) -> Tensor:
            nonlocal buffer
            if len(buffer) != part.stop - part.start:  # the first part, the last one, and those after one did not fit
                buffer = images.new_empty(part.stop - part.start, *images.shape[1:])
            shown = min_max_normalize(upsample(masks[part], size))
            end = 0
            # One image meets all its masks at once, in memory used again: copies of it would cost more than blending.
            for row, own in groupby(owners[part]):
                start, end = end, end + len(list(own))
                blend(images[row], shown[start:end], blurred[row], self.preset.composite, out=buffer[start:end])
            rest = blurred[max(part.start - n, 0) : max(part.stop - n, 0)]
            return to_input(torch.cat([buffer[:end], rest]) if len(rest) else buffer[:end])

        return compose

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=5)

    def _blur(self, images: Tensor) -> Tensor:
        preset = self.preset
        scale = min(images.shape[-2:]) / 224 if preset.blur_scaled else 1.0
        return gaussian_blur(images, preset.blur_sigma * scale, preset.blur_truncate)


def _composing_space(capture: Capture, space: BlendSpace) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """How to bring composed images to the network, and the images in the space they are composed in."""
    if space == "input":
        return lambda images: images, capture.images
    if capture.mean is None or capture.std is None:
        raise ValueError(
            "Expected the mean and std of the images, since this preset composes in [0, 1], but got none. "
            "Pass `capture(..., mean=, std=)` or a probe that has them."
        )
    mean = capture.mean.to(capture.images)[:, None, None]
    std = capture.std.to(capture.images)[:, None, None]
    return lambda images: (images - mean) / std, capture.images * std + mean


def _padded(start: Sequence[Tensor], maps: Tensor, k: int) -> Tensor:
    """Components of each image, of which there may be less or more than ``k``, as patterns ``(B, k, h, w)``."""
    patterns = maps.new_zeros(len(maps), k, *maps.shape[2:])
    for row, known in zip(patterns, start, strict=True):
        if len(known):
            row[: len(known)] = known[:k]
    return patterns


def _without(factors: Factors, left_out: Tensor) -> Factors:
    kept = ~left_out
    return factors._replace(
        components=factors.components * kept[:, :, None, None],
        strengths=factors.strengths * kept,
        loadings=factors.loadings * kept[:, None, :],
        valid=factors.valid & kept,
        removed=factors.removed * kept,
    )


def _fill_non_finite(values: Tensor, finite: Tensor) -> Tensor:
    return values.masked_fill(~finite.reshape(-1, *[1] * (values.ndim - 1)), torch.nan)
