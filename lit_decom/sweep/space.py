"""What a sweep varies: the parameters of W&B's format, drawn at random, counted out, or asked of Optuna."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_decom.sweep.errors import SweepError, near

_KEYS = {
    "constant": {"value"},
    "categorical": {"values"},
    "int_uniform": {"min", "max"},
    "uniform": {"min", "max"},
    "q_uniform": {"min", "max", "q"},
    "log_uniform": {"min", "max"},
    "log_uniform_values": {"min", "max"},
}


@dataclass(frozen=True)
class Parameter:
    """One thing that varies, or a constant.

    Attributes:
        path: of its key; more than one word where W&B's ``parameters`` are nested, which makes nested values.
        distribution: as W&B names it; ``log_uniform`` has become ``log_uniform_values``.
        choices: of a constant or categorical parameter.
        low: smallest value of a range.
        high: largest value of a range.
        step: distance of the values of ``q_uniform`` and ``int_uniform``, counted from ``low``.
    """

    path: tuple[str, ...]
    distribution: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None

    @property
    def name(self) -> str:
        """The dotted path."""
        return ".".join(self.path)

    @property
    def varies(self) -> bool:
        """Whether there is more than one value."""
        return len(self.choices) > 1 if self.choices else self.low < self.high

    @property
    def grid(self) -> tuple[Any, ...] | None:
        """All values in order; None where they cannot be counted."""
        if self.choices:
            return self.choices
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + index * self.step for index in range(count))

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values on which a check must look: every choice, or both ends of a range."""
        return self.choices or (self.low, self.high)

    def draw(self, generator: random.Random) -> Any:
        """Draw a value."""
        grid = self.grid
        if grid is not None:
            return generator.choice(grid)
        if self.distribution == "uniform":
            return generator.uniform(self.low, self.high)
        drawn = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)

    def suggest(self, trial: Any) -> Any:
        """Ask an ``optuna.Trial`` for a value; choices travel as JSON, which tells 1 from true and takes lists."""
        if self.choices:
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(choice) for choice in self.choices]))
        if self.distribution == "int_uniform":
            return trial.suggest_int(self.name, self.low, self.high)
        if self.distribution == "q_uniform" and isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step)
        log = self.distribution == "log_uniform_values"
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=log)


def read_parameters(described: Any, above: tuple[str, ...] = ()) -> tuple[Parameter, ...]:
    """Read the ``parameters`` of a sweep.

    Args:
        described: the mapping in the file.
        above: path of the parameter that these are nested in.

    Returns:
        The parameters in the order of the file.

    Raises:
        SweepError: naming the parameter, the rule and what arrived.
    """
    where = f"`parameters` of `{'.'.join(above)}`" if above else "`parameters`"
    if not isinstance(described, Mapping) or not described:
        raise SweepError(f"Expected {where} to be a mapping with at least one parameter, but got {described!r}.")
    found: list[Parameter] = []
    for name, spec in described.items():
        path = (*above, str(name))
        if not isinstance(spec, Mapping):
            raise SweepError(f"Expected `{'.'.join(path)}` to be described by a mapping, but got {spec!r}.")
        found += read_parameters(spec["parameters"], path) if "parameters" in spec else [_read(path, spec)]
    return tuple(found)


def refuse_empty(parameters: Sequence[Parameter]) -> None:
    """Refuse a space with a single point.

    Raises:
        SweepError: if nothing varies.
    """
    if not any(parameter.varies for parameter in parameters):
        names = ", ".join(f"`{parameter.name}`" for parameter in parameters)
        raise SweepError(
            f"Expected the space to have at least two points, but nothing varies: {names} have one value each."
        )


def grid_points(parameters: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
    """Go through all combinations by parameter name, the last parameter fastest.

    Raises:
        SweepError: if a parameter has no countable values.
    """
    for parameter in parameters:
        if parameter.grid is None:
            raise SweepError(
                f"Expected `{parameter.name}` to have `values`, or a range of distribution int_uniform or q_uniform, "
                f"in a grid, but got the distribution {parameter.distribution}."
            )
    names = [parameter.name for parameter in parameters]
    # product() would lay out all values before the first; ranges may be long, but they are finite and small here
    for values in itertools.product(*(parameter.grid or () for parameter in parameters)):
        yield dict(zip(names, values, strict=True))


def random_point(parameters: Sequence[Parameter], seed: int, number: int) -> dict[str, Any]:
    """Draw the parameters of one trial by name; they depend on the seed and the trial's number only."""
    generator = random.Random(f"{seed}/{number}")
    return {parameter.name: parameter.draw(generator) for parameter in parameters}


def covering_points(parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    """Give points that together show every choice and both ends of every range at least once."""
    count = max(len(parameter.ends) for parameter in parameters)
    return [
        {parameter.name: parameter.ends[min(index, len(parameter.ends) - 1)] for parameter in parameters}
        for index in range(count)
    ]


def nested(parameters: Sequence[Parameter], point: Mapping[str, Any]) -> dict[str, Any]:
    """Arrange values by name as W&B hands them to a program: nested where the file nests."""
    arranged: dict[str, Any] = {}
    for parameter in parameters:
        inner = arranged
        for word in parameter.path[:-1]:
            inner = inner.setdefault(word, {})
        inner[parameter.path[-1]] = point[parameter.name]
    return arranged


def _read(path: tuple[str, ...], spec: Mapping[str, Any]) -> Parameter:
    name = ".".join(path)
    distribution = spec.get("distribution", _guessed(name, spec))
    if distribution not in _KEYS:
        hint = near(str(distribution), _KEYS)
        raise SweepError(
            f"Expected the distribution of `{name}` to be one of {', '.join(_KEYS)}, but got {distribution!r}.{hint}"
        )
    wanted, given = _KEYS[distribution], set(spec) - {"distribution"}
    if given != wanted:
        raise SweepError(
            f"Expected `{name}` of the distribution {distribution} to have {_listed(wanted)}, but got {_listed(given)}."
        )
    if distribution == "constant":
        return Parameter(path, distribution, choices=(spec["value"],))
    if distribution == "categorical":
        values = spec["values"]
        if not isinstance(values, list) or not values:
            raise SweepError(f"Expected `values` of `{name}` to be a list with at least one value, but got {values!r}.")
        return Parameter(path, distribution, choices=tuple(values))
    return _read_range(path, distribution, spec)


def _read_range(path: tuple[str, ...], distribution: str, spec: Mapping[str, Any]) -> Parameter:
    name = ".".join(path)
    for key in _KEYS[distribution]:
        _refuse_no_number(name, key, spec[key])
    low, high = spec["min"], spec["max"]
    if low >= high:
        raise SweepError(f"Expected `min` of `{name}` to be less than `max`, but got {low} and {high}.")
    if distribution == "log_uniform":
        return Parameter(path, "log_uniform_values", low=math.exp(low), high=math.exp(high))
    if distribution == "log_uniform_values" and low <= 0:
        raise SweepError(f"Expected `min` of `{name}` to be positive for log_uniform_values, but got {low}.")
    if distribution == "int_uniform":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise SweepError(
                f"Expected `min` and `max` of `{name}` to be integers for int_uniform, but got {low}, {high}."
            )
        return Parameter(path, distribution, low=low, high=high, step=1)
    if distribution == "q_uniform":
        step = spec["q"]
        if not 0 < step <= high - low:
            raise SweepError(f"Expected `q` of `{name}` to be positive and at most max - min, but got {step}.")
        if not all(isinstance(number, int) for number in (low, high, step)):
            low, high, step = float(low), float(high), float(step)
        return Parameter(path, distribution, low=low, high=high, step=step)
    return Parameter(path, distribution, low=float(low), high=float(high))


def _guessed(name: str, spec: Mapping[str, Any]) -> str:
    """The distribution that W&B takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    if {"min", "max"} <= set(spec):
        whole = isinstance(spec["min"], int) and isinstance(spec["max"], int)
        return "q_uniform" if "q" in spec else "int_uniform" if whole else "uniform"
    raise SweepError(f"Expected `{name}` to have `value`, `values`, or `min` and `max`, but got {_listed(set(spec))}.")


def _refuse_no_number(name: str, key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        # YAML 1.1 takes 1e-4 for a text
        hint = " Write 1.0e-4, not 1e-4." if isinstance(value, str) else ""
        raise SweepError(f"Expected `{key}` of `{name}` to be a finite number, but got {value!r}.{hint}")


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"
