"""``lit-decom compare``: a run's configuration and checkpoint, and every method on its data."""

import csv
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.loggers import WandbLogger

from lit_decom import DecomCAM, compare
from lit_decom.cli import main
from lit_decom.comparison import accuracy_stratified
from lit_decom.comparison.tables import COLUMNS
from lit_decom.data import CrittersDataModule
from lit_decom.metrics import Gini, InsertionDeletion
from lit_decom.tasks import ClassificationTask

ROOT = Path(__file__).parents[1]
SIZES = {"n_train": 8, "n_val": 24, "n_test": 16, "image_size": 32, "batch_size": 8, "seed": 0, "corruption": 1.0}
QUICK = [
    *("--config", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.accelerator=cpu"),
    *(f"--data.init_args.{name}={size}" for name, size in SIZES.items()),
    *("--model.init_args.model_args.width=8", "--callback.method.init_args.n_components=2"),
    *("--compare.metrics=[{class_path: lit_decom.metrics.Gini}]", "--compare.methods=[grad_cam, decom_cam]"),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words: str, logger: bool = False) -> None:
        words = ["compare", *QUICK, *words, *([] if logger else ["--trainer.logger=false"])]
        monkeypatch.setattr(sys, "argv", ["lit-decom", *words])
        main()

    return run


def values(folder):
    with (folder / "results.csv").open(newline="") as file:
        rows = {(row["measure"], row["stratum"], row["method"]): row["value"] for row in csv.DictReader(file)}
    return {name: float(value) for name, value in rows.items() if value}


def task(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ClassificationTask("small_resnet", num_classes=8, model_args={"width": 8})


def checkpoint(module, path, layer):
    """What a training with the callback leaves behind, as far as it is read."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    found = torch.load(path, weights_only=True)
    torch.save(found | {"callbacks": {"DecomCAMCallback{'prefix': 'decomcam'}": {"target_layer": layer}}}, path)


def test_it_explains_the_layer_and_the_weights_of_the_checkpoint_by_the_configured_method(run, tmp_path, capsys):
    module = task(seed=5)
    checkpoint(module, tmp_path / "trained.ckpt", "model.layer1")
    run("--ckpt_path=trained.ckpt", "--output=found")
    data = CrittersDataModule(**SIZES)
    methods = {"grad_cam": "grad_cam", "decom_cam": DecomCAM(n_components=2)}
    expected = compare(module, "model.layer1", list(methods.values()), data, [Gini()])
    found = values(tmp_path / "found")
    assert found == {
        (each.measure, each.stratum, each.method): pytest.approx(each.value, abs=1e-6) for each in expected.standings
    }
    said = capsys.readouterr().out
    assert "2 methods on 24 images" in said
    assert "weights: trained.ckpt" in said
    assert str(Path("found", "comparison.html")) in said


def test_a_limit_and_the_test_images(run, tmp_path, capsys):
    run("--limit=5", "--compare.split=test")
    said = capsys.readouterr().out
    assert "2 methods on 5 images" in said
    assert "no --ckpt_path" in said
    assert len(list((tmp_path / "runs" / "comparison" / "rows").glob("*.npz"))) == 1
    run("--compare.split=test")
    assert "2 methods on 16 images" in capsys.readouterr().out


def test_the_table_goes_to_the_loggers_and_what_one_batch_scores_does_not(run, monkeypatch):
    sent, scalars = [], []
    monkeypatch.setattr("lit_decom.comparing.log_table", lambda *what: sent.append(what))
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda *what: scalars.append(what))
    run("--limit=8", logger=True)
    ((logger, key, columns, rows),) = sent
    assert isinstance(logger, WandbLogger)
    assert (key, columns) == ("comparison", COLUMNS)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert {row[2] for row in rows} == {"grad_cam", "decom_cam"}
    assert not scalars


def test_the_shipped_protocol_is_that_of_the_function(run, tmp_path, capsys):
    shipped = yaml.safe_load((ROOT / "configs" / "compare" / "accuracy_stratified.yaml").read_text())["compare"]
    known = accuracy_stratified()
    (metric,) = known.pop("metrics").values()
    settings = shipped.pop("metrics")["overall"]
    assert settings["class_path"] == "lit_decom.metrics.InsertionDeletion"
    assert repr(InsertionDeletion(**settings["init_args"])) == repr(metric)
    assert shipped == known
    run("--config=compare/accuracy_stratified.yaml", "--compare.metrics.overall.init_args.n_steps=2", "--output=found")
    assert "overall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compare.methods=[grad_camm]"], "got 'grad_camm'. Did you mean 'grad_cam'?"),
        (["--compare.metrics=[{class_path: lit_decom.metrics.PartIoU}]"], "`ossms` decides in 'part_iou'"),
        (["--compare.pair=[grad_cam, layer_cam]"], "`pair` to be two of ['grad_cam', 'decom_cam']"),
        (["--limit=0"], "limit"),
        (["--compare.strata=colour"], "strata"),
        (["--ckpt_path=absent.ckpt"], "absent.ckpt"),
        (["--callback.target_layer=layer9"], "layer9"),
        (["--data=null"], "required: data"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_cannot_be_done_is_said_with_status_2(run, capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
