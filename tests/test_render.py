"""Tensors to pictures."""

import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from lit_decom.render import (
    component_captions,
    contribution_curves,
    figures,
    heat_colours,
    ossm_grids,
    overlay,
    text,
    to_picture,
    verdict,
)

STEP = 1 / 255  # pictures have eight bits
HALF = {"rtol": 0, "atol": 1.01 * STEP}  # the grey of an image is rounded, and so is what is drawn over it


def grey_of(images):
    return images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def blended(image, heat):
    """Slowly, pixel by pixel: heat ``(H, W)`` in [0, 1] over one image ``(3, H, W)``, in floating point."""
    drawn = torch.empty_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            level = int(heat[row, column] * 255)
            share = 0.15 + 0.7 * level / 255 if level / 255 > 0.02 else 0.0
            grey = image[:, row, column].mean()
            drawn[:, row, column] = (1 - share) * 0.55 * grey + share * heat_colours()[level]
    return drawn


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))


# ----- overlays


def test_a_blank_map_is_the_darkened_grey_image(images):
    drawn = overlay(images, torch.zeros(3, 4, 4))
    torch.testing.assert_close(drawn, grey_of(images) * 0.55, **HALF)


def test_every_pixel_is_the_blend_of_its_grey_and_the_colour_of_its_heat(images):
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(5))
    drawn = overlay(images, maps)
    for image, each, shown in zip(images, maps, drawn, strict=True):
        resized = F.interpolate((each / each.max())[None, None], (24, 24), mode="bicubic")[0, 0].clamp(0, 1)
        torch.testing.assert_close(shown, blended(image, resized), **HALF)


def test_a_map_that_is_not_finite_is_tinted_red_and_spoils_no_neighbour(images):
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    alone = overlay(images, maps)
    for value in (math.nan, math.inf):
        spoiled = maps.clone()
        spoiled[1, 2, 3] = value
        drawn = overlay(images, spoiled)
        assert drawn.isfinite().all()
        assert (drawn[1, 0] > drawn[1, 1] + 0.25).all()
        torch.testing.assert_close(drawn[1, 1], drawn[1, 2])
        torch.testing.assert_close(drawn[[0, 2]], alone[[0, 2]])


def test_heat_lies_where_the_map_is(images):
    maps = torch.zeros(3, 4, 4)
    maps[:, 0, 0] = 5
    drawn = overlay(images, maps)
    cold = (grey_of(images) * 0.55)[:, :, 12:, 12:]
    torch.testing.assert_close(drawn[:, :, 12:, 12:], cold, **HALF)
    # The hottest colour of the map, as far as it covers the image.
    top = torch.tensor(mpl.colormaps["inferno"](1.0)[:3], dtype=torch.float32)
    hottest = drawn[:, :, 1, 1]
    expected = 0.85 * top + 0.15 * (grey_of(images) * 0.55)[:, :, 1, 1]
    torch.testing.assert_close(hottest, expected, rtol=0, atol=0.02)


def test_every_map_is_drawn_to_its_own_maximum_unless_limits_are_given(images):
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2))
    scale = torch.tensor([1.0, 1000.0, 1e-6])[:, None, None]
    torch.testing.assert_close(overlay(images, maps * scale), overlay(images, maps), rtol=1e-4, atol=1e-2)
    faint = overlay(images, maps, limits=torch.full((3,), 100.0))
    torch.testing.assert_close(faint, grey_of(images) * 0.55, **HALF)


def test_overlays_stay_in_range_where_the_resized_map_overshoots():
    spikes = torch.zeros(1, 7, 7)
    spikes[0, ::2, ::2] = 1
    drawn = overlay(torch.ones(1, 3, 50, 50), spikes)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


# ----- the grid

TILE, MARGIN, TEXT = 96, 3, 15
TOP, FOOT = 2 * TEXT + 3 * MARGIN, TEXT + MARGIN


def grid(n=2, k=3, side=24, *, captions=None, title="a title", limits=None, **arguments):
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(n, 3, side, side, generator=generator)
    ossms = torch.rand(n, k, 4, 4, generator=generator)
    texts = {
        "row_captions": [f"row {row}" for row in range(n)],
        "ossm_captions": [[f"+0.{rank}" for rank in range(1, k + 1)] for _ in range(n)]
        if captions is None
        else captions,
        "scales": {title: limits},
    }
    (picture,) = ossm_grids(images, ossms.sum(dim=1), ossms, **(texts | arguments))
    return images, ossms, picture


def resized(image, tile):
    return to_picture(image).resize((tile, tile), Image.Resampling.BICUBIC)


def largest_difference(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other)).max()


def tile_of(picture, row, column, tile=TILE):
    left = MARGIN + column * (tile + MARGIN)
    top = TOP + row * (tile + TEXT + MARGIN)
    return picture.crop((left, top, left + tile, top + tile))


@pytest.mark.parametrize(
    ("n", "k", "side", "tile"), [(1, 1, 24, 96), (2, 3, 96, 96), (3, 2, 128, 128), (1, 2, 224, 160)]
)
def test_the_grid_has_a_row_per_image_and_a_column_per_map(n, k, side, tile):
    _, _, picture = grid(n, k, side)
    assert picture.mode == "RGB"
    assert picture.size == ((tile + MARGIN) * (k + 2) + MARGIN, TOP + (tile + TEXT + MARGIN) * n + FOOT)


@pytest.mark.parametrize(("side", "tile"), [(24, 96), (96, 96), (224, 160)])
def test_tiles_are_the_image_the_map_and_the_ossms(side, tile):
    images, ossms, picture = grid(side=side)
    for row in range(2):
        photo = resized(images[row], tile)
        assert largest_difference(tile_of(picture, row, 0, tile), photo) <= 1
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255
        maps = torch.cat([ossms[row].sum(dim=0)[None], ossms[row]])
        for column, shown in enumerate(overlay(pixels.expand(4, -1, -1, -1), maps), start=1):
            # A pixel at the edge of the heat may fall to the other side of it.
            difference = np.abs(np.asarray(tile_of(picture, row, column, tile)).astype(int) - to_picture(shown))
            assert (difference > 2).mean() < 0.002, (row, column)


def test_grids_of_two_scales_differ_in_their_maps_alone():
    limits = torch.tensor([[9.0, 5.0], [9.0, 5.0]])
    _, _, own = grid(title="own")
    _, _, alike = grid(title="alike", limits=limits)
    images, ossms, _ = grid()
    both = ossm_grids(
        images,
        ossms.sum(dim=1),
        ossms,
        row_captions=["row 0", "row 1"],
        ossm_captions=[["+0.1", "+0.2", "+0.3"]] * 2,
        scales={"own": None, "alike": limits},
    )
    assert [picture.tobytes() for picture in both] == [own.tobytes(), alike.tobytes()]
    changed = np.argwhere((np.asarray(own) != np.asarray(alike)).any(axis=2))
    below_title = changed[(changed[:, 0] >= TOP) & (changed[:, 0] < TOP + 2 * (TILE + TEXT + MARGIN))]
    assert len(below_title) > 1000
    assert below_title[:, 1].min() >= MARGIN + TILE + MARGIN, "the images are the same"


def test_a_component_that_is_not_there_leaves_its_tile_white():
    _, _, picture = grid(captions=[["+0.1", "", "+0.3"], ["+0.1", "+0.2", "+0.3"]])
    assert np.asarray(tile_of(picture, 0, 3)).min() == 255
    assert np.asarray(tile_of(picture, 1, 3)).min() < 200


def test_captions_are_written_under_their_tiles_and_nowhere_else():
    _, _, plain = grid(row_captions=["", ""])
    _, _, written = grid(row_captions=["", "a dog 97%"])
    changed = np.argwhere((np.asarray(plain) != np.asarray(written)).any(axis=2))
    bottom = TOP + (TILE + TEXT + MARGIN) + TILE
    assert changed[:, 0].min() >= bottom
    assert changed[:, 1].max() < MARGIN + TILE


@pytest.mark.parametrize("text", ["x" * 400, "a fairly long name of a class → another long name 97%", "✓" * 90])
def test_captions_never_run_into_the_next_tile(text):
    _, _, picture = grid(n=1, row_captions=[text])
    below = np.asarray(picture)[TOP + TILE : -FOOT]
    inked = np.argwhere((below < 128).any(axis=2))
    assert len(inked) > 20
    own = inked[inked[:, 0] >= TEXT]  # beside the first line stand the captions of the components
    assert own[:, 1].max() <= MARGIN + TILE + 1


LONG = "American Staffordshire terrier"


def test_a_caption_goes_on_in_the_next_line_until_all_of_it_is_there():
    lines = text.wrapped(f"✗ {LONG} 87%\ntrue: golden_retriever_of_the_north", TILE, 11)
    assert "".join(line.replace(" ", "") for line in lines) == (
        f"✗{LONG}87%true:golden_retriever_of_the_north".replace(" ", "")
    )
    assert all(text.width_of(line, 11) <= TILE for line in lines)
    assert any(line.startswith("true: ") for line in lines)
    assert text.wrapped("x" * 50, TILE, 11)[:-1] == [text.wrapped("x" * 50, TILE, 11)[0]] * (
        len(text.wrapped("x" * 50, TILE, 11)) - 1
    )


def test_only_rows_with_long_captions_are_taller():
    _, _, short = grid(row_captions=["a", "b"])
    _, _, long = grid(row_captions=[f"✗ {LONG} 87%\ntrue: b", "b"])
    n_lines = len(text.wrapped(f"✗ {LONG} 87%\ntrue: b", TILE, 11))
    assert n_lines >= 4
    assert long.size == (short.size[0], short.size[1] + (n_lines - 1) * TEXT)
    last = np.asarray(short)[-(TILE + TEXT + MARGIN + FOOT) :]
    np.testing.assert_array_equal(np.asarray(long)[-len(last) :], last)


def test_a_title_is_whole_however_few_components_there_are():
    title = "epoch 3, step 280: DecomCAM(n_components=1, integration='paper') at model.layer3 (score gain, share)"
    _, _, picture = grid(k=1, title=title)
    _, _, plain = grid(k=1, title="")
    n_lines = len(text.wrapped(title, picture.size[0] - 2 * MARGIN, 13))
    assert n_lines > 1
    assert picture.size == (plain.size[0], plain.size[1] + (n_lines - 1) * TEXT)
    head = np.asarray(picture)[: MARGIN + n_lines * TEXT]
    assert (head[:, -1] == 255).all(), "no letter is cut off at the edge"
    assert all((head[line * TEXT : (line + 1) * TEXT] < 128).any() for line in range(n_lines))


def test_a_wrong_answer_has_a_red_frame_and_a_red_cross_and_a_right_one_a_green_mark():
    _, _, picture = grid(row_captions=[verdict("cat", "dog", 0.871), verdict("cat", "cat", 0.5)])
    pixels = np.asarray(picture).astype(int)
    red, green = (
        (pixels[..., one] - pixels[..., other] > 60) & (pixels[..., one] - pixels[..., 2] > 30)
        for one, other in ((0, 1), (1, 0))
    )
    first = slice(TOP, TOP + TILE)
    assert red[first, MARGIN : MARGIN + 3].all()
    assert red[TOP : TOP + 3, MARGIN : MARGIN + TILE].all()
    assert red[TOP + TILE : TOP + TILE + TEXT, MARGIN : MARGIN + 12].any()
    second = TOP + TILE + 2 * TEXT + MARGIN
    assert not red[second : second + TILE, MARGIN : MARGIN + 3].all()
    assert green[second + TILE : second + TILE + TEXT, MARGIN : MARGIN + 12].any()


def test_a_colour_bar_goes_from_no_heat_to_full_heat():
    _, _, picture = grid()
    foot = np.asarray(picture)[-FOOT:].astype(int)
    left = MARGIN + round(text.width_of("0 ", 11))
    bar = foot[MARGIN + 4, left : left + 120]
    middling = torch.full((1, 3, 4, 4), 128 / 255)
    for level, pixel in ((0.0, bar[0]), (1.0, bar[-1])):
        shown = overlay(middling, torch.full((1, 2, 2), level), torch.ones(1))[0, :, 0, 0] * 255
        assert np.abs(pixel - shown.numpy()).max() <= 1
    assert (np.diff(bar.sum(axis=1)) >= -40).all()


def test_masks_are_outlined_on_request_alone():
    masks = torch.zeros(2, 24, 24, dtype=torch.bool)
    masks[:, 6:18, 6:18] = True
    _, _, plain = grid()
    _, _, outlined = grid(masks=masks)
    cyan = (np.asarray(outlined) == [0, 255, 255]).all(axis=2)
    assert not (np.asarray(plain) == [0, 255, 255]).all(axis=2).any()
    changed = (np.asarray(plain) != np.asarray(outlined)).any(axis=2)
    assert not changed[~cyan].any()
    edge = np.zeros((TILE, TILE), dtype=bool)
    edge[24:72, 24:72], edge[25:71, 25:71] = True, False
    for row in range(2):
        for column in range(5):
            left, top = MARGIN + column * (TILE + MARGIN), TOP + row * (TILE + TEXT + MARGIN)
            np.testing.assert_array_equal(cyan[top : top + TILE, left : left + TILE], edge)


def test_captions_of_components_say_number_gain_and_share():
    gains, shares = torch.tensor([[1.25, -0.0123, torch.nan]]), torch.tensor([[0.5, 0.004, 0.0]])
    valid = torch.tensor([[True, True, False]])
    assert component_captions(gains, shares, valid) == [["+1.25 50%", "-0.0123 <1%", ""]]
    called = component_captions(gains, shares, valid, torch.tensor([[0, 11, -1]]))
    assert called == [["01 +1.25 50%", "12 -0.0123 <1%", ""]]


@pytest.mark.parametrize("value", [123.456, 1.23456, 0.0123456, -0.5, 3e-7, 0.0])
def test_numbers_have_three_significant_digits_or_four_decimals(value):
    assert abs(float(figures(value)) - value) <= max(0.005 * abs(value), min(0.5e-4, 0.5 * abs(value)))


def written(string, size):
    """A text as the renderer writes it, and as Pillow does in one go."""
    ours = np.full((24, 300), 0xFFFFFFFF, dtype=np.uint32)
    text.write(ours, 5, 2, string, size)
    theirs = Image.new("L", (300, 24), 255)
    ImageDraw.Draw(theirs).text((5, 2), string, fill=0, font=text._font(size))
    return (ours & 255).astype(int), np.asarray(theirs).astype(int)


@pytest.mark.parametrize("string", ["+1.23  45%", "08 -0.0703 <1%", "a_jug 97%", "100%", "Ünder → Övér 5%"])
def test_text_in_pieces_looks_like_text_in_one_go(string):
    ours, theirs = written(string, 11)
    first, last = ([np.argwhere((each < 128).any(axis=0)).ravel()[end] for each in (ours, theirs)] for end in (0, -1))
    assert abs(first[0] - first[1]) <= 1
    assert abs(last[0] - last[1]) <= 2, "each piece begins at a whole pixel"
    assert abs(ours.sum() - theirs.sum()) < 0.05 * (255 - theirs).sum()


def test_letters_that_reach_below_the_line_are_whole():
    ours, theirs = written("_gjpqy(", 13)
    np.testing.assert_array_equal(ours, theirs)


def test_marks_and_arrows_are_in_the_font():
    boxes = []
    for mark in ("✓", "✗", "→", "\uffff"):
        _, _, plain = grid(row_captions=["", ""])
        _, _, written = grid(row_captions=[mark, ""])
        boxes.append((np.asarray(plain) != np.asarray(written)).tobytes())
    # Whatever a font lacks looks like the character that no font has.
    assert len(set(boxes)) == 4


def test_broken_and_blank_maps_stand_in_the_grid_beside_whole_ones():
    generator = torch.Generator().manual_seed(3)
    images, ossms = torch.rand(2, 3, 96, 96, generator=generator), torch.rand(2, 2, 4, 4, generator=generator)
    ossms[0, 0], ossms[0, 1] = math.nan, 0
    texts = {"row_captions": ["", ""], "ossm_captions": [["a", "b"], ["c", "d"]], "scales": {"": None}}
    (picture,) = ossm_grids(images, ossms.sum(dim=1), ossms, **texts)
    tinted, blank = (np.asarray(tile_of(picture, 0, column)).astype(int) for column in (2, 3))
    assert (tinted[..., 0] - tinted[..., 1]).min() > 60
    assert (blank[..., 0] == blank[..., 1]).all()


def test_an_integrated_map_that_cannot_be_read_as_one_says_why():
    generator = torch.Generator().manual_seed(3)
    images, ossms = torch.rand(3, 3, 96, 96, generator=generator), torch.rand(3, 1, 4, 4, generator=generator)
    texts = {"row_captions": [""] * 3, "ossm_captions": [[""]] * 3, "scales": {"": None}}
    cams = torch.stack([torch.full((4, 4), math.nan), torch.zeros(4, 4), torch.ones(4, 4)])
    picture = np.asarray(ossm_grids(images, cams, ossms, **texts)[0])
    left, inked = MARGIN + TILE + MARGIN, []
    for row in range(3):
        top = TOP + row * (TILE + TEXT + MARGIN) + TILE
        inked.append((picture[top : top + TEXT, left : left + TILE] < 128).any(axis=2).sum())
    assert inked[0] > inked[1] > inked[2] == 0


def test_pictures_have_eight_bits_and_do_not_wrap_around():
    picture = to_picture(torch.tensor([-1.0, 0.0, 0.5, 2.0]).expand(3, 1, 4))
    assert [picture.getpixel((column, 0))[0] for column in range(4)] == [0, 0, 128, 255]


# ----- curves


def test_curves_are_drawn_without_matplotlibs_global_state():
    before = plt.get_fignums()
    figure = contribution_curves([3, 7, 11], {"a": [0.1, 0.2, 0.3], "b": [math.nan, 0.0, -0.5]}, title="Score gain")
    assert plt.get_fignums() == before
    (axes,) = figure.axes
    assert axes.get_title() == "Score gain"
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == ["a", "b"]
    assert lines["a"].get_xdata().tolist() == [3, 7, 11]
    np.testing.assert_array_equal(lines["b"].get_ydata(), [math.nan, 0.0, -0.5])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_no_curves_are_an_empty_figure(tmp_path):
    figure = contribution_curves([], {}, title="nothing yet")
    figure.savefig(tmp_path / "empty.png")
    assert figure.axes[0].get_legend() is None
