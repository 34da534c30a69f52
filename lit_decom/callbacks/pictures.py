"""The picture of a snapshot: decision factors with their codes, and OSSMs."""

import torch
from PIL import Image
from torch import Tensor

from lit_decom import keys
from lit_decom.functional.decision_factors import factor_support
from lit_decom.probe import Probe
from lit_decom.records import Snapshot, displayed
from lit_decom.render import (
    UNNAMED,
    FactorPanel,
    cautions,
    component_captions,
    figures,
    ossm_grids,
    share_text,
    verdict,
)

_MOST_FACTORS = 6


def grids_of(
    record: Snapshot, probe: Probe, n_drawn: int, peaks: Tensor | None = None, *, outline: bool = False
) -> tuple[list[Image.Image], str]:
    """Compose the factors and OSSMs of the first ``n_drawn`` images, and a caption.

    Args:
        record: the snapshot.
        probe: what it explains.
        n_drawn: how many of its images are drawn.
        peaks: as from :func:`peaks_of`, for a second grid on one scale over the epochs.
        outline: whether the objects' masks are outlined, where the probe has any.

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
    shown = probe.select(rows)
    pictures = ossm_grids(
        displayed(shown),
        decomposition.cam[: len(rows)],
        decomposition.ossms[: len(rows)],
        row_captions=[_row_caption(record, probe, row) for row in rows],
        ossm_captions=ossm_captions,
        scales=scales,
        masks=shown.masks if outline else None,
        factors=_factor_panel(record, probe, len(rows)),
    )
    return pictures, caption


def peaks_of(record: Snapshot, before: Tensor | None) -> Tensor:
    """Largest value so far of each image's integrated map and of its OSSMs, ``(n, 2)``: one scale for all epochs."""
    maps, ossms = record.decomposition.cam, record.decomposition.ossms
    now = torch.stack([maps.amax(dim=(1, 2)), ossms.amax(dim=(1, 2, 3))], dim=1).nan_to_num()
    return now if before is None else torch.maximum(now, before)


def _factor_panel(record: Snapshot, probe: Probe, n: int) -> FactorPanel | None:
    """Arrange the factors of the first ``n`` images by their share; where axes mean nothing, their sum alone."""
    codes, scores, maps, shares = record.factor_codes, record.factor_scores, record.factor_maps, record.factor_shares
    if codes is None or scores is None or maps is None or shares is None or record.factor_identities is None:
        return None
    classes = torch.where(record.targets < 0, record.logits.argmax(dim=1), record.targets)[:n]
    support, signed = factor_support(codes, scores[:n], classes), codes[classes][:, :, None, None] * maps[:n].float()
    title = _reach(record)
    warned = cautions(record.factor_states, record.numbers.get("factor_constant_share"))
    if UNNAMED & set(record.factor_states):
        captions = [[figures(value, signed=True)] for value in support.sum(dim=1).tolist()]
        heads = [f"all {len(shares)} factors  {share_text(float(shares.sum()))}"]
        return FactorPanel(title, warned, heads, signed.sum(dim=1, keepdim=True).relu(), captions)
    order = shares.argsort(descending=True, stable=True)[:_MOST_FACTORS]
    if len(shares) > len(order):
        title += f"; the {len(order)} that share most in the decision are drawn"
    names = record.factor_identities[order].tolist()
    heads = [
        f"factor {keys.number(name)}  {share_text(share)}"
        for name, share in zip(names, shares[order].tolist(), strict=True)
    ]
    captions = [[figures(value, signed=True) for value in row] for row in support[:, order].tolist()]
    class_names = [probe.class_name(index) for index in range(len(codes))]
    return FactorPanel(title, warned, heads, signed[:, order].relu(), captions, codes[:, order], class_names)


def _reach(record: Snapshot) -> str:
    """Say how many factors there are and how far they go."""
    n_factors = 0 if record.factor_shares is None else len(record.factor_shares)
    told, them = ("1 decision factor", "it") if n_factors == 1 else (f"{n_factors} decision factors", "them")
    r2, same = record.numbers.get("completeness"), record.numbers.get("factor_agreement")
    told += "" if r2 is None else f": {r2:.1%} of how the logits tell the images apart (R²)"
    return told if same is None else f"{told}, {same:.1%} of the answers follow from {them}"


def _row_caption(record: Snapshot, probe: Probe, row: int) -> str:
    label, prediction = int(record.labels[row]), int(record.logits[row].argmax())
    confidence = float(record.logits[row].softmax(dim=0)[prediction])
    return verdict(probe.class_name(label), probe.class_name(prediction), confidence)
