"""The OSSM grids of a snapshot."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from lit_decom.probe import Probe
from lit_decom.records import Snapshot, displayed
from lit_decom.render import ossm_grids


def grids_of(
    record: Snapshot, probe: Probe, n_drawn: int, peaks: Tensor | None = None
) -> tuple[list[Image.Image], str]:
    """Compose the OSSM grid of the first ``n_drawn`` images, and its caption.

    Args:
        record: the snapshot.
        probe: what it explains.
        n_drawn: how many of its images are drawn.
        peaks: as from :func:`peaks_of`, for a second grid on one scale over the epochs.

    Returns:
        The grid with every map on its own scale, then the second one, if asked for; and a caption for them.
    """
    rows = range(min(n_drawn, len(probe)))
    decomposition = record.decomposition
    gains, energy = decomposition.score_gains.tolist(), decomposition.explained_energy.tolist()
    valid = record.valid.tolist()
    ossm_captions = [
        [
            f"{gain:+.2f}  {share:.0%}" if exists else ""
            for gain, share, exists in zip(gains[row], energy[row], valid[row], strict=True)
        ]
        for row in rows
    ]
    settings = record.settings
    caption = f"epoch {record.epoch}, step {record.step}: {settings['method']} at {settings['target_layer']}"
    scales: dict[str, Tensor | None] = {f"{caption}   (score gain, share of energy; own scales)": None}
    if peaks is not None:
        scales[f"{caption}   (score gain, share of energy; scale of the run)"] = peaks[: len(rows)]
    pictures = ossm_grids(
        displayed(probe.select(rows)),
        decomposition.cam[: len(rows)],
        decomposition.ossms[: len(rows)],
        row_captions=[_row_caption(record, probe.class_names, row) for row in rows],
        ossm_captions=ossm_captions,
        scales=scales,
    )
    return pictures, caption


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
