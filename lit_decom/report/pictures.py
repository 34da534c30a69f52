"""Pictures and maps as text that an HTML page can hold."""

import base64
import io
import zlib

import torch
from PIL import Image
from torch import Tensor

from lit_decom.render import to_picture

_LARGEST_SIDE = 160
_QUALITY = 85


def data_uri(picture: Image.Image, *, quality: int = _QUALITY) -> str:
    """Write a picture down as a data URI, as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def photo(image: Tensor) -> Image.Image:
    """Turn an image ``(3, H, W)`` in [0, 1] into a picture small enough for a report."""
    picture = to_picture(image)
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def packed(maps: Tensor) -> tuple[str, list[float | None]]:
    """Write maps down in eight bits, each to its own maximum.

    Args:
        maps: ``(m, h, w)``, non-negative.

    Returns:
        The maps one after the other, compressed, in base 64; and each one's maximum, None for a map with NaN.
    """
    broken = ~maps.isfinite().all(dim=(1, 2))
    known = maps.masked_fill(broken[:, None, None], 0).clamp(min=0)
    limits = known.amax(dim=(1, 2))
    levels = (known / torch.where(limits > 0, limits, 1)[:, None, None] * 255).round().to(torch.uint8)
    text = base64.b64encode(zlib.compress(levels.contiguous().numpy().tobytes(), 9)).decode()
    return text, [None if bad else float(f"{limit:.4g}") for bad, limit in zip(broken, limits.tolist(), strict=True)]
