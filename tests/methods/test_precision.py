"""`score_dtype="auto"`: bfloat16 where the hardware computes in it and ranks stay, decided once for a whole run."""

import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, Explainer, capture
from lit_decom import observer as observing
from lit_decom.methods import precision
from lit_decom.methods.precision import chosen_score_dtype, has_bfloat16_units, rank_agreement
from lit_decom.observer import Observer
from lit_decom.process import Process
from tests.helpers.modules import Keep, callback, fit
from tests.helpers.modules import probe as spots
from tests.helpers.networks import SmallCNN, noise_images, seeded

AUTO = DecomCAM(n_components=4, score_dtype="auto")


# On a processor without units, such as that of the tests.
pytestmark = pytest.mark.filterwarnings("ignore:`score_dtype='bfloat16'` is slower")


def hardware(monkeypatch, *, units):
    monkeypatch.setattr(observing, "has_bfloat16_units", lambda _device: units)


def ranks_become(monkeypatch, agreement):
    monkeypatch.setattr(precision, "rank_agreement", lambda *_: agreement)


def explained(network=None):
    evidence = capture(seeded(SmallCNN() if network is None else network), "stage2", noise_images(4), "predicted")
    return evidence, AUTO.decompose(evidence)


# ----- the choice


@pytest.mark.parametrize(("agreement", "chosen"), [(1.0, "bfloat16"), (0.99, "bfloat16"), (0.9899, "float32")])
def test_the_ranks_decide(monkeypatch, agreement, chosen):
    ranks_become(monkeypatch, agreement)
    assert chosen_score_dtype(AUTO, *explained()) == chosen


def test_where_nothing_can_be_told_apart_it_is_float32(monkeypatch):
    ranks_become(monkeypatch, float("nan"))
    assert chosen_score_dtype(AUTO, *explained()) == "float32"


class Exact(nn.Module):
    """Refuses bfloat16."""

    def __init__(self):
        super().__init__()
        self.stage2, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, images):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("not implemented for 'BFloat16'")
        return self.head(self.stage2(images).relu().mean(dim=(2, 3)))


def test_a_network_that_does_not_run_in_bfloat16_is_scored_in_float32():
    assert chosen_score_dtype(AUTO, *explained(Exact())) == "float32"


class Coarse(nn.Module):
    """Its logits differ by less than bfloat16 can tell."""

    def __init__(self):
        super().__init__()
        self.stage2, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, images):
        values = self.head(self.stage2(images).relu().mean(dim=(2, 3)))
        return values + 2000 if torch.is_autocast_enabled("cpu") else values


def test_ranks_that_are_lost_are_seen():
    assert chosen_score_dtype(AUTO, *explained(Coarse())) == "float32"
    evidence, exact = explained(Coarse())
    rough = DecomCAM(n_components=4, score_dtype="bfloat16").decompose(evidence)
    assert rank_agreement(exact.contributions, rough.contributions, exact.valid) < 0.9


def test_without_a_run_it_is_float32():
    evidence, found = explained()
    assert torch.equal(found.scores, DecomCAM(n_components=4).decompose(evidence).scores)


# ----- ranks


def test_agreement_is_the_mean_of_spearmans_rho():
    exact = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    rough = torch.tensor([[9.0, 8.0, 7.0, 6.0], [2.0, 1.0, 3.0, 4.0]])
    assert rank_agreement(exact, rough, torch.ones(2, 4, dtype=torch.bool)) == pytest.approx((1 + 0.8) / 2)


def test_components_that_are_not_there_do_not_count():
    exact = torch.tensor([[2.0, 1.0, torch.nan]])
    rough = torch.tensor([[5.0, 1.0, 7.0]])
    assert rank_agreement(exact, rough, torch.tensor([[True, True, False]])) == pytest.approx(1.0)


def test_images_without_ranks_are_left_out_and_lost_ranks_count():
    exact = torch.tensor([[1.0, 1.0], [torch.nan, 1.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    rough = torch.tensor([[2.0, 1.0], [2.0, 1.0], [3.0, 1.0], [1.0, 1.0], [torch.nan, 1.0]])
    assert rank_agreement(exact, rough, torch.ones(5, 2, dtype=torch.bool)) == pytest.approx(1 / 3)
    assert rank_agreement(exact[:2], rough[:2], torch.ones(2, 2, dtype=torch.bool)) != 0  # NaN: nobody can tell


# ----- the hardware


@pytest.mark.parametrize(("avx", "amx", "units"), [(True, False, True), (False, True, True), (False, False, False)])
def test_a_processor_is_asked_for_its_units(monkeypatch, avx, amx, units):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_bfloat16_units(torch.device("cpu")) is units
    assert not has_bfloat16_units(torch.device("mps"))


def test_a_gpu_that_only_emulates_it_has_none(monkeypatch):
    asked = []

    class On:
        def __init__(self, device):
            asked.append(device)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(torch.cuda, "device", On)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert not has_bfloat16_units(torch.device("cuda:1"))
    assert asked == [torch.device("cuda:1")]


# ----- a run


def snapshots(observer, n=2, **options):
    network = seeded(SmallCNN())
    observer.prepare(network, spots(class_names=None))
    return [observer.observe(network, epoch=epoch, step=epoch, **options) for epoch in range(n)]


def new_observer():
    return Observer(Explainer(AUTO, "stage2"))


@pytest.mark.parametrize(("units", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_a_run_decides_once_and_its_records_say_so(monkeypatch, units, chosen):
    hardware(monkeypatch, units=units)
    ranks_become(monkeypatch, 1.0)
    observer = new_observer()
    first, second = snapshots(observer)
    assert first.settings["score_dtype"] == second.settings["score_dtype"] == chosen
    assert observer.explainer.method.score_dtype == chosen
    plain = Observer(Explainer(DecomCAM(n_components=4, score_dtype=chosen), "stage2"))
    assert torch.equal(second.decomposition.scores, snapshots(plain)[1].decomposition.scores)
    # Nothing is decided again, whatever the ranks are later.
    ranks_become(monkeypatch, 0.0)
    assert observer.observe(seeded(SmallCNN()), epoch=3, step=3).settings["score_dtype"] == chosen


def test_where_it_is_given_nothing_is_decided(monkeypatch):
    monkeypatch.setattr(precision, "rank_agreement", lambda *_: pytest.fail("nobody asked"))
    (record,) = snapshots(Observer(Explainer(DecomCAM(n_components=4, score_dtype="bfloat16"), "stage2")), 1)
    assert "score_dtype" not in record.settings


def test_the_first_process_decides_for_all(monkeypatch):
    hardware(monkeypatch, units=False)
    observer = new_observer()
    told = iter(["bfloat16"])

    def exchange(mine):
        first = next(told, None)
        return [mine if first is None else (first, None)]

    snapshots(observer, 1, process=Process(exchange=exchange))
    assert observer.score_dtype == "bfloat16"


def test_other_processes_look_at_nothing(monkeypatch):
    hardware(monkeypatch, units=True)
    ranks_become(monkeypatch, 1.0)
    assert new_observer()._chosen_dtype(seeded(SmallCNN()), Process(1, 2)) is None


def test_what_fits_in_memory_is_known_on():
    observer = new_observer()
    observer.explainer._room.fits = 3
    observer._score_in("bfloat16")
    assert observer.explainer._room.fits == 3


def test_a_resumed_run_keeps_what_was_decided(tmp_path, monkeypatch):
    hardware(monkeypatch, units=True)
    ranks_become(monkeypatch, 1.0)
    method = DecomCAM(n_components=3, score_dtype="auto")
    fit(tmp_path, callback(method=method), Keep(tmp_path / "checkpoints"))
    hardware(monkeypatch, units=False)
    observer = callback(method=method)
    fit(tmp_path, observer, max_epochs=2, ckpt_path=tmp_path / "checkpoints" / "epoch=0.ckpt")
    records = list(observer.directory.records())
    assert [record.settings["score_dtype"] for record in records] == ["bfloat16"] * 2
    assert all("score_dtype='bfloat16'" in record.settings["method"] for record in records)
