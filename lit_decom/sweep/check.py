"""Checks made before the first trial, so that a sweep with a wrong parameter or objective is refused at once."""

import contextlib
import io
import json
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_decom.sweep.errors import SweepError, near, tail
from lit_decom.sweep.program import at, filled, fit_words, overrides
from lit_decom.sweep.space import covering_points, nested
from lit_decom.sweep.spec import Sweep
from lit_decom.sweep.trial import read_lines, run_watched

# One batch of each, and nothing that outlives the dry trial.
_DRY = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "trainer.num_sanity_val_steps": 0,
    "trainer.logger": False,
    "trainer.enable_model_summary": False,
    "callback.report": False,
    "callback.log.n_images": 0,
    "callback.every_n_epochs": 1,
}


def check_parameters(sweep: Sweep) -> Mapping[str, Any]:
    """Parse the command with every choice and both ends of every range, as ``lit-decom fit`` would.

    Args:
        sweep: whose program is ``lit_decom fit``; another program's parameters cannot be looked at.

    Returns:
        The configuration without parameters; empty for another program.

    Raises:
        SweepError: naming what does not fit, and what is spelled alike.
    """
    if fit_words(sweep.command) is None:
        return {}
    composed = _compose(sweep, {})
    known = _known_keys(composed)
    for point in covering_points(sweep.parameters):
        try:
            _compose(sweep, nested(sweep.parameters, point))
        except SweepError as error:
            unknown = [p.path[0] for p in sweep.parameters if not _is_known(p.path[0], composed, known)]
            hints = [f"There is no `{name}`.{near(name, known)}" for name in dict.fromkeys(unknown)]
            lines = [f"Expected `lit-decom fit` to accept the parameters {point}, but:", str(error), *hints]
            raise SweepError("\n".join(lines)) from error
    return composed


def dry_trial(sweep: Sweep, composed: Mapping[str, Any]) -> dict[str, bool | None]:
    """Train on one batch in a directory that is thrown away.

    Args:
        sweep: whose program is ``lit_decom fit``.
        composed: the configuration without parameters.

    Returns:
        By the name of everything that a trial may log, whether more is better; None where that is not known.

    Raises:
        SweepError: if the trial fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder).resolve()
        config = nested(sweep.parameters, covering_points(sweep.parameters)[0])
        config |= overrides(sweep, directory, composed) | _DRY
        config = {key: value for key, value in config.items() if not key.startswith("trainer.logger.")}
        code, _ = run_watched(sweep, config, directory, threads=1, ended_by=lambda: False, stopping=threading.Event())
        if code:
            log = tail(directory / "log.txt")
            raise SweepError(f"Expected a dry trial of one batch to run, but it ended with status {code}:\n{log}")
        return {name: more for line in read_lines(directory) for name, more in line.get("directions", {}).items()}


def check_objectives(sweep: Sweep, directions: Mapping[str, bool | None]) -> None:
    """Compare the objectives with what a trial logs.

    Args:
        sweep: whose objectives they are.
        directions: by the name of everything that a trial may log, whether more is better.

    Raises:
        SweepError: if an objective is not logged, or its goal is against the metric's own.
    """
    for objective in sweep.objectives:
        name, goal = objective.name, objective.goal
        if name not in directions:
            hint = near(name, directions) or f" Logged are {', '.join(sorted(directions)[:12])}, and others."
            raise SweepError(f"Expected the metric to be logged by a trial, but nothing logs `{name}`.{hint}")
        right, better = ("maximize", "more") if directions[name] else ("minimize", "less")
        if directions[name] is not None and goal != right:
            raise SweepError(f"Expected the goal of `{name}` to be {right}, since {better} is better, but got {goal}.")


def parse(words: list[str]) -> dict[str, Any]:
    """Compose a configuration as ``lit-decom fit`` does from the words after it, without making anything of it.

    Raises:
        SweepError: with the parser's own message.
    """
    # Lightning takes seconds to import, and other programs than ours need none of it.
    from lit_decom.fitting import LitDecomCLI, cli_settings

    class Composed(Exception):  # noqa: N818 -- not an error: the way out before anything is made
        pass

    class Composer(LitDecomCLI):
        # before Lightning seeds everything and makes a Trainer
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise Composed(parser.parse_args(args))

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            Composer(**cli_settings("lit-decom"), save_config_callback=None, args=["fit", *words])
    except Composed as composed:
        plain: dict[str, Any] = _plain(composed.args[0]["fit"])
        return plain
    except SystemExit as error:
        message = said.getvalue()
        raise SweepError(message[message.find("error: ") + len("error: ") :].strip()) from error
    raise SweepError("Expected `command` to hold `lit-decom fit` and its options, but there was nothing to compose.")


def _compose(sweep: Sweep, config: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "point.json"
        file.write_text(json.dumps(dict(config)))
        return parse(filled(sweep, config, file, fit_words(sweep.command)))


def _plain(value: Any) -> Any:
    """Namespaces as mappings, and what JSON does not know as text."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _known_keys(config: Mapping[str, Any], above: str = "") -> set[str]:
    """Every dotted key of a configuration, branches included."""
    below = (_known_keys(value, f"{above}{key}.") for key, value in config.items() if isinstance(value, Mapping))
    return {f"{above}{key}" for key in config}.union(*below)


def _is_known(name: str, composed: Mapping[str, Any], known: set[str]) -> bool:
    """Whether a key exists, or may exist below one that is empty."""
    parent = name.rpartition(".")[0]
    return name in known or (parent in known and at(composed, parent) is None)
