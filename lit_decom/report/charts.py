"""Line charts as plain numbers: the template only has to write them down as SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lit_decom.render import figures

TALL, LARGE, SMALL = (360, 280), (360, 190), (280, 150)
"""Width and height of a chart in the units of its letters, which are 11 high."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
_MOST_EPOCH_LABELS = 6
_MOST_DECIMALS = 6


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: as in the legend.
        values: one per record of the run, None where there is none.
        style: the CSS class that colours it.
        key: lines and maps of one key are highlighted together.
        low: lower end of a band, like ``values``.
        high: upper end of a band.
        born: whether its first value is a birth.
        ended: whether its last value is its end.
    """

    name: str
    values: tuple[float | None, ...]
    style: str
    key: str = ""
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    born: bool = False
    ended: bool = False

    @property
    def all_values(self) -> list[float]:
        """Every number that the chart has to have room for."""
        return [value for value in (*self.values, *self.low, *self.high) if value is not None]


@dataclass(frozen=True)
class Chart:
    """Lines over the snapshots of one run.

    Attributes:
        title: what the values are.
        lines: none of them without a value.
        positions: of the run's records on the timeline.
        labels: of the whole timeline, which all charts of a report share.
        limits: of the vertical axis.
        size: width and height.
    """

    title: str
    lines: tuple[Line, ...]
    positions: tuple[int, ...]
    labels: tuple[str, ...]
    limits: tuple[float, float]
    size: tuple[int, int] = LARGE

    @property
    def left(self) -> int:
        """Where the first snapshot is."""
        return _LEFT

    @property
    def right(self) -> int:
        """Where the last snapshot is."""
        return self.size[0] - _RIGHT

    @property
    def top(self) -> int:
        """Where the upper limit is."""
        return _TOP

    @property
    def bottom(self) -> int:
        """Where the lower limit is."""
        return self.size[1] - _BOTTOM

    def x(self, position: float) -> float:
        """Where a position of the timeline is; a single one is in the middle."""
        last = len(self.labels) - 1
        return round(self.left + (self.right - self.left) * (position / last if last else 0.5), 1)

    def y(self, value: float) -> float:
        """Where a value is."""
        low, high = self.limits
        return round(self.bottom - (self.bottom - self.top) * (value - low) / (high - low), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts of the vertical axis."""
        values = nice_ticks(*self.limits)
        digits = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9)) if len(values) > 1 else 2
        return [(self.y(value), f"{value + 0.0:.{digits}f}") for value in values]

    @property
    def epochs(self) -> list[tuple[float, str]]:
        """Places and texts of the horizontal axis."""
        stride = math.ceil(len(self.labels) / _MOST_EPOCH_LABELS)
        words = [label.split(",")[0].split(" · ")[0].removeprefix("epoch ") for label in self.labels]
        return [(self.x(position), words[position]) for position in range(0, len(words), stride)]

    def points(self, line: Line) -> list[list[tuple[float, float]]]:
        """The line in pieces: it breaks at a snapshot without a value."""
        pieces: list[list[tuple[float, float]]] = [[]]
        for position, value in zip(self.positions, line.values, strict=True):
            if value is not None:
                pieces[-1].append((self.x(position), self.y(value)))
            elif pieces[-1]:
                pieces.append([])
        return [piece for piece in pieces if piece]

    @property
    def legend(self) -> tuple[tuple[str, str, str], ...]:
        """Name, style and key of every line."""
        return tuple((line.name, line.style, line.key) for line in self.lines)

    def path(self, line: Line) -> str:
        """The line as the ``d`` of an SVG path."""
        return " ".join(_moves(piece) for piece in self.points(line) if len(piece) > 1)

    def dots(self, line: Line) -> list[tuple[float, float]]:
        """The values without a neighbour, of which no line can be seen."""
        return [piece[0] for piece in self.points(line) if len(piece) == 1]

    def birth(self, line: Line) -> tuple[float, float] | None:
        """Where to mark that a line was born; not on one that is a dot anyway."""
        return self.points(line)[0][0] if line.born and self.path(line) else None

    def end(self, line: Line) -> tuple[float, float] | None:
        """Where to mark that a line has ended; not on one that is a dot anyway."""
        return self.points(line)[-1][-1] if line.ended and self.path(line) else None

    def band(self, line: Line) -> str:
        """The area between ``low`` and ``high`` as the ``d`` of an SVG path; empty without one."""
        known = [
            (self.x(position), self.y(low), self.y(high))
            for position, low, high in zip(self.positions, line.low, line.high, strict=False)
            if low is not None and high is not None
        ]
        if len(known) < 2:
            return ""
        upper = [(x, high) for x, _, high in known]
        lower = [(x, low) for x, low, _ in reversed(known)]
        return f"{_moves(upper + lower)}Z"

    def words(self, line: Line) -> str:
        """The line in one sentence, for those who cannot see it."""
        known = [at for at, value in enumerate(line.values) if value is not None]
        first, last = (self._value_at(line, at) for at in (known[0], known[-1]))
        return f"{line.name}: {first}" + (f", {last}" if len(known) > 1 else "")

    def _value_at(self, line: Line, at: int) -> str:
        """A value with its interval, if it has one, and when it was."""
        low, high = (ends[at] if ends else None for ends in (line.low, line.high))
        interval = None if low is None or high is None else (low, high)
        sure = "" if interval is None else f" ({interval_text(interval)})"
        return f"{value_text(line.values[at], interval)}{sure} at {self.labels[self.positions[at]].split(' · ')[0]}"


def drawn(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Leave out the lines without a value."""
    return tuple(line for line in lines if any(value is not None for value in line.values))


def limits_of(lines: Iterable[Line], *, include: Sequence[float] = ()) -> tuple[float, float]:
    """Find round limits of an axis with room for some lines."""
    values = [*(value for line in lines for value in line.all_values), *include] or [0.0, 1.0]
    low, high = min(values), max(values)
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        pad = 0.5 * max(abs(low), 1e-3) if low else 0.5
        low, high = low - pad, high + pad
    margin = 0.04 * (high - low)
    return (low if low == 0 else low - margin), (high if high == 0 else high + margin)


def value_text(value: float | None, interval: tuple[float, float] | None = None, *, signed: bool = False) -> str:
    """Write a number with three significant digits, or as many as its interval lets one tell apart.

    Example:
        >>> value_text(0.123456), value_text(0.123456, (0.1, 0.3)), value_text(None)
        ('0.123', '0.12', '–')
    """
    if value is None:
        return "\N{EN DASH}"
    sign = "+" if signed else ""
    return figures(value, signed=signed) if interval is None else f"{value:{sign}.{_decimals(interval)}f}"


def interval_text(interval: tuple[float, float], *, signed: bool = False) -> str:
    """Write both ends of an interval, half its width with two significant digits.

    Example:
        >>> interval_text((0.1, 0.152)), interval_text((12.0, 20.0)), interval_text((-0.0004, 0.0011), signed=True)
        ('0.100 to 0.152', '12.0 to 20.0', '-0.00040 to +0.00110')
    """
    low, high = (f"{end:{'+' if signed else ''}.{_decimals(interval)}f}" for end in interval)
    return f"{low} to {high}"


def _decimals(interval: tuple[float, float]) -> int:
    half = (interval[1] - interval[0]) / 2
    return 3 if half <= 0 else min(max(1 - math.floor(math.log10(half)), 0), _MOST_DECIMALS)


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, ``most`` of them at the most.

    Example:
        >>> nice_ticks(-0.3, 2.1)
        [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        values = [step * index for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(values) <= most:
            break
    return values


def finite(value: float | None) -> float | None:
    """Turn what cannot be drawn into None."""
    return None if value is None or not math.isfinite(value) else float(value)


def _moves(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
