"""The page of a comparison as people see it, in Debian's Chromium."""

from math import isnan

import pytest
import torch

from lit_decom.comparison import Comparison, Cost, Disagreement, Standing
from lit_decom.comparison.measures import Measure
from lit_decom.comparison.page import page_of
from tests.helpers import chromium

pytestmark = pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing()))

VALUES = {
    ("drop", "all"): {"one": 0.3, "two": 0.1, "fake_cam": 0.05, "<three>": float("nan")},
    ("drop", "correct"): {"one": 0.2, "two": 0.6, "fake_cam": 0.07, "<three>": 0.5},
    ("gain", "all"): {"one": 0.7, "two": 0.9, "fake_cam": 0.1, "<three>": 0.8},
    ("gain", "correct"): {"one": 0.15, "two": 0.2, "fake_cam": 0.1, "<three>": 0.3},
}
MEASURES = (
    Measure("drop", higher_is_better=False, is_share=False),
    Measure("gain", higher_is_better=True, is_share=False),
)
METHODS = ("one", "two", "fake_cam", "<three>")


def planted():
    """Three methods and one that knows nothing, by two measures over all images and the correct ones."""
    standings = [
        Standing(
            measure, stratum, method, value, 20, 2 * isnan(value), (value - 0.05, value + 0.05),
            None if isnan(value) else 1 + sorted(values.values(), reverse=measure == "gain").index(value),
            None, measure == "gain",
        )
        for (measure, stratum), values in VALUES.items()
        for method, value in values.items()
    ]  # fmt: skip
    return Comparison(
        standings=tuple(standings),
        costs=tuple(Cost(name, seconds=0.001 * n, forwards=3.0 - n, peak_bytes=1e6) for n, name in enumerate(METHODS)),
        evidence_seconds=0.01,
        measures=MEASURES,
        bins=(),
        settings={
            "model": "Net",
            "layer": "layer4",
            "target": "label",
            "methods": {},
            "metrics": {},
            "correct_only": True,
        },
        n_images=20,
        n_explained=20,
        pair=("one", "two"),
        disagreements=tuple(
            Disagreement(n, torch.rand(3, 24, 24), torch.rand(2, 6, 6), -0.1 * n, "cat", "dog") for n in range(10)
        ),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("comparison") / "comparison.html"
    path.write_text(page_of(planted()), encoding="utf-8")
    with chromium.browser() as window:
        chromium.open_report(window, path)
        yield window
        assert chromium.console(window) == []


SHOWN = """return [...document.querySelectorAll('#standings tbody tr')].filter((row) => row.checkVisibility())
    .map((row) => row.cells[0].textContent)"""


def press(page, name):
    page.execute_script(
        "[...document.querySelectorAll('.sort')].find((b) => b.textContent.startsWith(arguments[0])).click()", name
    )
    return page.execute_script(SHOWN)


def test_a_heading_sorts_the_table_the_best_first_and_then_the_other_way_round(page):
    assert page.execute_script(SHOWN) == list(METHODS)
    assert press(page, "drop") == ["fake_cam", "two", "one", "<three>"], "lower is better, nothing comes last"
    assert press(page, "drop") == ["one", "two", "fake_cam", "<three>"]
    assert press(page, "gain") == ["two", "<three>", "one", "fake_cam"]
    assert press(page, "forwards") == ["<three>", "fake_cam", "two", "one"]
    assert press(page, "method") == sorted(METHODS), "by the alphabet"


def test_the_images_that_are_chosen_are_those_of_the_table(page):
    choose = "const s = arguments[1]; s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    chosen = page.execute_script("return document.getElementById('stratum')")
    page.execute_script(choose, "correct", chosen)
    assert press(page, "gain") == ["<three>", "two", "one", "fake_cam"]
    page.execute_script(choose, "all", chosen)
    assert press(page, "drop")[0] == "fake_cam"


def test_ten_images_are_shown_by_both_methods(page):
    assert page.execute_script("return document.querySelectorAll('.duels li').length") == 10
    assert page.execute_script("return [...document.querySelectorAll('.duels img')].every((i) => i.naturalWidth > 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_reaches_beyond_the_page(page, width, scheme):
    chromium.resize(page, width, 900)
    chromium.prefer(page, scheme)
    chromium.settle(page)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_it_says_who_is_first_what_knows_nothing_and_what_is_missing():
    text = page_of(planted())
    assert "4 methods on 20 images that the network gets right" in text
    assert "<li>gain: two.</li>" in text
    assert "drop: no method is better beyond doubt than fake_cam, which does not know what is explained" in text
    assert "&lt;three&gt;: 2 of 20 images by drop have no value" in text
