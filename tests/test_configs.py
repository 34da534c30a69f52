"""Every shipped configuration runs, and the quickstart says the same as the fragments it could be composed of."""

import sys
from pathlib import Path

import pytest
import yaml

from lit_decom.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
QUICKSTART = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())


def fragments(group: str) -> list[Path]:
    return sorted((CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize("path", [CONFIGS / "quickstart.yaml", CONFIGS / "digits.yaml"], ids=lambda path: path.stem)
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
