"""What cannot work fails before the first step and says why; what fails later ends no training, unless asked to."""

import itertools
import logging

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import Dataset

from lit_decom import DecomCAM, Explainer, Probe
from lit_decom.callbacks import reporting
from lit_decom.evidence.layers import TargetLayerError
from lit_decom.methods import GradCAM
from lit_decom.metrics import AverageDrop, Gini
from lit_decom.metrics.base import PerImageMetric
from lit_decom.records import Snapshot
from lit_decom.sinks import log_curves, log_picture
from tests.helpers.modules import Spots, Tiny, TinyFaulty, callback, fit, loader, tiny, trainer

# ----- when the callback is made


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"every_n_epochs": 0}, ValueError, "Expected `every_n_epochs` to be at least 1, but got 0"),
        ({"batch_size": 0}, ValueError, "Expected `batch_size` to be at least 1, but got 0"),
        ({"chunk_size": 0}, ValueError, "Expected `chunk_size` to be at least 1, but got 0"),
        ({"n_images": -1}, ValueError, "Expected `n_images` to be at least 0, but got -1"),
        *(
            ({"prefix": prefix}, ValueError, "Expected `prefix` to name a folder below the run's, .*, but got")
            for prefix in (
                "../x",
                "a/../../x",
                "/x",
                "",
                "a//b",
                "a/",
                "./a",
                "a\\..\\x",
                "C:x",
                "//host/share/x",
                "a\0",
            )
        ),
        ({"tracker_seconds": 0}, ValueError, "Expected `tracker_seconds` to be above 0, but got 0"),
        (
            {"keys": "some"},
            ValueError,
            "Expected `keys` to be 'essential', 'all' or a list of patterns, but got 'some'",
        ),
        ({"method": GradCAM()}, TypeError, r"`method` to give components, such as DecomCAM\(\), but got GradCAM\(\)"),
        ({"baselines": ["grad_camm"]}, ValueError, "`baselines` to be among .*grad_cam.*but got .'grad_camm'"),
        ({"n_shared": -1}, ValueError, "Expected `n_shared` to be at least 0, but got -1"),
        ({"probe": 0}, ValueError, "Expected `probe` to be at least 1, but got 0"),
        (
            {"probe": torch.rand(2, 3, 8, 8)},
            TypeError,
            "Expected `probe` to be a Probe, a number or None, but got Tensor",
        ),
        (
            {"target": "truth"},
            ValueError,
            "'label', 'predicted', 'contrast', a class index or a callable, but got 'truth'",
        ),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, kind, words):
    with pytest.raises(kind, match=words):
        callback(**arguments)


@pytest.mark.parametrize("prefix", ["decomcam", "layers/first", "..a", "a.b", "ä b"])
def test_a_prefix_is_the_folder_of_its_records_below_the_loggers(tmp_path, prefix):
    observer = callback(prefix=prefix)
    fit(tmp_path / "logs", observer, logger=CSVLogger(tmp_path / "logs"))
    assert observer.directory.path == tmp_path / "logs" / "lightning_logs" / "version_0" / prefix
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert len(observer.directory.files()) == 1


# ----- before the first step


class Watch(Callback):
    """Knows whether a step was made."""

    stepped = False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.stepped = True


class Unreadable(Tiny):
    def forward(self, images):
        return {"scores": super().forward(images)}

    def training_step(self, batch, batch_idx):
        return super().forward(batch[0]).sum()

    def validation_step(self, batch, batch_idx):
        pass


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


def grey(n=4):
    return Probe.from_tensors(torch.rand(n, 1, 32, 32), torch.arange(n))


def labelled(labels):
    return Probe.from_tensors(Spots(len(labels)).images, torch.tensor(labels))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            {"target_layer": "layer4"}, "got 'layer4'. The outermost are first, first.0.*second", id="unknown layer"
        ),
        pytest.param({"target_layer": "0"}, "'0' fits first.0, second.0", id="ambiguous layer"),
        pytest.param(
            {"target_layer": "head"}, r"'head' to return a feature grid.*returns \(1, 4\)", id="no feature grid"
        ),
        pytest.param(
            {"method": DecomCAM(n_components=13)},
            r"`n_components` to be between 1 and 12 \(12 channels, 8 x 8 positions\), but got 13",
            id="too many components",
        ),
        pytest.param(
            {"probe": grey()},
            r"Tiny.forward to take images \(1, 1, 32, 32\), but it raised RuntimeError: .*Say how",
            id="channels, layer named",
        ),
        pytest.param(
            {"probe": grey(), "target_layer": None},
            r"Tiny.forward to take images \(1, 1, 32, 32\), but it raised RuntimeError: .*Say how it is",
            id="channels, layer sought",
        ),
        pytest.param(
            {"probe": labelled([0, 4])}, "`labels` to be between 0 and 3, but got 0 to 4", id="label past the classes"
        ),
        pytest.param({"probe": labelled([4, 0])}, "`labels` to be between 0 and 3, but got 0 to 4", id="first label"),
        pytest.param({"probe": labelled([0, -1])}, "`labels`.*-1", id="negative label"),
        pytest.param({"probe": labelled([-1, 0]), "target": "predicted"}, "`labels`.*-1", id="unused label"),
        pytest.param({"target": 4}, "between 0 and 3, but got 4", id="target past the classes"),
        pytest.param(
            {"method": DecomCAM(n_components=3, integration="notebook")},
            "mean and std of the images",
            id="preset without mean",
        ),
    ],
)
def test_what_cannot_work_fails_before_the_first_step(tmp_path, arguments, words):
    watch = Watch()
    # Also where errors are forgiven: these are mistakes in the configuration, which no later epoch mends.
    with pytest.raises((MisconfigurationException, TargetLayerError, ValueError), match=words):
        fit(tmp_path, watch, callback(strict=False, **arguments))
    assert not watch.stepped


def test_an_output_without_logits_fails_before_the_first_step_and_can_be_read(tmp_path):
    watch = Watch()
    with pytest.raises(
        MisconfigurationException, match=r"return logits .*got dict with scores\. Say how it is asked: `forward=`"
    ):
        fit(tmp_path, watch, callback(), module=tiny(Unreadable))
    assert not watch.stepped
    run = fit(tmp_path, callback(forward=lambda module, images: module(images)["scores"]), module=tiny(Unreadable))
    assert run.callback_metrics["decomcam/errors"] == 0


@pytest.mark.filterwarnings("ignore:Total length of `DataLoader`:UserWarning")
def test_an_empty_dataset_fails_before_the_first_step(tmp_path):
    watch = Watch()
    with pytest.raises(MisconfigurationException, match=r"Empty is empty.*Probe\.from_tensors"):
        trainer(tmp_path, watch, callback(probe=4)).fit(tiny(), loader(), loader(Empty()))
    assert not watch.stepped


def test_a_folder_that_cannot_be_written_is_warned_about_before_the_first_step(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    observer = callback(strict=False, dirpath=blocked / "maps")
    with pytest.warns(UserWarning, match=r"could not keep records in .*maps: NotADirectoryError"):
        run = fit(tmp_path, observer, max_epochs=2)
    assert run.callback_metrics["decomcam/errors"] == 1
    assert "decomcam/score_gain/rank_01" in run.callback_metrics
    with pytest.raises(NotADirectoryError):
        fit(tmp_path, callback(dirpath=blocked / "maps"))


def test_the_chosen_layer_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        fit(tmp_path, callback(target_layer=None))
    assert "DecomCAM explains `target_layer='second'` (8 x 8 positions)." in caplog.text


# ----- while it trains


class Broken(CSVLogger):
    """A tracker that is down as soon as a picture arrives."""


@log_picture.register
def _(logger: Broken, key, picture, step):
    raise ConnectionError("the tracker is down")


@log_curves.register
def _(logger: Broken, key, steps, series, title):
    raise ConnectionError("the tracker is down")


attempts = itertools.count()


def failing(*_args, **_kwargs):
    # Another message each time, as the name of a temporary file makes it.
    raise OSError(28, "No space left on device", f"file-{next(attempts)}")


@pytest.fixture(params=["explain", "record", "grid", "curves"])
def fault(request, monkeypatch):
    """Breaks one place; gives what it is called."""
    if request.param == "explain":
        monkeypatch.setattr(Explainer, "pieces", failing)
        return "explain the probe"
    if request.param == "record":
        monkeypatch.setattr(Snapshot, "save", failing)
        return "keep the record"
    if request.param == "grid":
        monkeypatch.setattr(reporting, "grids_of", failing)
        return "draw the OSSM grid"
    monkeypatch.setattr(reporting, "curves_of", failing)
    return "draw the curves"


def test_an_error_ends_no_training_and_is_warned_about_once_and_counted(tmp_path, fault):
    module = tiny()
    observer = callback(strict=False)
    with pytest.warns(UserWarning, match=r"DecomCAMCallback (could not|took no|has no record)") as warned:
        run = fit(tmp_path / "watched", observer, module=module, max_epochs=3)
    messages = [str(entry.message) for entry in warned if "could not" in str(entry.message)]
    assert len(messages) == 1
    none = [str(entry.message) for entry in warned if "no snapshot in 3 epochs" in str(entry.message)]
    assert len(none) == (fault == "explain the probe")
    assert all(message.endswith("and 3 attempts failed.") for message in none)
    assert f"could not {fault}: OSError: [Errno 28] No space left on device" in messages[0]
    assert "`strict=True`" in messages[0]
    # The curves are drawn once, when the last value has been logged.
    assert observer.errors == (1 if fault == "draw the curves" else 3)
    assert run.current_epoch == 3
    alone = tiny()
    fit(tmp_path / "alone", module=alone, max_epochs=3)
    assert all(torch.equal(left, right) for left, right in zip(module.parameters(), alone.parameters(), strict=True))


def test_an_error_is_an_error_where_that_is_asked_for(tmp_path, fault):
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, callback(strict=True), max_epochs=3)


class Fragile(PerImageMetric):
    """A metric that breaks when it is told to, in whatever copy."""

    broken = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, maps):
        if Fragile.broken:
            raise ArithmeticError("no logarithm of 0")
        self.append(maps.mean(dim=(1, 2)))


class BreakIn(Callback):
    """Breaks the metric in one epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_validation_epoch_start(self, trainer, pl_module):
        Fragile.broken = trainer.current_epoch == self.epoch

    def on_fit_end(self, trainer, pl_module):
        Fragile.broken = False


def test_a_metric_that_raises_is_left_out_of_its_snapshot_and_counted_by_name(tmp_path):
    observer = callback(strict=False, metrics=[Fragile(), Gini()])
    with pytest.warns(UserWarning, match="left the metric 'fragile' out of a snapshot: ArithmeticError") as warned:
        run = fit(tmp_path, BreakIn(1), observer, max_epochs=3)
    assert len([entry for entry in warned if "fragile" in str(entry.message)]) == 1
    assert ["fragile/all" in numbers for numbers in observer.run_log.history] == [True, False, True]
    assert all("gini/all" in numbers for numbers in observer.run_log.history)
    assert run.callback_metrics["decomcam/dropped/fragile"] == 1
    assert run.callback_metrics["decomcam/errors"] == 0
    kept = list(observer.directory.records())
    assert [dict(record.dropped) for record in kept] == [{}, {"fragile": "ArithmeticError: no logarithm of 0"}, {}]
    assert [{score.metric for score in record.metric_scores} for record in kept] == [
        {"fragile", "gini"},
        {"gini"},
        {"fragile", "gini"},
    ]


def test_a_metric_that_raises_is_an_error_where_that_is_asked_for(tmp_path):
    try:
        with pytest.raises(ArithmeticError, match="no logarithm"):
            fit(tmp_path, BreakIn(1), callback(metrics=[Fragile()]), max_epochs=3)
    finally:
        Fragile.broken = False


def test_a_metric_that_cannot_work_fails_before_the_first_step(tmp_path):
    watch, needy = Watch(), AverageDrop(mask_space="unit")
    with pytest.raises(MisconfigurationException, match="`mean` and `std` for `mask_space='unit'`"):
        fit(tmp_path, watch, callback(strict=False, metrics=[needy]))
    assert not watch.stepped


def test_one_failure_keeps_nothing_else_from_being_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(Snapshot, "save", failing)
    observer = callback(strict=False)
    with pytest.warns(UserWarning, match="keep the record|no record of 1 snapshot"):
        run = fit(tmp_path, observer)
    assert observer.directory.files() == []
    assert len(list((observer.directory.path / "pictures").iterdir())) == 1
    assert "decomcam/score_gain/rank_01" in run.callback_metrics
    assert observer.run_log.history == [], "curves are of what is kept"
    assert observer.run_log.last_step == 3


def test_a_tracker_that_is_down_is_counted(tmp_path):
    observer = callback(strict=False)
    with pytest.warns(UserWarning, match="ConnectionError: the tracker is down") as warned:
        fit(tmp_path, observer, max_epochs=2, logger=Broken(tmp_path))
    messages = [str(entry.message) for entry in warned if "tracker" in str(entry.message)]
    assert len(messages) == 1, "once for a tracker"
    assert observer.errors == 3, "two pictures, and once the curves"
    assert len(observer.directory.files()) == 2


def test_a_tracker_that_is_down_keeps_nothing_from_the_next_one(tmp_path):
    observer = callback(strict=False)
    seen = []

    class Healthy(CSVLogger):
        pass

    log_picture.register(Healthy, lambda logger, key, *_: seen.append(key))
    log_curves.register(Healthy, lambda logger, key, *_: seen.append(key))
    with pytest.warns(UserWarning, match="tracker is down"):
        fit(tmp_path, observer, logger=[Broken(tmp_path), Healthy(tmp_path, name="healthy")])
    assert seen == ["decomcam/ossms", "decomcam/factor_curves"]


def test_a_network_that_breaks_in_the_middle_is_reported_and_recovers(tmp_path):
    module = tiny(TinyFaulty)

    class Arm(Callback):
        def on_validation_epoch_start(self, trainer, pl_module):
            module.fault.armed = trainer.current_epoch == 1

        def on_validation_end(self, trainer, pl_module):
            module.fault.armed = False

    observer = callback(strict=False)
    with pytest.warns(UserWarning, match="could not explain the probe: RuntimeError: the network is broken"):
        run = fit(tmp_path, Arm(), observer, module=module, max_epochs=3)
    assert [numbers["epoch"] for numbers in observer.run_log.history] == [0, 2]
    assert [record.epoch for record in observer.directory.records()] == [0, 2]
    assert run.callback_metrics["decomcam/errors"] == 1


class Exploding(nn.Module):
    """NaN for one image of the probe, once it is switched on."""

    on = False

    def forward(self, maps):
        if self.on and not self.training:
            maps = maps.clone()
            maps[maps.flatten(1).abs().sum(dim=1).argmax()] = torch.nan
        return maps


class TinyExploding(Tiny):
    def __init__(self):
        super().__init__()
        self.explode = Exploding()

    def forward(self, images):
        return self.head(self.drop(self.explode(self.second(self.first(images))).mean(dim=(2, 3))))


def test_evidence_that_is_not_finite_is_counted_and_spoils_no_number(tmp_path):
    module, observer = tiny(TinyExploding), callback(target_layer="explode", batch_size=3)
    module.explode.on = True
    run = fit(tmp_path, observer, module=module)
    assert run.callback_metrics["decomcam/nonfinite_images"] >= 1
    ours = {key: value for key, value in run.callback_metrics.items() if key.startswith("decomcam/")}
    assert all(value.isfinite() for value in ours.values())


class TooLarge(Tiny):
    """Fits in memory as training and validation run it, and no more."""

    problem = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forward(self, images):
        if not self.training and torch.is_grad_enabled():
            raise self.problem
        return super().forward(images)


class TooLargeForTheHost(TooLarge):
    problem = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 2147483648")


@pytest.mark.parametrize("layer", ["second", None])
@pytest.mark.parametrize("network", [TooLarge, TooLargeForTheHost])
def test_a_network_that_leaves_no_memory_fails_before_the_first_step_for_that_reason(tmp_path, network, layer):
    watch = Watch()
    with pytest.raises(MisconfigurationException, match=r"^Expected enough memory to explain one image") as raised:
        fit(tmp_path, watch, callback(strict=False, target_layer=layer), module=tiny(network))
    assert str(network.problem).rstrip(".") in str(raised.value)
    assert "forward=" not in str(raised.value), "nothing is wrong with the way of asking"
    assert not watch.stepped
