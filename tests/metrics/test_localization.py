import pytest
import torch
from torch.nn import functional
from torchmetrics import MetricCollection

from lit_decom.functional.boxes import box_ious, max_box_accuracy
from lit_decom.functional.localization import pixel_average_precision
from lit_decom.metrics.localization import (
    EnergyPointingGame,
    MaskIoU,
    MaxBoxAccuracy,
    PixelAveragePrecision,
    PointingGame,
    RelevanceRank,
)
from tests.helpers.metric_tester import (
    Inputs,
    assert_same,
    assert_two_processes_equal_one,
    check_metric,
    on_two_processes,
    result,
    singles,
)


def everything(n: int = 7) -> Inputs:
    """Maps that know a little of the object."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, 12, 16, dtype=torch.bool)
    boxes = []
    for i in range(n):
        x, y = torch.randint(0, 6, (2,), generator=generator).tolist()
        masks[i, y : y + 5, x : x + 8] = True
        boxes.append(torch.tensor([[x, y, x + 8, y + 5]]))
    noise = torch.rand(n, 3, 12, 16, generator=generator)
    noise *= torch.linspace(0, 6, n)[:, None, None, None]
    maps = functional.avg_pool2d(masks.float(), 5, stride=1, padding=2) + noise[:, 0]
    maps[2] = 0  # an image on which every metric is undefined
    labels = torch.randint(0, 3, (n,), generator=generator)
    return {"maps": maps, "masks": masks, "boxes": boxes, "labels": labels}


METRICS = {
    PointingGame(tolerance=1): ("maps", "masks"),
    PointingGame(tolerance=1, per_class=True): ("maps", "masks", "labels"),
    EnergyPointingGame(): ("maps", "masks"),
    RelevanceRank(ties="expected"): ("maps", "masks"),
    MaskIoU(): ("maps", "masks"),
    PixelAveragePrecision(): ("maps", "masks"),
    MaxBoxAccuracy(n_thresholds=10): ("maps", "boxes"),
    MaxBoxAccuracy(version=1, convention="plain"): ("maps", "boxes"),
}


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_batches_copies_precision_and_processes_do_not_matter(metric):
    inputs = {name: value for name, value in everything().items() if name in METRICS[metric]}
    expected = check_metric(metric, inputs)
    assert 0 < expected < 1
    assert_two_processes_equal_one(metric, inputs, expected)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_the_blank_map_is_counted_and_nothing_is_silently_zero(metric):
    inputs = {name: value for name, value in everything().items() if name in METRICS[metric]}
    metric = metric.clone()
    for batch in singles(inputs):
        metric.update(**batch)
    assert metric.n_undefined == 1
    assert metric.values.isnan().nonzero().tolist() == [[2]]
    blank = {name: value[2:3] for name, value in inputs.items()}
    assert result(metric.clone(), [inputs]).isfinite()
    metric.reset()
    metric.update(**blank)
    assert metric.compute().isnan()


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_reducing_some_rows_is_scoring_those_images(metric):
    inputs = {name: value for name, value in everything().items() if name in METRICS[metric]}
    metric = metric.clone()
    metric.update(**inputs)
    chosen = [0, 3, 5]
    some = {k: [v[i] for i in chosen] if isinstance(v, list) else v[chosen] for k, v in inputs.items()}
    fresh = metric.clone()
    fresh.reset()
    fresh.update(**some)
    assert_same(metric.reduce(metric.rows[chosen]), fresh.compute())


def test_the_repr_states_every_convention():
    assert repr(PointingGame()) == "PointingGame(tolerance=15.0, scale_to_image=False, per_class=False)"
    assert repr(MaxBoxAccuracy()) == (
        "MaxBoxAccuracy(version=2, iou_thresholds=(0.3, 0.5, 0.7), n_thresholds=100, convention='wsol')"
    )


def test_one_call_of_a_collection_serves_every_metric():
    collection = MetricCollection({f"metric_{i}": metric.clone() for i, metric in enumerate(METRICS)})
    inputs = everything()
    collection.update(**inputs, logits=torch.rand(7, 3))
    for value, (metric, names) in zip(collection.compute().values(), METRICS.items(), strict=True):
        assert_same(value, result(metric, [{name: inputs[name] for name in names}]))


def test_maps_and_masks_may_come_by_position():
    inputs = everything()
    metric = EnergyPointingGame()
    metric.update(inputs["maps"], inputs["masks"])
    assert_same(metric.compute(), result(EnergyPointingGame(), [{k: inputs[k] for k in ("maps", "masks")}]))


def point_maps(hits: list[bool]) -> Inputs:
    maps = torch.zeros(len(hits), 1, 4)
    for i, hit in enumerate(hits):
        maps[i, 0, 0 if hit else 3] = 1.0
    masks = torch.tensor([[[True, False, False, False]]]).repeat(len(hits), 1, 1)
    return {"maps": maps, "masks": masks}


def test_the_pointing_game_over_classes_weighs_classes_and_not_images():
    inputs = point_maps([True, True, True, False]) | {"labels": torch.tensor([4, 4, 4, 9])}
    assert result(PointingGame(tolerance=0), [inputs]) == 0.75
    per_class = PointingGame(tolerance=0, per_class=True)
    assert result(per_class, [inputs]) == 0.5
    # a class whose only image is undefined is no class
    inputs["masks"][3] = False
    assert result(per_class, [inputs]) == 1
    # a class that is split over two processes is one class
    inputs = point_maps([True, True, False]) | {"labels": torch.tensor([0, 1, 1])}
    for answers in on_two_processes(
        per_class, ([{k: v[:2] for k, v in inputs.items()}], [{k: v[2:] for k, v in inputs.items()}])
    ):
        assert answers["compute"] == 0.75
    with pytest.raises(ValueError, match="Expected `labels` when `per_class` is True"):
        per_class.update(inputs["maps"], inputs["masks"])


def test_pixel_average_precision_pools_the_pixels_of_all_images():
    maps = torch.tensor([[[1.0, 0.5, 0.0]], [[1.0, 0.2, 0.0]]])
    masks = torch.tensor([[[True, False, False]], [[False, True, True]]])
    metric = PixelAveragePrecision(n_thresholds=10)
    metric.update(maps, masks)
    # by falling score: 1 and 1 (one right), 0.5 (wrong), 0.2 (right), 0 and 0 (one right)
    assert metric.compute().item() == pytest.approx(1 / 3 * (1 / 2 + 2 / 4 + 3 / 6))
    assert_same(metric.values, pixel_average_precision(maps, masks, 10))
    assert metric.values.mean() != metric.compute()


def test_the_box_threshold_belongs_to_the_images_reduced():
    inputs = everything()
    metric = MaxBoxAccuracy(n_thresholds=20)
    metric.update(inputs["maps"], inputs["boxes"])
    ious = box_ious(inputs["maps"], inputs["boxes"], n_thresholds=20)
    assert_same(metric.compute(), max_box_accuracy(ious)[0])
    strict = MaxBoxAccuracy(iou_thresholds=(0.9,), n_thresholds=20)
    assert_same(strict.score(metric.rows), max_box_accuracy(ious, (0.9,))[1])
    assert not torch.equal(strict.score(metric.rows), metric.values)
    assert_same(metric.compute(), metric.values.nanmean())
    alone = torch.stack([metric.reduce(metric.rows[i : i + 1]) for i in range(7)])
    assert alone.nanmean() > metric.compute()


def test_the_first_version_of_box_accuracy_asks_for_one_half_and_the_second_for_three_overlaps():
    assert MaxBoxAccuracy(version=1).iou_thresholds == (0.5,)
    assert MaxBoxAccuracy(version=2).iou_thresholds == (0.3, 0.5, 0.7)
    assert MaxBoxAccuracy(iou_thresholds=(0.4,)).iou_thresholds == (0.4,)
