"""Checks made before the first trial, so that a sweep with a wrong parameter or objective is refused at once."""

import json
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace

from lit_decom.sweep import SweepError, near
from lit_decom.sweep.space import covering_points, nested
from lit_decom.sweep.spec import Sweep
from lit_decom.sweep.trial import end_of_log, filled, fit_words, read_lines, run_program

_DRY = {"trainer.fast_dev_run": True, "callback.every_n_epochs": 1}  # one batch of each, no tracker and no records


class _Composed(Exception):  # noqa: N818 -- not an error: the way out before anything is made
    pass


def check_parameters(sweep: Sweep, *, is_grid: bool = False) -> None:
    """Parse the command with every choice and both ends of every range, as ``lit-decom fit`` would.

    Of another program's parameters it is only checked whether a grid can count them.

    Raises:
        SweepError: naming what does not fit, and what is spelled alike.
    """
    if is_grid:
        [parameter.counted() for parameter in sweep.space]
    if fit_words(sweep.command) is None:
        return
    known = set(_composed(sweep, {}).keys(branches=True))
    for point in covering_points(sweep.space):
        try:
            _composed(sweep, nested(sweep.space, point))
        except SweepError as error:
            unknown = dict.fromkeys(p.path[0] for p in sweep.space if p.path[0] not in known)
            hints = [f"The configuration has no `{name}`.{near(name, known)}" for name in unknown]
            lines = [f"Expected `lit-decom fit` to accept the parameters {point}, but:", str(error), *hints]
            raise SweepError("\n".join(lines)) from error


def dry_trial(sweep: Sweep) -> dict[str, bool | None]:
    """Train ``lit-decom fit`` on one batch in a directory that is thrown away.

    Returns:
        By the name of everything that a trial may log, whether more is better; None where that is not known.

    Raises:
        SweepError: if the trial fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder).resolve()
        config = nested(sweep.space, covering_points(sweep.space)[0]) | _DRY
        code, _ = run_program(sweep, config, directory, threads=1, stopping=threading.Event())
        if code:
            said = end_of_log(directory)
            raise SweepError(f"Expected a dry trial of one batch to run, but it ended with status {code}:\n{said}")
        return {name: more for line in read_lines(directory) for name, more in line.get("directions", {}).items()}


def check_objectives(sweep: Sweep, directions: Mapping[str, bool | None]) -> None:
    """Compare the objectives with what :func:`dry_trial` says that a trial logs.

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


def parse(words: list[str]) -> Namespace:
    """Compose a configuration as ``lit-decom fit`` does from the words after it, without making anything of it.

    Raises:
        SweepError: with the parser's own message.
    """
    # Lightning takes seconds to import, and other programs than ours need none of it.
    from lit_decom.fitting import LitDecomCLI, cli_settings

    class Composer(LitDecomCLI):
        # before Lightning seeds everything and makes a Trainer
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise _Composed(parser.parse_args(args)["fit"])

    settings = cli_settings("lit-decom")
    settings["parser_kwargs"] |= {"exit_on_error": False}
    settings["parser_kwargs"]["fit"] |= {"exit_on_error": False}
    try:
        Composer(**settings, save_config_callback=None, args=["fit", *words])
    except _Composed as composed:
        config: Namespace = composed.args[0]
        return config
    except ArgumentError as error:
        raise SweepError(str(error)) from error
    raise SweepError("Expected `command` to hold `lit-decom fit` and its options, but there was nothing to compose.")


def _composed(sweep: Sweep, config: Mapping[str, Any]) -> Namespace:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "point.json"
        file.write_text(json.dumps(dict(config)))
        return parse(filled(sweep, config, file, fit_words(sweep.command) or []))
