"""The report as people see it, in Debian's Chromium."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_decom.render import overlay
from lit_decom.report import write_report
from tests.helpers import chromium
from tests.helpers.runs import CLASSES, Plan, gain, identities_at, planted_run, probe_of, record_of

pytestmark = pytest.mark.skipif(chromium.missing() is not None, reason=str(chromium.missing()))

PLAN = Plan(n_epochs=4, size=(112, 112))
OPEN = "for (const each of document.querySelectorAll('details')) each.open = true"
PIXELS = "return [...document.querySelectorAll(arguments[0])].map((c) => c.toDataURL())"


@pytest.fixture(scope="module")
def window():
    with chromium.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = planted_run(folder / "first", PLAN)
    second = planted_run(folder / "second", replace(PLAN, turned=True, run_id="second"))
    alone = planted_run(
        folder / "alone", Plan(n_epochs=1, tracked=False, scored=False, shared=0, grid=(4, 7), size=(48, 84))
    )
    eight = planted_run(folder / "eight", replace(PLAN, n_images=8, n_components=8, run_id="eight"))
    factors = planted_run(folder / "factors", replace(PLAN, n_images=8, n_components=8, factors=True, run_id="factors"))
    chosen = {"one": [first], "two": [first, second], "alone": [alone], "eight": [eight], "factors": [factors]}
    return {kind: write_report(paths) for kind, paths in chosen.items()}


@pytest.fixture
def page(window, pages):
    chromium.resize(window, 1280, 900)
    chromium.prefer(window, "light")
    chromium.console(window), chromium.requests(window)
    chromium.open_report(window, pages["one"])
    yield window
    assert chromium.console(window) == []


TOPS = "return [...document.querySelectorAll('.card:first-child .block')].map((b) => b.getBoundingClientRect().top)"


def ask(page, expression):
    return page.execute_script(f"return {expression}")


def now(page):
    return ask(page, "document.getElementById('now').textContent")


def move(page, position):
    page.execute_script(
        "const slider = document.getElementById('slider'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}));",
        position,
    )
    chromium.settle(page)


def test_it_opens_at_the_last_snapshot_without_a_complaint(page):
    assert now(page) == "epoch 3 · step 40"
    assert chromium.console(page) == []


def test_it_asks_the_network_for_nothing(page, pages):
    asked = chromium.requests(page)
    assert asked[0] == pages["one"].as_uri()
    assert len(asked) > 1
    assert all(address.startswith("data:image/") for address in asked[1:])


def test_every_image_is_whole(page):
    broken = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert ask(page, "document.images.length") == PLAN.n_images
    assert page.execute_script(broken) == 0


def test_the_slider_moves_maps_captions_crops_and_cursors(page):
    def seen():
        maps, crops = page.execute_script(PIXELS, ".tile canvas"), page.execute_script(PIXELS, ".crops canvas")
        captions = ask(page, "[...document.querySelectorAll('.tile .cap')].map((c) => c.textContent)")
        cursor = ask(page, "document.querySelector('.cursor').getBoundingClientRect().left")
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


def test_maps_are_drawn_as_the_pictures_of_a_snapshot_are(page):
    pixels = page.execute_script(
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
    own = page.execute_script(light)
    chromium.point_at(page, "input[value=shared]", click=True)
    shared = page.execute_script(light)
    # at the last, odd epoch identity 1 is the strongest component of the whole run
    assert shared[1] == own[1]
    assert shared[0] < own[0]
    assert shared[2] < own[2]
    chromium.point_at(page, "input[value=own]", click=True)
    assert page.execute_script(light) == own


def test_the_common_scale_is_one_for_all_images(page):
    chromium.point_at(page, "input[value=common]", click=True)
    limits = page.execute_script("return JSON.parse(document.getElementById('data').textContent).common")
    pixels = page.execute_script(
        "return [...document.querySelectorAll('.tile canvas')].slice(0, 8).map((c) =>"
        "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    )
    chromium.point_at(page, "input[value=own]", click=True)
    shown = torch.tensor(pixels).reshape(2, 4, *PLAN.size, 4)[..., :3].permute(0, 1, 4, 2, 3) / 255
    found = record_of(PLAN, PLAN.n_epochs - 1).decomposition
    ranks = [identities_at(PLAN, PLAN.n_epochs - 1).index(name) for name in (0, 1, PLAN.n_components)]
    full = torch.tensor([limits[0], *[limits[1]] * 3])
    for row in range(2):
        maps = torch.cat([found.cam[row, None], found.ossms[row, ranks]])
        expected = overlay(probe_of(PLAN).images[row, None].expand(4, -1, -1, -1), maps, full)
        # eight bits, and an image that went through JPEG
        assert (shown[row] - expected).abs().mean(dim=(1, 2, 3)).max() < 0.01


def test_the_keyboard_reaches_everything(page):
    stops = []
    for _ in range(12):
        chromium.press(page, "TAB")
        stops.append(
            page.execute_script(
                "const e = document.activeElement; return e.id || e.className || e.tagName.toLowerCase()"
            )
        )
    assert stops[:4] == ["skip", "theme", "play", "slider"]
    page.execute_script("document.getElementById('slider').focus()")
    chromium.press(page, "HOME")
    assert now(page) == "epoch 0 · step 10"
    chromium.press(page, "ARROW_RIGHT", "ARROW_RIGHT")
    assert now(page) == "epoch 2 · step 30"
    assert ask(page, "document.getElementById('slider').getAttribute('aria-valuetext')") == "epoch 2 · step 30"


def test_arrow_keys_go_from_map_to_map_and_light_up_the_curve(page):
    page.execute_script("document.querySelector('.tile canvas').focus()")
    chromium.press(page, "ARROW_RIGHT")
    assert ask(page, "document.activeElement.getAttribute('aria-label')").startswith("component 01: score gain")
    lit = (
        "return [...document.querySelectorAll('.card')].map("
        "(card) => [...card.querySelectorAll('.line.on')].map((line) => line.dataset.c))"
    )
    assert page.execute_script(lit) == [["0"]] + [[]] * (PLAN.n_images - 1)
    assert ask(page, "document.querySelectorAll('.card:first-child .line.dim').length") == PLAN.n_components
    chromium.press(page, "ARROW_RIGHT", "ARROW_RIGHT", "ARROW_RIGHT")  # no further than the last one
    assert ask(page, "document.activeElement.getAttribute('aria-label')").startswith("component 04, new")
    chromium.press(page, "ARROW_LEFT")
    assert page.execute_script(lit)[0] == ["1"]


def test_pointing_at_a_curve_frames_its_map(page):
    chromium.point_at(page, ".card .tile:nth-of-type(4) canvas")
    assert ask(page, "[...document.querySelectorAll('.line.on')].map((l) => l.dataset.c)") == ["1"]
    chromium.point_at(page, "h1")
    assert ask(page, "document.querySelectorAll('.on, .dim').length") == 0


def test_a_click_into_a_chart_goes_to_that_snapshot(page):
    chromium.point_at(page, ".card .chart", click=True)
    assert now(page) in ("epoch 1 · step 20", "epoch 2 · step 30")


def test_play_runs_to_the_end_and_can_be_stopped(page):
    chromium.point_at(page, "#play", click=True)
    assert now(page) == "epoch 0 · step 10"
    assert ask(page, "document.getElementById('play').getAttribute('aria-pressed')") == "true"
    chromium.wait(page, 1000)
    assert now(page) == "epoch 1 · step 20"
    chromium.press(page, "ENTER")
    assert ask(page, "document.getElementById('play').innerText").endswith("Play")
    chromium.wait(page, 1000)
    assert now(page) == "epoch 1 · step 20"


def test_dark_and_light_follow_the_system_until_chosen(page):
    ground = "return getComputedStyle(document.documentElement).backgroundColor"
    light = page.execute_script(ground)
    chromium.prefer(page, "dark")
    dark = page.execute_script(ground)
    assert (light, dark) == ("rgb(246, 246, 243)", "rgb(18, 20, 23)")
    chromium.point_at(page, "#theme", click=True)
    assert page.execute_script(ground) == light
    assert ask(page, "document.getElementById('theme').textContent") == "Dark"
    chromium.prefer(page, "light")
    chromium.point_at(page, "#theme", click=True)
    assert page.execute_script(ground) == dark


@pytest.mark.parametrize("kind", ["one", "two", "alone", "factors"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_nothing_overflows_on_any_screen(page, pages, kind, width):
    chromium.resize(page, width, 800)
    chromium.open_report(page, pages[kind])
    page.execute_script(OPEN)
    assert ask(page, "document.documentElement.scrollWidth") <= width
    smallest = page.execute_script(
        "return Math.min(...[...document.querySelectorAll('.tile canvas')].map((c) => c.clientWidth))"
    )
    assert smallest >= 60


@pytest.mark.parametrize("kind", ["eight", "factors"])
def test_on_a_phone_what_comes_first_is_open_and_the_rest_is_a_table_of_contents(page, pages, kind):
    chromium.resize(page, 390, 844)
    chromium.open_report(page, pages[kind])
    folded = ask(page, "document.documentElement.scrollHeight")
    kinds = "return [...document.querySelectorAll(arguments[0])].map((each) => each.open)"
    for foldable in (".section", ".card details"):
        is_open = page.execute_script(kinds, foldable)
        assert is_open == [True] + [False] * (len(is_open) - 1)
    assert folded < 4000
    page.execute_script(OPEN)
    assert ask(page, "document.documentElement.scrollHeight") > 3 * folded
    chromium.resize(page, 1280, 900)
    chromium.open_report(page, pages[kind])
    assert all(page.execute_script(kinds, ".section"))
    assert all(page.execute_script(kinds, ".card details"))


@pytest.mark.parametrize("kind", ["one", "two", "alone", "factors"])
def test_every_line_is_named_in_a_legend_or_in_the_title_of_its_panel(page, pages, kind):
    chromium.open_report(page, pages[kind])
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('.chart .line')].map((line) => {"
        "const name = line.querySelector('title').textContent.split(': ')[0];"
        "const around = (e) => e ? [e, ...around(e.parentElement.closest('[data-scope]'))] : [];"
        "const names = around(line.closest('[data-scope]')).flatMap((e) => [...e.querySelectorAll('.legend li')]);"
        "const texts = names.map((l) => l.textContent);"
        "const title = line.closest('figure')?.querySelector('figcaption').textContent ?? '';"
        "return texts.includes(name) || title.startsWith(name) ? null : name; }).filter((name) => name !== null)"
    )
    assert ask(page, "document.querySelectorAll('.chart .line').length") > 5
    assert unnamed == []


def test_factors_and_wrong_decisions_follow_the_slider(page, pages):
    chromium.open_report(page, pages["factors"])
    shown = "[...document.querySelectorAll('.factor:not([hidden])')].map((c) => c.querySelector('h3').textContent)"
    assert ask(page, "document.querySelector('.section').id") == "factors"
    assert ask(page, shown) == ["factor 01", "factor 03"]
    assert ask(page, "document.querySelector('.factor .codes').innerText.split('\\n')[0]") == CLASSES[0]
    row = "[...document.querySelector('.decisions tbody').rows].map((r) => [...r.cells].map((c) => c.innerText))"
    assert [cells[3].split("\n")[0] for cells in ask(page, row)] == ["factor 01"]
    maps, crops = page.execute_script(PIXELS, ".places canvas"), page.execute_script(PIXELS, ".factor .crops canvas")
    # Three images only have a score below 0 on factor 01.
    assert (len(maps), len(crops)) == (2 * 8, 4 + 3 + 4 + 4)
    move(page, 0)
    assert ask(page, shown) == ["factor 01", "factor 02"]
    assert ask(page, "document.querySelector('.factor .share').textContent") == "50.0%"


def test_what_speaks_for_the_right_class_is_warm_and_what_speaks_against_it_blue(page, pages):
    chromium.open_report(page, pages["factors"])
    tint = page.execute_script(
        "return [...document.querySelectorAll('.factor:first-child .places canvas')].map((c) => {"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let sum = 0;"
        "for (let i = 0; i < d.length; i += 4) sum += d[i] - d[i + 2]; return Math.sign(sum); })"
    )
    assert tint == [1] * 7 + [-1]


def test_two_runs_stand_side_by_side_and_light_up_together(page, pages):
    chromium.open_report(page, pages["two"])
    assert now(page) == "epoch 3"
    tops = page.execute_script(TOPS)
    assert tops[0] == tops[1]
    chromium.point_at(page, ".card .block:nth-child(1) .tile canvas[aria-label^='component 02']")
    lit = page.execute_script(
        "return [...document.querySelectorAll('.line.on')].map((l) => l.closest('.block').dataset.run)"
    )
    assert lit == ["0", "1"]
    assert ask(page, "document.querySelectorAll('.tile.alone').length") == 0
    chromium.resize(page, 390, 800)
    tops = page.execute_script(TOPS)
    assert tops[1] > tops[0]


def test_a_single_snapshot_leaves_nothing_to_play(page, pages):
    chromium.open_report(page, pages["alone"])
    assert ask(page, "[...document.querySelectorAll('#slider, #play')].map((e) => e.disabled)") == [
        True,
        True,
    ]
    sizes = ask(page, "[...document.querySelectorAll('.tile canvas')].map((c) => [c.width, c.height])")
    assert sizes == [[112, 64]] * len(sizes)
    ratio = page.execute_script(
        "const c = document.querySelector('.tile canvas'); return c.clientWidth / c.clientHeight"
    )
    assert ratio == pytest.approx(84 / 48, abs=0.05)
    assert ask(page, "document.querySelectorAll('.line circle').length") > 0  # dots, since there are no lines yet


def test_without_scripts_the_last_snapshot_is_a_picture(pages):
    with chromium.browser() as other:
        other.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        other.get(Path(pages["one"]).resolve().as_uri())
        expression = "const s = document.querySelector('.still'); s.naturalWidth > 300 && s.width > 99"
        shown = other.execute_cdp_cmd("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        assert shown["result"]["value"] is True
