"""Maps of several classes in one picture: a hue for each, and a legend that says which."""

import numpy as np
import torch

from lit_decom.render import class_colours, class_grid, class_overlay

RED, BLUE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


def test_every_class_has_one_hue_and_no_other_class_has_it():
    classes = torch.arange(24).view(8, 3)
    colours = class_colours(classes)
    assert list(colours) == list(range(24))
    table = torch.tensor(list(colours.values()))
    assert table.min() >= 0
    assert table.max() <= 1
    distances = torch.cdist(table, table) + 9 * torch.eye(24)
    assert distances.min() > 0.05
    first = torch.cdist(table[:8], table[:8]) + 9 * torch.eye(8)
    assert first.min() > 0.25, "those of a usual picture are told apart at a glance"
    assert class_colours(classes.flip(0)) != colours


def test_a_map_has_its_colour_where_it_is_and_the_image_is_dark_grey_elsewhere():
    images = torch.full((1, 3, 8, 8), 0.5)
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 1, 1], maps[0, 1, 6, 6] = 1.0, 0.5
    drawn = class_overlay(images, maps, torch.tensor([[RED, BLUE]]))[0]
    torch.testing.assert_close(drawn[:, 4, 1], torch.full((3,), 0.275))
    torch.testing.assert_close(drawn[:, 1, 1], 0.15 * torch.full((3,), 0.275) + 0.85 * torch.tensor(RED))
    torch.testing.assert_close(drawn[:, 6, 6], 0.575 * torch.full((3,), 0.275) + 0.425 * torch.tensor(BLUE))


def test_where_two_maps_meet_their_colours_mix():
    maps = torch.full((1, 2, 4, 4), 0.5)
    drawn = class_overlay(torch.zeros(1, 3, 4, 4), maps, torch.tensor([[RED, BLUE]]))
    torch.testing.assert_close(drawn[0, :, 2, 2], 0.85 * torch.tensor([0.5, 0.0, 0.5]))


def test_a_map_that_is_not_finite_is_tinted_and_its_neighbour_is_not():
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 0, 0] = torch.nan
    drawn = class_overlay(torch.zeros(2, 3, 4, 4), maps, torch.tensor([[RED], [RED]]))
    torch.testing.assert_close(drawn[0, :, 3, 3], torch.tensor([0.3, 0.0, 0.0]))
    assert not drawn[1].any()


def test_the_legend_has_a_swatch_of_each_hue():
    classes = torch.tensor([[4, 0, 2], [2, 4, 1]])
    maps = torch.zeros(2, 3, 4, 4)
    names = ["ant", "bee", "cat", "dog", "a class with a name that needs more than one line"]
    picture = class_grid(
        torch.full((2, 3, 16, 16), 0.5),
        maps,
        classes,
        torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]]),
        class_names=names,
        captions=["one", "two"],
        title="epoch 3",
    )
    pixels = np.asarray(picture).reshape(-1, 3)
    counts = {}
    for index, colour in class_colours(classes).items():
        wanted = np.round(np.array(colour) * 255)
        counts[index] = int((np.abs(pixels - wanted).max(axis=1) <= 1).sum())
    # A swatch is 10 by 10; two images show the classes 4 and 2.
    assert counts == {4: 200, 0: 100, 2: 200, 1: 100}


def test_a_legend_that_is_higher_than_its_picture_has_room():
    classes = torch.arange(20).view(2, 10)
    names = [f"the class with the number {index}" for index in range(20)]
    picture = class_grid(
        torch.full((2, 3, 16, 16), 0.5),
        torch.zeros(2, 10, 4, 4),
        classes,
        torch.full((2, 10), 0.1),
        class_names=names,
        captions=["one", "two"],
    )
    pixels = np.asarray(picture).reshape(-1, 3)
    for colour in class_colours(classes).values():
        assert (np.abs(pixels - np.round(np.array(colour) * 255)).max(axis=1) <= 1).sum() == 100
