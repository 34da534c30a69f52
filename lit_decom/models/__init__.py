"""Networks that we ship or wrap."""

from lit_decom.models.image_text import ImageTextModel
from lit_decom.models.mirror_clip import MirrorCLIP, disentangled
from lit_decom.models.small_resnet import SmallResNet
from lit_decom.models.zero_shot import ZeroShotClassifier

__all__ = ["ImageTextModel", "MirrorCLIP", "SmallResNet", "ZeroShotClassifier", "disentangled"]
