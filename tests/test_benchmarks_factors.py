import pytest
import torch

from benchmarks import factors
from benchmarks.goals import Goal
from benchmarks.timing import Timings
from lit_decom import find_target_layer

SMALL = ["--model", "small_resnet", "--size", "32", "--classes", "6", "--images", "8", "--rounds", "1"]


def images(n=24):
    coarse = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")


def test_the_logits_of_the_drawn_head_vary_in_many_directions():
    shown = images()
    network = factors.make_network("small_resnet", 20, shown, "cpu")
    with torch.no_grad():
        logits = network(shown)
    spread = torch.linalg.svdvals(logits - logits.mean(0))
    assert (spread > 1e-3 * spread[0]).sum() == 12
    assert spread[11] > 0.1 * spread[0]


@pytest.mark.parametrize("layer", [None, "layer2"])
def test_few_backward_passes_find_what_one_for_every_class_finds(layer):
    shown = images()
    network = factors.make_network("small_resnet", 20, shown, "cpu")
    found = factors.agreement(network, find_target_layer(network, layer, shown[:1]).name, shown)
    assert found.passes < 20
    # Gradients in float32, through an inverse for the scores.
    assert found.error < 1e-4
    assert found.scores_error < 1e-3
    assert 0 < found.held <= 1


@pytest.mark.parametrize(("bound", "verdict"), [(1000, "x: met"), (0.001, "x: not met")])
def test_the_ratio_is_held_against_its_goal(monkeypatch, bound, verdict):
    monkeypatch.setattr(factors.goals, "FACTORS", Goal("<=", bound, " x"))
    timings = Timings({factors.WITHOUT: [1.0], factors.SVD: [1.5], factors.FACTORS: [2.0]})
    monkeypatch.setattr(factors, "snapshot_times", lambda *_: timings)
    row = factors.rows(factors.parse(SMALL), 6, 8)
    assert row[:2] == ["6", "8"]
    assert row[-4:-1] == ["1000.0", "1.50", "2.00 [2.00, 2.00]"]
    assert row[-1].endswith(verdict)


@pytest.mark.slow
def test_the_command_times_snapshots(capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _n: None)
    factors.main(SMALL)
    assert "small_resnet" in capsys.readouterr().out
