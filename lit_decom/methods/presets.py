"""The published readings of DecomCAM, and ours, as values of one set of fields."""

from dataclasses import dataclass
from typing import Literal

from lit_decom.functional.cam import ChannelWeight
from lit_decom.functional.decomposition import ComponentWeighting, SignRule
from lit_decom.functional.image import Blend

Integration = Literal["paper", "v25", "notebook", "predecessor", "predecessor_pp", "relu_gain"]
BlendSpace = Literal["input", "unit"]


@dataclass(frozen=True)
class Preset:
    """Every choice on which the paper and the released codes differ.

    Attributes:
        channel_weight: how a channel is weighed.
        positive_only: whether channels that speak against the target are left out.
        centred: whether each channel's mean over positions is taken out before the decomposition.
        sign: the sign rule of a component.
        composite: how an image is shown through a component over its blurred self.
        composite_space: ``"input"`` composes what the network sees, ``"unit"`` the image in [0, 1].
        blur_sigma: standard deviation of the blur in pixels.
        blur_scaled: whether ``blur_sigma`` is meant at 224 pixels and grows with the shorter side.
        blur_truncate: radius of the blur's window in standard deviations.
        subtract_reference: whether the blurred image's score is taken off.
        score_threshold: below it a score counts as 0; -inf for no threshold.
        weighting: how scores become weights.
        top_p: how many channels are decomposed.
    """

    channel_weight: ChannelWeight
    positive_only: bool
    centred: bool
    sign: SignRule
    composite: Blend
    composite_space: BlendSpace
    blur_sigma: float
    blur_scaled: bool
    blur_truncate: float
    subtract_reference: bool
    score_threshold: float
    weighting: ComponentWeighting
    top_p: int


_NO_THRESHOLD = float("-inf")

_PAPER = Preset(
    channel_weight="sum",
    positive_only=True,  # our choice
    centred=False,
    sign="evidence",  # our choice
    composite="convex",  # our reading
    composite_space="input",
    blur_sigma=10.0,  # the code's, at 224; its scaling is our choice
    blur_scaled=True,
    blur_truncate=4.0,
    subtract_reference=True,
    score_threshold=_NO_THRESHOLD,
    weighting="min_max",
    top_p=100,  # the notebook's; the paper's is unknown to us
)

_PREDECESSOR = Preset(
    channel_weight="mean",
    positive_only=False,
    centred=True,
    sign="largest_entry",
    composite="maximum",
    composite_space="unit",
    blur_sigma=10.0,
    blur_scaled=False,
    blur_truncate=4.0,
    subtract_reference=True,
    score_threshold=_NO_THRESHOLD,
    weighting="softmax_gain",
    top_p=100,
)

PRESETS: dict[Integration, Preset] = {
    "paper": _PAPER,
    "relu_gain": Preset(**{**vars(_PAPER), "weighting": "relu_gain"}),
    "v25": Preset(
        channel_weight="mean",
        positive_only=False,
        centred=True,
        sign="largest_entry",
        composite="maximum",
        composite_space="input",
        blur_sigma=10.0,
        blur_scaled=False,
        blur_truncate=4.0,
        subtract_reference=False,
        score_threshold=0.001,
        weighting="maximum",
        top_p=500,
    ),
    "notebook": Preset(
        channel_weight="mean",
        positive_only=False,
        centred=True,
        sign="largest_entry",
        composite="maximum",
        composite_space="unit",
        blur_sigma=10.0,
        blur_scaled=False,
        blur_truncate=100.0,
        subtract_reference=True,
        score_threshold=0.01,
        weighting="maximum",
        top_p=100,
    ),
    "predecessor": _PREDECESSOR,
    "predecessor_pp": Preset(**{**vars(_PREDECESSOR), "channel_weight": "grad_cam_pp"}),
}
