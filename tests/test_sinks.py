"""Pictures and curves in the user's own loggers, read back from the files they leave."""

import json
import math

import numpy as np
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_decom import DecomCAM
from lit_decom.sinks import log_curves, log_images
from tests.helpers.modules import callback, fit, tiny
from tests.helpers.wandb_files import read_run

GAIN = "decomcam/score_gain/rank_01"
PICTURE = "decomcam/ossms"
CURVES = "decomcam/gain_curves_by_rank"


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
        [entry["score_gain/rank_01"] for entry in observer._history], rel=1e-6
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
            assert np.abs(np.asarray(logged, dtype=float) - np.asarray(kept, dtype=float)).mean() < 4
    captions = [row[PICTURE]["captions"][0] for row in run.rows(PICTURE)]
    assert captions == [
        f"epoch {epoch}, step {step}: DecomCAM(n_components=3, integration='paper') at second"
        for epoch, step in [(0, 3), (1, 7)]
    ]


def test_wandb_has_a_chart_with_a_line_per_rank_over_all_snapshots(tmp_path):
    observer, run = wandb_run(tmp_path, max_epochs=3)
    table = run.column(f"{CURVES}_table")[-1]
    assert table["_type"] == "table-file"
    content = json.loads(run.media[table["path"]].read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    lines = {row["lineKey"] for row in rows}
    assert lines == {"rank_01", "rank_02", "rank_03"}
    first = [row["lineVal"] for row in rows if row["lineKey"] == "rank_01"]
    assert first == pytest.approx([entry["score_gain/rank_01"] for entry in observer._history])
    assert [row["step"] for row in rows if row["lineKey"] == "rank_01"] == [3, 7, 11]


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
        [entry["score_gain/rank_01"] for entry in observer._history], rel=1e-6
    )
    pictures = events.Images(PICTURE)
    assert [event.step for event in pictures] == [3, 7]
    with Image.open(observer.directory.path / "pictures" / f"{observer.directory.files()[0].stem}.jpg") as kept:
        assert (pictures[0].width, pictures[0].height) == kept.size
    assert [event.step for event in events.Images(CURVES)] == [7], "once, at the end"
    (caption, _) = events.Tensors(f"{PICTURE}_caption/text_summary")
    assert b"epoch 0, step 3" in caption.tensor_proto.string_val[0]


def test_several_loggers_get_the_same(tmp_path):
    board, table = TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="table")
    observer = callback()
    fit(tmp_path, observer, logger=[table, board])
    assert observer.directory.path == tmp_path / "table" / "version_0" / "decomcam"
    assert GAIN in (tmp_path / "table" / "version_0" / "metrics.csv").read_text()
    events = EventAccumulator(str(tmp_path / "board" / "version_0"))
    events.Reload()
    assert PICTURE in events.Tags()["images"]


def test_several_pictures_at_once_keep_their_captions_apart(tmp_path):
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    board = TensorBoardLogger(tmp_path, name="board", version=0)
    log_images(board, "maps", pictures, ["one", "two"], 5)
    board.experiment.flush()
    events = EventAccumulator(str(tmp_path / "board" / "version_0"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["maps/0", "maps/1"]
    logger = WandbLogger(project="zoo", save_dir=tmp_path, offline=True)
    log_images(logger, "maps", pictures, ["one", "two"], 5)
    closed()
    (row,) = read_run(tmp_path).rows("maps")
    assert row["maps"]["captions"] == ["one", "two"]
    assert row["trainer/global_step"] == 5


def test_a_logger_without_a_word_for_pictures_gets_none(tmp_path):
    logger = CSVLogger(tmp_path)
    log_images(logger, "maps", [Image.new("RGB", (8, 8))], ["one"], 5)
    log_curves(logger, "curves", [5], {"rank_01": [0.5]}, "Score gain")
    assert list(tmp_path.rglob("*.csv")) == []
