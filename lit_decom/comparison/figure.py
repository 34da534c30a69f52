"""A comparison as a picture: a panel per measure, by method or, where strata are bins, over the bins."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_decom.comparison.measures import Measure
from lit_decom.comparison.result import Comparison
from lit_decom.comparison.summary import Standing
from lit_decom.comparison.tables import arrow

INK, QUIET = "#000000", "#a0a5ab"
HUES = (
    *("#1f6fd1", "#c4480e", "#17804f", "#9b3fb5", "#946800"),
    *("#0b7f8d", "#cc2f79", "#7a5230", "#4b49c8", "#5f7300"),
)
_MARKS = ("o", "s", "^")
_ACROSS = 3
_MOST_SIDE_BY_SIDE = 5  # strata beside one another that can still be told apart


def figure_of(comparison: Comparison) -> Figure:
    """Draw all measures, three panels in a row.

    Returns:
        A figure that no global state of matplotlib knows of.
    """
    across = min(_ACROSS, len(comparison.measures))
    down = math.ceil(len(comparison.measures) / across)
    width, height = _size(comparison)
    figure = Figure(figsize=(width * across, height * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for axes, measure in zip(panels, comparison.measures, strict=False):
        _draw(axes, comparison, measure)
    for axes in panels[len(comparison.measures) :]:
        axes.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 6), frameon=False, fontsize=8)
    return figure


def panel_of(comparison: Comparison, measure: Measure) -> Figure:
    """Draw one measure, as in :func:`figure_of`."""
    figure = Figure(figsize=_size(comparison), layout="constrained")
    _draw(figure.subplots(), comparison, measure)
    return figure


def legend_of(comparison: Comparison) -> list[tuple[str, str]]:
    """Name what each colour stands for; empty where there is one colour."""
    names = comparison.methods if _is_binned(comparison) else _side_by_side(comparison)
    colours = _hue if _is_binned(comparison) else _shade
    return [(name, colours(at)) for at, name in enumerate(names)] if len(names) > 1 else []


def _size(comparison: Comparison) -> tuple[float, float]:
    by_method = 0.9 + 0.1 * len(comparison.methods) * (1 + len(_side_by_side(comparison)))
    return 4.2, 3.2 if _is_binned(comparison) else by_method


def _draw(axes: Axes, comparison: Comparison, measure: Measure) -> None:
    (_over_bins if _is_binned(comparison) else _by_method)(axes, comparison, measure)
    axes.set_title(f"{measure.name}{arrow(measure.higher_is_better)}", fontsize=10)
    axes.grid(visible=True, axis="y" if _is_binned(comparison) else "x", linewidth=0.3, color=QUIET)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _by_method(axes: Axes, comparison: Comparison, measure: Measure) -> None:
    """A row per method, and in it a point per stratum."""
    strata = _side_by_side(comparison)
    step = 0.7 / len(strata)
    for number, stratum in enumerate(strata):
        here = comparison.of(measure.name, stratum)
        standings = [here[method] for method in comparison.methods if method in here]
        places = [at + step * (number - (len(strata) - 1) / 2) for at in range(len(standings))]
        axes.errorbar(
            [each.value for each in standings], places, xerr=_reach(standings), fmt="o", color=_shade(number),
            markersize=4.5 if number == 0 else 3, elinewidth=1, label=stratum,
        )  # fmt: skip
    axes.set_yticks(range(len(comparison.methods)), comparison.methods)
    axes.set_ylim(len(comparison.methods) - 0.5, -0.5)


def _over_bins(axes: Axes, comparison: Comparison, measure: Measure) -> None:
    """A point per method in every bin."""
    bins = comparison.bins
    for number, method in enumerate(comparison.methods):
        known = [(at, comparison.of(measure.name, stratum).get(method)) for at, stratum in enumerate(bins)]
        points = [(at, each) for at, each in known if each is not None and not math.isnan(each.value)]
        shift = 0.7 * (number / max(len(comparison.methods) - 1, 1) - 0.5)
        axes.errorbar(
            [at + shift for at, _ in points], [each.value for _, each in points],
            yerr=_reach([each for _, each in points]), fmt=_MARKS[number // len(HUES) % len(_MARKS)], markersize=3,
            elinewidth=0.8, color=_hue(number), label=method,
        )  # fmt: skip
    axes.set_xlabel(" ".join(bins[0].split("_")[:-2]), fontsize=8)
    axes.set_xlim(-0.5, len(bins) - 0.5)
    axes.set_xticks(range(len(bins)), ["-".join(name.split("_")[-2:]) for name in bins], rotation=45)


def _reach(standings: Sequence[Standing]) -> Any:
    """How far intervals reach to either side; nowhere where there is none."""
    ends = [each.interval or (each.value, each.value) for each in standings]
    # an interval need not hold the value itself
    low = [max(0.0, each.value - end) for each, (end, _) in zip(standings, ends, strict=True)]
    return [low, [max(0.0, end - each.value) for each, (_, end) in zip(standings, ends, strict=True)]]


def _is_binned(comparison: Comparison) -> bool:
    return bool(comparison.bins)


def _side_by_side(comparison: Comparison) -> tuple[str, ...]:
    return comparison.strata[: 1 if _is_binned(comparison) else _MOST_SIDE_BY_SIDE]


def _hue(number: int) -> str:
    return HUES[number % len(HUES)]


def _shade(number: int) -> str:
    return INK if number == 0 else HUES[(number - 1) % len(HUES)]
