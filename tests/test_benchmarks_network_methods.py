"""The benchmark of the methods that ask the network again: that both sides of each ratio do the same."""

import pytest
import torch

from benchmarks import network_methods
from benchmarks.goals import Goal
from benchmarks.subject import make_subject
from benchmarks.timing import Timings
from lit_decom.methods import AblationCAM

SMALL = ["--model", "small_resnet", "--size", "32", "--batch", "2", "--rounds", "1", "--iterations", "1"]


def task(few=2):
    return network_methods.Task(make_subject("small_resnet", 32, 3, train_images=0), few, iterations=2)


def test_ablation_without_and_with_the_whole_network_is_the_same():
    evidence = task().evidence(slice(2))
    hooks = len(evidence.layer.module._forward_hooks)
    plain = network_methods.ablated_weights(evidence)
    torch.testing.assert_close(plain, AblationCAM().weights(evidence), rtol=1e-4, atol=2e-6)
    assert len(evidence.layer.module._forward_hooks) == hooks


def test_what_the_times_rest_on():
    pytest.importorskip("pytorch_grad_cam", exc_type=ImportError)
    found = {what: (value, goal) for what, value, goal in network_methods.results(task())}
    assert all(goal.met(value) for value, goal in found.values())
    assert len(found) >= 2


def test_the_passes_alone_are_those_of_the_targets_logit():
    subject = task().subject
    gradients = network_methods.passes(subject, slice(1, 3))
    images = subject.images[1:3].clone().requires_grad_()
    expected = torch.autograd.grad(subject.model(images)[torch.arange(2), subject.targets[1:3]].sum(), images)[0]
    torch.testing.assert_close(gradients, expected)
    assert all(weight.grad is None for weight in subject.model.parameters())


@pytest.mark.parametrize(("bound", "verdict"), [(0.001, "met"), (1000, "not met")])
def test_ratios_are_held_against_their_goals(monkeypatch, bound, verdict):
    monkeypatch.setattr(network_methods.goals, "ABLATION_TAIL", Goal(">=", bound, " x"))
    monkeypatch.setattr(network_methods, "results", lambda _task: iter(()))
    names = [*network_methods.SCORE.values(), network_methods.ABLATION, network_methods.OPTI, network_methods.PASSES]
    timings = Timings({name: [1.0] for name in names})
    timings.seconds[network_methods.ABLATION_WHOLE] = [3.0]
    timings.seconds[network_methods.OPTI_SINGLY] = [2.5]
    timings.seconds[network_methods.PASSES_SINGLY] = [1.5]
    table = network_methods.make_table(task(), timings)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0][0] == "Ablation-CAM, whole network / Ablation-CAM"
    assert columns[3] == ["3.00 x", "2.50 x", "1.50 x"]
    assert columns[-1] == [verdict, "met", ""]


@pytest.mark.slow
def test_the_command_prints_the_table(capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _n: None)
    network_methods.main([*SMALL, "--train-images", "0"])
    printed = capsys.readouterr().out
    assert "small_resnet, layer" in printed
    assert "Opti-CAM, one by one / Opti-CAM, a batch" in printed
