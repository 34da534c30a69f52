"""The command line as a user meets it: composed files, saved configuration, clear errors."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_decom.cli import main

ROOT = Path(__file__).parents[1]
QUICK = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--data.init_args.n_train=64",
    "--data.init_args.n_val=16",
    "--data.init_args.n_test=8",
    "--data.init_args.image_size=32",
    "--callback.probe=4",
    "--callback.method.init_args.n_components=3",
    "--callback.shared_components=2",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lit-decom", *words])
        main()

    return run


def quickstart(*more: str) -> list[str]:
    return ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), *QUICK, *more]


def test_the_quickstart_runs_keeps_its_composed_config_and_says_where_things_are(run, tmp_path, capsys):
    run(*quickstart("--trainer.logger=false", "--callback.report=true"))
    (directory,) = (tmp_path / "runs" / "decomcam").iterdir()
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["callback"]["method"]["init_args"]["n_components"] == 3
    assert config["model"]["init_args"]["scheduler"]["init_args"]["total_steps"] == 1, "interpolated after the override"
    assert len(list(directory.glob("step-*.npz"))) == 1
    printed = capsys.readouterr().out.replace("\n", "")
    assert directory.name in printed
    assert (directory / "report.html").exists()


def test_validate_prints_scores_with_intervals(tmp_path):
    words = [sys.executable, "-m", "lit_decom", "validate", *quickstart("--trainer.logger=false")[1:]]
    printed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300).stdout
    row = next(line for line in printed.splitlines() if "energy_pointing_game" in line and "[" in line)
    assert row.count("[") >= 3, "an interval for the method, the baseline and chance"
    for name in ("grad_cam", "random_map", "center_map"):
        assert name in printed


def test_replay_of_a_run_without_callback_gives_records(run, tmp_path):
    run(*quickstart("--trainer.logger=false"))
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    (live,) = (tmp_path / "runs" / "decomcam").iterdir()
    run("replay", str(checkpoint.parent), "--config", str(live / "config.yaml"))
    replayed = {path.name for path in (checkpoint.parent / "decomcam").glob("step-*.npz")}
    assert replayed == {path.name for path in live.glob("step-*.npz")}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--callback.method.init_args.n_componentz=3"], "n_componentz"),
        (["--callback.method.init_args.integration=papr"], "papr"),
        (["--model.init_args.model=resnet1"], "resnet1"),
        (["--callback.target_layer=layer9"], "layer9"),
        (["--callback.probe=0"], "probe"),
    ],
)
def test_a_wrong_argument_is_named(run, capsys, words, told):
    with pytest.raises((SystemExit, ValueError, Exception)) as raised:
        run(*quickstart("--trainer.logger=false", *words))
    assert told in capsys.readouterr().err + str(raised.value)


def test_replay_without_checkpoints_says_so(run, tmp_path):
    with pytest.raises(SystemExit, match="folder of checkpoints"):
        run("replay", str(tmp_path / "nowhere"))


def test_dashboard_prints_a_workspace(run, capsys):
    pytest.importorskip("wandb_workspaces", reason="needs the extra `dashboard`")
    run("dashboard", "somebody/something", "--dry_run")
    assert "decomcam/ossms" in capsys.readouterr().out
