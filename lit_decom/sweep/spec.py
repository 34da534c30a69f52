"""The sweep's file: W&B's format, with keys of our own where W&B's schema leaves room for them.

That schema allows no unknown keys at the top, but any beside ``controller.type``. Ours stand under
``controller.lit_decom``: ``metrics``, further objectives; ``summary``, which value of a run counts;
``early_terminate``, another rule than W&B's for ending trials.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_decom.sweep.errors import SweepError, near
from lit_decom.sweep.space import Parameter, read_parameters, refuse_empty

Goal = Literal["maximize", "minimize"]
Summary = Literal["best", "last"]
_METHODS = ("bayes", "grid", "random")
_GOALS = ("maximize", "minimize")
_SUMMARIES = ("best", "last")
_KNOWN = (
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "name", "parameters", "program", "project", "run_cap",
)  # fmt: skip
_OURS = ("metrics", "summary", "early_terminate")
_MOVED = ("metrics", "summary")
_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
_EARLY = {"hyperband": {"min_iter", "max_iter", "eta", "s", "strict"}, "median": {"min_iter", "min_trials"}}


@dataclass(frozen=True)
class Objective:
    """A logged value, and which direction is better."""

    name: str
    goal: Goal

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.goal == "maximize" else -1


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file describes it.

    Attributes:
        name: of the file, without suffix.
        raw: the file's content.
        method: ``bayes``, ``grid`` or ``random``.
        objectives: ``metric`` first, then the further ones. The choice at the end is by the first; the others are
            held within a margin of their best.
        parameters: what varies.
        command: words with W&B's macros.
        summary: which value of a run counts. ``best``: that of the validation at which the first objective was best,
            for every objective, so that one checkpoint has them all; ``last``: that of the last validation.
        early_terminate: how trials without hope are ended, or None.
    """

    name: str
    raw: Mapping[str, Any]
    method: str
    objectives: tuple[Objective, ...]
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    summary: Summary
    early_terminate: Mapping[str, Any] | None

    @property
    def digest(self) -> str:
        """Tells this sweep from others: a hash of the file's content."""
        return hashlib.sha256(json.dumps(self.raw, sort_keys=True).encode()).hexdigest()


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file.

    Raises:
        SweepError: if it cannot be read, or says what makes no sense.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SweepError(f"Expected {path} to be a YAML file, but: {error}") from error
    if not isinstance(raw, dict):
        raise SweepError(f"Expected {path} to hold a mapping, but got {raw!r}.")
    return read_raw(raw, path.stem)


def read_raw(raw: Mapping[str, Any], name: str) -> Sweep:
    """Read the content of a sweep's file.

    Args:
        raw: the content.
        name: of the sweep.

    Returns:
        The sweep.

    Raises:
        SweepError: if it says what makes no sense.
    """
    _refuse_unknown(raw, name)
    ours = _read_ours(raw)
    parameters = read_parameters(raw.get("parameters"))
    refuse_empty(parameters)
    return Sweep(
        name=name,
        raw=raw,
        method=_one_of("method", raw.get("method"), _METHODS),
        objectives=_read_objectives(raw.get("metric"), ours.get("metrics", [])),
        parameters=parameters,
        command=_read_command(raw),
        summary=_one_of("summary", ours.get("summary", "best"), _SUMMARIES),  # type: ignore[arg-type]
        early_terminate=_read_early(ours.get("early_terminate", raw.get("early_terminate"))),
    )


def _refuse_unknown(raw: Mapping[str, Any], name: str) -> None:
    for key in raw:
        if key in _MOVED:
            raise SweepError(
                f"Expected `{key}` to stand under `controller.lit_decom`, where W&B ignores it, not at the top."
            )
        if key not in _KNOWN:
            hint = near(str(key), _KNOWN)
            raise SweepError(
                f"Expected the keys of the sweep {name} to be among {', '.join(_KNOWN)}, but got {key!r}.{hint}"
            )


def _read_ours(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    controller = raw.get("controller", {})
    if not isinstance(controller, Mapping) or (controller and "type" not in controller):
        raise SweepError(f"Expected `controller` to be a mapping with `type: cloud`, but got {controller!r}.")
    ours = controller.get("lit_decom", {})
    if not isinstance(ours, Mapping) or not set(ours) <= set(_OURS):
        raise SweepError(f"Expected `controller.lit_decom` to have only {', '.join(_OURS)}, but got {ours!r}.")
    return ours


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise SweepError(
            f"Expected `{name}` to be one of {', '.join(known)}, but got {value!r}.{near(str(value), known)}"
        )
    return str(value)


def _read_objectives(first: Any, further: Any) -> tuple[Objective, ...]:
    if not isinstance(further, list):
        raise SweepError(f"Expected `metrics` to be a list of objectives beside `metric`, but got {further!r}.")
    objectives = [_read_objective("metric", first)]
    for index, described in enumerate(further):
        objective = _read_objective(f"metrics[{index}]", described)
        if objective.name in {known.name for known in objectives}:
            raise SweepError(f"Expected every objective once, but `{objective.name}` is named again in `metrics`.")
        objectives.append(objective)
    return tuple(objectives)


def _read_objective(where: str, described: Any) -> Objective:
    if not isinstance(described, Mapping) or set(described) - {"target"} != {"name", "goal"}:
        raise SweepError(f"Expected `{where}` to be a mapping with `name` and `goal`, but got {described!r}.")
    goal = _one_of(f"{where}.goal", described["goal"], _GOALS)
    return Objective(str(described["name"]), goal)  # type: ignore[arg-type]


def _read_command(raw: Mapping[str, Any]) -> tuple[str, ...]:
    command = raw.get("command", list(_DEFAULT_COMMAND))
    if not isinstance(command, list) or not command:
        raise SweepError(f"Expected `command` to be a list of words, but got {command!r}.")
    words = tuple(str(word) for word in command)
    if not any("${args" in word for word in words):
        raise SweepError(
            "Expected `command` to hand on the parameters, as ${args_json_file} does, but it has no ${args...}."
        )
    if "${program}" in words and "program" not in raw:
        raise SweepError("Expected `program` to be named, since `command` has ${program}.")
    return words


def _read_early(described: Any) -> Mapping[str, Any] | None:
    if described is None:
        return None
    if not isinstance(described, Mapping):
        raise SweepError(f"Expected `early_terminate` to be a mapping with `type`, but got {described!r}.")
    kind = _one_of("early_terminate.type", described.get("type"), tuple(_EARLY))
    unknown = sorted(set(described) - {"type"} - _EARLY[kind])
    if unknown:
        known = sorted(_EARLY[kind])
        raise SweepError(f"Expected `early_terminate` of type {kind} to have only {known}, but got {unknown}.")
    if kind == "hyperband" and "min_iter" not in described and not {"max_iter", "s"} <= set(described):
        raise SweepError("Expected `early_terminate` of type hyperband to have `min_iter`, or `max_iter` and `s`.")
    for key, value in described.items():
        if key not in {"type", "strict"} and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise SweepError(f"Expected `early_terminate.{key}` to be a positive integer, but got {value!r}.")
    return described
