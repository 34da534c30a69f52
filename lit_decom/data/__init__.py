"""Datamodules: synthetic critters, scanned digits, folders of images."""

from lit_decom.data.base import AnnotatedDataset, ClassificationDataModule
from lit_decom.data.critters import Critters, CrittersDataModule
from lit_decom.data.digits import Digits, DigitsDataModule
from lit_decom.data.image_folder import ImageFolder, ImageFolderDataModule

__all__ = [
    "AnnotatedDataset",
    "ClassificationDataModule",
    "Critters",
    "CrittersDataModule",
    "Digits",
    "DigitsDataModule",
    "ImageFolder",
    "ImageFolderDataModule",
]
