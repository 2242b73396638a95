"""Sweeps: heads x cuts x samples per class x repeats x temperatures, all fitted from one bank."""

from __future__ import annotations

from featbank.sweep._drawing import untrained_words, usual_sizes
from featbank.sweep.comparing import ComparedCurve, Comparison, compare
from featbank.sweep.curves import CurvePoint, LearningCurve, Score
from featbank.sweep.records import FitResult
from featbank.sweep.results import Hits, KeptHead, Predictions, SweepGroup, SweepResult
from featbank.sweep.running import run_sweep, sweep_parameters

__all__ = [
    "ComparedCurve",
    "Comparison",
    "CurvePoint",
    "FitResult",
    "Hits",
    "KeptHead",
    "LearningCurve",
    "Predictions",
    "Score",
    "SweepGroup",
    "SweepResult",
    "compare",
    "run_sweep",
    "sweep_parameters",
    "untrained_words",
    "usual_sizes",
]
