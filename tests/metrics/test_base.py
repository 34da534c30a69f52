import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torchmetrics import MetricCollection

from lit_decom.metrics.base import PerImageMetric
from tests.helpers.metric_tester import assert_same, assert_two_processes_equal_one, check_metric, on_two_processes


class Brightest(PerImageMetric):
    higher_is_better = True

    def __init__(self, above: float = 0.0, name: str = "x", **kwargs):
        super().__init__(**kwargs)
        self.above = above
        self.name = name
        self.add_rows()

    def update(self, maps: Tensor) -> None:
        peaks = maps.float().flatten(1).amax(dim=1)
        self.append(peaks.where(peaks > self.above, torch.nan))


class Range(PerImageMetric):
    """The largest minus the smallest value of a set: no mean over images."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_rows(width=2)

    def update(self, maps: Tensor) -> None:
        self.append(torch.stack(torch.aminmax(maps.float().flatten(1), dim=1), dim=1))

    def score(self, rows: Tensor) -> Tensor:
        return rows[:, 1] - rows[:, 0]

    def reduce(self, rows: Tensor) -> Tensor:
        return rows[:, 1].max() - rows[:, 0].min() if len(rows) else rows.new_tensor(torch.nan)


def peaks(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1).expand(-1, 2, 2).clone()


def test_undefined_images_are_counted_and_left_out_of_the_mean():
    metric = Brightest()
    metric.update(peaks(1.0, 0.0))
    metric.update(peaks(2.0, -1.0, 6.0))
    assert metric.compute().item() == 3
    assert metric.n_undefined == 2
    assert_same(metric.values, torch.tensor([1.0, torch.nan, 2.0, torch.nan, 6.0]))


def test_no_defined_image_gives_nan_and_not_zero():
    metric = Brightest()
    metric.update(peaks(0.0, 0.0))
    assert metric.compute().isnan()
    assert metric.n_undefined == 2
    metric.reset()
    metric.update(peaks())
    assert metric.compute().isnan()
    assert metric.values.shape == (0,)


def test_the_repr_names_every_setting():
    assert repr(Brightest(above=0.5)) == "Brightest(above=0.5, name='x')"
    assert repr(Range(sync_on_compute=False)) == "Range()"


@pytest.mark.parametrize("metric", [Brightest(), Range()])
def test_rows_of_any_width_behave_like_any_metric(metric):
    maps = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = check_metric(metric, {"maps": maps})
    assert_two_processes_equal_one(metric, {"maps": maps}, expected)


def test_the_rows_of_all_processes_come_in_the_order_of_the_ranks():
    shards = ([{"maps": peaks(1.0)}, {"maps": peaks(2.0, 3.0)}], [{"maps": peaks(4.0)}])
    for answers in on_two_processes(Brightest(), shards, "gather", "gather", "compute"):
        assert answers["gather"].tolist() == [[1], [2], [3], [4]]
        assert answers["compute"] == 2.5


def test_a_collection_keeps_metrics_apart_whose_first_batch_agrees():
    """torchmetrics merges metrics whose states are equal after the first update."""
    collection = MetricCollection({"low": Brightest(above=0.0), "high": Brightest(above=1.5), "range": Range()})
    collection.update(maps=peaks(2.0, 3.0))
    collection.update(maps=peaks(1.0))
    values = {name: value.item() for name, value in collection.compute().items()}
    assert values == {"low": 2, "high": 2.5, "range": 2}


def test_a_collection_shares_the_work_of_equal_metrics():
    collection = MetricCollection({"one": Brightest(), "same": Brightest()})
    collection.update(maps=peaks(2.0, 3.0))
    assert len(collection.compute_groups) == 1


def test_gathering_twice_inside_a_synchronised_metric_does_not_undo_it():
    metric = Brightest()
    metric.update(peaks(1.0))
    with metric.sync_context(
        should_sync=True, distributed_available=lambda: True, dist_sync_fn=lambda x, group: [x, x]
    ):
        assert metric.gather().tolist() == [[1], [1]]
        assert metric.rows.tolist() == [[1], [1]]
    assert metric.rows.tolist() == [[1]]


def test_rows_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Expected `rows` to have shape \(B, 1\), but got \(3, 2\)"):
        Brightest().append(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"Expected `rows` to have shape \(B, 2\), but got \(4,\)"):
        Range().append(torch.ones(4))


def test_gradients_do_not_leak_into_the_state():
    maps = peaks(1.0).requires_grad_()
    metric = Brightest()
    metric(maps)
    assert not metric.rows.requires_grad


def test_plot_draws_the_value():
    mpl.use("Agg")
    metric = Brightest()
    metric.update(peaks(0.5))
    figure, axes = metric.plot()
    assert axes.get_ylim()[0] <= 0.5 <= axes.get_ylim()[1]
    plt.close(figure)
