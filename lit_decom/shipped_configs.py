"""The configurations that come with the package: found by name from any folder, listed and copied on demand.

A name is a path below the folder of configurations, such as ``quickstart.yaml`` or ``data/critters.yaml``. A file of
that name in the working directory goes first.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

EXPECTED_ERRORS = (FileNotFoundError, FileExistsError)
_OPTIONS = ("-c", "--config")
_SUFFIXES = (".yaml", ".yml", ".json")
_PACKAGE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lit-decom configs`` to its parser."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="copy this one; without it, all are listed")
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", type=Path, default=Path(), help="file or folder to copy it to (here)"
    )


def run(given: argparse.Namespace) -> None:
    """List the configurations with a line each, or copy one.

    Args:
        given: what the parser of :func:`add_arguments` returned.

    Raises:
        FileNotFoundError: if no configuration has that name, or there is no folder to copy it to.
        FileExistsError: if the copy would replace a file.
    """
    if given.name is None:
        width = max(map(len, names()))
        lines = [f"{name:<{width}}  {describe(name)}" for name in names()]
        lines += ["", "`lit-decom fit --config NAME` trains with one; `lit-decom configs NAME [TARGET]` copies it."]
        print("\n".join(lines))
    else:
        print(copy(given.name, given.target))


def names() -> list[str]:
    """The names of all configurations: whole ones first, then by group."""
    found = (path.relative_to(_folder()).as_posix() for path in _folder().rglob("*.yaml"))
    return sorted(found, key=lambda name: (name.count("/"), name))


def describe(name: str) -> str:
    """The first line of a configuration, which says what it is for."""
    with find(name).open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()


def find(name: str) -> Path:
    """Find a configuration that comes with the package.

    Args:
        name: its path below the folder of configurations.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if there is none, with the names that are nearest.

    Example:
        >>> find("data/critters.yaml").name
        'critters.yaml'
    """
    if name not in names():
        known = get_close_matches(name, names(), n=1)
        hint = f" Did you mean `{known[0]}`?" if known else ""
        raise FileNotFoundError(
            f"Expected NAME to be a configuration that `lit-decom configs` lists, but got `{name}`.{hint}"
        )
    return _folder() / name


def copy(name: str, target: Path) -> Path:
    """Copy a configuration.

    Args:
        name: its path below the folder of configurations.
        target: the copy, or the folder that it goes into under its own name.

    Returns:
        The copy.

    Raises:
        FileNotFoundError: if no configuration has that name, or there is no folder to copy it to.
        FileExistsError: if the copy would replace a file.
    """
    source = find(name)
    file = target / source.name if target.is_dir() else target
    if not file.parent.is_dir():
        raise FileNotFoundError(f"Expected TARGET to be in a folder that exists, but got {file}.")
    if file.exists():
        raise FileExistsError(f"Expected TARGET to be a new file, but got {file}.")
    return Path(shutil.copyfile(source, file))


def with_paths(words: Sequence[str]) -> list[str]:
    """Put paths in the place of configurations' names after ``--config`` or ``-c``.

    What is a file, seen from the working directory, stays as it is, and so does what looks like no file.

    Args:
        words: of a command line.

    Returns:
        As many words.

    Raises:
        FileNotFoundError: if a word looks like a file, but neither is one nor the name of a configuration.

    Example:
        >>> with_paths(["fit", "--config", "quickstart.yaml"])[2].endswith("configs/quickstart.yaml")
        True
        >>> with_paths(["fit", "--config", "{seed_everything: 1}"])
        ['fit', '--config', '{seed_everything: 1}']
    """
    return list(_with_paths(words))


def _with_paths(words: Sequence[str]) -> Iterator[str]:
    before = ""
    for word in words:
        option, equals, value = word.partition("=")
        if before in _OPTIONS:
            yield _path_of(word)
        elif equals and option in _OPTIONS:
            yield f"{option}={_path_of(value)}"
        else:
            yield word
        before = word


def _path_of(value: str) -> str:
    # Mappings written out, addresses of remote files and the like are the parser's.
    if "://" in value or not value.endswith(_SUFFIXES) or Path(value).exists():
        return value
    if value in names():
        return str(find(value))
    known = get_close_matches(value, names(), n=1)
    hint = f" Did you mean `{known[0]}`?" if known else " `lit-decom configs` lists those names."
    raise FileNotFoundError(
        f"Expected `--config` to be a file or the name of a shipped configuration, but got `{value}`.{hint}"
    )


def _folder() -> Path:
    """Where the configurations are: in an installed package within it, in a checkout beside it."""
    within = _PACKAGE / "configs"
    return within if within.is_dir() else _PACKAGE.parent / "configs"
