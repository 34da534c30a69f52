"""The grid and the curves of a firing, from its record."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from lit_decom.probe import Probe
from lit_decom.records import Snapshot, displayed
from lit_decom.render import ossm_grid


def grid_of(record: Snapshot, probe: Probe, n_drawn: int, limits: Tensor | None = None) -> tuple[Image.Image, str]:
    """Compose the OSSM grid of the first ``n_drawn`` images, and its caption.

    Args:
        record: of the firing.
        probe: what it explains.
        n_drawn: how many of its images are drawn.
        limits: full heat of each, as for :func:`lit_decom.render.ossm_grid`.
    """
    rows = range(min(n_drawn, len(probe)))
    decomposition, shown = record.decomposition, probe.select(rows)
    gains, energy = decomposition.score_gains, decomposition.explained_energy
    ossm_captions = [
        [
            f"{gains[row, rank]:+.2f}  {energy[row, rank]:.0%}" if record.valid[row, rank] else ""
            for rank in range(record.valid.shape[1])
        ]
        for row in rows
    ]
    settings = record.settings
    caption = f"epoch {record.epoch}, step {record.step}: {settings['method']} at {settings['target_layer']}"
    picture = ossm_grid(
        displayed(shown),
        decomposition.cam[: len(rows)],
        decomposition.ossms[: len(rows)],
        row_captions=[_row_caption(record, probe.class_names, row) for row in rows],
        ossm_captions=ossm_captions,
        title=f"{caption}   (score gain, share of energy; {'own scales' if limits is None else 'scale of the run'})",
        limits=None if limits is None else limits[: len(rows)],
    )
    return picture, caption


def peaks_of(record: Snapshot, before: Tensor | None) -> Tensor:
    """Largest value so far of each image's integrated map and of its OSSMs, ``(n, 2)``: one scale for all epochs."""
    maps, ossms = record.decomposition.cam, record.decomposition.ossms
    now = torch.stack([maps.amax(dim=(1, 2)), ossms.amax(dim=(1, 2, 3))], dim=1).nan_to_num()
    return now if before is None else torch.maximum(now, before)


def _row_caption(record: Snapshot, names: Sequence[str] | None, row: int) -> str:
    def name(index: int) -> str:
        return names[index] if names is not None and index < len(names) else str(index)

    label, prediction = int(record.labels[row]), int(record.logits[row].argmax())
    confidence = float(record.logits[row].softmax(dim=0)[prediction])
    verdict = "✓" if label == prediction else f"→ {name(prediction)}"
    return f"{name(label)} {verdict} {confidence:.0%}"
