"""The command of a trial: W&B's macros filled in, and the settings that a sweep makes in each ``lit-decom fit``."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.spec import Sweep

TRIAL_DIRECTORY = "LIT_DECOM_TRIAL"
METRICS_FILE = "metrics.jsonl"
RECORDS = "records"
_TRIAL_LOG = "lit_decom.sweep.trial_log.TrialLog"


def fit_words(command: Sequence[str]) -> list[str] | None:
    """Return the words after ``lit_decom fit`` where the command is ours, else None."""
    for index, word in enumerate(command[:-1]):
        ours = Path(word).name == "lit-decom" or (word == "lit_decom" and command[index - 1] == "-m")
        if ours and command[index + 1] == "fit":
            return list(command[index + 2 :])
    return None


def filled(
    sweep: Sweep, config: Mapping[str, Any], config_file: Path, command: Sequence[str] | None = None
) -> list[str]:
    """Fill in W&B's macros in a sweep's command, or in other words.

    Raises:
        SweepError: if a macro is unknown.
    """
    shown = {name: value for name, value in config.items() if value is not False}
    lists: dict[str, list[str]] = {
        "env": ["/usr/bin/env"] if os.name == "posix" else [],
        "interpreter": ["python"],
        "program": [str(sweep.raw.get("program", ""))],
        "args": [f"--{name}={value}" for name, value in config.items()],
        "args_no_hyphens": [f"{name}={value}" for name, value in config.items()],
        "args_no_boolean_flags": [f"--{n}" if value is True else f"--{n}={value}" for n, value in shown.items()],
        "args_json": [json.dumps(dict(config))],
        "args_json_file": [str(config_file)],
    }
    words: list[str] = []
    for word in sweep.command if command is None else command:
        macro = re.fullmatch(r"\$\{(envvar:)?(\w+)\}", word)
        if macro is None:
            words.append(word)
        elif macro[1]:
            words.append(os.environ.get(macro[2], ""))
        elif macro[2] in lists:
            words += lists[macro[2]]
        else:
            raise SweepError(f"Expected the macros of `command` to be among {', '.join(lists)}, but got {word}.")
    return words


def overrides(sweep: Sweep, directory: Path, composed: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of a trial of ``lit-decom fit`` beside its parameters: its folders, and the callback TrialLog.

    Args:
        sweep: whose trial it is.
        directory: of the trial.
        composed: the configuration without any parameters.

    Returns:
        Settings by dotted key.
    """
    objectives = [[objective.name, objective.goal] for objective in sweep.objectives]
    log = {"class_path": _TRIAL_LOG, "init_args": {"directory": str(directory), "objectives": objectives}}
    settings: dict[str, Any] = {
        "callback.dirpath": str(directory / RECORDS),
        "trainer.default_root_dir": str(directory),
        "trainer.enable_progress_bar": False,
        "trainer.callbacks+": [log],
    }
    # A sweep of ours needs no account; with ${args_json_file} and `wandb agent` the file's own word stands.
    logger = at(composed, "trainer.logger.init_args") or {}
    ours = {"save_dir": str(directory), "offline": True}
    return settings | {f"trainer.logger.init_args.{key}": value for key, value in ours.items() if key in logger}


def without_overrides(sweep: Sweep, config: Mapping[str, Any], composed: Mapping[str, Any]) -> dict[str, Any]:
    """Remove from a trial's configuration what :func:`overrides` put into it, so that it trains the same anywhere."""
    copy: dict[str, Any] = deepcopy(dict(config))
    for key in overrides(sweep, Path(), composed):
        parent, _, last = key.rpartition(".")
        holder = at(copy, parent)
        if last != "callbacks+" and isinstance(holder, dict):
            holder[last] = at(composed, key)
    callbacks = [entry for entry in at(copy, "trainer.callbacks") or [] if entry.get("class_path") != _TRIAL_LOG]
    copy["trainer"]["callbacks"] = callbacks or None
    return copy


def at(config: Any, key: str) -> Any:
    """Look up a dotted key in nested mappings; None where there is nothing."""
    for word in key.split("."):
        config = config.get(word) if isinstance(config, Mapping) else None
    return config


def environment(directory: Path, threads: int) -> dict[str, str]:
    """Return the environment of a trial: this interpreter first, no W&B account, its share of the cores."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    own = {TRIAL_DIRECTORY: str(directory), "PATH": path, "WANDB_MODE": "offline"}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    # Of two that differ, torch takes the larger one.
    wanted = [int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()]
    return dict(os.environ) | own | dict.fromkeys(names, str(min([threads, *wanted])))
