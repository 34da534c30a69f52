"""Pictures and curves in the user's own loggers, read back from the files they leave."""

import json
import logging
import math
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_decom import DecomCAM
from lit_decom.fitting import KeepConfig
from lit_decom.sinks import Picture, log_curves, log_files, log_picture, log_table, takes_pictures
from tests.helpers.modules import CLASSES, callback, fit, probe, tiny, trainer
from tests.helpers.wandb_files import read_run

GAIN = "decomcam/score_gain/rank_01"
PICTURE = "decomcam/ossms"
CURVES = "decomcam/factor_curves"


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    # Tables are kept as artifacts, which W&B stages in the user's own folders.
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    closed()
    yield
    closed()


def closed() -> None:
    """End the run; only then has W&B's own process written the last of its file."""
    wandb.finish()
    wandb.teardown()


def wandb_run(tmp_path, **arguments):
    observer = arguments.pop("observer", None) or callback()
    logger = WandbLogger(project="zoo", save_dir=tmp_path, offline=True)
    fit(tmp_path, observer, logger=logger, **arguments)
    closed()
    return observer, read_run(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        pytest.param({}, [3, 7, 11], id="validation"),
        pytest.param({"validate": False}, [3, 7, 11], id="end of training epoch"),
        pytest.param({"accumulate_grad_batches": 2}, [1, 3, 5], id="gradient accumulation"),
    ],
)
def test_wandb_has_scalars_and_pictures_at_the_same_step(tmp_path, arguments, steps):
    observer, run = wandb_run(tmp_path, max_epochs=3, **arguments)
    scalars, pictures = run.rows(GAIN), run.rows(PICTURE)
    assert [row["trainer/global_step"] for row in scalars] == steps
    assert [row["trainer/global_step"] for row in pictures] == steps
    assert [row[GAIN] for row in scalars] == pytest.approx(
        [entry["score_gain/rank_01"] for entry in observer.run_log.history], rel=1e-6
    )
    assert [row["epoch"] for row in scalars] == [0, 1, 2]
    charts = run.rows(f"{CURVES}_table")
    assert [row["trainer/global_step"] for row in charts] == steps[-1:], "once, at the end"
    order = [row["_step"] for row in run.history]
    assert order == sorted(order)


def test_wandb_has_the_files_that_its_rows_speak_of(tmp_path):
    observer, run = wandb_run(tmp_path, max_epochs=2)
    assert run.missing_media() == []
    for row, record in zip(run.rows(PICTURE), observer.directory.files(), strict=True):
        entry = row[PICTURE]
        assert entry["_type"] == "images/separated"
        assert entry["count"] == 1
        (name,) = entry["filenames"]
        with (
            Image.open(run.media[name]) as logged,
            Image.open(observer.directory.path / "pictures" / f"{record.stem}.jpg") as kept,
        ):
            assert logged.format == "JPEG"
            assert logged.size == kept.size == (entry["width"], entry["height"])
            assert np.array_equal(np.asarray(logged), np.asarray(kept)), "encoded once"
    captions = [row[PICTURE]["captions"][0] for row in run.rows(PICTURE)]
    assert captions == [
        f"epoch {epoch}, step {step}: DecomCAM(n_components=3, integration='paper') at second"
        for epoch, step in [(0, 3), (1, 7)]
    ]


@pytest.mark.parametrize(
    ("shared", "name", "line"),
    [
        ("decision_factors", "factor_curves", "factor_share/01"),
        ("svd", "gain_curves", "score_gain/component_01"),
    ],
)
def test_wandb_has_a_chart_with_a_line_per_factor_or_else_per_component(tmp_path, shared, name, line):
    observer, run = wandb_run(tmp_path, max_epochs=3, observer=callback(shared=shared))
    tables = {key for row in run.history for key in row if key.endswith("curves_table")}
    assert tables == {f"decomcam/{name}_table"}, "one chart a run"
    content = json.loads(run.media[run.column(f"decomcam/{name}_table")[-1]["path"]].read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    family, own = line.split("/")
    assert {row["lineKey"] for row in rows} == {
        key.removeprefix(f"{family}/")
        for entry in observer.run_log.history
        for key in entry
        if key.startswith(line.removesuffix("01"))
    }
    first = [row["lineVal"] for row in rows if row["lineKey"] == own]
    assert first == pytest.approx([entry[line] for entry in observer.run_log.history if line in entry])
    assert len(first) > 0


def test_wandb_has_the_run_directory_beside_its_own(tmp_path):
    observer, run = wandb_run(tmp_path)
    assert observer.directory.path == tmp_path / "zoo" / run.run_id / "decomcam"


def test_a_network_that_looks_at_nothing_is_logged_without_an_error(tmp_path):
    blind = tiny(lr=0.0)
    blind.head.weight.data.zero_()
    observer, run = wandb_run(tmp_path, module=blind, observer=callback(method=DecomCAM(n_components=3)))
    assert observer.errors == 0
    assert run.column("decomcam/blank_maps") == [6]
    assert run.rows(GAIN) == []
    assert len(run.rows(PICTURE)) == 1


def test_wandb_draws_a_gap_where_a_line_has_no_value(tmp_path):
    logger = WandbLogger(project="zoo", save_dir=tmp_path, offline=True)
    log_curves(logger, "curves", [3, 7], {"rank_01": [0.5, 0.25], "rank_02": [0.1, math.nan]}, "Score gain")
    closed()
    run = read_run(tmp_path)
    content = json.loads(run.media[run.column("curves_table")[0]["path"]].read_text())
    values = [row[content["columns"].index("lineVal")] for row in content["data"]]
    assert [value for value in values if isinstance(value, float) and not math.isnan(value)] == [0.5, 0.25, 0.1]


def test_tensorboard_has_scalars_pictures_and_curves_at_the_same_step(tmp_path):
    observer = callback()
    fit(tmp_path, observer, max_epochs=2, logger=TensorBoardLogger(tmp_path, name="board"))
    events = EventAccumulator(str(tmp_path / "board" / "version_0"), size_guidance={"images": 0})
    events.Reload()
    scalars = events.Scalars(GAIN)
    assert [event.step for event in scalars] == [3, 7]
    assert [event.value for event in scalars] == pytest.approx(
        [entry["score_gain/rank_01"] for entry in observer.run_log.history], rel=1e-6
    )
    pictures = events.Images(PICTURE)
    assert [event.step for event in pictures] == [3, 7]
    drawn = observer.directory.path / "pictures" / f"{observer.directory.files()[0].stem}.jpg"
    assert pictures[0].encoded_image_string == drawn.read_bytes(), "encoded once"
    with Image.open(drawn) as kept:
        assert (pictures[0].width, pictures[0].height) == kept.size
    assert [event.step for event in events.Images(CURVES)] == [7], "once, at the end"


def test_several_loggers_get_the_same(tmp_path):
    board, table = TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="table")
    observer = callback()
    fit(tmp_path, observer, logger=[table, board])
    assert observer.directory.path == tmp_path / "table" / "version_0" / "decomcam"
    assert GAIN in (tmp_path / "table" / "version_0" / "metrics.csv").read_text()
    events = EventAccumulator(str(tmp_path / "board" / "version_0"))
    events.Reload()
    assert PICTURE in events.Tags()["images"]


def test_a_table_of_numbers_gets_no_pictures(tmp_path):
    logger = CSVLogger(tmp_path)
    log_picture(logger, "maps", Picture(Image.new("RGB", (8, 8)), "one"), 5)
    log_curves(logger, "curves", [5], {"rank_01": [0.5]}, "Score gain")
    log_table(logger, "table", ["id"], [["one"]])
    log_files(logger, "files", [], {})
    assert list(tmp_path.rglob("*.csv")) == []
    assert takes_pictures(logger)


class Speechless(Logger):
    """A tracker that nobody here knows."""

    name, version = "speechless", 0

    def log_metrics(self, metrics, step=None):
        """Nobody looks."""

    def log_hyperparams(self, params):
        """Nobody looks."""


def test_a_tracker_without_a_word_for_pictures_is_named_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        fit(tmp_path, callback(), logger=Speechless(), max_epochs=2)
    said = [entry.message for entry in caplog.records if "no pictures to Speechless" in entry.message]
    assert len(said) == 1
    assert "they are in the run directory" in said[0]


# ----- how much arrives


def masked(n=6):
    masks = torch.zeros(n, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    return probe(n, masks=masks)


def test_by_default_a_snapshot_sends_little_and_a_run_keeps_few_files(tmp_path):
    observer = callback(keys="essential", metrics="default", n_shared=4, probe=masked())
    observer, run = wandb_run(tmp_path, max_epochs=3, observer=observer)
    once = {"decomcam/probe", f"{CURVES}_table", "decomcam/predictions"}
    by_step = {}
    for row in run.history:
        found = {key for key in row if key.startswith("decomcam/")} - once
        by_step.setdefault(row.get("trainer/global_step"), set()).update(found)
    snapshots = [by_step[step] for step in (3, 7, 11)]
    assert min(map(len, snapshots)) >= 15
    assert max(map(len, snapshots)) <= 23, "with epoch and step at most 25"
    assert len(run.rows(PICTURE)) == 3
    assert [key for key in set().union(*snapshots) if "ossms" in key] == [PICTURE]
    assert len([path for path in run.media if path.startswith("media/images/decomcam/ossms")]) == 3
    assert sorted(entry["type"] for entry in run.artifacts) == ["run_table"] * 3
    assert {name for name in run.metrics if name.startswith("decomcam/")} <= set().union(*snapshots)
    assert len(observer.run_log.history[-1]) > 100, "what is not sent is known all the same"


def test_all_keys_are_sent_where_that_is_asked_for(tmp_path):
    observer, run = wandb_run(tmp_path, max_epochs=2, observer=callback(n_shared=2))
    sent = {key.removeprefix("decomcam/") for row in run.history for key in row}
    assert set(observer.run_log.history[-1]) - {"step"} <= sent


def test_the_table_of_predictions_has_every_image_of_every_snapshot(tmp_path):
    observer, run = wandb_run(tmp_path, max_epochs=2)
    (entry,) = run.column("decomcam/predictions")
    content = json.loads(run.media[entry["path"]].read_text())
    assert content["columns"] == ["epoch", "step", "id", "class", "predicted", "confidence", "right"]
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert len(rows) == 2 * 6
    for record in observer.directory.records():
        mine = [row for row in rows if row["step"] == record.step]
        assert [row["id"] for row in mine] == list(record.ids)
        assert [row["predicted"] for row in mine] == [CLASSES[index] for index in record.logits.argmax(dim=1)]
        assert [row["class"] for row in mine] == [CLASSES[index] for index in record.labels]
        assert [row["right"] for row in mine] == (record.logits.argmax(dim=1) == record.labels).tolist()
        assert [row["confidence"] for row in mine] == pytest.approx(record.logits.softmax(dim=1).amax(dim=1).tolist())
        assert record.numbers["accuracy"] == pytest.approx(sum(row["right"] for row in mine) / 6)


class Stumble(Callback):
    """Raises in the second epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise ArithmeticError("stumbled")


def test_a_training_that_breaks_off_has_its_tables_too(tmp_path):
    logger = WandbLogger(project="zoo", save_dir=tmp_path, offline=True)
    with pytest.raises(ArithmeticError, match="stumbled"):
        fit(tmp_path, callback(), Stumble(), logger=logger, max_epochs=3)
    closed()
    assert len(read_run(tmp_path).column("decomcam/predictions")) == 1


def test_a_run_is_described_by_what_its_results_depend_on(tmp_path):
    observer, run = wandb_run(tmp_path, observer=callback(baselines=["layer_cam"]))
    described = run.config["decomcam"]
    assert described["method"]["name"] == "DecomCAM"
    assert (described["method"]["n_components"], described["method"]["integration"]) == (3, "paper")
    assert not [name for name in described["method"] if name.startswith("_")]
    assert described["target_layer"] == "second"
    assert described["probe"]["digest"] == observer.probe.digest
    assert described["probe"]["size"] == 6
    assert described["scores"]["baselines"] == ["layer_cam"]
    assert described["versions"]["torch"] == version("torch")


def test_tensorboard_has_the_settings_beside_the_modules_own_hyperparameters(tmp_path):
    fit(tmp_path, callback(), logger=TensorBoardLogger(tmp_path, name="board"))
    events = EventAccumulator(str(tmp_path / "board" / "version_0"))
    events.Reload()
    (text,) = events.Tensors("decomcam/settings/text_summary")
    assert b"integration: paper" in text.tensor_proto.string_val[0]


class Down(Speechless):
    """A tracker that refuses."""

    def log_hyperparams(self, params):
        raise ConnectionError("the tracker is down")


def test_the_command_line_sends_its_whole_configuration_and_a_tracker_that_is_down_ends_nothing(tmp_path):
    parser = SimpleNamespace(dump=lambda config, **_: yaml.safe_dump(config))
    keep = KeepConfig(parser=parser, config={"model": {"lr": 0.1}, "data": {"n": 3}})
    table = CSVLogger(tmp_path)
    run = trainer(tmp_path, logger=[Down(), table])
    keep.setup(run, tiny(), "validate")
    assert table.experiment.hparams == {}
    with pytest.warns(UserWarning, match="Could not send the configuration to Down: the tracker is down"):
        keep.setup(run, tiny(), "fit")
    assert table.experiment.hparams == {"cli": {"model": {"lr": 0.1}, "data": {"n": 3}}}


# ----- probe and records as artifacts


def explained(tmp_path, *callbacks):
    """The versions that a run of three epochs leaves behind."""
    logger = WandbLogger(project="zoo", save_dir=tmp_path, offline=True)
    fit(tmp_path, *callbacks, logger=logger, max_epochs=3)
    closed()
    return [entry for entry in read_run(tmp_path).artifacts if entry["type"] == "explanations"]


def test_records_are_kept_with_the_checkpoint_that_they_explain(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", monitor=GAIN, mode="max")
    observer = callback(artifacts=True)
    (entry,) = explained(tmp_path, observer, keep)
    steps = [record.step for record in observer.directory.records()]
    assert {"probe.npz", "run.json", *(path.name for path in observer.directory.files())} <= set(entry["files"])
    (checkpoint,) = entry["metadata"]["checkpoints"]
    best = max(range(3), key=lambda index: observer.run_log.history[index]["score_gain/rank_01"])
    assert checkpoint["path"] == keep.best_model_path
    assert (checkpoint["epoch"], checkpoint["step"]) == (best, steps[best])
    assert (checkpoint["monitor"], checkpoint["score"]) == (
        GAIN,
        pytest.approx(observer.run_log.history[best]["score_gain/rank_01"]),
    )
    assert entry["metadata"]["probe_digest"] == observer.probe.digest


def test_on_request_every_snapshot_is_a_version_beside_its_checkpoint(tmp_path):
    versions = explained(tmp_path, callback(artifacts="all"), ModelCheckpoint(tmp_path / "kept", save_top_k=-1))
    assert len({entry["name"] for entry in versions}) == 1
    assert [entry["metadata"]["step"] for entry in versions] == [3, 7, 11]
    checkpoints = [[one["step"] for one in entry["metadata"]["checkpoints"]] for entry in versions]
    assert checkpoints == [[3], [7], [11]]


def test_a_prefix_of_several_parts_names_them_too(tmp_path):
    (entry,) = explained(tmp_path, callback(artifacts=True, prefix="layers/first"))
    assert entry["name"].startswith("layers-first-")


# ----- trackers that need not be installed: their documented methods


class Client:
    """MLflow's client, as ``MlflowClient.log_image`` is documented."""

    def __init__(self):
        self.images = []

    def log_image(self, run_id, image, artifact_file=None, timestamp=None, *, key=None, step=None):
        assert isinstance(image, Image.Image)
        self.images.append((run_id, key, step))


def test_mlflow_gets_pictures_by_key_and_step():
    class WithoutServer(MLFlowLogger):
        experiment, run_id = Client(), "abc"

    logger = WithoutServer.__new__(WithoutServer)
    log_picture(logger, PICTURE, Picture(Image.new("RGB", (8, 8)), "one"), 5)
    assert logger.experiment.images == [("abc", PICTURE, 5)]


class Experiment:
    """Comet's experiment, as ``Experiment.log_image`` is documented."""

    def __init__(self):
        self.images = []

    def log_image(self, image_data, name=None, overwrite=False, image_format="png", *_, step=None, **__):
        with Image.open(image_data) as image:
            self.images.append((name, step, image.format, image.size))


def test_comet_gets_the_encoded_picture():
    logger = CometLogger.__new__(CometLogger)
    logger._experiment = Experiment()
    log_picture(logger, PICTURE, Picture(Image.new("RGB", (8, 4)), "one"), 5)
    assert logger._experiment.images == [(PICTURE, 5, "JPEG", (8, 4))]


def test_mlflow_itself_shows_the_pictures_of_a_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="its own package")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more than its smallest package
    folder = (tmp_path / "runs").as_uri()
    logger = MLFlowLogger("zoo", tracking_uri=folder)
    observer = callback(keys="essential", metrics="default", probe=masked())
    fit(tmp_path, observer, logger=logger, max_epochs=2)
    client = mlflow.MlflowClient(folder)
    names = [entry.path for entry in client.list_artifacts(logger.run_id, "images")]
    assert len([name for name in names if "step+3" in name and name.endswith(".png")]) == 1
    assert client.get_run(logger.run_id).data.params["decomcam/method/name"] == "DecomCAM"
