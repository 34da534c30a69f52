"""The command line as a user meets it: composed files, saved configuration, clear errors."""

import json
import os
import re
import subprocess
import sys
from argparse import ArgumentError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import WandbLogger

from lit_decom import DecomCAMCallback
from lit_decom.cli import main
from lit_decom.fitting import print_outcome
from lit_decom.records import RunDirectory

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
    "--callback.components.n_shared=2",
]


NETWORK = """
from lightning.pytorch import LightningModule
class Network(LightningModule):
    def __init__(self):
        super().__init__()
"""
COMMANDS = ("fit", "validate", "test", "compare", "configs", "report", "replay", "dashboard", "sweep")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

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


def doubled(task, images):
    return {"logits": 2 * task.model(images)}


@pytest.mark.slow
def test_how_the_module_is_asked_is_the_name_of_a_submodule_or_a_function(run, tmp_path, monkeypatch):
    logits = []
    for forward in ("model", "tests.test_cli.doubled"):
        (tmp_path / forward).mkdir()
        monkeypatch.chdir(tmp_path / forward)
        words = [f"--callback.forward={forward}", "--callback.dirpath=maps"]
        run(*quickstart("--trainer.logger=false", "--callback.scores.metrics=[]", *words))
        config = yaml.safe_load(Path("maps/config.yaml").read_text())
        assert config["callback"]["forward"] == forward
        (record,) = RunDirectory(Path("maps")).records()
        logits.append(record.logits)
    assert torch.equal(2 * logits[0], logits[1])


def test_validate_prints_scores_beside_chance_and_writes_them(tmp_path):
    # of fewer than eight images there are no intervals
    more = quickstart("--trainer.logger=false", "--callback.probe=12", "--output=scores.json")[1:]
    words = [sys.executable, "-m", "lit_decom", "validate", *more]
    printed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300).stdout
    lines = printed.splitlines()
    row = lines[lines.index("energy_pointing_game ↑") + 1]
    assert row.count("±") == 4, "the method, the baseline, and two kinds of chance"
    for name in ("grad_cam", "random_map", "center_map", "✗ DecomCAM is not better", "Defined for no image", "val/acc"):
        assert name in printed
    assert "decomcam/" not in printed, "no table of everything that is logged"
    kept = json.loads((tmp_path / "scores.json").read_text())
    known = {(score["metric"], score["stratum"], score["explanation"]): score for score in kept["scores"]}
    score = known["energy_pointing_game", "all", "DecomCAM"]
    assert f"{score['value']:.3f}±" in row
    assert score["low"] < score["value"] < score["high"]
    assert kept["settings"]["target_layer"]


class Offline(WandbLogger):
    experiment = SimpleNamespace(dir="runs/wandb/offline-run-20260101_000000-abcdefgh/files")

    def __init__(self):
        pass


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_path_is_cut_where_a_run_says_where_things_are(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    observer = DecomCAMCallback()
    observer.last_snapshot = object()
    observer.directory = SimpleNamespace(path=Path("runs/lit-decom/[red]abcdefgh/decomcam"))
    best = f"runs/{'x' * 90}/epoch=1-pointing=0.437.ckpt"
    checkpoints = SimpleNamespace(best_model_path=best)
    print_outcome(SimpleNamespace(callbacks=[observer], loggers=[Offline()], checkpoint_callback=checkpoints))
    lines = capsys.readouterr().out.splitlines()
    for whole in (
        "runs/lit-decom/[red]abcdefgh/decomcam/pictures",
        "wandb sync runs/wandb/offline-run-20260101_000000-abcdefgh",
        best,
    ):
        assert sum(line.endswith(f" {whole}") for line in lines) == 1, "in one line, to be copied"
    observer.last_snapshot = None
    print_outcome(SimpleNamespace(callbacks=[observer], loggers=[], checkpoint_callback=None))
    assert "none was taken" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["-u"], []], ids=["unbuffered", "buffered"])
def test_a_reader_who_goes_is_no_error(flags, tmp_path):
    process = subprocess.Popen(
        [sys.executable, *flags, "-m", "lit_decom", "configs"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(120) == 141
    assert said == ""


def test_another_broken_pipe_is_an_error(run, monkeypatch):
    def broken(_given):
        raise BrokenPipeError("a socket")

    monkeypatch.setattr("lit_decom.shipped_configs.run", broken)
    with pytest.raises(BrokenPipeError, match="a socket"):
        run("configs")


def test_replay_of_a_run_without_callback_gives_records(run, tmp_path):
    run(*quickstart("--trainer.logger=false"))
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    (live,) = (tmp_path / "runs" / "decomcam").iterdir()
    run("replay", str(checkpoint.parent), "--config", str(live / "config.yaml"))
    replayed = {path.name for path in (checkpoint.parent / "decomcam").glob("step-*.npz")}
    assert replayed == {path.name for path in live.glob("step-*.npz")}


@pytest.mark.parametrize(
    ("word", "named", "raised"),
    [
        ("--callback.method.init_args.n_componentz=3", "n_componentz", ArgumentError),
        ("--callback.method.init_args.integration=papr", "papr", ArgumentError),
        ("--model.class_path=absent.Network", "No module named 'absent'", ArgumentError),
        ("--model.init_args.model=resnet1", "resnet1", MisconfigurationException),
        ("--callback.target_layer=layer9", "layer9", MisconfigurationException),
        ("--model.init_args.num_classes=7", "--model.init_args.num_classes=8", MisconfigurationException),
        (
            "--data.init_args.image_size=16",
            "Expected `image_size` to be at least 32 pixels, but",
            MisconfigurationException,
        ),
        ("--callback.probe=0", "Expected `probe` to be at least 1", MisconfigurationException),
        ("--ckpt_path=absent.ckpt", "absent.ckpt", FileNotFoundError),
    ],
)
def test_a_wrong_argument_is_named_without_a_traceback_unless_that_is_asked_for(run, capsys, word, named, raised):
    with pytest.raises(SystemExit) as stopped:
        run(*quickstart("--trainer.logger=false", word))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said
    assert said.count("--callback.") < 4, "the usage does not bury the message"
    with pytest.raises(raised, match=re.escape(named)):
        run(*quickstart("--trainer.logger=false", word, "--debug"))


def test_an_error_that_is_no_users_keeps_its_traceback(run, tmp_path):
    code = (
        "import lit_decom.tasks\n"
        "class Broken(lit_decom.tasks.ClassificationTask):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        raise ValueError('a bug')\n"
    )
    (tmp_path / "broken_task.py").write_text(code)
    with pytest.raises(ValueError, match="a bug"):
        run(*quickstart("--trainer.logger=false", "--model.class_path=broken_task.Broken"))


def test_modules_in_the_working_directory_are_found(run, tmp_path, capsys):
    (tmp_path / "own_network.py").write_text(NETWORK)
    with pytest.raises(SystemExit) as stopped:
        run(*quickstart("--model=own_network.Network", "--print_config"))
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == "own_network.Network"


def test_a_safe_path_stays_safe(tmp_path):
    code = "import sys; from lit_decom.cli import main\ntry: main(['--help'])\nfinally: print(sys.path)"
    for flags, found in (([], True), (["-P"], False)):
        words = [sys.executable, *flags, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        assert (repr(str(tmp_path)) in done.stdout) is found


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_lists_every_command_with_a_line(run, capsys, words):
    run(*words)
    assert_lists_commands(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "hint"), [(["reprot"], "`report`"), (["zzz"], "`zzz`"), ([], "there is none"), (["--x"], "--x")]
)
def test_what_is_no_command_is_refused_with_the_list_of_all(run, capsys, words, hint):
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert_lists_commands(said)
    assert hint in said.splitlines()[-1]


def assert_lists_commands(text):
    listed = dict(re.findall(r"^    (\w+)\s+(\w.+)$", text, flags=re.MULTILINE))
    assert set(COMMANDS) <= set(listed)
    assert {"sweep run FILE", "sweep show DIR"} <= set(re.findall(r"`(.+?)`", " ".join(text.split())))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["fit"], ["--callback.probe", "--trainer.max_epochs", "--ckpt_path"]),
        (["compare"], ["--compare.methods", "--compare.strata", "--limit", "--output", "--ckpt_path"]),
        (["configs"], ["NAME", "TARGET"]),
        (["report"], ["RUN_DIR", "--n_drawn"]),
        (["replay"], ["CKPT_DIR", "--config"]),
        (["dashboard"], ["ENTITY/PROJECT", "--dry_run"]),
        (["sweep"], ["run", "show"]),
        (["sweep", "run"], ["--backend", "--n_trials", "LIT_DECOM_TRIAL"]),
        (["sweep", "show"], ["--eps"]),
    ],
    ids=" ".join,
)
def test_every_command_has_its_own_help(run, capsys, words, options):
    with pytest.raises(SystemExit) as stopped:
        run(*words, "--help")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: lit-decom {' '.join(words)}")
    assert all(option in printed for option in options)


@pytest.mark.parametrize("words", [["--help"], ["reprot"], ["sweep", "--help"]], ids=" ".join)
def test_what_needs_no_network_imports_no_torch(words):
    code = (
        "import sys; from lit_decom.cli import main\n"
        f"try: main({words})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'wandb', 'scipy.stats'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["validate", "--output", "scores.txt"], "a file that ends in .json or .csv"),
        (["test", "--output", "absent/scores.csv"], "in a folder that exists, but got 'absent/scores.csv'"),
        (["report", "nowhere"], "lit-decom report: error: Expected nowhere to be a run directory"),
        (["replay", "nowhere"], "lit-decom replay: error: Expected CKPT_DIR to be a folder of checkpoints"),
        (["replay"], "CKPT_DIR"),
        (["dashboard", "somebody"], "Expected `project` to be ENTITY/PROJECT, but got 'somebody'"),
        (["sweep", "show", "nowhere"], "lit-decom sweep: error: Expected nowhere to be the directory of a sweep"),
        (["sweep", "rnu"], "invalid choice: 'rnu'"),
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


def test_replay_without_checkpoints_says_so(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        run("replay", "empty", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.logger=false", *QUICK)
    assert stopped.value.code == 2
    assert "Expected empty to hold checkpoints" in capsys.readouterr().err


def test_the_words_of_the_process_are_left_as_they_were(run):
    with pytest.raises(SystemExit):
        run("fit", "--debug", "--print_config", "--help")
    assert sys.argv == ["lit-decom", "fit", "--debug", "--print_config", "--help"]
    assert "JSONARGPARSE_DEBUG" not in os.environ


def test_dashboard_prints_a_workspace(run, capsys):
    pytest.importorskip("wandb_workspaces", reason="needs the extra `dashboard`")
    run("dashboard", "somebody/something", "--dry_run")
    assert "decomcam/ossms" in capsys.readouterr().out
