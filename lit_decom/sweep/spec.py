"""The sweep's file: W&B's format, with keys of our own where W&B's schema leaves room for them.

That schema allows no unknown keys at the top, but any beside ``controller.type``. Ours stand under
``controller.lit_decom``: ``metrics``, further objectives; ``summary``, which value of a run counts;
``early_terminate``, another rule than W&B's for ending trials.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_decom.shipped_configs import find
from lit_decom.sweep.errors import SweepError, near
from lit_decom.sweep.space import Parameter, read_parameters

METHODS = ("bayes", "grid", "random")
_KNOWN = (
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind",
    "method", "metric", "name", "parameters", "program", "project", "run_cap",
)  # fmt: skip
_OURS = ("metrics", "summary", "early_terminate")
_DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
_EARLY = {"hyperband": {"min_iter", "max_iter", "eta", "s", "strict"}, "median": {"min_iter", "min_trials"}}


@dataclass(frozen=True)
class Objective:
    """A logged value, which direction is better, and the value at which the sweep has what it wants."""

    name: str
    goal: Literal["maximize", "minimize"]
    target: float | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.goal == "maximize" else -1


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file describes it.

    The choice at the end is by the first objective; the others are held within a margin of their best. Of a run counts,
    by `summary`, the ``last`` validation, or the one at which the first objective was ``best``: the same for every
    objective, so that one checkpoint has them all.
    """

    name: str  # of the file, without suffix
    raw: Mapping[str, Any]  # the file's content
    method: str
    objectives: tuple[Objective, ...]
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]  # words with W&B's macros
    summary: str
    early_terminate: Mapping[str, Any] | None  # how trials without hope are ended


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file, or the one of that name that comes with the package.

    Raises:
        SweepError: if it cannot be read, or says what makes no sense.
    """
    try:
        raw = yaml.safe_load((path if path.exists() else find(path.as_posix())).read_text())
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
    if not any(parameter.varies for parameter in parameters):
        names = ", ".join(f"`{parameter.name}`" for parameter in parameters)
        raise SweepError(f"Expected the space to have at least two points, but nothing varies: {names} have one value.")
    return Sweep(
        name=name,
        raw=raw,
        method=_one_of("method", raw.get("method"), METHODS),
        objectives=_read_objectives(raw.get("metric"), ours.get("metrics", [])),
        parameters=parameters,
        command=_read_command(raw),
        summary=_one_of("summary", ours.get("summary", "best"), ("best", "last")),
        early_terminate=_read_early(ours.get("early_terminate", raw.get("early_terminate"))),
    )


def _refuse_unknown(raw: Mapping[str, Any], name: str) -> None:
    for key in raw:
        if key in _OURS[:2]:
            raise SweepError(
                f"Expected `{key}` to stand under `controller.lit_decom`, where W&B ignores it, not at the top."
            )
        if key not in _KNOWN:
            known, hint = ", ".join(_KNOWN), near(str(key), _KNOWN)
            raise SweepError(f"Expected the keys of the sweep {name} to be among {known}, but got {key!r}.{hint}")


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
        hint = near(str(value), known)
        raise SweepError(f"Expected `{name}` to be one of {', '.join(known)}, but got {value!r}.{hint}")
    return str(value)


def _read_objectives(first: Any, further: Any) -> tuple[Objective, ...]:
    if not isinstance(further, list):
        raise SweepError(f"Expected `metrics` to be a list of objectives beside `metric`, but got {further!r}.")
    described = {"metric": first} | {f"metrics[{index}]": other for index, other in enumerate(further)}
    objectives = tuple(_read_objective(where, objective) for where, objective in described.items())
    names = [objective.name for objective in objectives]
    if len(set(names)) < len(names):
        raise SweepError(f"Expected every objective once, but one is named again in `metrics`: {', '.join(names)}.")
    return objectives


def _read_objective(where: str, described: Any) -> Objective:
    if not isinstance(described, Mapping) or not {"name"} <= set(described) <= {"name", "goal", "target"}:
        raise SweepError(
            f"Expected `{where}` to be a mapping with `name`, `goal` and, at will, `target`, but got {described!r}."
        )
    goal = _one_of(f"{where}.goal", described.get("goal", "minimize"), ("maximize", "minimize"))
    target = described.get("target")
    if isinstance(target, bool) or not isinstance(target, int | float | None):
        raise SweepError(f"Expected `{where}.target` to be a number, but got {target!r}.")
    return Objective(str(described["name"]), goal, target)  # type: ignore[arg-type]


def _read_command(raw: Mapping[str, Any]) -> tuple[str, ...]:
    command = raw.get("command", _DEFAULT_COMMAND)
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
