"""Scores of a probe's explanations: every metric, over all images and each stratum, beside baselines and chance."""

from lit_decom.scoring.board import Scoreboard
from lit_decom.scoring.options import Metrics, Scoring, default_metrics, metric_key

__all__ = ["Metrics", "Scoreboard", "Scoring", "default_metrics", "metric_key"]
