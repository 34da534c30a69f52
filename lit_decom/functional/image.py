"""Maps and images: normalising, resizing, blurring, blending."""

from functools import lru_cache
from typing import Literal

import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.base import check_option

Blend = Literal["convex", "maximum"]
Interpolation = Literal["bicubic", "bilinear"]


def min_max_normalize(maps: Tensor) -> Tensor:
    """Stretch every map to the range from 0 to 1.

    Args:
        maps: maps ``(..., H, W)``.

    Returns:
        Maps ``(..., H, W)`` in [0, 1]. A map that is constant to rounding has no range to stretch and becomes 0; a map
        with NaN becomes NaN.

    Example:
        >>> min_max_normalize(torch.tensor([[1.0, 3.0], [2.0, 5.0]]))
        tensor([[0.0000, 0.5000],
                [0.2500, 1.0000]])
    """
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    # Resizing a constant map leaves rounding errors, which must not be stretched into a picture.
    rounding = 8 * torch.finfo(maps.dtype).eps * torch.maximum(high.abs(), low.abs())
    span = high - low
    constant = (span <= rounding) & span.isfinite()
    return (maps - low) / span.masked_fill(constant, torch.inf)


def upsample(maps: Tensor, size: tuple[int, int], mode: Interpolation = "bicubic") -> Tensor:
    """Resize maps, as two small matrix products.

    The same numbers as ``torch.nn.functional.interpolate(mode=mode, align_corners=False)``, many times faster on a CPU
    for maps of a few positions. Bicubic interpolation overshoots: a non-negative map may get small negative values.

    Args:
        maps: maps ``(..., h, w)``.
        size: ``(H, W)``.
        mode: ``"bicubic"``, or ``"bilinear"`` where a publication says so.

    Returns:
        Maps ``(..., H, W)``.

    Raises:
        ValueError: if the mode is unknown.
    """
    check_option("mode", mode, Interpolation)
    rows, columns = (_resizing_matrix(n, out, mode) for n, out in zip(maps.shape[-2:], size, strict=True))
    return _separable(rows, maps, columns)


def gaussian_blur(images: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Blur height and width with a Gaussian whose window is cut at ``truncate`` standard deviations.

    The border repeats the edge (``d c b a | a b c d``), as SciPy's mode ``reflect`` does and torch's does not.

    Args:
        images: images ``(..., H, W)``; leading dimensions are never mixed.
        sigma: standard deviation in pixels, positive.
        truncate: radius of the window in standard deviations.

    Returns:
        Images ``(..., H, W)``.

    Raises:
        ValueError: if ``sigma`` is not positive.
    """
    if sigma <= 0:
        raise ValueError(f"Expected `sigma` to be positive, but got {sigma}.")
    height, width = images.shape[-2:]
    rows, columns = (_gaussian_matrix(size, float(sigma), float(truncate)) for size in (height, width))
    return _separable(rows, images, columns)


def blend(
    images: Tensor, masks: Tensor, background: Tensor, mode: Blend = "convex", out: Tensor | None = None
) -> Tensor:
    """Show images through masks, over a background.

    Args:
        images: images ``(n, C, H, W)``, or one for all masks, ``(C, H, W)``.
        masks: masks ``(n, H, W)`` in [0, 1].
        background: what stands where a mask is 0, shaped as ``images``.
        mode: ``"convex"`` is ``m x + (1 - m) b``; ``"maximum"`` is ``max(m x, (1 - m) b)`` element by element, which
            darkens where the mask is neither 0 nor 1 and clips negative values: published code does it.
        out: where to put the result; None for a new tensor.

    Returns:
        Images ``(n, C, H, W)``.

    Raises:
        ValueError: if the mode is unknown.

    Example:
        >>> image, background = torch.full((1, 1, 1, 2), 4.0), torch.full((1, 1, 1, 2), 2.0)
        >>> mask = torch.tensor([[[1.0, 0.5]]])
        >>> blend(image, mask, background)
        tensor([[[[4., 3.]]]])
        >>> blend(image, mask, background, mode="maximum")
        tensor([[[[4., 2.]]]])
    """
    check_option("mode", mode, Blend)
    weights = masks.unsqueeze(-3)
    if mode == "convex":
        return torch.lerp(background, images, weights, out=out)
    return torch.maximum(torch.mul(images, weights, out=out), background * (1 - weights), out=out)


def _separable(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    if not images.is_floating_point():
        raise TypeError(f"Expected maps or images to be floating point, but got {images.dtype}.")
    # Autocast would round the products to half precision.
    with torch.autocast(images.device.type, enabled=False):
        return rows.to(images) @ images @ columns.to(images).T


@lru_cache(maxsize=64)
def _resizing_matrix(n: int, size: int, mode: Interpolation) -> Tensor:
    # Outside inference mode, since the cached tensor may meet autograd later.
    with torch.inference_mode(mode=False):
        columns = torch.eye(n, dtype=torch.float64)[None, :, :, None]
        resized = F.interpolate(columns, size=(size, 1), mode=mode, align_corners=False)
        return resized[0, :, :, 0].T.contiguous()


@lru_cache(maxsize=64)
def _gaussian_matrix(n: int, sigma: float, truncate: float) -> Tensor:
    with torch.inference_mode(mode=False):
        impulses = torch.eye(n, dtype=torch.float64).numpy()
        return torch.from_numpy(gaussian_filter1d(impulses, sigma, axis=0, mode="reflect", truncate=truncate))
