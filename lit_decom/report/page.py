"""write_report: from run directories to one HTML file that needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lit_decom.functional.intervals import MIN_IMAGES
from lit_decom.records import RunDirectoryError
from lit_decom.records.files import write_text
from lit_decom.render import component_captions, heat_colours, ossm_grids, share_text, verdict
from lit_decom.report.by_class import classes_apart
from lit_decom.report.cards import Card, Pairs, RunFindings, cards, pair
from lit_decom.report.factors import ON_THEIR_CHARTS, FactorSection, factor_panels, factors_of
from lit_decom.report.network import accuracy_and_loss, share_right
from lit_decom.report.overview import (
    SharedSection,
    change_sentence,
    cost_sentence,
    gain_by_class,
    gain_by_identity,
    gain_by_rank,
    logged_numbers,
    shared_components,
    shared_energy,
    words,
)
from lit_decom.report.pictures import common_limit, data_uri, photo
from lit_decom.report.runs import Run, read_run
from lit_decom.report.scores import dropped_metrics, scores_of
from lit_decom.report.shell import render_page
from lit_decom.report.timeline import Timeline, events_of

_CANVAS_SIDE = 112
_MOST_RUNS = 2


class Section(NamedTuple):
    """A part of the page that can be folded; ``templates/sections/<name>.html.j2`` is what it shows."""

    name: str
    title: str


SECTIONS = (
    Section("factors", "Decision factors"),
    Section("wrong", "Wrong decisions"),
    Section("components", "Components"),
    Section("classes", "Where the likeliest classes are seen"),
    Section("curves", "Score gain over the probe"),
    Section("scores", "Scores, by what the network gets right"),
    Section("shared", "Shared components"),
    Section("numbers", "Everything else over the epochs"),
    Section("settings", "Settings and cost"),
)
"""From the top of the page to its end; one with nothing to show is left out. A narrow screen opens with the first."""


def write_report(
    run_dirs: Sequence[Path], output: Path | None = None, *, n_drawn: int = 8, match_epoch: int | None = None
) -> Path:
    """Write what runs left behind as one self-contained HTML page, from the records alone.

    Args:
        run_dirs: one run directory, or two of one probe to be shown side by side; the folder above one does as well.
        output: the file; ``report.html`` in the first run directory by default, ``report_<name>.html`` for two runs.
        n_drawn: how many images of the probe are shown.
        match_epoch: at which the components of two runs are matched; the last one that both have by default.

    Returns:
        The file.

    Raises:
        ValueError: if there are neither one nor two runs, or ``n_drawn`` is not positive.
        RunDirectoryError: if a directory is not that of a run, no record can be read, or two runs explain different
            probes or have no epoch ``match_epoch`` in common.
    """
    if not 1 <= len(run_dirs) <= _MOST_RUNS:
        raise ValueError(f"Expected `run_dirs` to be one run or two, but got {len(run_dirs)}.")
    if n_drawn < 1:
        raise ValueError(f"Expected `n_drawn` to be at least 1, but got {n_drawn}.")
    runs = [read_run(Path(path)) for path in run_dirs]
    if len(runs) == _MOST_RUNS:
        _require_same_probe(*runs)
    if output is None:
        output = runs[0].path / ("report.html" if len(runs) == 1 else f"report_{_file_name(runs[1].name)}.html")
    page = _rendered(runs, n_drawn, match_epoch)
    output.parent.mkdir(parents=True, exist_ok=True)
    return write_text(output, page)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def _require_same_probe(first: Run, second: Run) -> None:
    digests = [str(run.settings.get("probe_digest", "unknown"))[:12] for run in (first, second)]
    if digests[0] != digests[1] or first.last.ids != second.last.ids:
        raise RunDirectoryError(
            f"Expected both runs to explain the same probe, but that of {first.path} has digest {digests[0]} and "
            f"{len(first.last.ids)} images, that of {second.path} {digests[1]} and {len(second.last.ids)}."
        )


def _rendered(runs: Sequence[Run], n_drawn: int, match_epoch: int | None) -> str:
    timeline = Timeline.of(runs)
    found = [RunFindings.of(run) for run in runs]
    rows = range(min(n_drawn, len(runs[0].last.ids)))
    pairs, matching = _matched(found, timeline, match_epoch)
    drawn = cards(found, timeline, rows, pairs)
    shared = [shared_components(run, letter) for run, letter in zip(runs, "ab", strict=False)]
    factors = [factors_of(run, rows, letter) for run, letter in zip(runs, "ab", strict=False)]
    panels, idle = logged_numbers(runs, timeline, ON_THEIR_CHARTS if any(factors) else ())
    photos = _photos(runs[0], {*rows, *(row for each in (*shared, *factors) if each for row in each.rows)})
    apart = [classes_apart(run, rows) for run in runs]
    absent = {"numbers": not panels, "shared": any(factors) and not any(shared), "classes": not any(apart)}
    absent |= dict.fromkeys(("factors", "wrong"), not any(factors))
    context = {
        "sections": [section for section in SECTIONS if not absent.get(section.name)],
        "factors": factors,
        "factor_panels": factor_panels(runs, timeline) if any(factors) else [],
        "two": len(runs) == _MOST_RUNS,
        "network": accuracy_and_loss(runs, timeline),
        "runs": [_about(run, timeline) for run in runs],
        "timeline": timeline,
        "cards": drawn,
        "matching": matching,
        "photos": photos,
        "picture": data_uri(_still(runs[0], found[0], rows), quality=70),
        "by_rank": gain_by_rank(found, timeline),
        "by_identity": gain_by_identity(found, timeline),
        "by_class": gain_by_class(found, timeline),
        "changes": [change_sentence(each) for each in found],
        "scores": scores_of(runs, timeline),
        "min_images": MIN_IMAGES,
        "dropped": [dropped_metrics(run) for run in runs],
        "apart": apart,
        "shared": shared,
        "shared_energy": shared_energy(runs, timeline),
        "panels": panels,
        "idle": idle,
        "data": _data(runs, timeline, drawn, {"shared": shared, "factors": factors}, photos)
        | {"matched": pairs is not None, "common": _common(found)},
    }
    return render_page("report.html.j2", context, scripts=("maps.js", "factors.js", "report.js"))


def _common(found: Sequence[RunFindings]) -> list[float]:
    """What counts as full heat in all integrated maps, and in all components, whichever the image and the snapshot."""
    every = [decomposition for each in found for decomposition in each.decompositions]
    maps = common_limit(torch.cat([each.cam.amax(dim=(1, 2)) for each in every]))
    return [maps, common_limit(torch.cat([each.ossms.amax(dim=(1, 2, 3)) for each in every]))]


def _matched(found: Sequence[RunFindings], timeline: Timeline, epoch: int | None) -> tuple[Pairs | None, str]:
    """Match the components of two runs, and say in a sentence how."""
    if len(found) < _MOST_RUNS:
        return None, ""
    at = timeline.common(epoch)
    if at is None and epoch is not None:
        raise RunDirectoryError(
            f"Expected both runs to have a snapshot of epoch {epoch} (`match_epoch`), but they do not."
        )
    if at is None:
        return None, "The runs have no epoch in common, so components are not matched: each run has its own colours."
    pairs = pair(found[0], found[1], at)
    if pairs is None:
        return (
            None,
            "The runs' layers have different grids, so components are not matched: each run has its own colours.",
        )
    similar = f", with a mean similarity of {pairs.similarity:.2f}" if pairs.n_pairs else ""
    return pairs, (
        f"Components were matched by their patterns at epoch {pairs.epoch}: {pairs.n_pairs} of {pairs.n_components} "
        f"have a partner in the other run{similar}. Partners share column and colour; a dashed frame means none."
    )


def _about(run: Run, timeline: Timeline) -> dict[str, Any]:
    """The run in words and numbers."""
    cost = cost_sentence(run)
    first, last = run.records[0], run.last
    right = _right_at_end(run)
    facts: dict[str, tuple[str, ...]] = {
        "snapshots": (f"{len(run.records)}, epoch {first.epoch} to {last.epoch}, step {first.step} to {last.step}",),
        "probe": (f"{_extent(run)}, {right}",),
        "cost": (cost,),
    }
    facts |= {words(name): _setting(value) for name, value in run.settings.items()}
    return {
        "name": run.name,
        "facts": facts,
        "notes": run.notes,
        "method": str(run.settings.get("method", "an unknown method")),
        "layer": str(run.settings.get("target_layer", "an unknown layer")),
        "n_snapshots": len(run.records),
        "extent": _extent(run),
        "right": right,
        "n_components": last.valid.shape[1],
        "epochs": (first.epoch, last.epoch),
        "is_tracked": run.is_tracked,
        "events": events_of(run) if run.is_tracked else [],
        "cost": cost,
    }


def _extent(run: Run) -> str:
    """How much is explained: images, or the labels that they have."""
    n = len(run.last.ids)
    if run.probe is None or not run.probe.multilabel:
        return f"{n} images"
    return f"{n} labels of {len({name.rpartition(':')[0] for name in run.last.ids})} images"


def _right_at_end(run: Run) -> str:
    n_right, interval = share_right(run.last)
    share = share_text(n_right / len(run.last.ids))
    sure = f", {share_text(interval[0])} to {share_text(interval[1])}" if interval is not None else ""
    return f"{n_right} classified right at the end ({share}{sure})"


def _setting(value: Any) -> tuple[str, ...]:
    """A setting as lines of text."""
    if isinstance(value, Mapping):
        return tuple(f"{name}: {entry}" for name, entry in value.items()) or ("none",)
    if isinstance(value, list | tuple):
        return tuple(map(str, value)) or ("none",)
    return ("default" if value is None else str(value),)


def _photos(run: Run, rows: set[int]) -> dict[int, str]:
    if run.probe is None:
        return {}
    return {row: data_uri(photo(run.probe.images[row])) for row in sorted(rows)}


def _still(run: Run, found: RunFindings, rows: range) -> Any:
    """The OSSM grid of the last snapshot as one picture, for those without scripts."""
    decomposition = found.decompositions[-1]
    shape = (len(run.last.ids), 3, _CANVAS_SIDE, _CANVAS_SIDE)
    images = run.probe.images if run.probe else decomposition.cam.new_full(shape, 0.5)
    n = len(rows)
    captions = component_captions(
        found.gains[-1, :n], found.shares[-1, :n], run.last.valid[:n], found.names[-1, :n] if run.is_tracked else None
    )
    under = f"{'component, ' if run.is_tracked else ''}score gain, share of energy"
    title = f"epoch {run.last.epoch}, step {run.last.step} ({under})"
    (picture,) = ossm_grids(
        images[:n],
        decomposition.cam[:n],
        decomposition.ossms[:n],
        row_captions=[_answer(run, row) for row in rows],
        ossm_captions=captions,
        scales={title: None},
    )
    return picture


def _answer(run: Run, row: int) -> str:
    confidence, answer = run.last.logits[row].float().softmax(dim=0).max(dim=0)
    return verdict(run.class_name(int(run.last.labels[row])), run.class_name(int(answer)), float(confidence))


def _data(
    runs: Sequence[Run],
    timeline: Timeline,
    drawn: Sequence[Card],
    followed: Mapping[str, Sequence[SharedSection | FactorSection | None]],
    photos: Mapping[int, str],
) -> dict[str, Any]:
    """What the page's script draws from."""
    shown = {card.row for card in drawn}
    size = runs[0].probe.images.shape[-2:] if runs[0].probe else (_CANVAS_SIDE, _CANVAS_SIDE)
    scale = _CANVAS_SIDE / max(size)
    return {
        "labels": timeline.labels,
        "canvas": [round(side * scale) for side in size],
        "image": list(size),
        "heat": base64.b64encode((heat_colours() * 255).round().byte().numpy().tobytes()).decode(),
        "runs": [
            {
                "frames": timeline.frames[index],
                "labels": [timeline.labels[position] for position in timeline.positions[index]],
                "grid": list(run.last.patterns.shape[2:]),
                "images": [card.blocks[index].data for card in drawn],
                **{name: (found := each[index]) and found.data for name, each in followed.items()},
                "events": [list(vars(event).values()) for event in events_of(run)] if run.is_tracked else [],
            }
            for index, run in enumerate(runs)
        ],
        "photos": {row: uri for row, uri in photos.items() if row not in shown},
        "names": list(map(runs[0].class_name, runs[0].last.labels.tolist())),
    }
