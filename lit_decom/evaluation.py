"""Scoring the explanations of a network as it is, without a Trainer."""

from copy import deepcopy
from dataclasses import replace

from torch import Tensor, nn

from lit_decom import keys
from lit_decom.evidence.observing import device_of
from lit_decom.explainer import Explainer
from lit_decom.isolation import isolated_random_state
from lit_decom.probe import Probe
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

    Returns:
        Every score.

    Raises:
        ValueError: if a metric needs what the probe does not have, or cannot be computed.
    """
    explainer = explainer.at(model, next(probe.batches(1)).images.to(device_of(model)))
    metrics = scoring.metrics_for(probe)
    board = Scoreboard(metrics, scoring, strict=True)
    table = _table(board, model, probe, explainer, class_accuracy)
    if new_head:
        bare = Scoreboard(metrics, replace(scoring, baselines=(), chance=False), strict=True)
        drawn_anew = _table(bare, with_new_head(model), probe, explainer, class_accuracy)
        beside = {(name, NEW_HEAD): drawn_anew.columns[name, keys.OWN] for name in metrics}
        table = replace(table, columns={**table.columns, **beside})
    return board.scores(table, intervals=intervals)


def _table(
    board: Scoreboard, model: nn.Module, probe: Probe, explainer: Explainer, class_accuracy: Tensor | None
) -> RowTable:
    """Rows of every metric over the whole probe."""
    for piece in explainer.pieces(model, probe):
        board.update(
            piece.probe, piece.capture, piece.decomposition, method=explainer.method, class_accuracy=class_accuracy
        )
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
