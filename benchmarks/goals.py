"""What each measured number shall be."""

import operator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """A bound that is part of it."""

    sense: Literal["<=", ">=", "<"]
    bound: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:g}{self.unit}"

    def met(self, value: float) -> bool:
        """Whether a value, in the unit of the bound, is on the right side."""
        compare = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}[self.sense]
        return bool(compare(value, self.bound))


FLOOR = Goal("<=", 1.05, " x")
RANKS = Goal(">=", 0.99)
DECOMPOSITION = Goal("<=", 5, " %")
MEMORY = Goal("<=", 10, " KiB")  # per firing: a page that comes and goes is no growth
OVERHEAD = Goal("<=", 0.5, " %")
GRAD_CAM = Goal("<=", 1.6, " x")
PER_CHANNEL = Goal(">=", 100, " x")
CHEAP_METHODS = Goal("<", 2, " x")

_SPEED_UP = {
    ("resnet18", 224, "float32"): 2.2,
    ("resnet18", 224, "bfloat16"): 3.5,
    ("resnet50", 224, "bfloat16"): 3.0,
    ("resnet18", 64, "float32"): 3.5,
    ("resnet18", 64, "bfloat16"): 5.0,
}


def speed_up(model: str, size: int, dtype: str) -> Goal | None:
    """Against the published way; None where no goal is set."""
    bound = _SPEED_UP.get((model, size, dtype))
    return None if bound is None else Goal(">=", bound, " x")


def at_224(goal: Goal, model: str, size: int) -> Goal | None:
    """A goal that is set for a ResNet-18 on images of 224 pixels alone."""
    return goal if (model, size) == ("resnet18", 224) else None
