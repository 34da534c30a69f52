"""The command of a trial: W&B's macros filled in, and the settings that a sweep makes in each ``lit-decom fit``."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.spec import Sweep

TRIAL_DIRECTORY = "LIT_DECOM_TRIAL"
METRICS_FILE = "metrics.jsonl"
FACTS_FILE = "facts.json"
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
    """Fill in W&B's macros.

    Args:
        sweep: whose command it is.
        config: parameters by name.
        config_file: holds them as JSON.
        command: other words than the whole command.

    Returns:
        The words.

    Raises:
        SweepError: if a macro is unknown.
    """
    flags = [(name, value) for name, value in config.items()]
    lists: dict[str, list[str]] = {
        "env": ["/usr/bin/env"] if os.name == "posix" else [],
        "interpreter": ["python"],
        "program": [str(sweep.raw.get("program", ""))],
        "args": [f"--{name}={value}" for name, value in flags],
        "args_no_hyphens": [f"{name}={value}" for name, value in flags],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in flags if value is not False
        ],
        "args_json": [json.dumps(dict(config))],
        "args_json_file": [str(config_file)],
    }
    words: list[str] = []
    for word in sweep.command if command is None else command:
        macro = re.fullmatch(r"\$\{(\w+)\}", word)
        variable = re.fullmatch(r"\$\{envvar:(\w+)\}", word)
        if variable:
            words.append(os.environ.get(variable[1], ""))
        elif macro is None:
            words.append(word)
        elif macro[1] in lists:
            words += lists[macro[1]]
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
    logger = at(composed, "trainer.logger.init_args")
    if isinstance(logger, Mapping):
        settings |= {"trainer.logger.init_args.save_dir": str(directory)} if "save_dir" in logger else {}
        # a sweep of ours needs no account; with ${args_json_file} and `wandb agent` the file's own word stands
        settings |= {"trainer.logger.init_args.offline": True} if "offline" in logger else {}
    return settings


def without_overrides(sweep: Sweep, config: Mapping[str, Any], composed: Mapping[str, Any]) -> dict[str, Any]:
    """Remove from a trial's composed configuration what :func:`overrides` put into it.

    Args:
        sweep: whose trial it was.
        config: as the trial composed it.
        composed: the configuration without any parameters.

    Returns:
        A copy that trains the same network anywhere.
    """
    copy: dict[str, Any] = json.loads(json.dumps(config))
    for key in overrides(sweep, Path(), composed):
        if key != "trainer.callbacks+":
            parent, _, last = key.rpartition(".")
            holder = at(copy, parent)
            if isinstance(holder, dict):
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
    own = {
        TRIAL_DIRECTORY: str(directory),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "WANDB_MODE": "offline",
    }
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        wanted = os.environ.get(name, "")
        own[name] = str(min(int(wanted), threads) if wanted.isdigit() else threads)
    return dict(os.environ) | own
