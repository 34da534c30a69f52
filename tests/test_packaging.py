"""What is built from the repository is whole, holds nothing else, and works alone."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = {f"lit_decom/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
QUICK = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.n_train=64",
    "--data.init_args.n_val=16",
    "--data.init_args.n_test=8",
    "--data.init_args.image_size=32",
    "--callback.probe=4",
    "--callback.method.init_args.n_components=3",
]


def build(source: Path, target: Path) -> Path:
    # The module of the build system itself: neither a fresh environment nor a network.
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(words, cwd=source, check=True, capture_output=True, text=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    (path,) = build(ROOT, tmp_path_factory.mktemp("built")).glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(wheel):
    (path,) = wheel.parent.glob("*.tar.gz")
    return path


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources() -> set[str]:
    """Everything of the package that is no leftover of running it."""
    files = (path for path in (ROOT / "lit_decom").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_holds_the_package_its_configs_and_its_licence_and_nothing_else(wheel):
    files = contents(wheel)
    ours = {name for name in files if PurePosixPath(name).parts[0] == "lit_decom"}
    assert ours == sources() | CONFIGS
    assert {"lit_decom/py.typed", "lit_decom/templates/report.html.j2", "lit_decom/configs/quickstart.yaml"} <= ours
    (info,) = {PurePosixPath(name).parts[0] for name in files.keys() - ours}
    assert info.endswith(".dist-info")
    assert files[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_metadata_name_licence_and_authors_and_no_host(wheel):
    (text,) = (data for name, data in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(text.decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "lit-decom contributors"
    assert metadata.get_all("Project-URL", []) == []


def test_the_sdist_holds_what_the_same_wheel_is_built_from(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        # Python 3.11 knows the filter from 3.11.4 on, and 3.12 warns without.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = tmp_path.iterdir()
    assert {path.name for path in source.iterdir()} == {
        ".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "configs", "lit_decom", "pyproject.toml",
    }  # fmt: skip
    (again,) = build(source, tmp_path / "built").glob("*.whl")
    assert contents(again) == contents(wheel)


def test_an_unpacked_wheel_finds_its_own_configs(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    empty = tmp_path / "empty"
    empty.mkdir()
    alone = {**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")}
    code = "from lit_decom import shipped_configs as c; print(*(c.find(name) for name in c.names()), sep='\\n')"
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, cwd=empty, env=alone, check=True, capture_output=True, text=True, timeout=60).stdout
    assert set(found.split("\n")[:-1]) == {str(tmp_path / "unpacked" / name) for name in CONFIGS}


@pytest.fixture
def installed(wheel, tmp_path):
    """Make an environment where the wheel is installed and, of what is installed here, everything but this package."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    # Before the other packages can be seen, or pip would take this repository's own installation for an older one.
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    words = [*pip, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=120)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # Paths that a .pth file adds have no .pth files of their own, such as that of an editable installation.
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "seen.pth").write_text("\n".join(seen))
    return folder


@pytest.mark.slow
def test_the_installed_wheel_trains_by_a_config_name_from_an_empty_folder(installed, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}

    def run(program: str, *words: str) -> str:
        command = [installed / "bin" / program, *words]
        done = subprocess.run(command, cwd=empty, env=outside, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("python", "-c", "import lit_decom; print(lit_decom.__file__)").startswith(str(installed))
    assert "quickstart.yaml" in run("lit-decom", "configs")
    printed = run("lit-decom", "fit", "--config", "quickstart.yaml", *QUICK)
    assert "Where things are" in printed
    (record,) = empty.rglob("step-*.npz")
    assert (record.parent / "report.html").stat().st_size > 0
    assert not [path for path in tmp_path.glob("*") if path not in (empty, installed)]
