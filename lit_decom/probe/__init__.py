"""The probe: a fixed labelled set of images that is explained again and again; how it is chosen, and how it is read."""

from lit_decom.probe.base import Probe
from lit_decom.probe.batches import NoImagesError, Unpack, images_and_labels, images_and_target
from lit_decom.probe.normalisation import normalisation_of

__all__ = ["NoImagesError", "Probe", "Unpack", "images_and_labels", "images_and_target", "normalisation_of"]
