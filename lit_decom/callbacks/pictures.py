"""The OSSM grids of a snapshot."""

import torch
from PIL import Image
from torch import Tensor

from lit_decom.probe import Probe
from lit_decom.records import Snapshot, displayed
from lit_decom.render import component_captions, ossm_grids, verdict


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
    called = None if record.identities is None else record.identities[: len(rows)]
    ossm_captions = component_captions(
        decomposition.score_gains[: len(rows)],
        decomposition.explained_energy[: len(rows)],
        record.valid[: len(rows)],
        called,
    )
    settings = record.settings
    caption = f"epoch {record.epoch}, step {record.step}: {settings['method']} at {settings['target_layer']}"
    under = f"{'' if called is None else 'component, '}score gain, share of energy"
    scales: dict[str, Tensor | None] = {f"{caption}   ({under}; own scales)": None}
    if peaks is not None:
        scales[f"{caption}   ({under}; scale of the run)"] = peaks[: len(rows)]
    pictures = ossm_grids(
        displayed(probe.select(rows)),
        decomposition.cam[: len(rows)],
        decomposition.ossms[: len(rows)],
        row_captions=[_row_caption(record, probe, row) for row in rows],
        ossm_captions=ossm_captions,
        scales=scales,
    )
    return pictures, caption


def peaks_of(record: Snapshot, before: Tensor | None) -> Tensor:
    """Largest value so far of each image's integrated map and of its OSSMs, ``(n, 2)``: one scale for all epochs."""
    maps, ossms = record.decomposition.cam, record.decomposition.ossms
    now = torch.stack([maps.amax(dim=(1, 2)), ossms.amax(dim=(1, 2, 3))], dim=1).nan_to_num()
    return now if before is None else torch.maximum(now, before)


def _row_caption(record: Snapshot, probe: Probe, row: int) -> str:
    label, prediction = int(record.labels[row]), int(record.logits[row].argmax())
    confidence = float(record.logits[row].softmax(dim=0)[prediction])
    return verdict(probe.class_name(label), probe.class_name(prediction), confidence)
