"""Sweeps: heads x cuts x samples per class x repeats x temperatures, all fitted from one bank."""

from __future__ import annotations

from featbank.sweep.records import FitResult
from featbank.sweep.results import KeptHead, Predictions, SweepGroup, SweepResult
from featbank.sweep.running import run_sweep

__all__ = ["FitResult", "KeptHead", "Predictions", "SweepGroup", "SweepResult", "run_sweep"]
