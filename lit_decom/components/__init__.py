"""Identity of components over the snapshots of a run, and components that the whole probe shares."""

from lit_decom.components.factors import FactorFindings, FollowedFactors, WrongDecisions, wrong_decisions
from lit_decom.components.images import FollowedImages, ImageFindings
from lit_decom.components.selection import Components
from lit_decom.components.shared import SharedComponents, SharedFindings
from lit_decom.components.tracked import Tracked, summarize
from lit_decom.components.tracking import ComponentTracker

__all__ = [
    "ComponentTracker",
    "Components",
    "FactorFindings",
    "FollowedFactors",
    "FollowedImages",
    "ImageFindings",
    "SharedComponents",
    "SharedFindings",
    "Tracked",
    "WrongDecisions",
    "summarize",
    "wrong_decisions",
]
