"""A comparison as one HTML page that needs nothing else."""

import math
from typing import Any

from torch import Tensor

from lit_decom.comparison.figure import HUES, INK, QUIET, legend_of, panel_of
from lit_decom.comparison.result import Comparison, Disagreement
from lit_decom.comparison.summary import Standing
from lit_decom.comparison.tables import arrow, cell, cost_cells, legend
from lit_decom.render import overlay
from lit_decom.report import render_page
from lit_decom.report.pictures import data_uri, inline, photo

_COSTS = ("ms", "forwards", "MiB")
_ON_PAGE = {INK: "--ink", QUIET: "--quiet"} | {hue: f"--c{number}" for number, hue in enumerate(HUES)}


def page_of(comparison: Comparison) -> str:
    """Lay a comparison out: who is first, the panels, the table of everything, and where two methods disagree."""
    context = {
        "title": comparison.title,
        "model": comparison.settings["model"],
        "layer": comparison.settings["layer"],
        "target": comparison.settings["target"],
        "statements": [line for measure in comparison.measures if (line := _firsts(comparison, measure.name))],
        "cautions": [*comparison.cautions, *comparison.omissions],
        "panels": [inline(panel_of(comparison, measure), _ON_PAGE) for measure in comparison.measures],
        "legend": [(name, _ON_PAGE[colour]) for name, colour in legend_of(comparison)],
        "strata": comparison.strata,
        "columns": [*_measure_columns(comparison), *((name, -1) for name in _COSTS)],
        "rows": [_row(comparison, stratum, method) for stratum in comparison.strata for method in comparison.methods],
        "pair": comparison.pair,
        "duels": [_duel(each) for each in comparison.disagreements],
        "help": legend(comparison),
    }
    return render_page("comparison.html.j2", context, scripts=("comparison.js",))


def _firsts(comparison: Comparison, measure: str) -> str:
    """Which methods no other one is better than, by one measure."""
    here = comparison.of(measure)
    first = [name for name, standing in here.items() if standing.rank == 1]
    if not first or len(here) < 2:
        return ""
    if len(first) == len(here):
        return f"{measure}: nothing tells the methods apart."
    together = ", which nothing tells apart" if len(first) > 1 else ""
    return f"{measure}: {', '.join(first)}{together}."


def _measure_columns(comparison: Comparison) -> list[tuple[str, int]]:
    """Heading and direction of every measure."""
    signs = {True: 1, False: -1, None: 1}
    return [
        (f"{measure.name}{arrow(measure.higher_is_better)}", signs[measure.higher_is_better])
        for measure in comparison.measures
    ]


def _row(comparison: Comparison, stratum: str, method: str) -> dict[str, Any]:
    standings = [comparison.of(measure.name, stratum).get(method) for measure in comparison.measures]
    cost = next(cost for cost in comparison.costs if cost.method == method)
    numbers = (cost.seconds, cost.forwards, cost.peak_bytes)
    n = next(each.n for each in comparison.standings if each.stratum == stratum)
    return {
        "stratum": stratum,
        "method": method,
        "n": n,
        "cells": [
            *(_cell(standing) for standing in standings),
            *(
                {"text": text, "value": _number(number), "rank": None}
                for text, number in zip(cost_cells(cost), numbers, strict=True)
            ),
        ],
    }


def _cell(standing: Standing | None) -> dict[str, Any]:
    value = math.nan if standing is None else standing.value
    return {"text": cell(standing), "value": _number(value), "rank": standing.rank if standing else None}


def _number(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else ""


def _duel(found: Disagreement) -> dict[str, Any]:
    pictures: list[Tensor] = [found.image, *overlay(found.image.expand(2, -1, -1, -1), found.maps)]
    right = found.label == found.answer
    return {
        "place": found.place,
        "pictures": [data_uri(photo(picture)) for picture in pictures],
        "said": found.label if right else f"{found.label}, taken for {found.answer}",
        "agreement": f"{found.agreement + 0.0:.2f}",
    }
