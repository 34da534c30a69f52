"""LightningModules: image classification, and learning from images and their captions."""

from lit_decom.tasks.classification import ClassificationTask, build_model, replace_head
from lit_decom.tasks.image_text import ImageTextTask
from lit_decom.tasks.optimization import WarmupCosineLR

__all__ = ["ClassificationTask", "ImageTextTask", "WarmupCosineLR", "build_model", "replace_head"]
