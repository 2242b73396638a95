"""Sweeps: heads x cuts x samples per class x repeats x temperatures, all fitted from one bank."""

from __future__ import annotations

from featbank.sweep.curves import CurvePoint, LearningCurve, Score
from featbank.sweep.fitting import run_sweep
from featbank.sweep.records import Fit, Hits, Predictions
from featbank.sweep.results import ComparedCurve, Comparison, SweepResult, compare
from featbank.sweep.spec import SweepSettings

__all__ = [
    "ComparedCurve",
    "Comparison",
    "CurvePoint",
    "Fit",
    "Hits",
    "LearningCurve",
    "Predictions",
    "Score",
    "SweepResult",
    "SweepSettings",
    "compare",
    "run_sweep",
]
