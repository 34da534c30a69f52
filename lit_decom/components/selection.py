"""Which components of the whole probe are followed."""

from dataclasses import dataclass
from typing import Literal

from lit_decom.components.factors import FollowedFactors
from lit_decom.components.shared import SharedComponents
from lit_decom.functional.base import check_option
from lit_decom.methods import ComponentMethod

Shared = Literal["decision_factors", "svd"]
_COUNT = {"decision_factors": 12, "svd": 6}


@dataclass(frozen=True)
class Components:
    """Which components are followed beside those of every image.

    Attributes:
        n_shared: how many components the whole probe is decomposed into together, so that each means the same in every
            image: the number for ``shared="svd"`` and the most for ``"decision_factors"``, which need no more than
            explain 97 % of the logits' variance. None for 6 and 12; 0 for no such components.
        shared: ``"decision_factors"``, what the layer does to tell the classes apart, with a code per class; or
            ``"svd"``, the directions of most energy, whatever the decision makes of them.
        freeze_shared: whether these stay what they were at the first snapshot, so that drift away from them shows as a
            loss of energy; for ``shared="svd"`` alone.

    Raises:
        ValueError: if ``n_shared`` is negative, ``shared`` is unknown, or decision factors are to be frozen.
    """

    n_shared: int | None = None
    shared: Shared = "decision_factors"
    freeze_shared: bool = False

    def __post_init__(self) -> None:
        check_option("shared", self.shared, Shared)
        if self.n_shared is not None and self.n_shared < 0:
            raise ValueError(f"Expected `n_shared` to be at least 0, but got {self.n_shared}.")
        if self.freeze_shared and self.shared != "svd":
            raise ValueError(f"Expected `shared='svd'` with `freeze_shared=True`, but got {self.shared!r}.")

    def new(self, method: ComponentMethod) -> SharedComponents | FollowedFactors | None:
        """Begin to follow the shared components of a run, which a method explains; None for none."""
        count = _COUNT[self.shared] if self.n_shared is None else self.n_shared
        if count == 0:
            return None
        if self.shared == "svd":
            return SharedComponents(method, count, frozen=self.freeze_shared)
        return FollowedFactors(count)
