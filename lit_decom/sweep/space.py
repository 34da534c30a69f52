"""What a sweep varies: the parameters of W&B's format, and how Optuna is asked for them.

Source of the distributions: W&B's schema of sweeps, and its reference code, which draws each by its quantile function.
"""

import itertools
import json
import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from lit_decom.sweep.errors import SweepError, near

_NEEDED = object()
_RANGE: dict[str, Any] = {"min": _NEEDED, "max": _NEEDED}
_NORMAL: dict[str, Any] = {"mu": 0.0, "sigma": 1.0}
_BETA: dict[str, Any] = {"a": 1.0, "b": 1.0}
_QUANTIZED = {
    "uniform": _RANGE, "log_uniform": _RANGE, "log_uniform_values": _RANGE,
    "normal": _NORMAL, "log_normal": _NORMAL, "beta": _BETA,
}  # fmt: skip
# By distribution, what describes it and with which default.
_KEYS: dict[str, dict[str, Any]] = {
    "constant": {"value": _NEEDED},
    "categorical": {"values": _NEEDED},
    "categorical_w_probabilities": {"values": _NEEDED, "probabilities": _NEEDED},
    "int_uniform": _RANGE,
    "inv_log_uniform": _RANGE,
    "inv_log_uniform_values": _RANGE,
    **_QUANTIZED,
    **{f"q_{name}": {**keys, "q": 1} for name, keys in _QUANTIZED.items()},
}
_TAIL = 1e-4  # of a distribution without ends, that is cut off on either side: our choice


@dataclass(frozen=True)
class Parameter:
    """One thing that varies, or a constant.

    Of a distribution that Optuna does not have, it is asked for a probability, of which the value is the quantile.
    """

    path: tuple[str, ...]  # of its key: of several words where W&B's `parameters` are nested
    distribution: str  # as W&B names it
    choices: tuple[Any, ...] = ()  # of a constant or categorical parameter, all values
    low: float = _TAIL  # least number that Optuna is asked for
    high: float = 1 - _TAIL  # greatest one
    log: bool = False  # whether its logarithm is uniform
    quantile: Callable[[float], Any] | None = None
    q: float | None = None  # values are rounded to its multiples

    @property
    def name(self) -> str:
        """The dotted path."""
        return ".".join(self.path)

    @property
    def varies(self) -> bool:
        """Whether there is more than one value."""
        return len(self.choices) != 1

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values on which a check must look: every choice, or both ends of a range."""
        return self.choices or (self._value(self.low), self._value(self.high))

    def counted(self) -> "Parameter":
        """List the values of a range one by one, as a grid needs them; ``q_uniform`` counts from its least value.

        Raises:
            SweepError: if they cannot be counted.
        """
        if self.choices and self.quantile is None:
            return self
        if self.distribution not in ("int_uniform", "q_uniform"):
            raise SweepError(
                f"Expected `{self.name}` to have `values`, or a range of distribution int_uniform or q_uniform, "
                f"in a grid, but got the distribution {self.distribution}."
            )
        step = self.q or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return replace(self, choices=tuple(self.low + index * step for index in range(count)))

    def suggest(self, trial: Any) -> Any:
        """Ask an ``optuna.Trial`` for a value; choices travel as JSON, which tells 1 from true and takes lists."""
        if self.choices and self.quantile is None:
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(choice) for choice in self.choices]))
        if self.distribution == "int_uniform":
            return trial.suggest_int(self.name, self.low, self.high)
        return self._value(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def _value(self, number: float) -> Any:
        value = number if self.quantile is None else self.quantile(number)
        if self.q is None:
            return value
        # without the last digits, since three tenths are 0.30000000000000004
        rounded = float(f"{round(value / self.q) * self.q:.12g}")
        return int(rounded) if isinstance(self.q, int) else rounded


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
        found += read_parameters(spec["parameters"], path) if set(spec) == {"parameters"} else [_read(path, spec)]
    return tuple(found)


def grid_points(parameters: Sequence[Parameter]) -> list[dict[str, str]]:
    """List all combinations of counted parameters as Optuna names them, the last parameter fastest."""
    values = [[json.dumps(choice) for choice in parameter.choices] for parameter in parameters]
    return [dict(zip([p.name for p in parameters], point, strict=True)) for point in itertools.product(*values)]


def covering_points(parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    """Give points that together show every choice and both ends of every range at least once."""
    count = max(len(parameter.ends) for parameter in parameters)
    return [{p.name: p.ends[min(index, len(p.ends) - 1)] for p in parameters} for index in range(count)]


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
    if distribution == "categorical" and "probabilities" in spec:
        distribution = "categorical_w_probabilities"
    if distribution not in _KEYS:
        hint = near(str(distribution), _KEYS)
        raise SweepError(
            f"Expected the distribution of `{name}` to be one of {', '.join(_KEYS)}, but got {distribution!r}.{hint}"
        )
    keys, given = _KEYS[distribution], set(spec) - {"distribution"}
    needed = {key for key, default in keys.items() if default is _NEEDED}
    if not needed <= given <= set(keys):
        raise SweepError(
            f"Expected `{name}` of the distribution {distribution} to have {_listed(set(keys))}, "
            f"but got {_listed(given)}."
        )
    if distribution == "constant":
        return Parameter(path, distribution, choices=(spec["value"],))
    if "values" in keys:
        return _read_choices(path, distribution, spec)
    numbers = {key: _number(name, key, spec.get(key, default)) for key, default in keys.items()}
    if "q" in numbers and not numbers["q"] > 0:
        raise SweepError(f"Expected `q` of `{name}` to be positive, but got {numbers['q']}.")
    if "min" in numbers:
        return _read_range(path, distribution, numbers)
    return _read_shape(path, distribution, numbers)


def _read_choices(path: tuple[str, ...], distribution: str, spec: Mapping[str, Any]) -> Parameter:
    name, values = ".".join(path), spec["values"]
    if not isinstance(values, list) or not values:
        raise SweepError(f"Expected `values` of `{name}` to be a list with at least one value, but got {values!r}.")
    if "probabilities" not in spec:
        return Parameter(path, distribution, choices=tuple(values))
    shares = spec["probabilities"] if isinstance(spec["probabilities"], list) else []
    weights = [_number(name, "probabilities", share) for share in shares]
    if len(weights) != len(values) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise SweepError(
            f"Expected `probabilities` of `{name}` to be {len(values)} shares with the sum 1, but got {shares}."
        )
    steps = list(itertools.accumulate(weights))[:-1]
    return Parameter(
        path, distribution, choices=tuple(values), low=0.0, high=1.0, quantile=lambda p: values[bisect(steps, p)]
    )


def _read_range(path: tuple[str, ...], distribution: str, numbers: Mapping[str, float]) -> Parameter:
    name, low, high, q = ".".join(path), numbers["min"], numbers["max"], numbers.get("q")
    if low >= high:
        raise SweepError(f"Expected `min` of `{name}` to be less than `max`, but got {low} and {high}.")
    if distribution.endswith("_values") and low <= 0:
        raise SweepError(f"Expected `min` of `{name}` to be positive for {distribution}, but got {low}.")
    if distribution == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        raise SweepError(f"Expected `min` and `max` of `{name}` to be integers for int_uniform, but got {low}, {high}.")
    if distribution == "inv_log_uniform":  # log(1/x) is uniform between the two, so that log(x) is as well
        low, high = math.exp(-high), math.exp(-low)
    elif distribution.endswith("log_uniform"):
        low, high = math.exp(low), math.exp(high)
    if q is not None and q > high - low:
        raise SweepError(f"Expected `q` of `{name}` to be at most max - min, but got {q}.")
    return Parameter(path, distribution, low=low, high=high, log="log" in distribution, q=q)


def _read_shape(path: tuple[str, ...], distribution: str, numbers: Mapping[str, float]) -> Parameter:
    name, kind, q = ".".join(path), distribution.removeprefix("q_"), numbers.get("q")
    for key in ("sigma", "a", "b"):
        if numbers.get(key, 1) <= 0:
            raise SweepError(f"Expected `{key}` of `{name}` to be positive, but got {numbers[key]}.")
    if kind == "beta":
        # Other programs than ours need not wait for its import.
        from scipy.special import betaincinv

        return Parameter(path, distribution, q=q, quantile=lambda p: float(betaincinv(numbers["a"], numbers["b"], p)))
    normal = NormalDist(numbers["mu"], numbers["sigma"]).inv_cdf
    of_log = kind == "log_normal"
    return Parameter(path, distribution, q=q, quantile=(lambda p: math.exp(normal(p))) if of_log else normal)


def _guessed(name: str, spec: Mapping[str, Any]) -> str:
    """The distribution that W&B takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    if {"min", "max"} <= set(spec):
        return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"
    if "distribution" in spec:
        return ""
    raise SweepError(f"Expected `{name}` to have `value`, `values`, or `min` and `max`, but got {_listed(set(spec))}.")


def _number(name: str, key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        # YAML 1.1 takes 1e-4 for a text
        hint = " Write 1.0e-4, not 1e-4." if isinstance(value, str) else ""
        raise SweepError(f"Expected `{key}` of `{name}` to be a finite number, but got {value!r}.{hint}")
    return value


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"
