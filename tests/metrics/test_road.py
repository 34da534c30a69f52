import pytest
import torch
from torchmetrics import MetricCollection

from lit_decom.evidence import capture
from lit_decom.functional.road import imputation_noise
from lit_decom.metrics.road import ROAD
from tests.helpers.evidence import Evidence, brightness, classifier, contrast
from tests.helpers.metric_tester import assert_two_processes_equal_one, check_metric

STD = torch.tensor([0.2, 0.25, 0.3])


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    images, maps = torch.randn(5, 3, 8, 6, generator=generator), torch.rand(5, 8, 6, generator=generator)
    return {"maps": maps, "capture": Evidence(images, contrast, 0.5 + 0 * STD, STD), "labels": torch.arange(5) % 4}


def values(inputs, **conventions):
    metric = ROAD(**conventions)
    metric.update(**inputs)
    return metric.values


@pytest.mark.parametrize("order", ["combined", "morf", "lerf"])
@pytest.mark.parametrize("target", ["predicted", "label"])
def test_it_keeps_the_contract(order, target, inputs):
    metric = ROAD(percentages=(20, 60), order=order, target=target)
    expected = check_metric(metric, inputs)
    assert -0.5 < expected.item() < 1
    inputs["maps"][1] = 0.0
    assert not check_metric(metric, inputs).isnan()


def test_two_processes_equal_one(inputs):
    metric = ROAD(percentages=(50,))
    assert_two_processes_equal_one(metric, inputs, check_metric(metric, inputs))


def four_pixels(**conventions):
    evidence = Evidence(torch.tensor([[[[0.0, 6.0, 1.0, 3.0]]]]), brightness)
    return ROAD(percentages=(25, 50), quantity="logit", noise=0.0, **conventions), evidence


@pytest.mark.parametrize(("order", "expected"), [("morf", 5.25), ("lerf", 15.0), ("combined", 4.875)])
def test_values_known_on_paper(order, expected):
    # Most relevant first the row becomes (0, 1/2, 1, 3) and (0, 1, 2, 3), least relevant first (6, 6, 1, 3) and
    # (6, 6, 1, 1).
    metric, evidence = four_pixels(order=order)
    metric.update(torch.tensor([[[0.1, 0.9, 0.5, 0.2]]]), evidence)
    assert metric.compute().item() == expected
    assert metric.rows.tolist() == [[5.25, 15.0]]


def test_accuracy_asks_whether_the_class_is_still_predicted():
    # Least relevant first the bright pixel is gone and the sum is negative, most relevant first it is not.
    evidence = Evidence(torch.tensor([[[[-1.0, -1.0, 9.0, -1.0]]]]), brightness)
    metric = ROAD(percentages=(25,), quantity="accuracy", noise=0.0)
    metric.update(torch.tensor([[[0.2, 0.1, 0.9, 0.3]]]), evidence)
    assert metric.rows.tolist() == [[0.0, 1.0]]
    assert metric.compute().item() == 0.5


def test_the_class_followed_is_an_argument():
    metric, evidence = four_pixels(target="label")
    metric.update(torch.tensor([[[0.1, 0.9, 0.5, 0.2]]]), evidence, labels=torch.tensor([1]))
    assert metric.rows.tolist() == [[-5.25, -15.0]]


def test_an_opposite_map_has_the_opposite_value(inputs):
    forth = values(inputs, noise=0.0)
    inputs["maps"] = -inputs["maps"]
    # half the difference of mean probabilities
    torch.testing.assert_close(values(inputs, noise=0.0), -forth, rtol=0, atol=1e-6)


def altered_images(inputs, **conventions):
    """The images that the network is shown for one percentage, and which of their pixels were removed."""
    shown = []

    def note(images):
        shown.append(images)
        return contrast(images)

    evidence = Evidence(inputs["capture"].images, note, std=STD)
    ROAD(percentages=(50,), seed=3, **conventions).update(inputs["maps"], evidence)
    return next(images for images in shown if len(images) == 10)


def test_noise_is_scaled_from_the_unit_image_to_the_normalised_one(inputs):
    plain = altered_images(inputs, noise=0.0)
    removed = plain != inputs["capture"].images.repeat_interleave(2, dim=0)
    assert removed.float().mean().item() == 0.5
    field = 0.1 * imputation_noise((3, 8, 6), seed=3)
    for space, noise in {"input": field, "unit": field / STD[:, None, None]}.items():
        added = altered_images(inputs, noise=0.1, noise_space=space) - plain
        # what is added to values of order ten is known to their last digit
        torch.testing.assert_close(added, noise * removed, rtol=0, atol=1e-5)


def test_the_value_is_reproducible_depends_on_the_seed_and_touches_no_global_generator(inputs):
    state = torch.get_rng_state()
    first = values(inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(values(inputs), first)
    assert not torch.equal(values(inputs, seed=1), first)


@pytest.mark.parametrize("size", [1, 7])
def test_the_value_does_not_depend_on_the_chunk(inputs, size):
    whole = values(inputs)
    inputs["capture"].chunk_size, inputs["capture"].calls = size, []
    # mean probabilities; other chunks may be summed in another order
    torch.testing.assert_close(values(inputs), whole, rtol=0, atol=1e-6)
    assert max(inputs["capture"].calls) <= size
    assert sum(inputs["capture"].calls) == 5 * 18


def test_maps_without_an_order_and_broken_images_are_undefined_and_counted(inputs):
    clean = values(inputs)
    inputs["maps"][0], inputs["maps"][1, 2, 2] = 0.5, torch.nan
    inputs["capture"].images[3, 0, 0, 0] = torch.nan
    metric = ROAD()
    metric.update(**inputs)
    assert metric.rows.isnan().all(dim=1).nonzero().flatten().tolist() == [0, 1, 3]
    assert metric.n_undefined == 3
    torch.testing.assert_close(metric.values[[2, 4]], clean[[2, 4]], rtol=0, atol=1e-6)


def test_unknown_normalisation_is_an_error_that_names_the_remedy(inputs):
    inputs["capture"].std = None
    with pytest.raises(ValueError, match="capture with `std` for `noise_space='unit'`, but got None; or use 'input'"):
        values(inputs)
    assert values(inputs, noise_space="input").isfinite().all()


def test_half_precision_images_are_scored(inputs):
    full = values(inputs)
    inputs["capture"].images = inputs["capture"].images.half()
    # probabilities of images that are known to float16's three digits
    torch.testing.assert_close(values(inputs), full, rtol=0, atol=5e-3)


def test_directions_bounds_and_repr():
    metrics = {order: ROAD(order=order) for order in ("combined", "morf", "lerf")}
    assert {order: metric.higher_is_better for order, metric in metrics.items()} == {
        "combined": True,
        "morf": False,
        "lerf": True,
    }
    assert (metrics["combined"].plot_lower_bound, metrics["combined"].plot_upper_bound) == (-0.5, 0.5)
    assert (metrics["morf"].plot_lower_bound, metrics["morf"].plot_upper_bound) == (0.0, 1.0)
    assert ROAD(quantity="logit").plot_upper_bound is None
    assert ROAD(quantity="logit").plot_lower_bound is None
    assert repr(ROAD(percentages=[50])) == (
        "ROAD(percentages=(50,), order='combined', quantity='probability', target='predicted', noise=0.01, "
        "noise_space='unit', seed=0)"
    )


def test_three_orders_fit_into_one_collection(inputs):
    collection = MetricCollection({order: ROAD((50,), order) for order in ("combined", "morf", "lerf")})
    collection.update(**inputs, ids=list("abcde"))
    result = collection.compute()
    torch.testing.assert_close(result["combined"], (result["lerf"] - result["morf"]) / 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"order": "both"},
        {"quantity": "odds"},
        {"target": "true"},
        {"noise_space": "output"},
        {"noise": -1.0},
        {"percentages": (0,)},
        {"percentages": ()},
    ],
)
def test_wrong_options_are_refused_at_construction(wrong):
    with pytest.raises(ValueError, match=f"Expected `{next(iter(wrong))}` to be"):
        ROAD(**wrong)


def test_a_real_capture_gives_the_values_of_its_stand_in():
    model = classifier()
    images, maps = torch.randn(3, 3, 10, 10), torch.rand(3, 10, 10)
    both = (
        Evidence(images, model, std=STD),
        capture(model, "0", images, "predicted", mean=STD, std=STD, chunk_size=7),
    )
    found = [values({"maps": maps, "capture": evidence}) for evidence in both]
    # mean probabilities; other chunks may be summed in another order
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # it calls NumPy with tensors
def test_agrees_with_pytorch_grad_cam_without_noise_and_ties():
    road = pytest.importorskip("pytorch_grad_cam.metrics.road", exc_type=ImportError)
    confidence = pytest.importorskip("pytorch_grad_cam.metrics.perturbation_confidence", exc_type=ImportError)
    model = classifier()
    generator = torch.Generator().manual_seed(1)
    images = 3 * torch.randn(3, 3, 10, 10, generator=generator)
    # It removes what is at or above a percentile of the map, and of one minus the map: the same whole numbers of pixels
    # as ours when the percentages divide the image, no value repeats, and one minus the map is exact.
    maps = torch.stack([torch.randperm(100, generator=generator) for _ in range(3)]) / 128
    maps = maps.view(3, 10, 10)
    evidence = Evidence(images, model)
    targets = [lambda logits, index=index: logits.softmax(0)[index] for index in evidence.targets.tolist()]
    imputer = road.NoisyLinearImputer(noise=0.0)
    scores = {}
    for name, remove in {
        "morf": confidence.RemoveMostRelevantFirst,
        "lerf": confidence.RemoveLeastRelevantFirst,
    }.items():
        per_percentile = [
            confidence.PerturbationConfidenceMetric(remove(percentile, imputer))(images, maps.numpy(), targets, model)
            for percentile in range(10, 100, 10)
        ]
        scores[name] = torch.stack([torch.from_numpy(one) for one in per_percentile]).mean(0)
    ours = values({"maps": maps, "capture": evidence}, noise=0.0)
    # means of float32 probabilities
    torch.testing.assert_close(ours, (scores["lerf"] - scores["morf"]) / 2, rtol=0, atol=1e-6)
    assert ours.abs().min() > 1e-3
