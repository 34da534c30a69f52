import pytest
import torch
from torch import Tensor

from lit_decom.functional.boxes import box_ious, max_box_accuracy


def regions(cut: Tensor) -> list[list[tuple[int, int]]]:
    """Flood fill over the eight neighbours."""
    left = {(i, j) for i, j in cut.nonzero().tolist()}
    found = []
    while left:
        frontier, region = [min(left)], []
        left.discard(frontier[0])
        while frontier:
            i, j = frontier.pop()
            region.append((i, j))
            around = {(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)} & left
            frontier.extend(around)
            left -= around
        found.append(region)
    return found


def iou_by_definition(a: list[float], b: list[float], extra: int) -> float:
    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(0, x1 - x0 + extra) * max(0, y1 - y0 + extra)

    overlap = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return overlap / (area(*a) + area(*b) - overlap)


def best_iou_by_definition(
    values: Tensor, boxes: list[list[float]], tau: float, version: int, convention: str
) -> float:
    stretched = (values - values.min()) / (values.max() - values.min())
    cut = (stretched * 255).int() > int(tau * 255) if convention == "wsol" else stretched > tau
    found = regions(cut)
    if version == 1:
        found = [max(found, key=len)]
    ious = []
    for region in found:
        rows, columns = zip(*region, strict=True)
        box = [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
        if convention == "wsol":
            box[2:] = [min(box[2], values.shape[1] - 1), min(box[3], values.shape[0] - 1)]
        ious.extend(iou_by_definition(box, given, int(convention == "wsol")) for given in boxes)
    return max(ious)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("convention", ["wsol", "plain"])
def test_ious_agree_with_flood_fill_at_every_threshold(version, convention):
    generator = torch.Generator().manual_seed(version)
    maps = torch.nn.functional.interpolate(torch.rand(4, 1, 4, 4, generator=generator), size=(11, 14), mode="bicubic")[
        :, 0
    ]
    boxes = [
        [[2.0, 1.0, 8.0, 6.0]],
        [[0.0, 0.0, 5.0, 4.0], [6.0, 5.0, 13.0, 10.0]],
        [[3.0, 3.0, 4.0, 4.0]],
        [[0.0, 0.0, 13.0, 10.0]],
    ]
    ious = box_ious(maps, [torch.tensor(b) for b in boxes], version, 20, convention)
    expected = [
        [best_iou_by_definition(values, given, i / 20, version, convention) for i in range(20)]
        for values, given in zip(maps, boxes, strict=True)
    ]
    torch.testing.assert_close(ious, torch.tensor(expected).float())


def blob(rows: slice, columns: slice, value: float = 1.0) -> Tensor:
    maps = torch.zeros(1, 10, 10)
    maps[0, rows, columns] = value
    return maps


def test_the_reference_adds_a_pixel_on_two_sides():
    maps = blob(slice(2, 5), slice(3, 7))
    # 4 x 3 pixels, predicted as 5 x 4
    wsol = box_ious(maps, [torch.tensor([[3, 2, 6, 4]])], n_thresholds=1)
    assert wsol.item() == pytest.approx(12 / 20)
    plain = box_ious(maps, [torch.tensor([[3.0, 2.0, 7.0, 5.0]])], n_thresholds=1, convention="plain")
    assert plain.item() == 1


def test_the_reference_stops_at_the_border():
    maps = blob(slice(7, 10), slice(6, 10))
    assert box_ious(maps, [torch.tensor([[6, 7, 9, 9]])], n_thresholds=1).item() == 1


def test_a_grey_level_equal_to_the_threshold_is_below_it():
    maps = blob(slice(0, 2), slice(0, 2)) + blob(slice(0, 2), slice(2, 6), value=128 / 255)
    both, one = torch.tensor([[0, 0, 6, 2]]), torch.tensor([[0, 0, 2, 2]])
    # int(0.5 * 255) = 127 keeps level 128, and 129 / 255 does not
    assert box_ious(maps, [both], n_thresholds=2)[0, 1].item() == 1
    shifted = maps - blob(slice(0, 2), slice(2, 6), value=1 / 255)
    assert box_ious(shifted, [one], n_thresholds=2)[0, 1].item() == 1


def test_version_one_predicts_from_the_largest_region_and_version_two_from_all():
    maps = blob(slice(0, 5), slice(0, 5)) + blob(slice(7, 9), slice(7, 9))
    boxes = [torch.tensor([[7.0, 7.0, 9.0, 9.0]])]
    assert box_ious(maps, boxes, version=1, n_thresholds=1, convention="plain").item() == 0
    assert box_ious(maps, boxes, version=2, n_thresholds=1, convention="plain").item() == 1


def test_regions_touch_at_corners_but_never_across_thresholds():
    maps = blob(slice(0, 2), slice(0, 2)) + blob(slice(2, 4), slice(2, 4), value=0.5)
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
    ious = box_ious(maps, boxes, n_thresholds=2, convention="plain")
    assert ious.tolist() == [[1.0, 0.25]]


def test_the_threshold_is_chosen_for_the_set_and_not_for_each_image():
    ious = torch.tensor([[0.9, 0.0], [0.9, 0.0], [0.0, 0.9]])
    accuracy, right = max_box_accuracy(ious, [0.5])
    assert accuracy.item() == pytest.approx(2 / 3)
    assert right.tolist() == [1, 1, 0]


def test_every_required_iou_has_its_own_best_threshold():
    ious = torch.tensor([[0.6, 0.3], [0.6, 0.3], [0.1, 0.3]])
    accuracy, right = max_box_accuracy(ious, [0.3, 0.5, 0.7])
    # 3 of 3 at the second threshold, 2 of 3 at the first, none
    assert accuracy.item() == pytest.approx((1 + 2 / 3 + 0) / 3)
    torch.testing.assert_close(right, torch.tensor([2 / 3, 2 / 3, 1 / 3]))


def test_undefined_images_are_nan_and_left_out_of_the_accuracy():
    maps = torch.cat(
        [
            blob(slice(2, 5), slice(3, 7)),
            torch.full((1, 10, 10), 0.3),
            blob(slice(0, 2), slice(0, 2)),
            blob(slice(0, 3), slice(0, 3)),
        ]
    )
    maps[2, 0, 0] = torch.nan
    given = torch.tensor([[3.0, 2.0, 7.0, 5.0]])
    ious = box_ious(maps, [given, given, given, given[:0]], convention="plain")
    assert ious.isnan().all(dim=1).tolist() == [False, True, True, True]
    accuracy, right = max_box_accuracy(ious)
    assert accuracy.item() == 1
    assert right.isnan().tolist() == [False, True, True, True]
    assert max_box_accuracy(ious[1:])[0].isnan()


def test_arguments_that_do_not_fit_are_refused():
    maps = blob(slice(2, 5), slice(3, 7))
    box = torch.tensor([[3.0, 2.0, 7.0, 5.0]])
    with pytest.raises(ValueError, match=r"one entry per image, but got shape \(1, 10, 10\) and 2 entries"):
        box_ious(maps, [box, box])
    with pytest.raises(ValueError, match=r"shape \(m, 4\), but got \[\(4,\)\]"):
        box_ious(maps, [box[0]])
    with pytest.raises(ValueError, match="Expected `version`"):
        box_ious(maps, [box], version=3)
    with pytest.raises(ValueError, match="Expected `n_thresholds`"):
        box_ious(maps, [box], n_thresholds=0)
    with pytest.raises(ValueError, match="Expected `convention`"):
        box_ious(maps, [box], convention="coco")
