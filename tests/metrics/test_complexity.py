import pytest
import torch
from torchmetrics import MetricCollection

from lit_decom.metrics.complexity import EffectiveRank, Entropy, Gini, TopComponentShare
from tests.helpers.metric_tester import (
    Inputs,
    assert_same,
    assert_two_processes_equal_one,
    check_metric,
    result,
    singles,
)


def everything(n: int = 6) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(n, 5, generator=generator).sort(dim=1, descending=True).values
    inputs = {
        "maps": torch.rand(n, 4, 4, generator=generator),
        "singular_values": values,
        "contributions": values.flip(1) ** 2,
        "valid": torch.arange(5) < torch.tensor([5, 4, 5, 3, 1, 2])[:, None],
    }
    for name in ("maps", "singular_values", "contributions"):
        inputs[name][2] = 0
    return inputs


METRICS = {
    Gini(): ("maps",),
    Entropy(): ("maps",),
    EffectiveRank(): ("singular_values", "valid"),
    TopComponentShare(): ("contributions", "valid"),
}


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_batches_copies_precision_and_processes_do_not_matter(metric):
    inputs = {name: everything()[name] for name in METRICS[metric]}
    expected = check_metric(metric, inputs)
    assert_two_processes_equal_one(metric, inputs, expected)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_an_image_of_zeros_is_counted_and_left_out(metric):
    inputs = {name: everything()[name] for name in METRICS[metric]}
    metric = metric.clone()
    for batch in singles(inputs):
        metric.update(**batch)
    assert metric.values.isnan().nonzero().tolist() == [[2]]
    assert metric.n_undefined == 1
    without = {name: torch.cat([value[:2], value[3:]]) for name, value in inputs.items()}
    assert_same(metric.compute(), result(metric.__class__(), [without]))


def test_values_known_on_paper():
    half = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert result(Gini(), [{"maps": half}]) == 0.5
    assert result(Entropy(), [{"maps": half}]) == 0.5
    assert result(EffectiveRank(), [{"singular_values": torch.ones(1, 4)}]) == 4
    assert result(TopComponentShare(), [{"contributions": torch.tensor([[1.0, 3.0]])}]) == 0.75
    padded = {"contributions": torch.tensor([[1.0, 3.0, 6.0]]), "valid": torch.tensor([[True, True, False]])}
    assert result(TopComponentShare(), [padded]) == 0.75


def test_one_call_of_a_collection_serves_every_metric():
    inputs = everything()
    collection = MetricCollection([metric.clone() for metric in METRICS])
    collection.update(**inputs)
    values = collection.compute()
    for metric, names in METRICS.items():
        assert_same(values[type(metric).__name__], result(metric, [{name: inputs[name] for name in names}]))
