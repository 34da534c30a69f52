"""Sweeps: many trainings of one command, and the choice among them. Imports nothing heavy by itself."""

from lit_decom.sweep.errors import SweepError

__all__ = ["SweepError"]
