"""Comparing methods on a whole data set."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_decom.comparison.base import ComparisonError, Methods, named_methods
from lit_decom.comparison.judging import Judge
from lit_decom.comparison.measures import Measures
from lit_decom.comparison.result import Comparison, Disagreement
from lit_decom.comparison.source import Source, Split, Transfer, source_of
from lit_decom.comparison.store import Rows, Store, digest_of
from lit_decom.comparison.summary import BINNED, costs, standings
from lit_decom.evidence import Forward
from lit_decom.evidence.observing import device_of
from lit_decom.explainer import Explainer, TargetPolicy
from lit_decom.isolation import isolated_random_state
from lit_decom.metrics.insertion_deletion import InsertionDeletion
from lit_decom.metrics.strata import Strata, StrataRule
from lit_decom.probe import Probe, Unpack
from lit_decom.process import Process
from lit_decom.progress import counted
from lit_decom.scoring.options import Metrics

_MOST_SHOWN = 10
_FORMAT = 1  # of the rows; another one begins anew


def compare(
    model: nn.Module,
    layer: str | None,
    methods: Methods,
    data: Any,
    metrics: Metrics = "default",
    *,
    strata: Strata = "correctness",
    n_bins: int = 10,
    correct_only: bool = False,
    class_accuracy: Tensor | None = None,
    target: TargetPolicy = "label",
    forward: Forward | None = None,
    split: Split = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    unpack: Unpack | None = None,
    transfer: Transfer | None = None,
    pair: tuple[str, str] | None = None,
    output: str | Path | None = None,
    process: Process = Process(),  # noqa: B008 -- frozen
    progress: bool = True,
) -> Comparison:
    """Compare explanation methods on a whole data set: every method on the evidence of one forward and backward pass.

    Images are read and explained batch by batch, so that memory does not grow with their number, but for one number per
    image, method and measure at the end. These rows are kept in ``output``, a file per batch: the same call goes on
    where it was killed, and loses the batch that it was at. Random draws leave no trace.

    Args:
        model: the network; left as it is.
        layer: a name as in ``model.named_modules()`` or a dotted suffix that is unique; None for the one that
            :func:`lit_decom.find_target_layer` finds.
        methods: names of registered methods, methods, or a mapping that names them. The first one is what the others
            are compared with image by image.
        data: a datamodule, a loader of any kind, or a probe. What is read by index is read in the order of the index.
        metrics: metrics of :mod:`lit_decom.metrics`, a mapping that names them, or ``"default"``. Each must be of one
            map per image, and its value a mean over images.
        strata: the images that are scored apart, as for :class:`lit_decom.metrics.StratifiedWrapper`.
        n_bins: bins of confidence or class accuracy, where strata are those.
        correct_only: whether images that the network gets wrong are left out; they are not explained then.
        class_accuracy: of every class ``(N,)``, for strata by it; by default that of the images that are compared.
        target: which class is explained, as for :class:`lit_decom.Explainer`.
        forward: how the model is asked, as for :func:`lit_decom.capture`.
        split: of a datamodule.
        limit: how many images are compared, drawn from all by a fixed seed; of a stream the first ones. A larger one
            later on goes on from the rows that there are.
        batch_size: images explained at once; by default as many as the loader gives.
        chunk_size: altered images per forward pass, as for :func:`lit_decom.capture`.
        unpack: from a batch to images and labels, where they are not found by themselves.
        transfer: the module's batch-transfer hooks.
        pair: two methods whose ten images of most disagreement are shown; the first two by default.
        output: folder of the rows, and of ``results.csv``, ``results.md``, ``figure.png`` and ``comparison.html``; None
            keeps nothing. Processes must share it.
        process: this one among those that share the work; each takes every ``world``-th batch, and all get the result.
        progress: whether a bar with the time left is shown, where the standard error is a terminal.

    Returns:
        Where every method stands, by measure and stratum, and what it costs.

    Raises:
        ComparisonError: if the arguments do not go together or the data are not of one label per image, or ``output``
            holds another comparison; it is a ValueError.
        TargetLayerError: if there is no such layer.
        RuntimeError: if another process failed.
    """
    if limit is not None and limit < 1:
        raise ComparisonError(f"Expected `limit` to be at least 1, but got {limit}.")
    with isolated_random_state(0, device_of(model)), _folder(output, process) as folder:
        named = named_methods(methods)
        chosen_pair = _checked_pair(pair, tuple(named))
        source = source_of(data, split=split, unpack=unpack, transfer=transfer, batch_size=batch_size)
        first = source.first()
        rule = _rule(strata, n_bins)
        explainer = Explainer(target_layer=layer, target=target, chunk_size=chunk_size, forward=forward)
        explainer = explainer.at(model, first.images[:1].to(device_of(model)))
        judge = Judge(model, explainer, named, Measures(metrics, first), rule, correct_only)
        store = Store(folder)
        settings = _settings(judge, first)
        process.share(_begin, store, settings, process)
        done = process.share(store.places)[process.rank]
        left = _Left(source, store, done, limit)
        process.share(_collect, judge, left, process, progress)
        rows = _counted_rows(store, source, limit)
        found = _result(judge, rows, settings, class_accuracy)
        if chosen_pair is not None:
            shown = _disagreements(judge, source, rows, chosen_pair)
            found = replace(found, pair=chosen_pair, disagreements=shown)
        if output is not None and process.rank == 0:
            found.write(folder)
        return found


def accuracy_stratified(n_steps: int = 224) -> dict[str, Any]:
    """Give the arguments of :func:`compare` that make it the accuracy-stratified protocol of Decom-CAM's authors.

    Correctly classified images, in ten bins by the accuracy of their class, and in each bin the areas under the
    insertion and the deletion curve and the overall score, insertion less deletion; the label is explained and followed
    (our choice, as is that accuracy means that of the class: the authors leave both open). ``mean_of_bins`` is the mean
    of the bins, ``all`` that of the images.

    Args:
        n_steps: steps of a curve; there are two forward passes per step, image and method.

    Example:
        >>> sorted(accuracy_stratified(28))
        ['correct_only', 'metrics', 'n_bins', 'strata']
    """
    overall = InsertionDeletion(n_steps=n_steps, target="label", scale_to_image=True)
    return {"metrics": {"overall": overall}, "strata": "class_accuracy", "n_bins": 10, "correct_only": True}


@contextmanager
def _folder(output: str | Path | None, process: Process) -> Iterator[Path]:
    """The folder of the rows; one that is gone afterwards where none is asked for."""
    if output is not None:
        yield Path(output)
        return
    with tempfile.TemporaryDirectory(prefix="lit_decom_", ignore_cleanup_errors=True) as own:
        yield Path(process.gather(own)[0])
        process.gather(None)  # nobody's folder goes while another one reads


def _rule(strata: Strata, n_bins: int) -> StrataRule:
    try:
        rule = StrataRule(strata, n_bins)
        _ = rule.names
    except ValueError as error:
        raise ComparisonError(str(error)) from error
    return rule


def _checked_pair(pair: tuple[str, str] | None, names: tuple[str, ...]) -> tuple[str, str] | None:
    if pair is None:
        return (names[0], names[1]) if len(names) > 1 else None
    pair = tuple(pair)  # type: ignore[assignment]  # a configuration may hold a list
    if len(pair) != 2 or len(set(pair)) < 2 or set(pair) - set(names):
        raise ComparisonError(f"Expected `pair` to be two of {list(names)}, but got {list(pair)}.")
    return pair


def _settings(judge: Judge, first: Probe) -> dict[str, Any]:
    """What the rows depend on."""
    known = judge.explainer.settings
    strata = judge.rule.strata
    return {
        "format": _FORMAT,
        "model": type(judge.model).__name__,
        **digest_of(judge.model, first),
        "layer": known["target_layer"],
        "target": known["target"],
        "forward": known["forward"],
        "methods": {name: repr(method) for name, method in judge.methods.items()},
        "metrics": judge.measures.conventions,
        "correct_only": judge.correct_only,
        "strata": getattr(strata, "__qualname__", repr(strata)) if callable(strata) else None,
    }


def _begin(store: Store, settings: dict[str, Any], process: Process) -> None:
    if process.rank == 0:
        store.begin(settings)


@dataclass(frozen=True)
class _Left:
    """What is to be done yet, and where it is kept."""

    source: Source
    store: Store
    done: set[int]
    limit: int | None

    @property
    def total(self) -> int | None:
        """How many images that are at most; None where only reading tells."""
        chosen = self.source.chosen(self.limit)
        return self.limit if chosen is None else len(set(chosen) - self.done)


def _collect(judge: Judge, left: _Left, process: Process, progress: bool) -> None:
    """Explain this process's share of what is left."""
    total = left.total
    shown = progress and process.rank == 0 and total is not None
    with counted("comparing", (total or 0) / process.world, shown=shown) as advance:
        for nth, batch in enumerate(left.source.batches(left.done, left.limit, process)):
            # Once per process is enough: memory depends on the size of a batch alone.
            left.store.write(judge.rows(batch, with_peaks=nth == 0))
            advance(len(batch.places))


def _counted_rows(store: Store, source: Source, limit: int | None) -> Rows:
    """Read the rows of the images that are compared; there may be more of them from an earlier call."""
    rows, chosen = store.read(), source.chosen(limit)
    if rows is not None and chosen is not None:
        missing = set(chosen) - set(rows.places.tolist())
        if missing:
            raise ComparisonError(
                f"Expected `output` to be a folder that all processes share, but {len(missing)} of {len(chosen)} "
                f"images have no rows in {store.folder}."
            )
        rows = rows.select(torch.isin(rows.places, torch.tensor(chosen)).nonzero().flatten())
    elif rows is not None and limit is not None:
        rows = rows.select((rows.places < limit).nonzero().flatten())
    if rows is None or not (rows.labels >= 0).any():
        raise ComparisonError("Expected `data` to have at least one labelled image, but got none.")
    return rows


def _result(judge: Judge, rows: Rows, settings: dict[str, Any], class_accuracy: Tensor | None) -> Comparison:
    names, measures = tuple(judge.methods), judge.measures.all
    if class_accuracy is not None and len(class_accuracy) <= int(rows.labels.max()):
        raise ComparisonError(
            f"Expected `class_accuracy` to be of every class, but got {len(class_accuracy)} values for label "
            f"{int(rows.labels.max())}."
        )
    found = standings(rows, names, measures, judge.rule, correct_only=judge.correct_only, class_accuracy=class_accuracy)
    n = int(rows.n_explained)
    return Comparison(
        standings=tuple(found),
        costs=tuple(costs(rows, names)),
        evidence_seconds=float(rows.evidence_seconds) / max(n, 1),
        measures=measures,
        bins=judge.rule.names if judge.rule.strata in BINNED else (),
        settings=settings,
        n_images=int((rows.right if judge.correct_only else rows.labels >= 0).sum()),
        n_explained=n,
    )


def _disagreements(judge: Judge, source: Source, rows: Rows, pair: tuple[str, str]) -> tuple[Disagreement, ...]:
    """Explain once more the images on which the maps of two methods are least alike."""
    from lit_decom.render import to_unit

    names = list(judge.methods)
    columns = list(combinations(range(len(names)), 2))
    at = columns.index(tuple(sorted((names.index(pair[0]), names.index(pair[1])))))  # type: ignore[arg-type]
    alike = rows.agreements[:, at]
    order = alike.nan_to_num(torch.inf).argsort(stable=True)[:_MOST_SHOWN]
    order = order[~alike[order].isnan()]
    if not len(order):
        return ()
    piece = source.read(rows.places[order].tolist())
    piece = replace(piece, ids=tuple(map(str, rows.places[order].tolist())))
    first, second, logits = judge.maps(piece, pair)
    images = to_unit(piece.images, piece.mean, piece.std)
    return tuple(
        Disagreement(
            int(rows.places[row]),
            images[shown],
            torch.stack([first[shown], second[shown]]),
            float(alike[row]),
            piece.class_name(int(piece.labels[shown])),
            piece.class_name(int(logits[shown].argmax())),
        )
        for shown, row in enumerate(order.tolist())
    )
