"""The figures of a run for the page: each display as drawings, legend, caption and table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from featbank.manifest import printable
from featbank.plots import Display, HistoryDisplay
from featbank.plots.chart import Table
from featbank.plots.figures import suited
from featbank.report._kept import Kept
from featbank.report._svg import alone, both, swatch
from featbank.runs import Run

__all__ = ["Figure", "Histories", "History", "epochs_shown", "figure_of", "run_figures", "run_histories"]

#: A page holds so many histories, and so many epochs of all of them together; what is left out is said.
_MOST_HEADS, _MOST_EPOCHS_IN_ALL = 60, 2000
#: Epochs of one head: so many where there is room, and never fewer than these.
_MOST_EPOCHS, _LEAST_EPOCHS = 200, 24
_HISTORY_SIZE = (440, 290)


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Parameters
    ----------
    key, title, caption : str
    drawings : tuple of Markup
    legend : tuple of (text, swatch or None, numbers of series)
        An entry without a swatch is a heading.
    table : Table
    """

    key: str
    title: str
    caption: str
    drawings: tuple[Markup, ...]
    legend: tuple[tuple[str, Markup | None, tuple[int, ...]], ...]
    table: Table


def figure_of(key: str, display: Display, *, small: bool = False) -> Figure:
    """Return a display as a figure of the page; `small` ones have one drawing for every screen."""
    legend = [(one.text, swatch(one.look) if one.look else None, one.series) for one in display.legend()]
    drawn = (alone(one, _HISTORY_SIZE) if small else both(one) for one in display.charts() if one.series)
    return Figure(key, display.page_title, display.caption(), tuple(drawn), tuple(legend), display.table())


def run_figures(run: Run) -> list[Figure]:
    """Return the figures a run's results allow, first the one that answers it; none if every fit failed."""
    shown = {name: one for name, one in suited(run).items() if one.on_page}
    one_size = len({point.n_per_class for point in run.result().points()}) == 1
    if one_size and len(shown) > 1:  # a curve of one size says nothing that the others do not
        shown.pop("curve", None)
    return [figure_of(name, one.from_run(run)) for name, one in shown.items()]


@dataclass(frozen=True)
class History:
    """How one head was trained: its number on the page, and the figure."""

    at: int
    figure: Figure


@dataclass(frozen=True)
class Histories:
    """The histories of the heads that were trained in epochs.

    Parameters
    ----------
    lines : tuple of History
        In the order of the heads.
    n_epochs : dict of str to int
        How many epochs each head had, by its name.
    left_out : int
        How many more histories there are than the page holds.
    """

    lines: tuple[History, ...]
    n_epochs: dict[str, int]
    left_out: int


def epochs_shown(n_histories: int) -> int:
    """Return how many epochs of each of several histories a page has room for."""
    return max(_LEAST_EPOCHS, min(_MOST_EPOCHS, _MOST_EPOCHS_IN_ALL // max(n_histories, 1)))


def run_histories(run: Run, heads: Sequence[Kept]) -> Histories:
    """Return the histories of kept heads, as many as the page has room for."""
    known = run.histories()
    n_epochs = {name: len(one.get("train_loss", [])) for name, one in known.items()}
    # one that was solved in one step has nothing to follow
    trained = [one for one in heads if n_epochs.get(one.name, 0) > 1]
    drawn = trained[:_MOST_HEADS]
    most = epochs_shown(len(drawn))
    lines = []
    for one in drawn:
        best = one.entry["best_epoch"]
        name = printable(one.name)
        display = HistoryDisplay(known[one.name], best_epoch=best, most_epochs=most, title=name)
        display.page_title = name
        lines.append(History(one.at, figure_of(f"history-{one.at}", display, small=True)))
    return Histories(tuple(lines), n_epochs, len(trained) - len(drawn))
