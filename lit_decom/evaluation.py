"""Scoring the explanations of a network as it is, without a Trainer."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace

from torch import Tensor, nn

from lit_decom import keys
from lit_decom.evidence.observing import device_of
from lit_decom.explainer import Explained, Explainer, warn_of_embeddings
from lit_decom.isolation import isolated_random_state
from lit_decom.methods.base import ComponentMethod
from lit_decom.probe import Probe
from lit_decom.progress import Advance, counted
from lit_decom.scores import RowTable, Score
from lit_decom.scoring import Scoreboard, Scoring

NEW_HEAD = "new_head"


def evaluate(
    model: nn.Module,
    probe: Probe,
    explainer: Explainer = Explainer(),  # noqa: B008 -- frozen
    scoring: Scoring = Scoring(),  # noqa: B008 -- frozen
    *,
    class_accuracy: Tensor | None = None,
    new_head: bool = True,
    intervals: bool = True,
    progress: bool = True,
) -> list[Score]:
    """Score the explanations of a network as it is, beside baselines and chance, with intervals.

    Args:
        model: the network; left as it is.
        probe: what is explained.
        explainer: how.
        scoring: what is scored, on which images apart, and beside what.
        class_accuracy: ``(N,)`` over the whole validation set, for strata by it.
        new_head: whether the same network with a head drawn anew is scored, too, on the same images: what explanations
            owe to the features alone.
        intervals: whether every value comes with its interval.
        progress: whether a bar with the time left is shown, where the standard error is a terminal.

    Returns:
        Every score.

    Raises:
        ValueError: if a metric needs what the probe does not have, or cannot be computed.
    """
    explainer = explainer.at(model, next(probe.batches(1)).images.to(device_of(model)))
    metrics = scoring.metrics_for(probe)
    board = Scoreboard(metrics, scoring, strict=True)
    bare = Scoreboard(metrics, replace(scoring, baselines=(), chance=False), strict=True)
    with counted("explaining", len(probe) * (2 if new_head else 1), shown=progress) as advance:
        table = _table(board, explainer.pieces(model, probe), explainer.method, class_accuracy, advance)
        if new_head:
            pieces = explainer.pieces(with_new_head(model), probe)
            drawn_anew = _table(bare, pieces, explainer.method, class_accuracy, advance)
    if new_head:
        beside = {(name, NEW_HEAD): drawn_anew.columns[name, keys.OWN] for name in metrics}
        table = replace(table, columns={**table.columns, **beside})
    return board.scores(table, intervals=intervals)


def _table(
    board: Scoreboard,
    pieces: Iterable[Explained],
    method: ComponentMethod,
    class_accuracy: Tensor | None,
    advance: Advance,
) -> RowTable:
    """Rows of every metric over the whole probe."""
    for nth, piece in enumerate(pieces):
        if nth == 0:
            warn_of_embeddings(piece.capture.logits.shape[1], piece.probe)
        board.update(piece.probe, piece.capture, piece.decomposition, method=method, class_accuracy=class_accuracy)
        advance(len(piece.probe))
    table = board.table()
    if table is None:
        raise ValueError("Expected the probe to have at least one image, but got none.")
    return table


def with_new_head(model: nn.Module, seed: int = 0) -> nn.Module:
    """Copy a network and draw the parameters of its last layer anew, without touching any global random state.

    Raises:
        ValueError: if no submodule knows how to draw its parameters.
    """
    copy = deepcopy(model)
    heads = [module for module in copy.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not heads:
        raise ValueError(f"Expected {type(model).__name__} to end in a linear or convolutional layer, but found none.")
    with isolated_random_state(seed):
        heads[-1].reset_parameters()
    return copy
