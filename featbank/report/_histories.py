"""How each kept head was trained: loss and accuracy per epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featbank import figures
from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.plots import HistoryDisplay
from featbank.report._axes import linear_axis, log_axis, percent_axis
from featbank.report._charts import Chart, Point, Series, both, swatch
from featbank.report._figures import Entry, Figure, Table, percent, spelled
from featbank.runs import Run

__all__ = ["Histories", "run_histories"]

#: A page holds so many heads' histories, and so many epochs of each; what is left out is said.
_MOST_HEADS, _MOST_EPOCHS = 24, 200
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_SIZE = (470, 300)


@dataclass(frozen=True)
class Histories:
    """The heads a run kept, and the histories of those trained in epochs.

    Parameters
    ----------
    heads : Table
        One line per kept head, best first.
    figures : tuple of Figure
        The best head's first.
    left_out : int
        How many more histories there are than the page holds.
    """

    heads: Table
    figures: tuple[Figure, ...]
    left_out: int


def run_histories(run: Run) -> Histories:
    """Return what the page says of the kept heads of a run."""
    entries = sorted(run.heads(), key=lambda one: -(one["val_top1"] or one["top1"] or 0.0))
    known = run.histories()
    drawn = []
    for entry in entries:
        try:
            display = figures.history(run, entry["name"])
        except InvalidInputError:  # not trained in epochs
            continue
        if display.n_epochs > 1:  # one that is solved in one step has nothing to follow
            drawn.append((entry, display))
    rows = tuple(
        (
            printable(one["name"]),
            spelled(one["cut"], one["temperature"]),
            printable(one["head"]),
            f"{one['n_per_class']:g}",
            percent(one["val_top1"]),
            percent(one["top1"]),
            *_epochs(len(known.get(one["name"], {}).get("train_loss", [])), one["best_epoch"]),
        )
        for one in entries
    )
    columns = ("Head", "Cut", "Kind", "Samples per class", "Validation", "Test", "Epochs", "Best epoch")
    shown = [_history(at, entry, display) for at, (entry, display) in enumerate(drawn[:_MOST_HEADS])]
    return Histories(Table(columns, rows, 3), tuple(shown), len(drawn) - len(shown))


def _epochs(n: int, best: int | None) -> tuple[str, str]:
    return ("–", "–") if n < 2 else (f"{n}", "–" if best is None else f"{best}")


def _history(at: int, entry: dict[str, Any], display: HistoryDisplay) -> Figure:
    n = display.n_epochs
    step = math.ceil(n / _MOST_EPOCHS)
    last = {n - 1} | ({display.best_epoch - 1} if display.best_epoch else set())
    epochs = sorted({*range(0, n, step), *last})
    name = printable(entry["name"])
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
        drawings.append(both(Chart(words, x, y, series, by_row=True, mark=mark), _SIZE))
    splits = [split for split in _SPLITS if any(key.startswith(f"{split}_") for key in display.history)]
    legend = tuple(
        Entry(_SPLITS[split].capitalize(), swatch(f"h{of}", of, None)) for of, split in _numbered(splits)
    )
    caption = f"{n} epochs{', ' if best else ''}{best}"
    caption += f"; every {step} epochs are shown." if step > 1 else "."
    table = _table(display, epochs)
    return Figure(f"history-{at}", name, caption, tuple(drawings), legend, table)


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
