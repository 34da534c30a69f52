"""Checks made before the first trial, so that a sweep with a wrong parameter or objective is refused at once."""

import contextlib
import io
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_decom.sweep.errors import SweepError, near, tail
from lit_decom.sweep.files import read_json, write_json
from lit_decom.sweep.program import FACTS_FILE, METRICS_FILE, at, filled, fit_words, overrides
from lit_decom.sweep.space import covering_points, nested
from lit_decom.sweep.spec import Objective, Sweep
from lit_decom.sweep.trials import read_lines, run_watched

# The callback's arguments that the check reads or sets: the only place that knows where they stand in a configuration.
_CALLBACK_KEYS = {
    "report": "callback.report",
    "n_images": "callback.log.n_images",
    "every_n_epochs": "callback.every_n_epochs",
}
# One batch of each, and nothing that outlives the dry trial.
_DRY = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "trainer.num_sanity_val_steps": 0,
    "trainer.logger": False,
    "trainer.enable_model_summary": False,
    _CALLBACK_KEYS["report"]: False,
    _CALLBACK_KEYS["n_images"]: 0,
    _CALLBACK_KEYS["every_n_epochs"]: 1,
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
    with tempfile.TemporaryDirectory() as folder:
        composed = _parse_point(sweep, {}, Path(folder))
        known = _known_keys(composed)
        for point in covering_points(sweep.parameters):
            try:
                _parse_point(sweep, nested(sweep.parameters, point), Path(folder))
            except SweepError as error:
                unknown = [
                    p.name
                    for p in sweep.parameters
                    if p.varies or p.choices
                    if not _is_known(p.path[0], composed, known)
                ]
                hints = [f"There is no `{name}`.{near(name, known)}" for name in unknown]
                message = "\n".join(
                    [f"Expected `lit-decom fit` to accept the parameters {point}, but:", str(error), *hints]
                )
                raise SweepError(message) from error
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
        directory = Path(folder)
        point = covering_points(sweep.parameters)[0]
        config = nested(sweep.parameters, point) | overrides(sweep, directory, composed) | _DRY
        config = {key: value for key, value in config.items() if not key.startswith("trainer.logger.")}
        write_json(directory / "config.json", config)
        words = filled(sweep, config, directory / "config.json")
        code, _ = run_watched(words, directory, threads=1, ended_by=lambda: False, stopping=threading.Event())
        if code:
            log = tail(directory / "log.txt")
            raise SweepError(f"Expected a dry trial of one batch to run, but it ended with status {code}:\n{log}")
        directions: dict[str, bool | None] = dict.fromkeys(
            name for line in read_lines(directory / METRICS_FILE) for name in line["values"]
        )
        directions.update((read_json(directory / FACTS_FILE) or {}).get("directions", {}))
        return directions


def check_objectives(sweep: Sweep, directions: Mapping[str, bool | None]) -> None:
    """Compare the objectives with what a trial logs.

    Args:
        sweep: whose objectives they are.
        directions: by the name of everything that a trial may log, whether more is better.

    Raises:
        SweepError: if an objective is not logged, or its goal is against the metric's own.
    """
    for objective in sweep.objectives:
        _refuse_silent(objective, set(directions))
        _refuse_contradicting(objective, directions[objective.name])


def _refuse_silent(objective: Objective, possible: set[str]) -> None:
    if objective.name not in possible:
        hint = near(objective.name, possible) or f" Logged are {', '.join(sorted(possible)[:12])}, and others."
        raise SweepError(f"Expected the metric to be logged by a trial, but nothing logs `{objective.name}`.{hint}")


def _refuse_contradicting(objective: Objective, more_is_better: bool | None) -> None:
    goal = "maximize" if more_is_better else "minimize"
    if more_is_better is not None and objective.goal != goal:
        better = "more" if more_is_better else "less"
        raise SweepError(
            f"Expected the goal of `{objective.name}` to be {goal}, since {better} is better, but got {objective.goal}."
        )


def _parse_point(sweep: Sweep, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Compose the configuration of a trial."""
    file = folder / "point.json"
    write_json(file, dict(config))
    return parse(filled(sweep, config, file, fit_words(sweep.command)))


def parse(words: list[str]) -> dict[str, Any]:
    """Compose a configuration as ``lit-decom fit`` does, without making anything of it.

    Args:
        words: after ``fit``.

    Returns:
        The configuration as nested mappings.

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
            Composer(
                **cli_settings("lit-decom"),
                save_config_callback=None,
                args=["fit", *words],
            )
    except Composed as composed:
        plain: dict[str, Any] = _plain(composed.args[0]["fit"])
        return plain
    except SystemExit as error:
        message = said.getvalue()
        raise SweepError(message[message.find("error: ") + len("error: ") :].strip()) from error
    raise SweepError("Expected `command` to hold `lit-decom fit` and its options, but there was nothing to compose.")


def _plain(value: Any) -> Any:
    """Namespaces as mappings."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _known_keys(config: Mapping[str, Any], above: str = "") -> set[str]:
    """Every dotted key of a configuration, branches included."""
    found = set()
    for key, value in config.items():
        found.add(f"{above}{key}")
        if isinstance(value, Mapping):
            found |= _known_keys(value, f"{above}{key}.")
    return found


def _is_known(name: str, composed: Mapping[str, Any], known: set[str]) -> bool:
    """Whether a key exists, or may exist below one that is empty."""
    if name in known:
        return True
    parent = name.rpartition(".")[0]
    return bool(parent) and parent in known and at(composed, parent) is None
