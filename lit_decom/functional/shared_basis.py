"""Components that a whole probe has in common: channel directions on which every image is projected.

Component 3 of one image's own decomposition has nothing to do with component 3 of another image. Here the
class-weighted channel maps of many images are decomposed together, so a component is one direction in channel space
with a map in every image. To follow it over epochs, match :attr:`SharedBasis.patterns` of two epochs; to see the
network drift away from it, keep one epoch's basis and watch the energy that it explains of later maps.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ImageWeighting = Literal["equal", "energy"]


@dataclass(frozen=True)
class SharedBasis:
    """Orthonormal channel directions, by descending energy.

    The fields are tensors only: ``SharedBasis(**vars(basis))`` restores it from a checkpoint.

    Attributes:
        directions: ``(C, K)`` float64 unit-norm columns u with 1^T u >= 0 (evidence), so that the positive part of
            a component adds to the class map; zero where not valid.
        energies: ``(K,)`` float64, the energy of the decomposed maps along each direction.
        total_energy: ``()`` float64, the energy of the decomposed maps.
        valid: ``(K,)`` bool, False for directions beyond the rank of the maps, up to float32's rounding.
    """

    directions: Tensor
    energies: Tensor
    total_energy: Tensor
    valid: Tensor

    @property
    def explained_energy(self) -> Tensor:
        """Share of the energy along each direction, ``(K,)`` in [0, 1]; NaN if there was no energy at all."""
        return self.energies / self.total_energy

    @property
    def patterns(self) -> Tensor:
        """The directions as ``(1, K, C)`` patterns of one pseudo-image, to match or track them over epochs."""
        return self.directions.T.unsqueeze(0)


@dataclass(frozen=True)
class Projection:
    """Images seen through a shared basis.

    Attributes:
        components: ``(B, K, h, w)`` signed map of each shared component in each image; NaN for an image that is not
            finite.
        explained_energy: ``(B, K)`` float64 share of the image's energy in [0, 1]. NaN for an image that is blank or
            not finite, and for directions that are not valid.
    """

    components: Tensor
    explained_energy: Tensor

    @property
    def total(self) -> Tensor:
        """Share of each image's energy that the basis explains, ``(B,)`` in [0, 1]; NaN where there is no energy."""
        shares = self.explained_energy
        return torch.where(shares.isnan().all(1), torch.nan, shares.nansum(1))


@dataclass(frozen=True)
class Exemplars:
    """For each component the images in which it fires most, strongest first, each image at most once.

    Attributes:
        images: ``(K, n)`` int64 index of the image, -1 where fewer than n images fire at all.
        positions: ``(K, n, 2)`` int64 row and column of the peak on the grid, -1 likewise.
        values: ``(K, n)`` the component's value there, above 0; NaN likewise.
        boxes: ``(K, n, 4)`` int64 crop around the peak in image pixels, left, top, right, bottom with the last two
            exclusive, all of one size and inside the image; -1 likewise.
    """

    images: Tensor
    positions: Tensor
    values: Tensor
    boxes: Tensor


def channel_gram(maps: Tensor, *, weighting: ImageWeighting = "equal") -> Tensor:
    """Sum the channel-by-channel products over all images and positions, ``(C, C)`` float64.

    The results of batches add up to that of all images. Images with a value that is not finite contribute nothing.

    Args:
        maps: ``(B, C, h, w)`` class-weighted channel maps (activation times channel weight) over all channels.
        weighting: "equal" scales every image to unit energy, so that no image speaks for the others; with "energy"
            strong maps count more.

    Raises:
        ValueError: If `maps` has another number of dimensions or `weighting` is unknown.
    """
    rows = _rows(maps, weighting)
    return rows.mT @ rows


def basis_from_gram(gram: Tensor, n_components: int) -> SharedBasis:
    """Find the channel directions of largest energy from the products of :func:`channel_gram`.

    They are the left singular vectors of all maps side by side, not centred. Directions of nearly equal energy are
    only determined up to a rotation among them.

    Args:
        gram: ``(C, C)`` symmetric.
        n_components: Number of directions, between 1 and C.

    Raises:
        ValueError: If `gram` is not square and finite, or `n_components` is out of range.

    Example:
        Channel 1 holds 9 of 10 units of energy:

        >>> basis = basis_from_gram(torch.tensor([[1.0, 0.0], [0.0, 9.0]]), 2)
        >>> basis.directions.T.tolist(), basis.explained_energy.tolist()
        ([[0.0, 1.0], [1.0, 0.0]], [0.9, 0.1])
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.isfinite().all():
        raise ValueError(f"Expected `gram` to be a square matrix of finite values, but got shape {tuple(gram.shape)}.")
    _check_count(n_components, gram.shape[0])
    gram = _accurate(gram)
    energies, directions = torch.linalg.eigh(gram)
    return _basis(energies.flip(0), directions.flip(1), gram.trace(), n_components)


def basis_from_maps(maps: Tensor, n_components: int, *, weighting: ImageWeighting = "equal") -> SharedBasis:
    """Find the channel directions of largest energy of maps that are all at hand, by the smaller Gram matrix.

    The result is that of :func:`channel_gram` and :func:`basis_from_gram`, faster where the images have fewer positions
    in all than there are channels. The arguments are theirs.

    Raises:
        ValueError: If `maps` has another number of dimensions, or another argument is out of range.
    """
    rows = _rows(maps, weighting)
    n_rows, n_channels = rows.shape
    if n_rows >= n_channels or n_rows == 0:
        return basis_from_gram(rows.mT @ rows, n_components)
    _check_count(n_components, n_channels)
    energies, positions = torch.linalg.eigh(rows @ rows.mT)
    kept = min(n_components, n_rows)
    # QR instead of a division by the singular values keeps weak directions orthogonal.
    directions = torch.linalg.qr(rows.mT @ positions.flip(1)[:, :kept]).Q
    return _basis(energies.flip(0), directions, rows.square().sum(), n_components)


def project(maps: Tensor, basis: SharedBasis) -> Projection:
    """Project every image's channel maps on a shared basis, be it of this or of an earlier epoch.

    Args:
        maps: ``(B, C, h, w)`` class-weighted channel maps.
        basis: Directions over the same C channels.

    Raises:
        ValueError: If `maps` has another number of dimensions or of channels.
    """
    _check_maps(maps)
    if maps.shape[1] != basis.directions.shape[0]:
        raise ValueError(
            f"Expected `maps` to have the basis's {basis.directions.shape[0]} channels, but got {maps.shape[1]}."
        )
    finite = maps.flatten(1).isfinite().all(1)
    values = torch.where(finite.view(-1, 1, 1), _accurate(maps.flatten(2)), torch.nan)
    components = basis.directions.to(maps.device).T @ values
    energy = values.square().sum((1, 2)).unsqueeze(1)
    shares = components.square().sum(2) / torch.where(energy > 0, energy, torch.nan)
    return Projection(
        components=components.reshape(*components.shape[:2], *maps.shape[2:]).to(maps.dtype),
        explained_energy=torch.where(basis.valid.to(maps.device), shares, torch.nan),
    )


def exemplars(components: Tensor, n: int, image_size: tuple[int, int], *, extent: float = 3.0) -> Exemplars:
    """Find the image regions where each component fires most.

    Args:
        components: ``(B, K, h, w)`` signed maps, of :class:`Projection` or of single components; images with a value
            that is not finite are left out. Negative values do not fire.
        n: Images per component, at least 1.
        image_size: Height and width of the images in pixels.
        extent: Side of the crop in grid cells; the crop is shifted, not cut, at the image's edge.

    Raises:
        ValueError: If `components` has another number of dimensions, or another argument is out of range.

    Example:
        >>> maps = torch.zeros(2, 1, 4, 4)
        >>> maps[0, 0, 1, 3], maps[1, 0, 2, 2] = 1.0, 5.0
        >>> found = exemplars(maps, 3, (32, 32), extent=2)
        >>> found.images.tolist(), found.positions[0, 0].tolist(), found.boxes[0, 1].tolist()
        ([[1, 0, -1]], [2, 2], [16, 4, 32, 20])
    """
    if components.ndim != 4:
        raise ValueError(f"Expected `components` to have shape (B, K, h, w), but got {tuple(components.shape)}.")
    if n < 1:
        raise ValueError(f"Expected `n` to be at least 1, but got {n}.")
    height, width = components.shape[2:]
    flat = components.flatten(2)
    flat = torch.where(flat.isfinite().all(2).all(1).view(-1, 1, 1), flat, 0.0)
    peaks = flat.amax(2).T
    values, images = peaks.sort(dim=1, descending=True, stable=True)
    values, images = values[:, :n], images[:, :n]
    cells = flat.argmax(2).T.gather(1, images)
    positions = torch.stack((cells // width, cells % width), dim=2)
    boxes = _crop_boxes(positions, (height, width), image_size, extent)
    fires = values > 0
    return Exemplars(
        images=_padded(torch.where(fires, images, -1), n, -1),
        positions=_padded(torch.where(fires.unsqueeze(2), positions, -1), n, -1),
        values=_padded(torch.where(fires, values, torch.nan), n, torch.nan),
        boxes=_padded(torch.where(fires.unsqueeze(2), boxes, -1), n, -1),
    )


def _crop_boxes(positions: Tensor, grid: tuple[int, int], image_size: tuple[int, int], extent: float) -> Tensor:
    """Centre boxes of `extent` cells on ``(..., 2)`` grid positions, ``(..., 4)`` in pixels."""
    if not 0 < extent < float("inf") or min(image_size) < 1:
        raise ValueError(
            "Expected `extent` to be positive and `image_size` to be at least 1 x 1, "
            f"but got {extent} and {tuple(image_size)}."
        )
    starts, ends = [], []
    for axis in (1, 0):
        pixels, cell = image_size[axis], image_size[axis] / grid[axis]
        side = min(pixels, max(1, round(extent * cell)))
        centre = (positions[..., axis] + 0.5) * cell
        start = (centre - side / 2).round().long().clamp(0, pixels - side)
        starts.append(start)
        ends.append(start + side)
    return torch.stack(starts + ends, dim=-1)


def _padded(found: Tensor, n: int, fill: float) -> Tensor:
    """Fill ``(K, m, ...)`` up to ``(K, n, ...)``."""
    padding = found.new_full((found.shape[0], n - found.shape[1], *found.shape[2:]), fill)
    return torch.cat((found, padding), dim=1)


def _accurate(values: Tensor) -> Tensor:
    # MPS has no float64.
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _rows(maps: Tensor, weighting: str) -> Tensor:
    """Lay the finite images out as ``(B h w, C)`` float64 samples of the channels."""
    _check_maps(maps)
    if weighting not in ("equal", "energy"):
        raise ValueError(f"Expected `weighting` to be 'equal' or 'energy', but got {weighting!r}.")
    maps = _accurate(maps[maps.flatten(1).isfinite().all(1)])
    if weighting == "equal":
        norms = torch.linalg.vector_norm(maps, dim=(1, 2, 3), keepdim=True)
        maps = maps / torch.where(norms > 0, norms, 1.0)
    return maps.movedim(1, 3).flatten(0, 2)


def _basis(energies: Tensor, directions: Tensor, total: Tensor, n_components: int) -> SharedBasis:
    """Cut, pad and orient directions that come by descending energy."""
    found = min(n_components, energies.numel(), directions.shape[1])
    kept = energies.new_zeros(n_components)
    kept[:found] = energies[:found].clamp(min=0)
    columns = directions.new_zeros(directions.shape[0], n_components)
    columns[:, :found] = _orient(directions[:, :found])
    # The maps come from float32, whatever they are summed in: singular values below its rounding are noise.
    valid = kept > (directions.shape[0] * torch.finfo(torch.float32).eps) ** 2 * total
    return SharedBasis(torch.where(valid, columns, 0.0), torch.where(valid, kept, 0.0), total, valid)


def _orient(directions: Tensor) -> Tensor:
    """Give each column a non-negative sum or, where the sum vanishes, a positive first entry of largest magnitude."""
    magnitudes = directions.abs()
    sums = directions.sum(0)
    # Rounding must not decide: sums below this are zero, and entries this close are equally large.
    undecided = sums.abs() <= 1e-10 * magnitudes.sum(0)
    largest = (magnitudes >= (1 - 1e-10) * magnitudes.amax(0)).int().argmax(0)
    decisive = torch.where(undecided, directions.gather(0, largest.unsqueeze(0))[0], sums)
    return directions * torch.where(decisive < 0, -1.0, 1.0)


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 4:
        raise ValueError(f"Expected `maps` to have shape (B, C, h, w), but got {tuple(maps.shape)}.")


def _check_count(n_components: int, n_channels: int) -> None:
    if not 1 <= n_components <= n_channels:
        raise ValueError(
            f"Expected `n_components` to be between 1 and {n_channels} (the channels), but got {n_components}."
        )
