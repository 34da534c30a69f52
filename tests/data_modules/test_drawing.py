import math
from random import Random

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from lit_decom.data.drawing import Canvas, Pose, arc, band, cluttered, ellipse, grown, paint, star

SQUARE = [(2, 2), (5.9, 2), (5.9, 5.9), (2, 5.9)]


def blank(size=8):
    return Canvas(size, Image.new("RGB", (size, size), (10, 20, 30)))


def area(points):
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    return abs(sum(x * v - u * y for (x, y), (u, v) in pairs)) / 2


def test_a_polygon_fills_picture_and_part_map_alike():
    canvas = blank()
    canvas.polygon(SQUARE, (200, 100, 0), part=3)
    expected = torch.zeros(8, 8, dtype=torch.uint8)
    expected[2:6, 2:6] = 3
    picture = pil_to_tensor(canvas.picture())
    assert torch.equal(pil_to_tensor(canvas.parts())[0], expected)
    assert picture[:, 3, 3].tolist() == [200, 100, 0]
    assert picture[:, 1, 1].tolist() == [10, 20, 30]


def test_an_edge_within_a_pixel_is_smooth_and_its_part_goes_by_the_centre():
    canvas = blank()
    canvas.polygon([(0, 0), (7.9, 0), (7.9, 3), (0, 3)], (255, 255, 255), part=1)
    covered = pil_to_tensor(canvas.picture())[0, 3, 4].item()
    assert covered == pytest.approx((255 + 2 * 10) / 3, abs=1)
    assert pil_to_tensor(canvas.parts())[0, :, 4].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_a_later_part_hides_an_earlier_one_and_a_detail_belongs_to_the_part_below():
    canvas = blank()
    canvas.polygon([(0, 0), (7.9, 0), (7.9, 7.9), (0, 7.9)], (1, 1, 1), part=1)
    canvas.polygon(SQUARE, (2, 2, 2), part=2)
    canvas.polygon([(3, 3), (3.9, 3), (3.9, 3.9), (3, 3.9)], (3, 3, 3))
    parts = pil_to_tensor(canvas.parts())[0]
    assert parts.unique(return_counts=True)[1].tolist() == [48, 16]
    assert parts[3, 3] == 2
    assert pil_to_tensor(canvas.picture())[0, 3, 3] == 3


def test_a_pattern_stays_inside_its_part():
    canvas = blank()
    canvas.polygon(SQUARE, (200, 0, 0), part=2)
    canvas.pattern([[(0, 3), (7.9, 3), (7.9, 3.9), (0, 3.9)]], (0, 255, 0), part=2)
    green = pil_to_tensor(canvas.picture())[1]
    assert (green == 255).nonzero().tolist() == [[3, 2], [3, 3], [3, 4], [3, 5]]


def test_a_pose_mirrors_then_turns_then_scales_then_moves():
    pose = Pose(x=10, y=20, scale=2, angle=math.pi / 2, mirrored=True)
    ((x, y),) = pose.place([(1, 3)])
    assert (x, y) == (pytest.approx(10 - 6), pytest.approx(20 - 2))


def test_shapes_have_the_area_of_their_formula():
    assert area(ellipse(3, 4, 2, 1, angle=0.7, n=400)) == pytest.approx(2 * math.pi, rel=1e-3)
    assert area(star(0, 0, 2, 3, 0.5)) == pytest.approx(3 * math.sqrt(3), rel=1e-6)
    assert area(band(0, 0, 2, 2, (0, math.pi), width=0.2)) == pytest.approx(math.pi * 2 * 0.2, rel=2e-2)
    assert arc(1, 1, 2, 3, (0, math.pi / 2))[-1] == (pytest.approx(1), pytest.approx(4))


def test_a_grown_shape_is_farther_from_its_centre_by_the_margin():
    assert area(grown(ellipse(5, 5, 2, 2, n=400), 0.5)) == pytest.approx(math.pi * 2.5**2, rel=1e-3)


def test_paint_turns_a_hue_around():
    assert paint(0.0, 1.0, 1.0) == paint(1.0, 1.0, 1.0) == (255, 0, 0)
    assert paint(1 / 3, 1.0, 0.6) == (0, 153, 0)


def test_clutter_has_no_parts_and_depends_on_its_generator_alone():
    first, same, other = (cluttered(Random(seed), 48) for seed in (1, 1, 2))
    assert first.parts().getextrema() == (0, 0)
    assert first.picture().tobytes() == same.picture().tobytes() != other.picture().tobytes()
