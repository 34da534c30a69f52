"""The report as people see it, in Debian's Chromium."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_decom.render import overlay
from lit_decom.report import write_report
from tests.helpers.runs import Plan, gain, identities_at, planted_run, probe_of, record_of
from tests.helpers.webdriver import browser, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

PLAN = Plan(n_epochs=4, size=(112, 112))
PIXELS = "return [...document.querySelectorAll(arguments[0])].map((c) => c.toDataURL())"


@pytest.fixture(scope="module")
def window():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = planted_run(folder / "first", PLAN)
    second = planted_run(folder / "second", replace(PLAN, turned=True, run_id="second"))
    alone = planted_run(
        folder / "alone", Plan(n_epochs=1, tracked=False, scored=False, shared=0, grid=(4, 7), size=(48, 84))
    )
    return {"one": write_report([first]), "two": write_report([first, second]), "alone": write_report([alone])}


@pytest.fixture
def page(window, pages):
    window.resize(1280, 900)
    window.prefer("light")
    window.console(), window.requests()
    window.open(pages["one"])
    yield window
    assert window.console() == []


TOPS = "return [...document.querySelectorAll('.card:first-child .block')].map((b) => b.getBoundingClientRect().top)"


def now(page):
    return page.run("return document.getElementById('now').textContent")


def move(page, position):
    page.run(
        "const slider = document.getElementById('slider'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}));",
        position,
    )
    page.settle()


def test_it_opens_at_the_last_firing_without_a_complaint(page):
    assert now(page) == "epoch 3 · step 40"
    assert page.console() == []


def test_it_asks_the_network_for_nothing(page, pages):
    asked = page.requests()
    assert asked[0] == pages["one"].as_uri()
    assert len(asked) > 1
    assert all(address.startswith("data:image/") for address in asked[1:])


def test_every_image_is_whole(page):
    broken = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert page.run("return document.images.length") == PLAN.n_images
    assert page.run(broken) == 0


def test_the_slider_moves_maps_captions_crops_and_cursors(page):
    def seen():
        maps, crops = page.run(PIXELS, ".tile canvas"), page.run(PIXELS, ".crops canvas")
        captions = page.run("return [...document.querySelectorAll('.tile .cap')].map((c) => c.textContent)")
        cursor = page.run("return document.querySelector('.cursor').getBoundingClientRect().left")
        return maps, crops, captions, cursor

    maps, crops, captions, cursor = seen()
    move(page, 0)
    assert now(page) == "epoch 0 · step 10"
    old_maps, old_crops, old_captions, old_cursor = seen()
    changed = [before != after for before, after in zip(old_maps, maps, strict=True)]
    # only the component that was replaced has another pattern, and the integrated map with it
    assert changed == [True, False, False, True] * PLAN.n_images
    assert all(before != after for before, after in zip(old_crops, crops, strict=True))
    assert f"{gain(0, 0, 0):+.2f}" in old_captions[1]
    assert f"{gain(3, 0, 0):+.2f}" in captions[1]
    assert cursor - old_cursor > 100


def test_maps_are_drawn_as_the_pictures_of_a_firing_are(page):
    pixels = page.run(
        "return [...document.querySelectorAll('.tile canvas')].slice(0, 4).map((c) =>"
        "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    )
    shown = torch.tensor(pixels).reshape(4, *PLAN.size, 4)[..., :3].permute(0, 3, 1, 2) / 255
    found = record_of(PLAN, PLAN.n_epochs - 1).decomposition
    ranks = [identities_at(PLAN, PLAN.n_epochs - 1).index(name) for name in (0, 1, PLAN.n_components)]
    maps = torch.cat([found.cam[:1], found.ossms[0, ranks]])
    expected = overlay(probe_of(PLAN).images[:1].expand(4, -1, -1, -1), maps)
    # eight bits, and an image that went through JPEG
    assert (shown - expected).abs().mean(dim=(1, 2, 3)).max() < 0.01
    assert (shown - expected).abs().max() < 0.12


def test_the_shared_scale_darkens_weak_maps_only(page):
    light = (
        "return [...document.querySelectorAll('.tile canvas')].slice(1, 4).map((c) => {"
        "const copy = document.createElement('canvas').getContext('2d', {willReadFrequently: true});"
        "copy.drawImage(c, 0, 0); const d = copy.getImageData(0, 0, c.width, c.height).data; let most = 0;"
        "for (let i = 0; i < d.length; i += 4) most = Math.max(most, d[i] + d[i+1] + d[i+2]); return most; })"
    )
    own = page.run(light)
    page.point_at("input[value=shared]", click=True)
    shared = page.run(light)
    # at the last, odd epoch identity 1 is the strongest component of the whole run
    assert shared[1] == own[1]
    assert shared[0] < own[0]
    assert shared[2] < own[2]
    page.point_at("input[value=own]", click=True)
    assert page.run(light) == own


def test_the_keyboard_reaches_everything(page):
    stops = []
    for _ in range(12):
        page.press("Tab")
        stops.append(
            page.run("const e = document.activeElement; return e.id || e.className || e.tagName.toLowerCase()")
        )
    assert stops[:4] == ["skip", "theme", "play", "slider"]
    page.run("document.getElementById('slider').focus()")
    page.press("Home")
    assert now(page) == "epoch 0 · step 10"
    page.press("Right", "Right")
    assert now(page) == "epoch 2 · step 30"
    assert page.run("return document.getElementById('slider').getAttribute('aria-valuetext')") == "epoch 2 · step 30"


def test_arrow_keys_go_from_map_to_map_and_light_up_the_curve(page):
    page.run("document.querySelector('.tile canvas').focus()")
    page.press("Right")
    assert page.run("return document.activeElement.getAttribute('aria-label')").startswith(
        "Component no. 0: score gain"
    )
    lit = (
        "return [...document.querySelectorAll('.card')].map("
        "(card) => [...card.querySelectorAll('.line.on')].map((line) => line.dataset.c))"
    )
    assert page.run(lit) == [["0"]] + [[]] * (PLAN.n_images - 1)
    assert page.run("return document.querySelectorAll('.card:first-child .line.dim').length") == PLAN.n_components
    page.press("Right", "Right", "Right")  # no further than the last one
    assert page.run("return document.activeElement.getAttribute('aria-label')").startswith("Component no. 3, new")
    page.press("Left")
    assert page.run(lit)[0] == ["1"]


def test_pointing_at_a_curve_frames_its_map(page):
    page.point_at(".card .tile:nth-of-type(4) canvas")
    assert page.run("return [...document.querySelectorAll('.line.on')].map((l) => l.dataset.c)") == ["1"]
    page.point_at("h1")
    assert page.run("return document.querySelectorAll('.on, .dim').length") == 0


def test_a_click_into_a_chart_goes_to_that_firing(page):
    page.point_at(".card .chart", click=True)
    assert now(page) in ("epoch 1 · step 20", "epoch 2 · step 30")


def test_play_runs_to_the_end_and_can_be_stopped(page):
    page.point_at("#play", click=True)
    assert now(page) == "epoch 0 · step 10"
    assert page.run("return document.getElementById('play').getAttribute('aria-pressed')") == "true"
    page.run_async("setTimeout(() => arguments[0](true), 1000)")
    assert now(page) == "epoch 1 · step 20"
    page.press("Enter")
    assert page.run("return document.getElementById('play').innerText").endswith("Play")
    page.run_async("setTimeout(() => arguments[0](true), 1000)")
    assert now(page) == "epoch 1 · step 20"


def test_dark_and_light_follow_the_system_until_chosen(page):
    ground = "return getComputedStyle(document.documentElement).backgroundColor"
    light = page.run(ground)
    page.prefer("dark")
    dark = page.run(ground)
    assert (light, dark) == ("rgb(246, 246, 243)", "rgb(18, 20, 23)")
    page.point_at("#theme", click=True)
    assert page.run(ground) == light
    assert page.run("return document.getElementById('theme').textContent") == "Dark"
    page.prefer("light")
    page.point_at("#theme", click=True)
    assert page.run(ground) == dark


@pytest.mark.parametrize("kind", ["one", "two", "alone"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_overflows_on_any_screen(page, pages, kind, width):
    page.resize(width, 800)
    page.open(pages[kind])
    page.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.run("return document.documentElement.scrollWidth") <= width
    smallest = page.run("return Math.min(...[...document.querySelectorAll('.tile canvas')].map((c) => c.clientWidth))")
    assert smallest >= 60


def test_two_runs_stand_side_by_side_and_light_up_together(page, pages):
    page.open(pages["two"])
    assert now(page) == "epoch 3"
    tops = page.run(TOPS)
    assert tops[0] == tops[1]
    page.point_at(".card .block:nth-child(1) .tile canvas[aria-label^='Component no. 1']")
    lit = page.run("return [...document.querySelectorAll('.line.on')].map((l) => l.closest('.block').dataset.run)")
    assert lit == ["0", "1"]
    assert page.run("return document.querySelectorAll('.tile.alone').length") == 0
    page.resize(390, 800)
    tops = page.run(TOPS)
    assert tops[1] > tops[0]


def test_a_single_firing_leaves_nothing_to_play(page, pages):
    page.open(pages["alone"])
    assert page.run("return [...document.querySelectorAll('#slider, #play')].map((e) => e.disabled)") == [True, True]
    sizes = page.run("return [...document.querySelectorAll('.tile canvas')].map((c) => [c.width, c.height])")
    assert sizes == [[112, 64]] * len(sizes)
    ratio = page.run("const c = document.querySelector('.tile canvas'); return c.clientWidth / c.clientHeight")
    assert ratio == pytest.approx(84 / 48, abs=0.05)
    assert page.run("return document.querySelectorAll('.line circle').length") > 0  # dots, since there are no lines yet


def test_without_scripts_the_last_firing_is_a_picture(pages):
    with browser() as other:
        other.without_scripts()
        other._call("POST", "/url", {"url": Path(pages["one"]).resolve().as_uri()})
        shown = other.devtools(
            "Runtime.evaluate",
            {
                "expression": "const s = document.querySelector('.still'); s.naturalWidth > 300 && s.width > 99",
                "returnByValue": True,
            },
        )
        assert shown["result"]["value"] is True
