"""Identity of components over the snapshots of a run, and components that the whole probe shares."""

from lit_decom.components.shared import Components, SharedComponents, SharedFindings
from lit_decom.components.tracking import ComponentTracker, Tracked, summarize

__all__ = ["ComponentTracker", "Components", "SharedComponents", "SharedFindings", "Tracked", "summarize"]
