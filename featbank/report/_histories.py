"""How each kept head was trained: loss and accuracy per epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from featbank.manifest import printable
from featbank.plots import HistoryDisplay
from featbank.report._axes import linear_axis, log_axis, percent_axis
from featbank.report._charts import Chart, Point, Series, alone, swatch
from featbank.report._figures import Entry, Figure, Table, percent
from featbank.report._kept import Kept
from featbank.runs import Run

__all__ = ["Histories", "History", "run_histories"]

#: A page holds so many histories, and so many epochs of all of them together; what is left out is said.
_MOST_HEADS, _MOST_EPOCHS_IN_ALL = 60, 2000
#: Epochs of one head: so many where there is room, and never fewer than these.
_MOST_EPOCHS, _LEAST_EPOCHS = 200, 24
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_SIZE = (440, 290)


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


def run_histories(run: Run, heads: Sequence[Kept]) -> Histories:
    """Return the histories of kept heads, as many as the page has room for."""
    known = run.histories()
    n_epochs = {name: len(one.get("train_loss", [])) for name, one in known.items()}
    # one that was solved in one step has nothing to follow
    trained = [one for one in heads if n_epochs.get(one.name, 0) > 1]
    drawn = trained[:_MOST_HEADS]
    share = _MOST_EPOCHS_IN_ALL // max(len(drawn), 1)
    most = max(_LEAST_EPOCHS, min(_MOST_EPOCHS, share))
    lines = []
    for one in drawn:
        display = HistoryDisplay(known[one.name], best_epoch=one.entry["best_epoch"])
        lines.append(History(one.at, _history(one, display, most)))
    return Histories(tuple(lines), n_epochs, len(trained) - len(drawn))


def _history(head: Kept, display: HistoryDisplay, most: int) -> Figure:
    n = display.n_epochs
    step = math.ceil(n / most)
    last = {n - 1} | ({display.best_epoch - 1} if display.best_epoch else set())
    epochs = sorted({*range(0, n, step), *last})
    name = printable(head.name)
    best = f"epoch {display.best_epoch} kept" if display.best_epoch else ""
    drawings = []
    for kind, label in (("loss", "Cross-entropy loss (nats)"), ("accuracy", "Top-1 accuracy (%)")):
        series = _lines(display, epochs, kind)
        if not series:
            continue
        values = [point.y for one in series for point in one.points if math.isfinite(point.y)]
        if kind == "accuracy":
            y = percent_axis(label, values)
        elif values and min(values) > 0 and max(values) / min(values) > 100:
            y = log_axis(label, values)
        else:
            y = linear_axis(label, values, floor=0.0)
        words = f"Line chart of {kind} per epoch of {name}; {n} epochs{', ' if best else ''}{best}. "
        words += "Left and right arrow keys read out the epochs."
        x = linear_axis("Epoch", [0.0, float(n)])
        mark = (float(display.best_epoch), best) if display.best_epoch else None
        drawings.append(alone(Chart(words, x, y, series, by_row=True, mark=mark), _SIZE))
    splits = [split for split in _SPLITS if any(key.startswith(f"{split}_") for key in display.history)]
    legend = tuple(
        Entry(_SPLITS[split].capitalize(), swatch(f"h{of}", of, None)) for of, split in _numbered(splits)
    )
    caption = f"{n} epochs{', ' if best else ''}{best}"
    caption += f"; every {step} epochs are shown." if step > 1 else "."
    table = _table(display, epochs)
    return Figure(f"history-{head.at}", name, caption, tuple(drawings), legend, table)


def _numbered(splits: Sequence[str]) -> list[tuple[int, str]]:
    return [(list(_SPLITS).index(split), split) for split in splits]


def _lines(display: HistoryDisplay, epochs: Sequence[int], kind: str) -> tuple[Series, ...]:
    factor = 100.0 if kind == "accuracy" else 1.0
    found = []
    for at, split in _numbered(list(_SPLITS)):
        values = display.history.get(f"{split}_{kind}")
        if values is not None:
            points = tuple(Point(epoch + 1.0, factor * float(values[epoch])) for epoch in epochs)
            found.append(Series(_SPLITS[split], points, f"h{at}", at))
    return tuple(found)


def _table(display: HistoryDisplay, epochs: Sequence[int]) -> Table:
    names = list(display.history)
    columns = tuple(
        f"{_SPLITS[split].capitalize()} {kind}" for split, _, kind in (name.partition("_") for name in names)
    )

    def cell(name: str, epoch: int) -> str:
        value = float(display.history[name][epoch])
        if name.endswith("accuracy"):
            return percent(value)
        return f"{value:.4g}" if math.isfinite(value) else "–"

    rows = tuple((f"{epoch + 1}", *(cell(name, epoch) for name in names)) for epoch in epochs)
    return Table(("Epoch", *columns), rows, 0)
