"""Maps that know nothing of the image, against which every score is read.

Numbers are drawn image by image, so they do not depend on how a set is cut into batches; one generator per image makes
them independent of the order of the images too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_DEPENDENT = 1e-10  # squared length, of a unit row, that rounding to float32 may leave beyond the others' span


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
    are arbitrary. The frame is uniform (Haar): no direction of the space is likelier than another, whether or not the
    components are orthogonal themselves. Where these depend on one another the space is too small for as many
    orthogonal maps; each is uniform in it nevertheless.

    Args:
        components: maps ``(B, K, h, w)``, as a decomposition gives them.
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
    frame = _orthogonal_factor(gaussians) @ _orthonormalised((maps / norms).where(kept, 0))
    length = frame.norm(dim=2, keepdim=True)
    turned: Tensor = frame / torch.where(length > 0, length, 1.0) * norms.where(kept, 0)
    return turned.to(components.dtype).reshape(components.shape)


def blob_components(
    maps: Tensor, k: int, generator: torch.Generator | Sequence[torch.Generator], n_iterations: int = 20
) -> Tensor:
    """Cut each map into compact blobs: k-means of its positions, each of which weighs as much as the map's value there.

    The blobs know where the map is and nothing of the channels that it is made of: what components gain over them is
    owed to the channels. Lloyd's algorithm after k-means++ (Arthur and Vassilvitskii 2007); that it be chance is our
    choice.

    Args:
        maps: maps ``(B, h, w)``; negative values count as 0.
        k: number of blobs.
        generator: where the first centres come from, one for all images or one for each.
        n_iterations: how often the centres are moved.

    Returns:
        Blobs ``(B, k, h, w)`` by descending sum, which do not overlap and add up to the rectified map; 0 for those
        that a map has too few positions for, NaN for an image whose map is not finite.

    Raises:
        ValueError: when ``k`` is not positive, or there are several generators but not one per image.

    Example:
        >>> blob_components(torch.tensor([[[1.0, 2.0, 0.0, 0.0, 5.0]]]), 2, torch.Generator().manual_seed(0))
        tensor([[[[0., 0., 0., 0., 5.]],
        <BLANKLINE>
                 [[1., 2., 0., 0., 0.]]]])
    """
    if k < 1:
        raise ValueError(f"Expected `k` to be at least 1, but got {k}.")
    finite = maps.flatten(1).isfinite().all(dim=1)
    weights = maps.double().clamp(min=0).flatten(1).where(finite[:, None], 0)
    draws = weights.new_empty(len(maps), k)
    for i, source in enumerate(_per_image(generator, len(maps))):
        draws[i] = torch.rand(k, generator=source, device=source.device, dtype=torch.float64)
    height, width = maps.shape[1:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(weights)
    owners = _k_means(places, weights, draws, n_iterations)
    blobs = weights[:, None] * (owners[:, None] == torch.arange(k, device=maps.device)[:, None])
    order = blobs.sum(dim=2).argsort(dim=1, descending=True, stable=True)
    blobs = blobs.gather(1, order[:, :, None].expand_as(blobs)).masked_fill(~finite[:, None, None], torch.nan)
    return blobs.to(maps.dtype).view(len(maps), k, height, width)


def _k_means(places: Tensor, weights: Tensor, draws: Tensor, n_iterations: int) -> Tensor:
    """Which of the clusters each of the places ``(M, 2)`` belongs to ``(B, M)``, from weights ``(B, M)``."""
    nearest = torch.ones_like(weights)
    centres = []
    for drawn in draws.unbind(dim=1):  # a centre is a place, the likelier the heavier and the farther from the others
        cumulated = (weights * nearest).cumsum(dim=1)
        chosen = torch.searchsorted(cumulated, drawn[:, None] * cumulated[:, -1:], right=True)
        centres.append(places[chosen.squeeze(1).clamp(max=len(places) - 1)])
        distance = (places - centres[-1][:, None]).square().sum(dim=2)
        nearest = distance if len(centres) == 1 else torch.minimum(nearest, distance)
    found = torch.stack(centres, dim=1)
    owners = _nearest(places, found)
    moments = weights[:, :, None] * torch.cat([torch.ones_like(places[:, :1]), places], dim=1)
    clusters = torch.arange(found.shape[1], device=owners.device)[:, None]
    for _ in range(n_iterations):
        sums = (owners[:, None] == clusters).to(moments) @ moments
        mass = sums[:, :, :1]
        found = torch.where(mass > 0, sums[:, :, 1:] / mass, found)
        before, owners = owners, _nearest(places, found)
        if torch.equal(owners, before):
            break
    return owners


def _nearest(places: Tensor, centres: Tensor) -> Tensor:
    """Which of the centres ``(B, k, 2)`` is nearest to each place ``(M, 2)``: ``(B, M)``."""
    # the squared distance, less that of the place from the origin
    return (centres.square().sum(dim=2, keepdim=True) - 2 * centres @ places.T).min(dim=1).indices


def _orthonormalised(directions: Tensor) -> Tensor:
    """The orthonormal rows nearest to unit rows ``(B, K, M)`` (Löwdin), zero rows left so; rows that are orthonormal.

    Of rows that depend on one another the result is that of their span: its projection of as many orthonormal ones.
    """
    finite = directions.isfinite().all(dim=2).all(dim=1)[:, None, None]
    gram = (directions @ directions.mT).where(finite, 0)
    values, vectors = torch.linalg.eigh(gram)
    roots = torch.where(values > _DEPENDENT, values, torch.inf).rsqrt()
    orthonormal: Tensor = (vectors * roots[:, None]) @ vectors.mT @ directions
    return orthonormal


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
