"""Every shipped configuration runs and is found by its name, and the quickstart agrees with its fragments."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lit_decom import shipped_configs
from lit_decom.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
QUICKSTART = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())


def fragments(group: str) -> list[Path]:
    return sorted((CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_whole_config_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", str(path), "--trainer.fast_dev_run=1", "--trainer.enable_progress_bar=false"]
    monkeypatch.setattr(sys, "argv", ["lit-decom", *words, "--callback.probe=2", "--data.init_args.image_size=32"])
    main()
    assert not list(tmp_path.rglob("*.npz")), "a dry run leaves nothing behind"


@pytest.mark.parametrize(
    "path", [path for group in ("data", "model") for path in fragments(group)], ids=lambda p: p.stem
)
def test_a_fragment_composes(path, monkeypatch, capsys):
    base = ["--config", str(CONFIGS / "quickstart.yaml"), "--config", str(path)]
    monkeypatch.setattr(sys, "argv", ["lit-decom", "fit", *base, "--print_config"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (0, None), capsys.readouterr().err
    group = path.parent.name
    expected = yaml.safe_load(path.read_text())[group]
    printed = yaml.safe_load(capsys.readouterr().out)[group]
    assert printed["class_path"] == expected["class_path"]


@pytest.mark.parametrize(
    "name", ["data/critters", "model/small_resnet", "callback/decomcam", "trainer/quick"], ids=lambda name: name
)
def test_the_quickstart_agrees_with_its_fragments(name):
    (group, fragment) = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()).popitem()
    assert fragment.items() <= QUICKSTART[group].items()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def composed(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--print_config"])
    assert stopped.value.code in (0, None), capsys.readouterr().err
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words", [["--config", "quickstart.yaml"], ["--config=quickstart.yaml"], ["-c", "quickstart.yaml"]]
)
def test_a_config_is_found_by_name_from_any_folder(elsewhere, capsys, words):
    found = composed(capsys, *words, "--config", "trainer/quick.yaml", "--trainer.max_epochs=3")
    assert found["data"]["init_args"]["n_train"] == QUICKSTART["data"]["init_args"]["n_train"]
    assert found["trainer"]["max_epochs"] == 3
    assert found["model"]["init_args"]["scheduler"]["init_args"]["total_steps"] == 3, "interpolated over files"


def test_fragments_compose_by_name(elsewhere, capsys):
    names = ["data/digits.yaml", "model/small_resnet.yaml", "callback/decomcam.yaml", "trainer/quick.yaml"]
    words = [word for name in names for word in ("--config", name)]
    found = composed(capsys, *words, "--model.init_args.num_classes=10", "--trainer.max_epochs=2")
    assert found["data"]["class_path"] == "lit_decom.data.DigitsDataModule"
    assert found["callback"]["probe"] == 64


def test_a_decomposition_is_chosen_by_its_name(elsewhere, capsys):
    words = [f"--callback.method.init_args.{word}" for word in ("decomposition=nmf", "warm_start=true")]
    chosen = composed(capsys, "--config", "quickstart.yaml", *words)["callback"]["method"]["init_args"]
    assert (chosen["decomposition"], chosen["warm_start"], chosen["n_components"]) == ("nmf", True, 8)


def test_a_file_in_the_working_directory_goes_first(elsewhere, capsys):
    own = (CONFIGS / "quickstart.yaml").read_text().replace("width: 16", "width: 5")
    (elsewhere / "quickstart.yaml").write_text(own)
    assert composed(capsys, "--config", "quickstart.yaml")["model"]["init_args"]["model_args"]["width"] == 5


def test_a_mistyped_config_is_refused_with_the_nearest_name(elsewhere, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "quickstrat.yaml"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Did you mean `quickstart.yaml`?" in said
    assert "Traceback" not in said


def test_all_configs_are_listed_with_what_they_are_for(elsewhere, capsys):
    main(["configs"])
    listed = capsys.readouterr().out
    files = {path.relative_to(CONFIGS).as_posix(): path for path in CONFIGS.rglob("*.yaml")}
    assert set(shipped_configs.names()) == set(files)
    for name, path in files.items():
        first = path.read_text().splitlines()[0]
        assert first.startswith("# "), "the line that the list shows"
        assert first[-1] in ".?", "a whole sentence"
        assert any(line.split(maxsplit=1) == [name, first[2:]] for line in listed.splitlines())


def test_a_config_is_copied_out_and_never_over_a_file(elsewhere, capsys):
    (elsewhere / "mine").mkdir()
    for words, copy in (
        (["quickstart.yaml"], "quickstart.yaml"),
        (["data/digits.yaml", "mine"], "mine/digits.yaml"),
        (["digits.yaml", "mine/own.yaml"], "mine/own.yaml"),
    ):
        main(["configs", *words])
        assert (elsewhere / copy).read_bytes() == (CONFIGS / words[0]).read_bytes()
        assert capsys.readouterr().out.strip() == copy
    (elsewhere / "quickstart.yaml").write_text("mine: 1")
    for words, told in (
        (["quickstart.yaml"], "to be a new file, but got quickstart.yaml"),
        (["digitz.yaml"], "Did you mean `digits.yaml`?"),
        (["../pyproject.toml"], "that `lit-decom configs` lists"),
        (["digits.yaml", "absent/own.yaml"], "to be in a folder that exists"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["configs", *words])
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err
    assert (elsewhere / "quickstart.yaml").read_text() == "mine: 1"


@pytest.mark.parametrize("path", fragments("sweep"), ids=lambda path: path.stem)
def test_a_shipped_sweep_names_configs_that_are_found_anywhere(path, elsewhere):
    command = yaml.safe_load(path.read_text())["command"]
    named = [word for before, word in pairwise(command) if before == "--config"]
    assert named[-1] == "${args_json_file}"
    assert len(named) > 1
    assert set(named[:-1]) <= set(shipped_configs.names())
