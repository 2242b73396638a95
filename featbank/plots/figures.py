"""The figures there are, by name: what `featbank plot`, a finished run and its page take them from.

A new figure is one file with a display that has ``from_run``, and one line here. Other packages add theirs by
the entry point ``featbank.figures``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._registry import Registry
from featbank.errors import MissingPackageError
from featbank.plots.display import Display
from featbank.sweep.curves import IntervalKind

if TYPE_CHECKING:
    from featbank.runs import Run

__all__ = ["FIGURES", "draw_all", "suited"]

logger = logging.getLogger(__name__)

FIGURES: Registry[Any] = Registry(
    "figure",
    group="featbank.figures",
    accepts=(
        "subclass of featbank.plots.Display with from_run",
        lambda one: isinstance(one, type) and issubclass(one, Display) and hasattr(one, "from_run"),
    ),
)
#: In the order that a page has them in.
FIGURES.register_place("temperature", "featbank.plots.temperature:TemperatureDisplay")
FIGURES.register_place("curve", "featbank.plots.curve:CurveDisplay")
FIGURES.register_place("scores", "featbank.plots.scores:ScoresDisplay")
FIGURES.register_place("cuts", "featbank.plots.cuts:CutsDisplay")
FIGURES.register_place("history", "featbank.plots.history:HistoryDisplay")
FIGURES.register_place("confusion", "featbank.plots.confusion:ConfusionDisplay")
FIGURES.register_place("times", "featbank.plots.times:TimesDisplay")


def suited(run: Run) -> dict[str, Any]:
    """Return the displays whose figures the results of a run allow, by name."""
    found: dict[str, Any] = {}
    for name in FIGURES if run.result().points() else ():
        try:
            display = FIGURES.get(name)
        except MissingPackageError as error:  # somebody else's, and the run is done
            logger.warning("%s", error)
            continue
        if display.suits(run):
            found[name] = display
    return found


def draw_all(run: Run, *, interval: IntervalKind = "t") -> dict[str, Path]:
    """Draw every figure the results of a run allow, as PNG, into its ``figures`` folder.

    Parameters
    ----------
    run : Run
        The run.
    interval : {"t", "bootstrap"}, default="t"
        What the bands of the curve are; see `LearningCurve.points`.

    Returns
    -------
    dict of str to pathlib.Path
        Name -> file.
    """
    options: dict[str, dict[str, Any]] = {"curve": {"interval": interval}}
    return {
        name: one.from_run(run, **options.get(name, {})).save(run.figures / f"{name}.png")
        for name, one in suited(run).items()
    }
