import copy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.__main__ import parse
from benchmarks.contestants import FLOOR, OURS, PUBLISHED, Task, make_contestants, rank_correlations
from benchmarks.floor import make_floor
from benchmarks.goals import Goal, speed_up
from benchmarks.published_style import PublishedStyle
from benchmarks.report import Row, speed_rows
from benchmarks.subject import Subject
from benchmarks.timing import Contestant, Timings, growth_per_run, interleave
from lit_decom.functional.image import min_max_normalize, upsample
from tests.helpers.networks import golden

# By the network: what hangs on a network itself is put back when it was looked at.
SEEN: dict[nn.Module, list[tuple[int, bool]]] = defaultdict(list)
SHOWN: dict[nn.Module, list[torch.Tensor]] = defaultdict(list)


class Quiet(nn.Module):
    def __init__(self):
        super().__init__()
        self.early = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.late = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, images):
        SEEN[self].append((len(images), torch.is_grad_enabled()))
        SHOWN[self].append(images.detach())
        features = self.late(self.early(images).relu()).relu()
        return self.head(features.mean(dim=(2, 3)))


@pytest.fixture
def subject():
    torch.manual_seed(0)
    images = torch.randn(3, 3, 40, 40)
    return Subject("quiet", Quiet().eval(), "late", images, torch.tensor([0, 1, 3]))


def test_ratio_is_the_median_of_quotients_within_rounds():
    timings = Timings({"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 1.0], "slow": [5.0]})
    assert timings.ratio("a", "b") == 3.0  # of 2, 3 and 8; the medians' quotient would be 8
    assert timings.spread("a", "b") == (2.0, 8.0)
    assert timings.ratio("slow", "a") == 2.5  # the first round alone
    assert timings.typical("a") == 8.0


def test_everyone_runs_once_per_round_and_the_first_round_does_not_count():
    calls = []
    contestants = {name: Contestant(lambda name=name: calls.append(name), images=1) for name in "abc"}
    contestants["slow"] = Contestant(lambda: calls.append("slow"), images=1, rounds=1)
    timings = interleave(contestants, rounds=4, clock="cpu", progress=lambda _: None)
    assert [calls.count(name) for name in ("a", "b", "c", "slow")] == [5, 5, 5, 1]
    assert [len(timings.seconds[name]) for name in ("a", "slow")] == [4, 1]
    assert calls.index("slow") >= 3
    rounds = [calls[:3], [name for name in calls[3:7] if name != "slow"], calls[7:10]]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)


def test_times_are_per_image():
    def work():
        torch.randn(200, 200) @ torch.randn(200, 200)

    one, ten = Contestant(work, images=1), Contestant(work, images=10)
    timings = interleave({"one": one, "ten": ten}, rounds=9, clock="cpu", progress=lambda _: None)
    assert 3 < timings.ratio("one", "ten") < 30


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
def test_a_leak_is_seen_and_its_absence_too():
    # So large that the allocator maps it anew each time, instead of using again what the process has freed before.
    leak, size = [], 40 * 2**20
    assert growth_per_run(lambda: leak.append(bytearray(b"x") * size), runs=5, warm_up=1) > 0.8 * size
    assert growth_per_run(lambda: bytearray(b"x") * size, runs=5, warm_up=1) < 0.1 * size


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.049, "met"), (1.05, "met"), (1.0501, "not met"), (None, "-"), (float("nan"), "not met")]
)
def test_a_goal_is_met_on_its_side_of_the_bound(value, verdict):
    assert Row("ratio", value, " x", goal=Goal("<=", 1.05, " x")).verdict == verdict


def test_goals_are_set_for_the_networks_and_layers_they_were_stated_for():
    def goal(name, layer, size, dtype):
        return speed_up(Subject(name, nn.Identity(), layer, torch.empty(1, 3, size, size), torch.zeros(1)), dtype)

    assert goal("resnet18", "layer4", 224, "float32") == Goal(">=", 1.3, " x")
    assert goal("resnet18", "layer4", 224, "bfloat16") == Goal(">=", 3.3, " x")
    assert goal("resnet18", "layer3", 64, "float32") == Goal(">=", 1.8, " x")
    assert goal("resnet18", "layer3", 64, "bfloat16") == Goal(">=", 3.3, " x")
    assert goal("resnet18", "layer2", 64, "float32") is None
    assert goal("small_resnet", "layer3", 64, "bfloat16") is None
    assert Row("ratio", 9.0, " x").verdict == "-"


def test_the_command_runs_what_the_goals_are_set_for():
    options = parse([])
    assert (options.model, options.size, options.components, options.threads) == ("resnet18", 224, 10, 1)
    quick = parse(["--quick"])
    assert (quick.model, quick.layer, quick.size, quick.threads) == ("resnet18", "layer3", 64, 1)
    assert parse(["--quick", "--model", "small_resnet"]).layer is None
    assert parse(["--quick", "--layer", "layer2"]).layer == "layer2"


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_timed_and_judged_only_where_the_processor_has_units_for_it(subject, monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    task = Task(subject, n_components=4)
    contestants = make_contestants(task)
    assert {OURS["float32"], FLOOR["float32"], PUBLISHED} <= set(contestants)
    assert ({OURS["bfloat16"], FLOOR["bfloat16"]} <= set(contestants)) == native
    rows = {row.what: row.goal for row in speed_rows(task, Timings({name: [1.0] for name in contestants}))}
    assert rows["ours, fp32 / floor, fp32"] == Goal("<=", 1.05, " x")
    assert rows.get("ours, bf16 / floor, bf16") == (Goal("<=", 1.10, " x") if native else None)
    assert any("bf16" in what for what in rows) == native


def test_rank_correlations_by_hand():
    one = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    other = torch.tensor([[0.1, 0.2, 9.0], [2.0, 1.0, 3.0], [1.0, 2.0, 3.0]])
    correlations = rank_correlations(one, other)
    assert correlations[:2].tolist() == pytest.approx([1.0, 0.5])
    assert correlations[2].isnan()


def test_the_floor_asks_the_network_as_often_as_we_do(subject):
    floor = make_floor(subject, further=33, chunk=8, dtype="float32")
    copied = next(cell.cell_contents for cell in floor.__closure__ if isinstance(cell.cell_contents, Quiet))
    floor()
    assert [seen for seen in SEEN[copied] if seen[1]] == [(3, True)]
    assert [n for n, recorded in SEEN[copied] if not recorded] == [8, 8, 8, 8, 1]

    SEEN[subject.model].clear()
    valid = Task(subject, n_components=10, chunk=8).explain().valid
    assert valid.all()
    assert [n for n, recorded in SEEN[subject.model] if not recorded] == [8, 8, 8, 8, 1]
    assert sum(n for n, recorded in SEEN[subject.model] if recorded) == 3


def test_published_style_works_as_the_released_class_does(subject):
    model = copy.deepcopy(subject.model)
    published = PublishedStyle(model, "late", n_components=6)
    published(subject.images, subject.targets)
    # One image per call, and its six masked versions in one batch and without a graph.
    assert SEEN[model] == [(1, True), (6, False)] * 3
    assert all(parameter.grad is not None for parameter in model.parameters())
    for masked in SHOWN[model][1::2]:
        assert masked.dtype == torch.float32
        assert masked.is_contiguous(memory_format=torch.channels_last)


def test_published_style_reproduces_the_published_vectors():
    network, vectors = golden()
    targets = vectors.logits.argmax(dim=1)
    cams, contributions = PublishedStyle(network, "relu3", n_components=6, top_p=32)(vectors.images, targets)
    torch.testing.assert_close(cams, vectors.cam, rtol=0, atol=1e-3)
    kept = vectors.scores.where(vectors.scores >= 1e-3, 0)
    # Scores agree to 1e-3; here, they are divided by the largest of them.
    largest = kept.amax(dim=1, keepdim=True)
    assert (largest > 0).all()
    assert ((contributions - kept / largest).abs() <= 2e-3 / largest).all()


def test_published_style_and_ours_agree(subject):
    published = PublishedStyle(copy.deepcopy(subject.model), "late", n_components=6)
    cams, contributions = published(subject.images, subject.targets)
    ours = Task(subject, n_components=6, integration="v25").explain()
    kept = contributions.sum(dim=1) > 0  # where no score is above the threshold, ours falls back and says so
    assert kept.any()
    torch.testing.assert_close(contributions[kept], ours.contributions[kept], atol=1e-3, rtol=0)
    assert rank_correlations(contributions[kept], ours.contributions[kept]).min() > 0.99
    assert ours.fallback.tolist() == (~kept).tolist()
    maps = min_max_normalize(upsample(ours.cam, (40, 40)).relu())
    torch.testing.assert_close(cams[kept], maps[kept], atol=1e-3, rtol=0)


def test_contestants_leave_the_model_as_it_was(subject):
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    for contestant in make_contestants(Task(subject, n_components=4)).values():
        contestant.run()
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    assert not any(module._forward_hooks for module in subject.model.modules())
    assert not subject.model.training


@pytest.mark.slow
def test_quick_prints_every_ratio_beside_its_goal(tmp_path):
    out = tmp_path / "out"
    options = "--model small_resnet --size 32 --batch 2 -k 3 --rounds 1 --train-images 64 --snapshots 5 --no-peers"
    command = [sys.executable, "-m", "benchmarks", "--quick", *options.split(), "--clock", "cpu", "--json", str(out)]
    root = Path(__file__).parents[1]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "small_resnet, layer2, 32 x 32, batch 2, K = 3, v25, 1 rounds, 1 threads, cpu clock" in ran.stdout
    rows = {line.split("│")[1].strip(): line for line in ran.stdout.splitlines() if line.count("│") == 6}
    for ratio, goal in {
        "ours, fp32 / floor, fp32": "<= 1.05 x",
        "published style / ours, fp32": "-",
        "decomposition, share of ours, fp32": "<= 5 %",
        "memory growth per snapshot over 5": "<= 10 KiB",
    }.items():
        assert goal in rows[ratio]
    assert '"seconds_per_image"' in out.read_text()
