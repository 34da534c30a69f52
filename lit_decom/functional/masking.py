"""What is seen of an image where a mask hides it: conventions on which published numbers differ."""

from typing import Literal

import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.base import check_option, widened

MaskSpace = Literal["input", "unit"]
Substrate = Literal["zeros", "blur"]


def substrate_images(
    images: Tensor,
    substrate: Substrate = "zeros",
    *,
    mask_space: MaskSpace = "input",
    mean: Tensor | None = None,
    std: Tensor | None = None,
    scale_to_image: bool = False,
) -> Tensor:
    """Return what is seen where nothing of an image is shown.

    Args:
        images: normalised images ``(B, C, H, W)``.
        substrate: ``"zeros"`` is one colour; ``"blur"`` the image blurred as by RISE's evaluation code, with a kernel
            of 11 pixels and sigma 5, whose border sees zeros.
        mask_space: what zero means: in ``"input"`` space zero of the normalised image, that is the mean colour; in
            ``"unit"`` space zero before normalisation, that is black.
        mean: normalisation ``(C,)`` of the images, for ``mask_space="unit"``.
        std: normalisation ``(C,)`` of the images, for ``mask_space="unit"``.
        scale_to_image: take the blur's pixels as pixels of an image of 224 and scale them, to 3 pixels and sigma 1 at
            least.

    Returns:
        Images ``(B, C, H, W)``, normalised like ``images``.

    Raises:
        ValueError: if an option is unknown, or the normalisation is needed and missing.
    """
    check_option("substrate", substrate, Substrate)
    check_option("mask_space", mask_space, MaskSpace)
    black = _black(images, mask_space, mean, std)
    if substrate == "zeros":
        return black.expand_as(images)
    radius = max(1, round(5 * min(images.shape[-2:]) / 224)) if scale_to_image else 5
    return _zero_padded_blur(images - black, radius) + black


def _black(images: Tensor, mask_space: MaskSpace, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Return the zero of the space that is masked, in the values of the normalised images ``(C, 1, 1)``."""
    if mask_space == "input":
        return images.new_zeros(images.shape[1], 1, 1)
    if mean is None or std is None:
        raise ValueError("Expected `mean` and `std` for `mask_space='unit'`, but got None; or use 'input'.")
    return (-mean / std).to(images)[:, None, None]


def _zero_padded_blur(images: Tensor, radius: int) -> Tensor:
    """Blur with a window of twice the radius and one, and a sigma of the radius."""
    impulse = torch.zeros(2 * radius + 1, dtype=torch.float64)
    impulse[radius] = 1
    # RISE blurs an impulse within its own window, which folds the tails of the Gaussian back into the kernel.
    kernel = torch.from_numpy(gaussian_filter1d(impulse.numpy(), float(radius))).float().to(images.device)
    planes = widened(images).flatten(0, 1)[:, None]
    kernel = kernel.to(planes.dtype)
    planes = F.conv2d(planes, kernel[None, None, :, None], padding=(radius, 0))
    planes = F.conv2d(planes, kernel[None, None, None, :], padding=(0, radius))
    return planes.view(images.shape).to(images.dtype)
