"""The grid and the curves of a firing, from its record."""

from collections.abc import Sequence

from PIL import Image

from lit_decom.probe import Probe
from lit_decom.records import EpochRecord, displayed
from lit_decom.render import ossm_grid


def grid_of(record: EpochRecord, probe: Probe, n_drawn: int) -> tuple[Image.Image, str]:
    """Compose the OSSM grid of the first ``n_drawn`` images, and its caption."""
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
        title=f"{caption}   (score gain, share of energy)",
    )
    return picture, caption


def _row_caption(record: EpochRecord, names: Sequence[str] | None, row: int) -> str:
    def name(index: int) -> str:
        return names[index] if names is not None and index < len(names) else str(index)

    label, prediction = int(record.labels[row]), int(record.logits[row].argmax())
    confidence = float(record.logits[row].softmax(dim=0)[prediction])
    verdict = "✓" if label == prediction else f"→ {name(prediction)}"
    return f"{name(label)} {verdict} {confidence:.0%}"
