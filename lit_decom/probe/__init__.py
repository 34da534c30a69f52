"""The probe: a fixed labelled set of images that is explained again and again; how it is chosen, and how it is read."""

from lit_decom.probe.base import Probe
from lit_decom.probe.batches import Unpack, images_and_labels

__all__ = ["Probe", "Unpack", "images_and_labels"]
