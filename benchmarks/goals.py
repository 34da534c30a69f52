"""What each measured number shall be."""

import operator
from dataclasses import dataclass
from typing import Literal

from lit_decom.evidence import ScoreDtype

from .subject import Subject


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


# With one thread, and where bf16 appears, on a processor that has units for it.
FLOOR: dict[ScoreDtype, Goal] = {"float32": Goal("<=", 1.05, " x"), "bfloat16": Goal("<=", 1.10, " x")}
RANKS = Goal(">=", 0.99)
DECOMPOSITION = Goal("<=", 5, " %")
MEMORY = Goal("<=", 10, " KiB")  # per snapshot: a page that comes and goes is no growth
OVERHEAD = Goal("<=", 0.5, " %")
GRAD_CAM = Goal("<=", 1.6, " x")
PER_CHANNEL = Goal(">=", 100, " x")
CHEAP_METHODS = Goal("<", 2, " x")
# Methods that ask the network again: against the other package, and against the plain way to do the same.
SCORE_CAM: dict[ScoreDtype, Goal] = {"float32": Goal(">=", 1.15, " x"), "bfloat16": Goal(">=", 2, " x")}
ABLATION_TAIL = Goal(">=", 2, " x")
OPTI_BATCH = Goal(">=", 2, " x")
EQUAL_MAPS = Goal(">=", 0.999)
ABLATION_WEIGHTS = Goal("<=", 1e-5)
# A snapshot with decision factors, to one without any shared components.
FACTORS = Goal("<=", 1.3, " x")
# Of the processor time of a whole snapshot, what is spent outside the network.
OUTSIDE_RESNET18 = Goal("<=", 10, " %")
OUTSIDE_QUICKSTART = Goal("<=", 35, " %")

_SPEED_UP = {
    ("resnet18", "layer4", 224, "float32"): 1.3,
    ("resnet18", "layer4", 224, "bfloat16"): 3.3,
    ("resnet18", "layer3", 64, "float32"): 1.8,
    ("resnet18", "layer3", 64, "bfloat16"): 3.3,
}


def speed_up(subject: Subject, dtype: ScoreDtype) -> Goal | None:
    """Against the way of the released class; None where no goal is set."""
    bound = _SPEED_UP.get((subject.name, subject.layer, subject.size, dtype))
    return None if bound is None else Goal(">=", bound, " x")


def at_224(goal: Goal, subject: Subject) -> Goal | None:
    """A goal that is set for a ResNet-18 on images of 224 pixels alone."""
    return goal if (subject.name, subject.size) == ("resnet18", 224) else None
