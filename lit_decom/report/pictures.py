"""Pictures and maps as text that an HTML page can hold."""

import base64
import io
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import torch
from markupsafe import Markup
from matplotlib.figure import Figure
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


def inline(figure: Figure, colours: Mapping[str, str]) -> Markup:
    """Draw a figure as a part of a page, with the page's colours, light or dark.

    Args:
        figure: drawn in black and the given colours.
        colours: by a colour of the figure the name of the page's own, such as ``--c1``.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", file.getvalue().partition("<svg")[2])
    for colour, name in colours.items():
        drawn = drawn.replace(colour, f"var({name})")
    return Markup(f'<svg class="still" fill="var(--ink)"{drawn}')


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
    found = zip(broken, limits.tolist(), strict=True)
    return _text(levels), [None if bad else float(f"{limit:.4g}") for bad, limit in found]


def common_limit(largest: Tensor) -> float:
    """Choose what counts as full heat on a scale that all images share: nine of ten maps stay below it.

    As the common intensity scale of :class:`lit_decom.functional.integrated_features.IntensityScale`.

    Args:
        largest: value of each map ``(m,)``; what is not finite is left out.

    Returns:
        The limit; 0 where no map has any heat.
    """
    known = largest[largest.isfinite()].float()
    return float(f"{known.quantile(0.9).item():.4g}") if len(known) else 0.0


class SignedMaps:
    """Maps of either sign, written down in eight bits one after the other."""

    def __init__(self) -> None:
        self._levels: list[Tensor] = []
        self._limits: list[float | None] = []
        self._most: dict[int, float] = {}

    def add(self, signed: Tensor, row: int) -> int:
        """Keep a map ``(h, w)`` of the image ``row``, and return its index among all."""
        limit = signed.abs().amax().item()
        known = signed / limit if math.isfinite(limit) and limit > 0 else torch.zeros_like(signed)
        self._levels.append((known * 127).round().to(torch.int8))
        self._limits.append(float(f"{limit:.4g}") if math.isfinite(limit) else None)
        self._most[row] = max(self._most.get(row, 0.0), self._limits[-1] or 0.0)
        return len(self._levels) - 1

    @property
    def data(self) -> dict[str, Any]:
        """The maps as :func:`packed` writes them, the largest magnitude of each and of each image, and a common one."""
        return {
            "maps": _text(torch.stack(self._levels)) if self._levels else "",
            "limits": self._limits,
            "most": self._most,
            "common": common_limit(torch.tensor(list(self._most.values()))),
        }


def _text(levels: Tensor) -> str:
    return base64.b64encode(zlib.compress(levels.contiguous().numpy().tobytes(), 9)).decode()
