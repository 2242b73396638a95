"""Displays: they store what is to be shown, `plot` draws, `save` writes PNG or SVG; nothing is fitted."""

from __future__ import annotations

from featbank.plots.confusion import ConfusionDisplay
from featbank.plots.curve import CurveDisplay
from featbank.plots.cuts import CutsDisplay
from featbank.plots.history import HistoryDisplay
from featbank.plots.temperature import TemperatureDisplay
from featbank.plots.times import TimesDisplay

__all__ = [
    "ConfusionDisplay",
    "CurveDisplay",
    "CutsDisplay",
    "HistoryDisplay",
    "TemperatureDisplay",
    "TimesDisplay",
]
