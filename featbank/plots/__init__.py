"""Figures: a display stores what is to be shown, `plot` draws it, `save` writes a file; nothing is fitted.

`CurveDisplay.from_run` and the like make displays of the results of a run; `FIGURES` has them by name.
"""

from __future__ import annotations

from featbank.plots.curve import CurveDisplay
from featbank.plots.display import FIGURES, Display
from featbank.plots.heads import ConfusionDisplay, HistoryDisplay
from featbank.plots.points import CutsDisplay, ScoresDisplay, TemperatureDisplay, TimesDisplay

__all__ = [
    "FIGURES",
    "ConfusionDisplay",
    "CurveDisplay",
    "CutsDisplay",
    "Display",
    "HistoryDisplay",
    "ScoresDisplay",
    "TemperatureDisplay",
    "TimesDisplay",
]
