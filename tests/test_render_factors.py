"""Decision factors in the picture of a snapshot."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_decom.functional.decision_factors import DecisionFactors
from lit_decom.render import FactorPanel, cautions, ossm_grids, overlay, to_picture
from lit_decom.render.text import RED

TILE, MARGIN = 96, 3
STEP = TILE + MARGIN
CODES = torch.tensor([[2.0, 0.0], [-2.0, 0.5], [0.0, -1.0]])


def panel(n=2, **changes):
    maps = torch.rand(n, 2, 4, 4, generator=torch.Generator().manual_seed(8))
    made = FactorPanel(
        title="2 decision factors",
        cautions=(),
        heads=["factor 01  60%", "factor 02  30%"],
        maps=maps * torch.tensor([1.0, 0.3])[:, None, None],
        captions=[["+1.0", "-0.2"]] * n,
        codes=CODES,
        class_names=["cat", "dog", "cow"],
    )
    return replace(made, **changes)


def drawn(factors, n=2, k=3, limits=None):
    generator = torch.Generator().manual_seed(3)
    images, ossms = torch.rand(n, 3, 96, 96, generator=generator), torch.rand(n, k, 4, 4, generator=generator)
    (picture,) = ossm_grids(
        images,
        ossms.sum(dim=1),
        ossms,
        row_captions=[""] * n,
        ossm_captions=[["a"] * k] * n,
        scales={"a title": limits},
        factors=factors,
    )
    return images, np.asarray(picture).astype(int)


def column(pixels, index):
    """The tiles of a column, from the last row's up, without what stands above the first."""
    return pixels[-2 * (TILE + 18) - 18 :, MARGIN + index * STEP : index * STEP + STEP]


def test_factors_have_the_columns_beside_the_image_on_one_scale_for_each_image():
    factors = panel()
    images, pixels = drawn(factors)
    limits = factors.maps.amax(dim=(1, 2, 3))
    for index in range(2):
        expected = overlay(images, factors.maps[:, index], limits)
        for row, top in ((0, 0), (1, TILE + 18)):
            shown = column(pixels, index + 1)[top : top + TILE]
            difference = np.abs(shown - to_picture(expected[row]))
            # A pixel at the edge of the heat may fall to the other side of it.
            assert (difference > 2).mean() < 0.002, (index, row)


@pytest.mark.parametrize("limits", [None, torch.tensor([[9.0, 5.0], [9.0, 5.0]])])
def test_what_is_drawn_of_the_components_is_the_same_beside_factors(limits):
    _, plain = drawn(None, limits=limits)
    _, beside = drawn(panel(), limits=limits)
    assert beside.shape[1] == plain.shape[1] + 2 * STEP
    rows = slice(-2 * (TILE + 18) - 18, -18)
    np.testing.assert_array_equal(beside[rows, :TILE], plain[rows, :TILE])
    np.testing.assert_array_equal(beside[rows, MARGIN + 3 * STEP :], plain[rows, MARGIN + STEP :])


def cells(pixels, n_classes=3, k=2):
    """The colour of each code's cell, found by its left edge: they begin below two titles."""
    top = 15 + 2 * MARGIN + MARGIN + 15
    return [
        [pixels[top + 15 * row + 7, MARGIN + (index + 1) * STEP + 1] for index in range(k)] for row in range(n_classes)
    ]


def test_codes_are_red_for_a_class_and_blue_against_it_and_white_at_none():
    _, pixels = drawn(panel())
    (most, none), (least, little), (zero, against) = cells(pixels)
    assert most[0] > most[2] + 60
    assert least[2] > least[0] + 60
    assert min(none) > 240
    assert min(zero) > 240
    assert little[0] > little[2] + 5
    assert against[2] > against[0] + 30
    assert (most[0] - most[2]) > 2 * (little[0] - little[2]), "the more the stronger"


def test_of_many_classes_those_with_the_largest_codes_are_shown_in_their_order():
    codes = torch.zeros(40, 2)
    codes[[3, 39, 20], [0, 1, 0]] = torch.tensor([1.0, -3.0, 2.0])
    factors = panel(codes=codes, class_names=[f"class {index}" for index in range(40)])
    assert len(factors.classes) == 12
    assert factors.classes == sorted(factors.classes)
    assert {3, 20, 39} <= set(factors.classes)
    _, many = drawn(factors)
    _, few = drawn(replace(factors, codes=codes[:12], class_names=factors.class_names[:12]))
    assert many.shape == few.shape, "no room is taken by those that are not shown"


def test_numbers_can_be_read_on_the_strongest_colour():
    _, pixels = drawn(panel())
    top = 15 + 2 * MARGIN + MARGIN + 15
    cell = pixels[top : top + 14, MARGIN + STEP : MARGIN + STEP + TILE].mean(axis=2)
    assert cell.min() < 30, "black letters"
    assert np.median(cell) > 110, "on a ground that is light enough"


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("n_factors", [1, 2])
def test_no_text_is_cut_however_narrow_the_picture(k, n_factors):
    maps = panel().maps[:, :n_factors]
    factors = panel(
        title="a long sentence about factors and about how far they go, " * 3,
        cautions=cautions(["untrained", "two_classes"]),
        heads=[f"factor 0{index}  9%" for index in range(n_factors)],
        maps=maps,
        captions=[["+1.0"] * n_factors] * 2,
        codes=CODES[:, :n_factors],
        class_names=["cat", "American Staffordshire terrier", "cow"],
    )
    _, pixels = drawn(factors, k=k)
    assert (pixels[:, -1] == 255).all(), "no letter at the edge"


def test_cautions_stand_in_red_above_the_maps():
    _, plain = drawn(panel())
    _, warned = drawn(panel(cautions=cautions(["dead_layer"])))
    assert warned.shape[0] == plain.shape[0] + 15
    added = warned[15 + 3 * MARGIN + 15 : 15 + 3 * MARGIN + 30]
    assert (np.abs(added - np.array(RED)).sum(axis=2) < 30).sum() > 20


@pytest.mark.parametrize("codes", [None, torch.zeros(3, 0)])
def test_what_is_said_of_no_factors_stands_above_the_components(codes):
    nothing = FactorPanel("0 decision factors", cautions(["dead_layer"]), (), torch.zeros(2, 0, 4, 4), [()] * 2, codes)
    _, pixels = drawn(nothing)
    _, plain = drawn(None)
    assert pixels.shape[1] == plain.shape[1]
    assert pixels.shape[0] > plain.shape[0]
    rows = slice(-2 * (TILE + 18) - 18, None)
    np.testing.assert_array_equal(pixels[rows], plain[rows])


def test_a_factor_map_that_is_not_finite_is_tinted_and_spoils_no_other():
    spoiled = panel()
    spoiled.maps[0, 1, 2, 2] = math.nan
    _, broken = drawn(spoiled)
    _, whole = drawn(panel())
    tile = column(broken, 2)[:TILE]
    assert (tile[..., 0] - tile[..., 1]).min() > 25
    np.testing.assert_array_equal(column(broken, 1), column(whole, 1))
    np.testing.assert_array_equal(column(broken, 2)[TILE + 18 :], column(whole, 2)[TILE + 18 :])


def test_every_state_of_factors_has_words():
    nan, few = torch.tensor(math.nan), torch.ones(2, 1)
    numbers = dict.fromkeys(("codes", "readout", "directions", "scores"), few) | {"mean": torch.zeros(2)}
    numbers |= {"shares": torch.ones(1), "r2": nan, "agreement": nan, "constant_share": torch.tensor(0.9)}
    numbers |= {"rotation_margin": torch.tensor(0.0), "layer_r2": nan, "random_r2": nan}
    states = DecisionFactors(**numbers, tied=torch.tensor(1), dead=torch.tensor(1)).states
    assert len(states) == 6
    said = cautions(states)
    assert len(set(said)) == 6
    assert all(text.endswith(".") for text in said), "a sentence, not the name of the state"
    assert sum("90%" in text for text in cautions(states, constant_share=0.9)) == 1
