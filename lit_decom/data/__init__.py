"""Datamodules: synthetic critters (with words on them), scanned digits, folders of images."""

from lit_decom.data.attributes import CritterAttributes, CritterAttributesDataModule
from lit_decom.data.base import AnnotatedDataset, ClassificationDataModule
from lit_decom.data.critters import Critters, CrittersDataModule
from lit_decom.data.digits import Digits, DigitsDataModule
from lit_decom.data.image_folder import ImageFolder, ImageFolderDataModule
from lit_decom.data.pairs import CritterPairs
from lit_decom.data.words import CrittersWithWords, CrittersWithWordsDataModule

__all__ = [
    "AnnotatedDataset",
    "ClassificationDataModule",
    "CritterAttributes",
    "CritterAttributesDataModule",
    "CritterPairs",
    "Critters",
    "CrittersDataModule",
    "CrittersWithWords",
    "CrittersWithWordsDataModule",
    "Digits",
    "DigitsDataModule",
    "ImageFolder",
    "ImageFolderDataModule",
]
