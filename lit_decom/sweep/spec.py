"""The sweep's file: W&B's format, with keys of our own where W&B's schema leaves room for them.

That schema allows no unknown keys at the top, but any beside ``controller.type``. Ours stand under
``controller.lit_decom``: ``metrics``, further objectives; ``summary``, which value of a run counts;
``early_terminate``, another rule than W&B's for ending trials. Each mapping is read as the arguments of a class, whose
annotations say what may stand there.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveInt

from lit_decom.shipped_configs import find
from lit_decom.sweep import SweepError, near
from lit_decom.sweep.space import Parameter, read_parameters

_ONLY_WANDBS = {"apiVersion", "description", "entity", "image_uri", "job", "kind", "name", "project"}


@dataclass(frozen=True)
class Objective:
    """A logged value, which direction is better, and the value at which the sweep has what it wants."""

    name: str
    goal: Literal["maximize", "minimize"] = "minimize"
    target: float | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.goal == "maximize" else -1


@dataclass(frozen=True)
class File:
    """What W&B and we read in a sweep's file."""

    method: Literal["bayes", "grid", "random"]
    metric: dict[str, Any]
    parameters: dict  # type: ignore[type-arg]  # in a dict[str, Any] the parser completes what looks like a class
    program: str = ""
    command: list[str | int | float] = field(
        default_factory=lambda: ["${env}", "${interpreter}", "${program}", "${args}"]
    )
    controller: dict[str, Any] = field(default_factory=lambda: {"type": "cloud"})
    early_terminate: dict[str, Any] | None = None
    run_cap: PositiveInt | None = None


@dataclass(frozen=True)
class Ours:
    """What we alone read: further objectives, which validation of a run counts, and how hopeless trials are ended.

    That is the ``last`` validation, or the one at which the first objective was ``best``: the same for every objective,
    so that one checkpoint has them all.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    summary: Literal["best", "last"] = "best"
    early_terminate: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file describes it."""

    name: str  # of the file, without suffix
    raw: Mapping[str, Any]  # its content
    file: File
    ours: Ours

    @cached_property
    def command(self) -> list[str]:
        """Words with W&B's macros."""
        return [str(word) for word in self.file.command]

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """The first, by which the choice at the end is; and others, which are held within a margin of their best."""
        described = (self.file.metric, *self.ours.metrics)
        return tuple(_read(Objective, objective, "`metric`") for objective in described)

    @cached_property
    def space(self) -> tuple[Parameter, ...]:
        """What varies, and constants."""
        return read_parameters(self.file.parameters)

    @cached_property
    def pruner(self) -> optuna.pruners.BasePruner | None:
        """What ends trials without hope; iterations are validations."""
        described = self.ours.early_terminate or self.file.early_terminate
        if described is None:
            return None
        rules: dict[Any, Callable[..., Any]] = {"hyperband": _hyperband, "median": _median}
        options = dict(described)
        kind = options.pop("type", None)
        if kind not in rules:
            hint = near(str(kind), rules)
            raise SweepError(f"Expected `early_terminate` to be of type {' or '.join(rules)}, but got {kind}.{hint}")
        pruner: optuna.pruners.BasePruner = _read(rules[kind], options, f"`early_terminate` of type {kind}")
        return pruner


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file, or the one of that name that comes with the package.

    Raises:
        SweepError: if it cannot be read, or says what makes no sense.
    """
    try:
        raw = yaml.safe_load((path if path.exists() else find(path.as_posix())).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SweepError(f"Expected {path} to be a YAML file, but: {error}") from error
    return read_raw(raw, path.stem)


def read_raw(raw: Any, name: str) -> Sweep:
    """Read the content of a sweep's file.

    Raises:
        SweepError: if it says what makes no sense.
    """
    file = _read(File, raw, f"the sweep {name}", _ONLY_WANDBS)
    if "type" not in file.controller:
        raise SweepError(f"Expected `controller` to be a mapping with `type: cloud`, but got {file.controller!r}.")
    ours = _read(Ours, file.controller.get("lit_decom", {}), "`controller.lit_decom`")
    sweep = Sweep(name, raw, file, ours)
    _refuse_senseless(sweep)
    return sweep


def _read(make: Callable[..., Any], described: Any, where: str, ignored: Container[str] = ()) -> Any:
    """Call a class or function with a mapping as its arguments, once these are what its annotations say."""
    if not isinstance(described, Mapping):
        raise SweepError(f"Expected {where} to be a mapping, but got {described!r}.")
    described = {key: value for key, value in described.items() if key not in ignored}
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(make, type) else parser.add_function_arguments
    known = add(make)
    for key in described:
        if key not in known:
            raise SweepError(f"Expected {where} to have {', '.join(known)}, but got `{key}`.{near(str(key), known)}")
    try:
        return make(**parser.parse_object(described).as_dict())
    except (ArgumentError, ValueError) as error:
        raise SweepError(f"Expected {where} to be in W&B's format, but: {error}") from error


def _hyperband(
    min_iter: PositiveInt | None = None,
    max_iter: PositiveInt | None = None,
    s: PositiveInt | None = None,
    eta: PositiveInt = 3,
    strict: bool = False,  # of W&B's brackets; Optuna's are always strict
) -> optuna.pruners.BasePruner:
    if min_iter is None and (max_iter is None or s is None):
        raise ValueError("it needs `min_iter`, or `max_iter` and `s`")
    # W&B counts its brackets back from the last iteration
    first = min_iter or max(1, (max_iter or 1) // eta ** (s or 1))
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)


def _median(min_iter: PositiveInt = 1, min_trials: PositiveInt = 5) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(n_startup_trials=min_trials, n_warmup_steps=min_iter - 1)


def _refuse_senseless(sweep: Sweep) -> None:
    names = [objective.name for objective in sweep.objectives]
    constants = ", ".join(f"`{parameter.name}`" for parameter in sweep.space)
    macros = [word for word in sweep.command if "${" in word]
    rules = {
        f"every objective once, but one is named again in `metrics`: {', '.join(names)}": len(set(names)) == len(names),
        f"the space to have at least two points, but nothing varies: {constants} have one value": any(
            len(parameter.ends) > 1 for parameter in sweep.space
        ),
        "`command` to hand on the parameters, as ${args_json_file} does, but it has no ${args...}": any(
            "${args" in word for word in macros
        ),
        "`program` to be named, since `command` has ${program}": sweep.file.program or "${program}" not in macros,
        "`early_terminate` with one objective only, since a trial may be hopeless in one and best in another": (
            sweep.pruner is None or len(names) == 1
        ),
    }
    for expected, holds in rules.items():
        if not holds:
            raise SweepError(f"Expected {expected}.")
