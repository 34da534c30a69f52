"""Maps that know nothing of the image, against which every score is read.

Numbers are drawn image by image, so they do not depend on how a set is cut into batches; one generator per image makes
them independent of the order of the images too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def random_maps(
    shape: tuple[int, int, int],
    grid: tuple[int, int],
    generator: torch.Generator | Sequence[torch.Generator],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw maps that are as smooth as those of a layer: uniform noise on its grid, resized bicubically.

    Smoothness matters: white noise on the pixels would score lower than any upsampled map on most metrics, whatever
    the network knows.

    Args:
        shape: ``(B, H, W)``.
        grid: ``(h, w)`` of the layer the maps are compared with.
        generator: where the numbers come from, one for all images or one for each.
        device: where the maps are put.

    Returns:
        Maps ``(B, H, W)``, non-negative.

    Raises:
        ValueError: when there are several generators but not one per image.

    Example:
        >>> maps = random_maps((2, 8, 8), (2, 2), torch.Generator().manual_seed(0))
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([2, 8, 8]), True)
    """
    batch, height, width = shape
    noise = torch.zeros(batch, 1, *grid, device=device)
    for i, source in enumerate(_per_image(generator, batch)):
        noise[i, 0] = torch.rand(grid, generator=source, device=source.device)
    resized = F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
    return resized[:, 0].clamp(min=0)


def center_maps(shape: tuple[int, int, int], sigma: float = 0.25, device: torch.device | str = "cpu") -> Tensor:
    """Make maps that bet on the middle of the image, where photographers put the object.

    Args:
        shape: ``(B, H, W)``.
        sigma: standard deviation of the Gaussian, as a share of the image's height and width.
        device: where the maps are put.

    Returns:
        Maps ``(B, H, W)`` in (0, 1], all the same; the pixel nearest to the middle has the maximum.

    Raises:
        ValueError: when ``sigma`` is not positive.

    Example:
        >>> center_maps((1, 1, 3), sigma=1.0)
        tensor([[[0.9460, 1.0000, 0.9460]]])
    """
    if sigma <= 0:
        raise ValueError(f"Expected `sigma` to be positive, but got {sigma}.")
    batch, height, width = shape
    rows, columns = (_bump(size, sigma, device) for size in (height, width))
    return torch.outer(rows, columns).expand(batch, -1, -1).clone()


def random_orthogonal_basis(
    components: Tensor,
    generator: torch.Generator | Sequence[torch.Generator],
    valid: Tensor | None = None,
) -> Tensor:
    """Turn each image's components at random within the space that they span.

    The new maps are mutually orthogonal, span the same space and have the same norms in the same order, so all that is
    lost is the choice of directions: what a decomposition gains over them is owed to its directions alone. Their signs
    are arbitrary.

    Args:
        components: mutually orthogonal maps ``(B, K, h, w)``, as a decomposition gives them.
        generator: where the rotations come from, one for all images or one for each.
        valid: which components exist, ``(B, K)`` bool; the others stay zero. All with a positive norm when absent.

    Returns:
        Maps ``(B, K, h, w)``; NaN for an image whose components are not finite.

    Raises:
        ValueError: when there are several generators but not one per image.

    Example:
        >>> components = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])
        >>> turned = random_orthogonal_basis(components, torch.Generator().manual_seed(0))
        >>> turned.flatten(2).norm(dim=2)
        tensor([[3.0000, 1.0000]])
    """
    maps = components.double().flatten(2)
    norms = maps.norm(dim=2, keepdim=True)
    exists = norms > 0 if valid is None else valid[:, :, None] & (norms > 0)
    # the identity on what does not exist keeps it apart from the rest in the factorization
    gaussians = torch.eye(maps.shape[1], device=maps.device, dtype=maps.dtype).repeat(len(maps), 1, 1)
    for i, source in enumerate(_per_image(generator, len(maps))):
        drawn = torch.randn(gaussians.shape[1:], generator=source, device=source.device, dtype=maps.dtype)
        gaussians[i] = drawn.to(maps.device).where(exists[i] & exists[i].T, gaussians[i])
    kept = exists | norms.isnan()
    directions = (maps / norms).where(kept, 0)
    turned: Tensor = (_orthogonal_factor(gaussians) @ directions) * norms.where(kept, 0)
    return turned.to(components.dtype).reshape(components.shape)


def _orthogonal_factor(matrices: Tensor) -> Tensor:
    q, r = torch.linalg.qr(matrices)
    # LAPACK's signs are its own affair; a positive diagonal of R makes the factor unique and its law uniform
    factor: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return factor


def _bump(size: int, sigma: float, device: torch.device | str) -> Tensor:
    distance = (torch.arange(size, device=device) - size // 2) / (sigma * size)
    return (-distance.square() / 2).exp()


def _per_image(generator: torch.Generator | Sequence[torch.Generator], batch: int) -> Sequence[torch.Generator]:
    if isinstance(generator, torch.Generator):
        return [generator] * batch
    if len(generator) != batch:
        raise ValueError(f"Expected `generator` to hold one generator per image ({batch}), but got {len(generator)}.")
    return generator
