import pytest
import torch
from torchmetrics import MetricCollection

from lit_decom.evidence import capture
from lit_decom.metrics.insertion_deletion import DeletionAUC, InsertionAUC, InsertionDeletion
from tests.helpers.evidence import Evidence, FixedMaps, brightness, classifier, contrast
from tests.helpers.metric_tester import assert_two_processes_equal_one, check_metric

METRICS = [InsertionAUC, DeletionAUC, InsertionDeletion]


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    images, maps = torch.randn(5, 3, 6, 4, generator=generator), torch.rand(5, 6, 4, generator=generator)
    known = {"mean": torch.full((3,), 0.4), "std": torch.full((3,), 0.2)}
    return {"maps": maps, "capture": Evidence(images, contrast, **known), "labels": torch.arange(5) % 4}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("target", ["predicted", "label"])
def test_metrics_keep_the_contract(metric, target, inputs):
    expected = check_metric(metric(n_steps=6, target=target), inputs)
    assert -1 < expected.item() < 1
    inputs["maps"][1] = 0.0
    assert not check_metric(metric(n_steps=6, target=target), inputs).isnan()


def test_two_processes_equal_one(inputs):
    metric = InsertionDeletion(n_steps=4)
    assert_two_processes_equal_one(metric, inputs, check_metric(metric, inputs))


def two_pixel_values(metric, *maps, image=(3.0, 1.0)):
    images = torch.tensor([[[list(image)]]]).repeat(len(maps), 1, 1, 1)
    metric.update(torch.tensor([[list(one)] for one in maps]), Evidence(images, brightness))
    return metric.values.tolist()


def test_two_pixel_areas_known_on_paper():
    conventions = {"n_steps": 2, "quantity": "logit", "substrate": "zeros"}
    maps = ([0.9, 0.2], [0.2, 0.9])
    # Insertion: 0, 3, 4 and 0, 1, 4; deletion: 4, 1, 0 and 4, 3, 0.
    assert two_pixel_values(InsertionAUC(**conventions), *maps) == [2.5, 1.5]
    assert two_pixel_values(DeletionAUC(**conventions), *maps) == [1.5, 2.5]
    both = InsertionDeletion(n_steps=2, quantity="logit", insertion_substrate="zeros")
    assert two_pixel_values(both, *maps) == [1.0, -1.0]
    assert both.rows.tolist() == [[2.5, 1.5], [1.5, 2.5]]


def test_probability_and_accuracy_are_read_from_the_same_curve():
    # The logits of the class are 0, -1, 2 against their opposites.
    conventions = {"n_steps": 2, "substrate": "zeros"}
    probabilities = torch.sigmoid(2 * torch.tensor([0.0, -1.0, 2.0])).tolist()
    (area,) = two_pixel_values(InsertionAUC(**conventions), [0.9, 0.2], image=(-1.0, 3.0))
    assert area == pytest.approx(probabilities[0] / 4 + probabilities[1] / 2 + probabilities[2] / 4)
    (area,) = two_pixel_values(InsertionAUC(quantity="accuracy", **conventions), [0.9, 0.2], image=(-1.0, 3.0))
    assert area == 0.5  # 1 at the start, a tie that goes to the first class; 0; 1


def test_the_class_followed_is_an_argument():
    evidence, maps = Evidence(torch.tensor([[[[3.0, 1.0]]]]), brightness), torch.tensor([[[0.9, 0.2]]])
    values = []
    for target in ("predicted", "label"):
        metric = DeletionAUC(n_steps=2, quantity="logit", target=target)
        metric.update(maps, evidence, labels=torch.tensor([1]))
        values.append(metric.compute().item())
    assert values == [1.5, -1.5]


def test_the_substrate_and_its_space_are_arguments():
    known = {"mean": torch.tensor([0.5]), "std": torch.tensor([0.25])}
    evidence, maps = Evidence(torch.tensor([[[[3.0, 1.0]]]]), brightness, **known), torch.tensor([[[0.9, 0.2]]])

    def area(**conventions):
        metric = DeletionAUC(n_steps=2, quantity="logit", **conventions)
        metric.update(maps, evidence)
        return metric.compute().item()

    assert area() == 1.5  # 4, 1, 0
    assert area(mask_space="unit") == -0.5  # black is -2: 4, -1, -4
    # the blurred image is known to a tenth; the two other substrates are off by one and more
    assert area(substrate="blur") == pytest.approx((4 + 2 * (1 + 0.04) + 0.08) / 4, abs=0.1)


def test_the_difference_is_that_of_the_two_metrics(inputs):
    collection = MetricCollection([metric(n_steps=6) for metric in METRICS])
    collection.update(**inputs, ids=list("abcde"), masks=None)
    insertion, deletion, difference = (collection[metric.__name__] for metric in METRICS)
    torch.testing.assert_close(difference.values, insertion.values - deletion.values)
    torch.testing.assert_close(difference.rows, torch.stack([insertion.values, deletion.values], dim=1))


@pytest.mark.parametrize("metric", METRICS)
def test_the_value_does_not_depend_on_the_chunk(metric, inputs):
    values = []
    for size in (1, 4, 1000):
        inputs["capture"].chunk_size = size
        scored = metric(n_steps=6)
        scored.update(**inputs)
        values.append(scored.values)
        assert max(inputs["capture"].calls) <= size
    # areas under probabilities; other chunks may be summed in another order
    torch.testing.assert_close(values[0], values[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(values[1], values[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_maps_without_an_order_and_broken_images_are_undefined_and_counted(metric, inputs):
    clean = metric(n_steps=4)
    clean.update(**inputs)
    inputs["maps"][0], inputs["maps"][1, 2, 2] = 0.5, torch.nan
    inputs["capture"].images[3, 0, 0, 0] = torch.nan
    scored = metric(n_steps=4)
    scored.update(**inputs)
    assert scored.rows.isnan().all(dim=1).nonzero().flatten().tolist() == [0, 1, 3]
    assert scored.n_undefined == 3
    torch.testing.assert_close(scored.values[[2, 4]], clean.values[[2, 4]])
    torch.testing.assert_close(scored.compute(), scored.values[[2, 4]].mean())


def test_a_difference_with_one_undefined_side_is_undefined_as_a_whole(inputs):
    def normalising(images):
        return contrast(images / images.flatten(1).norm(dim=1)[:, None, None, None])

    evidence = Evidence(inputs["capture"].images, normalising)
    metric, insertion = InsertionDeletion(n_steps=4), InsertionAUC(n_steps=4)
    for one in (metric, insertion):
        one.update(inputs["maps"], evidence)
    assert insertion.values.isfinite().all()
    assert metric.rows.isnan().all()
    assert metric.n_undefined == 5


def test_half_precision_images_are_scored(inputs):
    full, half = InsertionDeletion(n_steps=6), InsertionDeletion(n_steps=6)
    full.update(**inputs)
    inputs["capture"].images = inputs["capture"].images.half()
    half.update(**inputs)
    # areas under probabilities of images that are known to float16's three digits
    torch.testing.assert_close(half.values, full.values, rtol=0, atol=5e-3)


def test_defaults_are_those_of_rise_and_conventions_show_in_the_repr():
    assert repr(InsertionAUC()) == (
        "InsertionAUC(n_steps=224, quantity='probability', target='predicted', substrate='blur', mask_space='input', "
        "scale_to_image=False)"
    )
    assert repr(DeletionAUC()) == (
        "DeletionAUC(n_steps=224, quantity='probability', target='predicted', substrate='zeros', mask_space='input', "
        "scale_to_image=False)"
    )


@pytest.mark.parametrize(
    ("metric", "wrong"),
    [
        (InsertionAUC, {"quantity": "odds"}),
        (DeletionAUC, {"target": "true"}),
        (DeletionAUC, {"substrate": "mean"}),
        (InsertionAUC, {"mask_space": "output"}),
        (InsertionDeletion, {"insertion_substrate": "mean"}),
        (InsertionDeletion, {"deletion_substrate": "mean"}),
        (InsertionAUC, {"n_steps": 0}),
    ],
)
def test_wrong_options_are_refused_at_construction(metric, wrong):
    with pytest.raises(ValueError, match=f"Expected `{next(iter(wrong))}` to be"):
        metric(**wrong)


def test_directions_and_bounds():
    assert [metric.higher_is_better for metric in METRICS] == [True, False, True]
    assert [metric().plot_lower_bound for metric in METRICS] == [0.0, 0.0, -1.0]
    assert [metric().plot_upper_bound for metric in METRICS] == [1.0, 1.0, 1.0]
    assert InsertionAUC(quantity="logit").plot_lower_bound is None
    assert InsertionAUC(quantity="logit").plot_upper_bound is None


def test_a_real_capture_gives_the_values_of_its_stand_in():
    model = classifier()
    images, maps = torch.randn(3, 3, 10, 10), torch.rand(3, 10, 10)
    values = []
    for evidence in (Evidence(images, model), capture(model, "0", images, "predicted", chunk_size=7)):
        metric = InsertionDeletion(n_steps=10)
        metric.update(maps, evidence)
        values.append(metric.rows)
    # areas under probabilities; other chunks may be summed in another order
    torch.testing.assert_close(*values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_steps", [1, 5, 20, 100])
def test_agrees_with_torchcam_whose_insertion_starts_from_zeros(n_steps):
    peer = pytest.importorskip("torchcam.metrics", exc_type=ImportError)
    model = classifier()
    generator = torch.Generator().manual_seed(5)
    images = 3 * torch.randn(4, 3, 10, 10, generator=generator)
    maps = (8 * torch.rand(4, 10, 10, generator=generator)).round()  # with ties
    metric = InsertionDeletion(n_steps=n_steps, insertion_substrate="zeros")
    metric.update(maps, Evidence(images, model))
    # Its steps are whole numbers of pixels with a shorter last one: equal where the number of steps divides the image.
    other = peer.DeletionInsertionMetric(FixedMaps(model, maps), lambda logits: logits.softmax(1), steps=n_steps)
    other.update(images)
    insertion, deletion = metric.rows.mean(0).tolist()
    # means of float32 probabilities
    assert insertion == pytest.approx(other.summary()["insertion_auc"], abs=1e-6)
    assert deletion == pytest.approx(other.summary()["deletion_auc"], abs=1e-6)
