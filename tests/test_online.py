"""A whole run with the callback, online against a stand-in of the W&B server, and offline with a later sync."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.wandb_server import StandInServer

ROOT = Path(__file__).parents[1]
WORDS = [
    "fit",
    f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.n_train=32",
    "--data.init_args.n_val=16",
    "--data.init_args.image_size=32",
    "--callback.probe=4",
    "--callback.method.init_args.n_components=3",
    "--callback.strict=true",
]


def fit(environment, folder, *more):
    subprocess.run(
        [sys.executable, "-m", "lit_decom", *WORDS, *more], cwd=folder, env=environment, check=True, timeout=300
    )


def assert_arrived(server):
    (run,) = server.runs.values() if isinstance(server.runs, dict) else server.runs
    rows = [row for row in run.rows() if "decomcam/energy_pointing_game/all" in row]
    assert len(rows) == 2
    assert len([row for row in run.history if "decomcam/ossms" in row]) == 2
    assert any("decomcam/ossms" in name for name in run.files)
    assert server.unanswered == []


@pytest.mark.slow
def test_an_online_run_arrives(tmp_path):
    with StandInServer() as server:
        fit(server.environment(tmp_path), tmp_path, "--trainer.logger.init_args.offline=false")
        assert_arrived(server)


@pytest.mark.slow
def test_an_offline_run_arrives_when_it_is_synced(tmp_path):
    with StandInServer() as server:
        environment = server.environment(tmp_path)
        fit(environment, tmp_path)
        assert not server.runs, "nothing is sent before the user says so"
        (folder,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
        subprocess.run(["wandb", "sync", str(folder)], cwd=tmp_path, env=environment, check=True, timeout=300)
        assert_arrived(server)
