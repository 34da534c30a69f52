"""Curves of components over the snapshots, for loggers that take figures."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure


def contribution_curves(steps: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Draw one line per component over the snapshots.

    Args:
        steps: of the snapshots, ``T`` of them.
        series: ``T`` values per line, NaN where there is none.
        title: says what is drawn, in what unit, and what identifies a line.

    Returns:
        A figure that no global state of matplotlib knows of.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(len(series), 1)))
    for colour, (name, values) in zip(colours, series.items(), strict=False):
        axes.plot(list(steps), list(values), marker=".", color=colour, label=name)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(title=title, xlabel="step")
    if series:
        axes.legend(fontsize="small", ncols=2, frameon=False)
    return figure
