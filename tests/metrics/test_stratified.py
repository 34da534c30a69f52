import math
from functools import partial

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy
from torchmetrics.wrappers import MetricTracker

from lit_decom.functional.intervals import mean_intervals
from lit_decom.metrics import MapHistory, MapStability
from lit_decom.metrics.complexity import Entropy, Gini
from lit_decom.metrics.localization import EnergyPointingGame, MaxBoxAccuracy, PixelAveragePrecision, PointingGame
from lit_decom.metrics.stratified import StratifiedWrapper
from tests.helpers.metric_tester import (
    Inputs,
    assert_same,
    assert_two_processes_equal_one,
    check_metric,
    cut,
    on_two_processes,
    result,
    singles,
)

Quiet = partial(StratifiedWrapper, min_count=0)


def images(energies: list[float], right: list[bool], confidences: list[float] | None = None) -> Inputs:
    """One image per energy inside the mask, answered right or wrong with the given confidence; NaN is a blank map."""
    inside = torch.tensor(energies)
    maps = torch.stack([inside, 1 - inside], dim=1).unsqueeze(1).nan_to_num(nan=0.0)
    confidence = torch.tensor(confidences or [0.9] * len(right), dtype=torch.float64)
    predicted = torch.zeros(len(right), dtype=torch.long)
    return {
        "maps": maps,
        "masks": torch.tensor([[[True, False]]]).expand(len(right), 1, 2).clone(),
        "logits": torch.stack([confidence.log(), (1 - confidence).log()], dim=1).float(),
        "labels": predicted.where(torch.tensor(right), 1),
    }


SIX = images([0.9, 0.7, 0.2, math.nan, 0.4, math.nan], [True, True, False, True, False, False])


def test_each_stratum_has_the_mean_of_its_own_defined_images():
    metric = Quiet(EnergyPointingGame())
    metric.update(SIX["maps"], SIX["masks"], logits=SIX["logits"], labels=SIX["labels"])
    assert_same(
        metric.compute(), {"all": torch.tensor(0.55), "correct": torch.tensor(0.8), "incorrect": torch.tensor(0.3)}
    )
    assert metric.counts() == {"all": 6, "correct": 3, "incorrect": 3}
    assert metric.undefined() == {"all": 2, "correct": 1, "incorrect": 1}
    assert metric.gap().item() == pytest.approx(0.5)
    assert metric.gap("incorrect", "all").item() == pytest.approx(-0.25)
    values, strata = metric.per_image()
    assert_same(values, torch.tensor([0.9, 0.7, 0.2, math.nan, 0.4, math.nan]))
    assert strata.tolist() == [0, 0, 1, 0, 1, 1]


def test_an_empty_stratum_is_absent_and_one_without_defined_images_is_nan():
    metric = Quiet(EnergyPointingGame())
    metric.update(**cut(SIX, 0, 2))
    assert list(metric.compute()) == ["all", "correct"]
    assert metric.gap().isnan()
    metric.update(**cut(SIX, 5))
    assert list(metric.compute()) == ["all", "correct", "incorrect"]
    assert metric.compute()["incorrect"].isnan()
    assert metric.undefined()["incorrect"] == 1
    assert metric.gap().isnan()
    metric.reset()
    metric.update(**cut(SIX, 2, 3))
    assert list(metric.compute()) == ["all", "incorrect"]


def test_no_image_at_all_is_nan():
    metric = Quiet(EnergyPointingGame())
    assert list(metric.compute()) == ["all"]
    assert metric.compute()["all"].isnan()
    metric.update(**cut(SIX, 0, 0))
    assert metric.compute()["all"].isnan()
    assert metric.counts() == {"all": 0}


def test_empty_strata_may_be_kept_as_nan():
    metric = Quiet(EnergyPointingGame(), keep_empty=True)
    metric.update(**cut(SIX, 0, 2))
    assert list(metric.compute()) == ["all", "correct", "incorrect"]
    assert metric.compute()["incorrect"].isnan()
    assert metric.counts()["incorrect"] == 0
    tracker = MetricTracker(metric.clone(), maximize=True)
    for batch in (cut(SIX, 0, 2), SIX):
        tracker.increment()
        tracker.update(**batch)
    assert_same(tracker.compute_all()["incorrect"], torch.tensor([math.nan, 0.3]))


CASES = {
    "correctness": Quiet(EnergyPointingGame()),
    "confidence": Quiet(EnergyPointingGame(), strata="confidence", n_bins=4),
    "class_accuracy": Quiet(EnergyPointingGame(), strata="class_accuracy", class_accuracy=torch.tensor([0.35, 1.0])),
    "set-level": Quiet(PixelAveragePrecision(n_thresholds=10)),
    "per class": Quiet(PointingGame(tolerance=0, per_class=True)),
    "interval": Quiet(EnergyPointingGame(), ci=0.9),
}


@pytest.mark.parametrize("name", CASES)
def test_batches_copies_precision_and_processes_do_not_matter(name):
    inputs = images(
        [0.9, 0.7, 0.2, math.nan, 0.4, 0.1, 0.3],
        [True, True, False, True, False, True, True],
        [0.6, 0.8, 0.85, 0.9, 0.55, 0.6, 0.95],
    )
    expected = check_metric(CASES[name], inputs)
    assert len(expected) > 1
    assert_two_processes_equal_one(CASES[name], inputs, expected)


def test_a_stratum_missing_on_one_process_is_there_on_both():
    right, wrong = cut(SIX, 0, 2), cut(SIX, 2, 3)
    questions = ("compute", "counts", "undefined", "gap", "interval", "averages", "per_image")
    one = Quiet(EnergyPointingGame())
    one.update(**right)
    one.update(**wrong)
    for shards in (([right], [wrong]), ([right, wrong], []), ([wrong], singles(right))):
        for answers in on_two_processes(Quiet(EnergyPointingGame()), shards, *questions):
            for question in questions[:-1]:
                assert_same(answers[question], getattr(one, question)())
            assert_same(answers["per_image"][0].sort().values, one.per_image()[0].sort().values)


class _Telling(StratifiedWrapper):
    def has_warned(self) -> bool:
        self.compute()
        return self._warned


def test_few_images_are_warned_about_once():
    metric = StratifiedWrapper(EnergyPointingGame())
    metric.update(**images([0.5] * 9 + [math.nan] * 3, [True] * 12))
    with pytest.warns(UserWarning, match=r"fewer than 10 images say little: \{'correct': 9\}"):
        metric.compute()
    metric.compute()  # a second warning would be an error
    metric = StratifiedWrapper(EnergyPointingGame())
    metric.update(**images([0.5] * 10, [True] * 10))
    metric.compute()


def test_what_counts_as_few_is_decided_over_all_processes():
    five, six = images([0.5] * 5, [True] * 5), images([0.5] * 6, [True] * 6)
    for shards, warned in ((([five], [five]), False), (([five], []), True), (([], [six]), True)):
        for answers in on_two_processes(_Telling(EnergyPointingGame()), shards, "has_warned"):
            assert answers["has_warned"] is warned


def test_confidence_bins_are_named_by_their_edges():
    inputs = images([0.9, 0.7, 0.2], [True, False, True], [0.95, 0.99, 0.55])
    values = result(Quiet(EnergyPointingGame(), strata="confidence"), [inputs])
    assert_same(
        values,
        {
            "all": torch.tensor(0.6),
            "confidence_0.5_0.6": torch.tensor(0.2),
            "confidence_0.9_1.0": torch.tensor(0.8),
        },
    )


def test_the_published_protocol_bins_right_answers_by_the_accuracy_of_their_class():
    inputs = images([0.9, 0.7, 0.2, 0.4], [True, True, False, True])
    inputs["labels"] = torch.tensor([0, 0, 0, 1])
    inputs["logits"] = torch.eye(2)[[0, 0, 1, 1]]
    metric = Quiet(EnergyPointingGame(), strata="class_accuracy")
    with pytest.raises(ValueError, match="Expected `class_accuracy` to be given"):
        metric.update(**inputs)
    metric.update(**inputs, class_accuracy=torch.tensor([0.66, 1.0]))
    assert_same(
        metric.compute(),
        {
            "all": torch.tensor(0.55),
            "class_accuracy_0.6_0.7": torch.tensor(0.8),
            "class_accuracy_0.9_1.0": torch.tensor(0.4),
        },
    )
    assert_same(metric.averages(), {"macro": torch.tensor(0.6), "micro": torch.tensor(2.0 / 3)})


def by_size(logits: Tensor, labels: Tensor) -> list[str]:
    return ["large" if label else "small" for label in labels.tolist()]


def test_a_function_may_give_integers_or_names():
    integers = Quiet(EnergyPointingGame(), strata=lambda logits, labels: labels * 3 - 1)
    assert list(result(integers, [SIX])) == ["all", "2"]
    named = Quiet(EnergyPointingGame(), strata=by_size, names=("small", "large"))
    assert_same(
        result(named, [SIX]), {"all": torch.tensor(0.55), "small": torch.tensor(0.8), "large": torch.tensor(0.3)}
    )
    with pytest.raises(
        ValueError, match=r"Expected every stratum to be one of \['small'\], their indices or -1, but got"
    ):
        result(Quiet(EnergyPointingGame(), strata=by_size, names=("small",)), [SIX])
    with pytest.raises(ValueError, match="Expected every stratum to be an integer from -1, but got"):
        result(Quiet(EnergyPointingGame(), strata=by_size), [SIX])
    with pytest.raises(ValueError, match="Expected one stratum for each of the 6 images, but got 2"):
        result(Quiet(EnergyPointingGame(), strata=lambda logits, labels: labels[:2]), [SIX])


def test_the_metric_gets_what_the_strata_take_as_well():
    history, ids = MapHistory(), list("abcdef")
    history.observe(0, SIX["maps"], ids, SIX["logits"])
    metric = Quiet(MapStability())
    metric.update(SIX["maps"], history=history, ids=ids, logits=SIX["logits"], labels=SIX["labels"])
    assert metric.compute()["all"].item() == pytest.approx(1.0)


def test_set_level_metrics_are_computed_on_the_images_of_the_stratum():
    maps = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[1, 1, 5, 5]])] * 6
    answers = {"logits": SIX["logits"], "labels": SIX["labels"]}
    metric = Quiet(MaxBoxAccuracy(iou_thresholds=(0.4,)))
    metric.update(maps=maps, boxes=boxes, **answers)
    right = SIX["labels"] == 0
    alone = result(MaxBoxAccuracy(iou_thresholds=(0.4,)), [{"maps": maps[right], "boxes": boxes[:3]}])
    assert_same(metric.compute()["correct"], alone)


def test_fixed_strata_follow_the_images_and_moving_ones_the_network():
    moving, fixed = Quiet(EnergyPointingGame()), Quiet(EnergyPointingGame(), fixed=True)
    first = images([0.9, 0.2], [True, False])
    fixed.assign(["a", "b"], fixed.stratify(first["logits"], first["labels"]))
    later = images([0.8, 0.6], [False, True])
    moving.update(**later)
    fixed.update(**later, ids=["a", "b"])
    assert moving.compute()["correct"].item() == pytest.approx(0.6)
    assert fixed.compute()["correct"].item() == pytest.approx(0.8)
    fixed.reset()
    fixed.update(**cut(later, 1), ids=["b"])
    assert list(fixed.compute()) == ["all", "incorrect"]
    with pytest.raises(
        ValueError, match=r"Expected every id to have a stratum from `assign`, but got none for \['c'\]"
    ):
        fixed.update(**cut(later, 1), ids=["c"])
    with pytest.raises(ValueError, match="Expected `ids` when `fixed` is True"):
        fixed.update(**later)


def test_fixed_strata_are_in_the_state_dict_even_without_images():
    fixed = Quiet(EnergyPointingGame(), fixed=True)
    fixed.assign(torch.tensor([3, 5]), ["incorrect", "correct"])
    collection = MetricCollection({"energy": fixed})
    restored = MetricCollection({"energy": Quiet(EnergyPointingGame(), fixed=True)})
    restored.load_state_dict(collection.state_dict())
    restored.update(**images([0.9, 0.2], [True, True]), ids=torch.tensor([5, 3]))
    assert restored["energy"].compute()["correct"].item() == pytest.approx(0.9)
    assert restored["energy"].strata_of == {3: 1, 5: 0}


class _Assigning(StratifiedWrapper):
    def assign_and_tell(self) -> dict[str, int]:
        energies = self.metric.values
        self.assign([f"image {x:.1f}" for x in energies.tolist()], ["correct"] * len(energies))
        return self.strata_of


def test_strata_assigned_on_one_process_are_known_to_the_other():
    shards = ([images([0.1], [True])], [images([0.2, 0.3], [True, True])])
    for answers in on_two_processes(_Assigning(EnergyPointingGame()), shards, "assign_and_tell"):
        assert answers["assign_and_tell"] == {"image 0.1": 0, "image 0.2": 0, "image 0.3": 0}


def test_intervals_are_those_of_the_images_of_the_stratum():
    inputs = images([0.1 * i for i in range(10)], [i % 3 > 0 for i in range(10)])
    metric = Quiet(EnergyPointingGame(), ci=0.8)
    metric.update(**inputs)
    intervals = metric.interval(level=0.8)
    assert intervals["incorrect"].isnan().all(), "four images are too few"
    assert_same(intervals["all"], mean_intervals(torch.arange(10.0)[:, None] / 10, 0.8)[0])
    for name in ("all",):
        low, high = intervals[name]
        assert low < metric.compute()[name] < high
        assert_same((metric.compute()[f"{name}_low"], metric.compute()[f"{name}_high"]), (low, high))


def test_a_collection_serves_wrapped_metrics_from_one_call():
    """Their strata are equal, which must not make torchmetrics take one for the other."""
    collection = MetricCollection({"energy": Quiet(EnergyPointingGame()), "gini": Quiet(Gini()), "plain": Entropy()})
    for batch in (cut(SIX, 0, 2), cut(SIX, 2)):
        collection.update(**batch, boxes=None)
    values = collection.compute()
    assert values["energy_correct"].item() == pytest.approx(0.8)
    assert_same(values["gini_correct"], result(Quiet(Gini()), [SIX])["correct"])
    assert_same(values["plain"], result(Entropy(), [{"maps": SIX["maps"]}]))
    assert len(collection.compute_groups) == 3


def test_the_repr_states_metric_strata_and_the_class_explained():
    metric = StratifiedWrapper(PointingGame(tolerance=3), target="prediction")
    assert repr(metric) == (
        "StratifiedWrapper(PointingGame(tolerance=3, scale_to_image=False, per_class=False), "
        "strata='correctness', fixed=False, target='prediction')"
    )
    assert "strata='confidence', n_bins=5" in repr(StratifiedWrapper(Gini(), strata="confidence", n_bins=5))
    assert "strata='class_accuracy', n_bins=4" in repr(StratifiedWrapper(Gini(), strata="class_accuracy", n_bins=4))
    assert "strata=by_size" in repr(StratifiedWrapper(Gini(), strata=by_size))


def test_direction_and_bounds_are_those_of_the_metric():
    assert Quiet(Gini()).higher_is_better is True
    assert Quiet(Entropy()).higher_is_better is False
    assert Quiet(Gini()).plot_upper_bound == 1


def test_plot_draws_every_stratum():
    mpl.use("Agg")
    metric = Quiet(EnergyPointingGame())
    metric.update(**SIX)
    figure, axes = metric.plot()
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"all", "correct", "incorrect"}
    plt.close(figure)


def test_a_nan_answer_is_in_no_stratum():
    inputs = {name: value.clone() for name, value in cut(SIX, 0, 3).items()}
    inputs["logits"][0, 1] = math.nan
    metric = Quiet(EnergyPointingGame())
    metric.update(**inputs)
    assert metric.counts() == {"all": 3, "correct": 1, "incorrect": 1}


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(TypeError, match="Expected `metric` to be a PerImageMetric, but got BinaryAccuracy"):
        StratifiedWrapper(BinaryAccuracy())
    with pytest.raises(ValueError, match="or a function, but got 'luck'"):
        StratifiedWrapper(Gini(), strata="luck")
    with pytest.raises(ValueError, match="Expected `names` only with a function"):
        StratifiedWrapper(Gini(), names=("a", "b"))
    with pytest.raises(ValueError, match="Expected `names` when `keep_empty`"):
        StratifiedWrapper(Gini(), strata=by_size, keep_empty=True)
    with pytest.raises(ValueError, match="Expected `ci` to be between 0 and 1, but got 95"):
        StratifiedWrapper(Gini(), ci=95)
    metric = StratifiedWrapper(Gini())
    with pytest.raises(ValueError, match="Expected `labels` to be given"):
        metric.update(maps=SIX["maps"], logits=SIX["logits"])
    with pytest.raises(ValueError, match="Expected `logits` to be given"):
        metric.update(maps=SIX["maps"], labels=SIX["labels"])


def test_a_function_for_strata_sees_logits_and_labels():
    seen = []

    def sure(logits, labels):
        seen.append((logits, labels))
        return (logits[:, 0] < logits[:, 1]).long()

    metric = Quiet(EnergyPointingGame(), strata=sure, names=["sure", "unsure"])
    metric.update(SIX["maps"], SIX["masks"], logits=SIX["logits"], labels=SIX["labels"])
    ((logits, labels),) = seen
    assert logits.equal(SIX["logits"])
    assert labels.equal(SIX["labels"])
    assert metric.counts()["sure"] == 6
