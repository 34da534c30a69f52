"""Scores of a probe's explanations: which, of what, against what."""

from lit_decom.scoring.board import CHANCE, FIXED, Scoreboard
from lit_decom.scoring.choice import default_metrics, metric_key
from lit_decom.scoring.score import Score, numbers_of

__all__ = ["CHANCE", "FIXED", "Score", "Scoreboard", "default_metrics", "metric_key", "numbers_of"]
