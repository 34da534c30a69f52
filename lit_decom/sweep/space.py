"""What a sweep varies: the parameters of W&B's format, and how Optuna is asked for them.

Source of the distributions: W&B's schema of sweeps, and its reference code, which draws each by its quantile function.
"""

import itertools
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from optuna import distributions as optunas

from lit_decom.sweep import SweepError, near

_TAIL = 1e-4  # of a distribution that is asked for by its quantiles, cut off on either side: our choice
_LOG = partial(optunas.FloatDistribution, log=True)
_RANGES: dict[str, Callable[[Any, Any], optunas.BaseDistribution]] = {
    "int_uniform": lambda low, high: optunas.IntDistribution(operator.index(low), operator.index(high)),
    "uniform": optunas.FloatDistribution,
    "log_uniform": lambda low, high: _LOG(math.exp(low), math.exp(high)),
    "log_uniform_values": _LOG,
    "inv_log_uniform": lambda low, high: _LOG(math.exp(-high), math.exp(-low)),  # log(1/x) is uniform between the two
    "inv_log_uniform_values": _LOG,
}
_SHAPES = {"normal": ("mu", "sigma"), "log_normal": ("mu", "sigma"), "beta": ("a", "b")}
_QUANTIZED = ("uniform", "log_uniform", "log_uniform_values", *_SHAPES)
_DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1}
_KEYS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    **dict.fromkeys(_RANGES, ("min", "max")),
    **_SHAPES,
}
_KEYS |= {f"q_{name}": (*_KEYS[name], "q") for name in _QUANTIZED}


@dataclass(frozen=True)
class Parameter:
    """One thing that varies, or a constant.

    Of a distribution that Optuna does not have, it is asked for a probability, of which the value is the quantile.
    Choices travel as JSON, which tells 1 from true and takes lists.
    """

    path: tuple[str, ...]  # of its key: of several words where W&B's `parameters` are nested
    distribution: str  # as W&B names it
    asked: Any  # the distribution that Optuna is asked for
    value: Callable[[Any], Any]  # of what Optuna answers
    ends: tuple[Any, ...]  # on which a check must look: every choice, or both ends of a range
    q: float | None = None  # values are rounded to its multiples

    @property
    def name(self) -> str:
        """The dotted path."""
        return ".".join(self.path)

    def counted(self) -> "Parameter":
        """List the values of a range one by one, as a grid needs them; ``q_uniform`` counts from its least value.

        Raises:
            SweepError: if they cannot be counted.
        """
        if isinstance(self.asked, optunas.CategoricalDistribution):
            return self
        if self.distribution not in ("int_uniform", "q_uniform"):
            raise SweepError(
                f"Expected `{self.name}` to have `values`, or a range of distribution int_uniform or q_uniform, "
                f"in a grid, but got the distribution {self.distribution}."
            )
        low, step = self.asked.low, self.q or 1
        count = math.floor((self.asked.high - low) / step + 1e-9) + 1
        values = [low + index * step for index in range(count)]
        is_whole = isinstance(step, int) and low == int(low)
        return replace(self, **_choices([int(value) for value in values] if is_whole else values))

    def suggest(self, trial: Any) -> Any:
        """Ask an ``optuna.Trial`` for a value."""
        asked = self.asked
        if isinstance(asked, optunas.CategoricalDistribution):
            return self.value(trial.suggest_categorical(self.name, asked.choices))
        if isinstance(asked, optunas.IntDistribution):
            return self.value(trial.suggest_int(self.name, asked.low, asked.high))
        return self.value(trial.suggest_float(self.name, asked.low, asked.high, log=asked.log))


def read_parameters(described: Any, above: tuple[str, ...] = ()) -> tuple[Parameter, ...]:
    """Read the ``parameters`` of a sweep, or those that are nested in the parameter of a path.

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


def grid_points(parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    """List all combinations of counted parameters as Optuna names them, the last parameter fastest."""
    points = itertools.product(*(parameter.asked.choices for parameter in parameters))
    return [dict(zip([parameter.name for parameter in parameters], point, strict=True)) for point in points]


def covering_points(parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    """Give points that together show every choice and both ends of every range at least once."""
    ends = {parameter.name: parameter.ends for parameter in parameters}
    count = max(map(len, ends.values()))
    return [{name: values[min(index, len(values) - 1)] for name, values in ends.items()} for index in range(count)]


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
    name, distribution = ".".join(path), spec.get("distribution", _guessed(spec))
    if distribution == "categorical" and "probabilities" in spec:
        distribution = "categorical_w_probabilities"
    if distribution not in _KEYS:
        known, hint = ", ".join(_KEYS), near(str(distribution), _KEYS)
        raise SweepError(
            f"Expected `{name}` to have `value`, `values`, `min` and `max`, or a distribution of {known}, "
            f"but got {dict(spec)}.{hint}"
        )
    keys, given = _KEYS[distribution], set(spec) - {"distribution"}
    if not set(keys) - set(_DEFAULTS) <= given <= set(keys):
        raise SweepError(f"Expected `{name}` as {distribution} to have {', '.join(keys)}, but got {dict(spec)}.")
    values = {key: spec.get(key, _DEFAULTS.get(key)) for key in keys}
    try:
        return Parameter(path, distribution, **_asked(distribution, values))
    except (ValueError, TypeError, OverflowError) as error:
        # YAML 1.1 takes 1e-4 for a text
        hint = " Write 1.0e-4, not 1e-4." if any(isinstance(value, str) for value in values.values()) else ""
        got = ", ".join(f"{key} {value!r}" for key, value in values.items())
        raise SweepError(f"Expected `{name}` to make sense as {distribution}, but got {got}: {error}{hint}") from error


def _asked(distribution: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Find what Optuna is asked for, and what its answers mean; ValueError where that makes no sense."""
    if distribution in ("constant", "categorical"):
        return _choices([values["value"]] if "value" in values else values["values"])
    # Other programs than ours need not wait for its import.
    from scipy import stats

    if "probabilities" in values:
        choices, weights = _choices(values["values"])["ends"], values["probabilities"]
        if len(weights) != len(choices) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError("`probabilities` must be as many shares, with the sum 1.")
        law = stats.rv_discrete(values=(range(len(choices)), weights))
        return {**_quantiles(lambda p: choices[int(law.ppf(p))]), "ends": choices}
    if not all(type(number) in (int, float) and math.isfinite(number) for number in values.values()):
        raise ValueError("all of these must be finite numbers.")
    kind, (first, second), q = distribution.removeprefix("q_"), list(values.values())[:2], values.get("q")
    if kind in _RANGES:
        if first >= second:
            raise ValueError("`min` must be less than `max`.")
        asked: Any = _RANGES[kind](first, second)
        found = {"asked": asked, "value": lambda number: number, "ends": (asked.low, asked.high)}
    else:
        law = stats.beta(first, second) if kind == "beta" else stats.norm(first, second)
        if math.isnan(law.mean()):
            raise ValueError(f"{'`a` and `b`' if kind == 'beta' else '`sigma`'} must be positive.")
        found = _quantiles(lambda p: (math.exp if kind == "log_normal" else float)(law.ppf(p)))
    return found if q is None else _rounded(found, q)


def _choices(values: Any) -> dict[str, Any]:
    if not isinstance(values, list):
        raise ValueError("`values` must be a list.")
    asked = optunas.CategoricalDistribution([json.dumps(value) for value in values])
    return {"asked": asked, "value": json.loads, "ends": tuple(values)}


def _quantiles(quantile: Callable[[float], Any]) -> dict[str, Any]:
    asked = optunas.FloatDistribution(_TAIL, 1 - _TAIL)
    return {"asked": asked, "value": quantile, "ends": (quantile(asked.low), quantile(asked.high))}


def _rounded(found: Mapping[str, Any], q: float) -> dict[str, Any]:
    """Round all values to multiples of `q`."""
    low, high = found["ends"]
    if not 0 < q <= high - low:
        raise ValueError("`q` must be positive, and not longer than the range.")

    def nearest(number: float) -> float:
        # without the last digits, since three tenths are 0.30000000000000004
        rounded = float(f"{round(number / q) * q:.12g}")
        return int(rounded) if isinstance(q, int) else rounded

    return {
        **found,
        "value": lambda answer: nearest(found["value"](answer)),
        "ends": (nearest(low), nearest(high)),
        "q": q,
    }


def _guessed(spec: Mapping[str, Any]) -> str | None:
    """The distribution that W&B takes where none is named."""
    if "value" in spec:
        return "constant"
    if {"min", "max"} <= set(spec):
        return "int_uniform" if isinstance(spec["min"], int) and isinstance(spec["max"], int) else "uniform"
    return "categorical" if "values" in spec else None
