"""Networks that we ship or wrap."""

from lit_decom.models.image_text import ImageTextModel
from lit_decom.models.small_resnet import SmallResNet
from lit_decom.models.zero_shot import ZeroShotClassifier

__all__ = ["ImageTextModel", "SmallResNet", "ZeroShotClassifier"]
