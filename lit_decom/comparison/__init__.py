"""Every method on a whole data set: where each stands by every measure, in every stratum, and what it costs."""

from lit_decom.comparison.base import ComparisonError
from lit_decom.comparison.result import Comparison, Disagreement
from lit_decom.comparison.run import accuracy_stratified, compare
from lit_decom.comparison.summary import Cost, Standing

__all__ = [
    "Comparison",
    "ComparisonError",
    "Cost",
    "Disagreement",
    "Standing",
    "accuracy_stratified",
    "compare",
]
