"""Methods compared on a whole data set: the numbers, what they do not depend on, and what is refused."""

import csv
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lit_decom import METHODS, DecomCAM, Probe, capture, compare
from lit_decom.comparison import Comparison, ComparisonError, accuracy_stratified
from lit_decom.comparison.judging import Judge
from lit_decom.comparison.source import source_of
from lit_decom.functional.image import upsample
from lit_decom.functional.stability import map_similarity
from lit_decom.metrics import (
    AverageDrop,
    AverageIncrease,
    DeletionAUC,
    EnergyPointingGame,
    Gini,
    InsertionAUC,
    InsertionDeletion,
    MapStability,
    MaskIoU,
    PartIoU,
    PixelAveragePrecision,
)
from lit_decom.process import Process
from tests.helpers.modules import CLASSES, SIDE, Spots, tiny

METHOD_NAMES = ["layer_cam", "grad_cam", "eigen_cam"]
METRICS = (Gini(), AverageDrop(target="label"), AverageIncrease(target="label"))


@pytest.fixture(scope="module")
def network():
    return tiny().eval()


@pytest.fixture
def unwritten(monkeypatch):
    """Leave out tables, figure and page, which take longer than the rest of such a small comparison."""
    monkeypatch.setattr(Comparison, "write", lambda *_: None)


def compared(network, data, **settings):
    settings = {"metrics": METRICS, "methods": METHOD_NAMES, "progress": False} | settings
    methods, metrics = settings.pop("methods"), settings.pop("metrics")
    return compare(network, "second", methods, data, metrics, **settings)


def numbers(comparison):
    return {(each.measure, each.stratum, each.method): each for each in comparison.standings}


def same(one, other, tolerance=1e-6):
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    for name, each in first.items():
        assert each.value == pytest.approx(second[name].value, abs=tolerance, nan_ok=True), name
        assert (each.n, each.undefined, each.rank) == (second[name].n, second[name].undefined, second[name].rank)
        if each.interval is not None:
            assert each.interval == pytest.approx(second[name].interval, abs=20 * tolerance)


class Unindexed(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return (self.dataset[index] for index in range(len(self.dataset)))


class Noted(Spots):
    """Notes which images are read."""

    def __init__(self, n):
        super().__init__(n)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


class TestTheNumbers:
    def test_a_mean_is_that_of_images_explained_one_by_one(self, network):
        data = Spots(12)
        found = numbers(compared(network, DataLoader(data, 5)))
        for name in METHOD_NAMES:
            values = []
            for image, label in data:
                evidence = capture(network, "second", image[None], torch.tensor([label]))
                maps = upsample(METHODS[name]()(evidence), (SIDE, SIDE)).clamp(min=0)
                for metric, given in zip(
                    METRICS,
                    (
                        {},
                        *(2 * ({"logits": evidence.logits, "labels": torch.tensor([label]), "capture": evidence},)),
                    ),
                    strict=True,
                ):
                    metric.update(maps=maps, **given)
                    values.append(float(metric.values[0]))
                    metric.reset()
            for row, measure in enumerate(("gini", "average_drop", "average_increase")):
                expected = torch.tensor(values[row :: len(METRICS)])
                assert found[measure, "all", name].value == pytest.approx(float(expected.nanmean()), abs=1e-5)
                assert found[measure, "all", name].undefined == int(expected.isnan().sum())

    def test_strata_have_the_images_that_the_network_gets_right_and_wrong(self, network):
        data = Spots(16)
        right = network(data.images).argmax(dim=1) == torch.tensor(data.targets)
        found = numbers(compared(network, DataLoader(data, 16)))
        assert 0 < right.sum() < 16, "both are needed for a test"
        assert found["gini", "correct", "grad_cam"].n == right.sum()
        assert found["gini", "incorrect", "grad_cam"].n == (~right).sum()

    @pytest.mark.parametrize(
        "read",
        [
            lambda data: DataLoader(data, 7),
            lambda data: DataLoader(data, 3, shuffle=True),
            lambda data: DataLoader(data, 4, num_workers=1),
            lambda data: DataLoader(Unindexed(data), 5),
            lambda data: Probe.from_tensors(data.images, torch.tensor(data.targets), class_names=CLASSES),
        ],
        ids=["batches", "shuffled", "workers", "stream", "probe"],
    )
    def test_they_do_not_depend_on_how_the_data_are_read(self, network, read):
        data = Spots(16)
        same(compared(network, DataLoader(data, 16)), compared(network, read(data)))

    def test_insertion_deletion_gives_its_two_curves_too(self, network):
        data = DataLoader(Spots(8), 8)
        settings = {"n_steps": 4, "target": "label"}
        found = numbers(compared(network, data, metrics=[InsertionDeletion(**settings)]))
        apart = numbers(compared(network, data, metrics=[InsertionAUC(**settings), DeletionAUC(**settings)]))
        for name, each in apart.items():
            assert found[name].value == pytest.approx(each.value, abs=1e-6)
            assert found[name].higher_is_better is each.higher_is_better
        assert found["insertion_deletion_4", "all", "grad_cam"].value == pytest.approx(
            found["insertion_auc_4", "all", "grad_cam"].value - found["deletion_auc_4", "all", "grad_cam"].value,
            abs=1e-6,
        )

    def test_the_protocol_explains_correct_images_alone_in_bins_of_class_accuracy(self, network, monkeypatch):
        data = Spots(24)
        explained = []
        explain = METHODS["grad_cam"].__call__

        def noted(self, evidence):
            explained.append(len(evidence.images))
            return explain(self, evidence)

        monkeypatch.setattr(METHODS["grad_cam"], "__call__", noted)
        right = network(data.images).argmax(dim=1) == torch.tensor(data.targets)
        # the first batch twice, since its memory is measured; ten images of disagreement need two methods
        found = compared(network, DataLoader(data, 24), methods=["grad_cam"], **accuracy_stratified(3))
        assert explained == [right.sum(), right.sum()]
        assert found.n_images == right.sum()
        labels = torch.tensor(data.targets)
        accuracy = torch.stack([right[labels == label].float().mean() for label in range(4)])
        bins = {
            f"class_accuracy_{int(10 * a) / 10:.1f}_{int(10 * a) / 10 + 0.1:.1f}" for a in accuracy if a < 1 and a > 0
        }
        bins |= {"class_accuracy_0.9_1.0"} if (accuracy == 1).any() else set()
        assert bins <= set(found.strata)
        assert set(found.strata) - bins == {"all", "mean_of_bins"}
        values = [each.value for each in found.standings if each.measure == "overall" and each.stratum in bins]
        (macro,) = [each for each in found.standings if (each.measure, each.stratum) == ("overall", "mean_of_bins")]
        assert macro.value == pytest.approx(sum(values) / len(values))

    def test_class_accuracy_can_be_that_of_more_images(self, network):
        found = compared(
            network,
            DataLoader(Spots(16), 16),
            strata="class_accuracy",
            class_accuracy=torch.tensor([0.95, 0.95, 0.95, 0.95]),
        )
        assert set(found.strata) == {"all", "class_accuracy_0.9_1.0", "mean_of_bins"}

    def test_cost_counts_the_images_that_a_method_shows_to_the_network(self, network):
        methods = {"decom": DecomCAM(n_components=2), "grad": METHODS["grad_cam"]()}
        found = compared(network, DataLoader(Spots(8), 4), methods=methods)
        decom, grad = found.costs
        assert (decom.method, grad.method) == ("decom", "grad")
        assert decom.forwards == pytest.approx(3), "two components and the blurred image"
        assert grad.forwards == 0
        assert decom.peak_bytes > grad.peak_bytes > 0
        assert decom.seconds > 0

    def test_the_ten_images_of_most_disagreement_are_those_of_least_correlation(self, network):
        data = Spots(24)
        found = compared(network, DataLoader(data, 7), pair=("eigen_cam", "grad_cam"))
        evidence = capture(network, "second", data.images, torch.tensor(data.targets))
        alike = map_similarity(METHODS["eigen_cam"]()(evidence), METHODS["grad_cam"]()(evidence), "pearson")
        expected = alike.nan_to_num(torch.inf).argsort()[:10].tolist()
        shown = found.disagreements
        assert [each.place for each in shown] == expected
        assert all(one.agreement <= other.agreement for one, other in pairwise(shown))
        assert shown[0].label == CLASSES[data.targets[expected[0]]]
        assert torch.allclose(shown[0].maps[0], METHODS["eigen_cam"]()(evidence)[expected[0]], atol=1e-5)

    @pytest.mark.usefixtures("unwritten")
    def test_an_image_without_a_label_is_left_out_and_read_once(self, network, tmp_path):
        data = Noted(40)
        data.targets[23] = data.targets[37] = -1
        found = compared(network, DataLoader(data, 4), output=tmp_path)
        assert found.n_images == 38
        assert numbers(found)["gini", "all", "grad_cam"].n == 38
        data.read.clear()
        again = compared(network, DataLoader(data, 4), output=tmp_path)
        assert set(data.read) <= set(range(8)) | {each.place for each in again.disagreements}
        same(again, found)

    def test_it_leaves_no_trace_in_the_network_or_in_random_states(self, network):
        before, state = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
        compared(network, DataLoader(Spots(8, augment=True), 4, shuffle=True))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


class TestSharing:
    @pytest.mark.parametrize("done", [set(), {0, 1, 2, 9}])
    @pytest.mark.parametrize(
        "read",
        [
            lambda data: DataLoader(data, 3),
            lambda data: DataLoader(Unindexed(data), 3),
            lambda data: Probe.from_tensors(data.images, torch.tensor(data.targets)),
        ],
        ids=["index", "stream", "probe"],
    )
    def test_processes_take_each_image_once_and_leave_out_what_is_done(self, read, done):
        source = source_of(read(Spots(20)), batch_size=3)
        shares = [
            [place for batch in source.batches(done, None, Process(rank, 3)) for place in batch.places]
            for rank in range(3)
        ]
        assert all(shares)
        assert sorted(place for share in shares for place in share) == sorted(set(range(20)) - done)


@pytest.mark.usefixtures("unwritten")
class TestLimit:
    def test_it_draws_from_all_images_and_goes_on_from_fewer(self, network, tmp_path):
        data = Noted(64)
        few = compared(network, DataLoader(data, 8), limit=10, output=tmp_path)
        assert few.n_images == 10
        data.read.clear()
        more = compared(network, DataLoader(data, 8), limit=30, output=tmp_path)
        assert more.n_images == 30
        read = set(data.read) - set(range(8)) - {each.place for each in more.disagreements}
        assert len(read) <= 20, "the ten from before are not read again"
        same(more, compared(network, DataLoader(data, 16), limit=30))
        same(few, compared(network, DataLoader(data, 8), limit=10, output=tmp_path))

    def test_of_a_stream_it_takes_the_first(self, network):
        stream, probe = DataLoader(Unindexed(Spots(16)), 5), Spots(16)
        first = Probe.from_tensors(probe.images[:7], torch.tensor(probe.targets[:7]), class_names=CLASSES)
        same(compared(network, stream, limit=7), compared(network, first))


@pytest.mark.usefixtures("unwritten")
class TestResuming:
    def test_what_was_written_is_not_computed_again(self, network, tmp_path, monkeypatch):
        judged = Judge.rows
        done = []

        def failing(self, batch, **settings):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(batch.places)
            return judged(self, batch, **settings)

        monkeypatch.setattr(Judge, "rows", failing)
        with pytest.raises(KeyboardInterrupt):
            compared(network, DataLoader(Spots(20), 4), output=tmp_path)

        def working(self, batch, **settings):
            done.append(batch.places)
            return judged(self, batch, **settings)

        monkeypatch.setattr(Judge, "rows", working)
        resumed = compared(network, DataLoader(Spots(20), 6), output=tmp_path)
        assert sorted(place for places in done for place in places) == list(range(20))
        same(resumed, compared(network, DataLoader(Spots(20), 20)))

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"methods": ["grad_cam"]}, "methods"),
            ({"metrics": [Gini()]}, "metrics"),
            ({"target": "predicted"}, "target"),
            ({"correct_only": True}, "correct_only"),
        ],
    )
    def test_rows_of_another_comparison_are_refused(self, network, tmp_path, change, named):
        compared(network, DataLoader(Spots(4), 4), output=tmp_path)
        with pytest.raises(ComparisonError, match=f"another `{named}`"):
            compared(network, DataLoader(Spots(4), 4), output=tmp_path, **change)

    def test_rows_of_another_network_or_of_other_images_are_refused(self, network, tmp_path):
        compared(network, DataLoader(Spots(4), 4), output=tmp_path)
        other = tiny().eval()
        nn.init.ones_(other.head.bias)
        with pytest.raises(ComparisonError, match="another `network`"):
            compared(other, DataLoader(Spots(4), 4), output=tmp_path)
        with pytest.raises(ComparisonError, match="another `first_images`"):
            compared(network, DataLoader(Spots(4, seed=1), 4), output=tmp_path)

    def test_a_folder_that_cannot_be_made_is_named(self, network, tmp_path):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(ComparisonError, match="`output` to be a folder that can be written to"):
            compared(network, DataLoader(Spots(4), 4), output=tmp_path / "taken")

    def test_strata_and_the_pair_may_change(self, network, tmp_path, monkeypatch):
        compared(network, DataLoader(Spots(16), 4), output=tmp_path)
        monkeypatch.setattr(Judge, "rows", None)
        found = compared(network, DataLoader(Spots(16), 4), output=tmp_path, strata="confidence", n_bins=2)
        assert set(found.strata) <= {"all", "confidence_0.0_0.5", "confidence_0.5_1.0", "mean_of_bins"}


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"methods": ["grad_camm"]}, "got 'grad_camm'. Did you mean 'grad_cam'?"),
            ({"methods": []}, "at least one"),
            ({"methods": "grad_cam"}, "to be a list"),
            ({"methods": ["grad_cam", "grad_cam"]}, "different names"),
            ({"methods": [len]}, "builtin_function_or_method"),
            ({"metrics": [PartIoU()]}, "`ossms` decides in 'part_iou'"),
            ({"metrics": [MapStability()]}, "`history` decides in 'map_stability'"),
            ({"metrics": [PixelAveragePrecision()]}, "a whole set decides in 'pixel_average_precision'"),
            ({"metrics": [MaskIoU()]}, "have `masks` for, but they have none for 'mask_iou'"),
            ({"metrics": []}, "at least one"),
            ({"metrics": "all"}, "metrics or 'default'"),
            ({"metrics": [Gini(), Gini()]}, "different names"),
            ({"metrics": [3]}, "metrics of lit_decom.metrics"),
            ({"limit": 0}, "`limit` to be at least 1"),
            ({"batch_size": 0}, "`batch_size` to be at least 1"),
            ({"pair": ("grad_cam", "layer_camm")}, "`pair` to be two of"),
            ({"split": "train"}, "`split` to be 'val' or 'test'"),
            ({"strata": "colour"}, "'correctness', 'confidence', 'class_accuracy' or a function"),
            ({"n_bins": 0, "strata": "confidence"}, "`n_bins` to be between 1 and 100"),
            ({"class_accuracy": torch.ones(2), "strata": "class_accuracy"}, "got 2 values for label 3"),
        ],
    )
    def test_an_argument_is_named(self, network, change, told):
        with pytest.raises((ComparisonError, TypeError)) as raised:
            compared(network, DataLoader(Spots(4), 4), **change)
        assert told in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_data_of_another_kind_are_named(self, network):
        with pytest.raises(ComparisonError, match="one loader, but got 2"):
            compared(network, [DataLoader(Spots(4)), DataLoader(Spots(4))])
        with pytest.raises(TypeError, match="iterated again and again"):
            compared(network, iter(DataLoader(Spots(4))))
        several = [(image, torch.tensor([1.0, 0.0, 1.0, 0.0])) for image, _ in Spots(4)]
        with pytest.raises(ComparisonError, match="one label each"):
            compared(network, DataLoader(several, 2))
        nothing = [(image, -1) for image, _ in Spots(4)]
        with pytest.raises(ComparisonError, match="labelled images"):
            compared(network, DataLoader(nothing, 2))

    def test_a_method_that_raises_says_for_which_images(self, network, monkeypatch):
        monkeypatch.setattr(METHODS["grad_cam"], "__call__", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as raised:
            compared(network, DataLoader(Spots(2), 2))
        assert raised.value.__notes__ == ["while 'grad_cam' explained images ['0', '1']"]


def test_the_default_metrics_are_those_of_one_map(network):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compared(network, DataLoader(Spots(4), 4), metrics="default")
    assert {measure.name for measure in found.measures} == {
        "gini", "entropy", "average_drop", "average_increase", "average_gain",
    }  # fmt: skip
    masks = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    masks[:, 4:20] = True
    data = Spots(4)
    probe = Probe.from_tensors(data.images, torch.tensor(data.targets), masks=masks)
    assert "mask_iou" in {measure.name for measure in compared(network, probe, metrics="default").measures}
    assert numbers(compared(network, probe, metrics=[EnergyPointingGame()]))["energy_pointing_game", "all", "grad_cam"]


def test_tables_have_every_number(network, tmp_path):
    found = compared(network, DataLoader(Spots(16), 8), output=tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.standings)
    for row, each in zip(rows, found.standings, strict=True):
        assert (row["measure"], row["stratum"], row["method"]) == (each.measure, each.stratum, each.method)
        assert float(row["value"]) == pytest.approx(each.value)
        assert row["low"] == ("" if each.interval is None else str(each.interval[0]))
    text = (tmp_path / "results.md").read_text()
    assert "## all (16 images)" in text
    assert text.count("| grad_cam ") == len(found.strata) + 1
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "First over all images" in (tmp_path / "comparison.html").read_text()
