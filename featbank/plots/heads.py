"""One kept head: how it was trained, per epoch, and which classes it takes for which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.metrics.catalogue import percent
from featbank.metrics.classification import confusion_cells, worst_cells
from featbank.plots.chart import (
    MARK,
    SPLIT_LOOKS,
    SPLIT_NAMES,
    Axis,
    Chart,
    Entry,
    Look,
    Point,
    Series,
    Table,
    linear_axis,
    log_axis,
    note,
    percent_axis,
    reached,
)
from featbank.plots.display import (
    Display,
    color_bar,
    draw_chart,
    drawn_color,
    inches_of,
    new_figure,
    text_size,
)
from featbank.plots.figures import head_title, kept_head

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.runs import Run
    from featbank.training import TrainResult

__all__ = [
    "ARROW_KEYS",
    "ConfusionDisplay",
    "HistoryDisplay",
    "epoch_axis",
    "thinned_epochs",
]

#: What is followed -> name of its axis. The last two are known of networks alone.
_LABELS = {
    "loss": "Cross-entropy loss (nats)",
    "accuracy": "Top-1 accuracy (%)",
    "top5": "Top-5 accuracy (%)",
    "time": "Time per epoch (s)",
}
#: Of an epoch as a whole: no rows of its own.
_TIME = "epoch_time"
#: How a page reads out a chart of epochs.
ARROW_KEYS = "Left and right arrow keys read out the epochs."


def epoch_axis(n_epochs: int) -> Axis:
    """Return the axis of so many epochs."""
    return linear_axis("Epoch (passes over the data)", [0.0, float(n_epochs)], whole=True)


def thinned_epochs(n_epochs: int, most: int, always: Iterable[int]) -> tuple[int, list[int]]:
    """Return which of many epochs are shown, from 0: every n-th one, and these always; and that n.

    Examples
    --------
    >>> thinned_epochs(10, 4, [8, 9])
    (3, [0, 3, 6, 8, 9])
    """
    step = math.ceil(n_epochs / most)
    return step, sorted({*range(0, n_epochs, step), *always})


class HeadDisplay(Display):
    """A display of one kept head of a run."""

    @classmethod
    def from_run(cls, run: Run, *, head: str | None = None, cuts: Sequence[str] = ()) -> Self:
        """Make a display of a kept head of a run.

        Parameters
        ----------
        run : Run
        head : str, optional
            Its name; the best by validation accuracy by default.
        cuts : sequence of str, default=()
            The best of these.

        Raises
        ------
        RunError
            If there is no such head.
        InvalidInputError
            If none of these cuts has one, or there is nothing of it that this figure is of.
        """
        return cls._of_entry(run, kept_head(run, head, cuts))

    @classmethod
    def _of_entry(cls, run: Run, entry: dict[str, Any]) -> Self:
        raise NotImplementedError

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether a run saved a head."""
        return any(one["saved"] for one in run.heads())


class HistoryDisplay(HeadDisplay):
    """Loss and accuracy of a head or a network per epoch, for training, validation and test rows.

    A head that has one epoch, or was solved in one step (``logreg``), has no course: what it reached is drawn
    as bars. Drawn on two axes, loss and accuracy; of a network on one more for each of top-5 accuracy and
    time, where these are known.

    Parameters
    ----------
    history : mapping from str to sequence of float, length n_epochs each
        ``train_loss``, ``train_accuracy``, ``train_top5`` and the same with ``val_`` and ``test_``, where
        there are such rows; a fitted head's ``history_``. Accuracies in [0, 1]. ``epoch_time``: seconds of
        each epoch. Other keys are not drawn; ``lr`` of NaN says that the head was solved in one step.
    best_epoch : int, optional
        Epoch (counted from 1) whose weights were kept; marked.
    most_epochs : int, optional
        Of more epochs only every second, third, ... is shown, the last and the marked one always.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If no loss or accuracy is in `history`, or lengths differ. Heads without epochs have no history.

    Examples
    --------
    >>> history = {"train_loss": [2.1, 1.2, 0.8], "train_accuracy": [0.3, 0.7, 0.9]}
    >>> display = HistoryDisplay(history, best_epoch=3).plot()
    >>> [axes.get_ylabel() for axes in display.ax_]
    ['Cross-entropy loss (nats)', 'Top-1 accuracy (%)']
    """

    def __init__(
        self,
        history: Mapping[str, Sequence[float]],
        *,
        best_epoch: int | None = None,
        most_epochs: int | None = None,
        title: str | None = None,
    ) -> None:
        names = [
            *(f"{split}_{kind}" for kind in ("loss", "accuracy", "top5") for split in SPLIT_NAMES),
            _TIME,
        ]
        self.history = {
            name: np.asarray(history[name], dtype=np.float64) for name in names if name in history
        }
        lengths = sorted({len(values) for values in self.history.values()})
        if not self.history or lengths[0] == 0:
            raise InvalidInputError(
                "no history to draw: the head was fitted in one step, or its history was not kept; "
                "heads trained in epochs (softmax, mlp) have one"
            )
        if len(lengths) > 1:
            raise InvalidInputError(f"the parts of a history must be equally long, got {lengths} epochs")
        self.n_epochs = lengths[0]
        known = {name.partition("_")[2] for name in self.history}
        #: What is followed, an axes each.
        self._kinds = {
            kind: label for kind, label in _LABELS.items() if kind in ("loss", "accuracy") or kind in known
        }
        #: Whether the head was solved in one step; its learning rate is NaN then.
        self.solved = self.n_epochs == 1 and bool(np.isnan(np.asarray(history.get("lr", [0.0]), float)).all())
        self.best_epoch = best_epoch
        self.title = title
        #: One of so many epochs is shown, and which these are (from 0).
        always = [self.n_epochs - 1, *([best_epoch - 1] if best_epoch else [])]
        self.step, self.epochs = thinned_epochs(self.n_epochs, most_epochs or self.n_epochs, always)

    _noun = "a history"

    @classmethod
    def _of_entry(cls, run: Run, entry: dict[str, Any]) -> Self:
        histories = _epochs(run)
        if entry["name"] not in histories:
            known = ", ".join(histories) or "none"
            raise InvalidInputError(
                f"head {entry['name']!r} was not trained in epochs; those that were: {known}"
            )
        return cls(histories[entry["name"]], best_epoch=entry["best_epoch"], title=head_title(run, entry))

    @classmethod
    def from_training(
        cls, training: TrainResult, *, most_epochs: int | None = None, title: str | None = None
    ) -> HistoryDisplay:
        """Make a display of how a network was trained: of up to five classes without their top-5 accuracy.

        Parameters
        ----------
        training : TrainResult
            See `featbank.train`.
        most_epochs : int, optional
            As for the display itself.
        title : str, optional
            The name of its folder by default.
        """
        history: dict[str, list[float]] = {}
        for name in training.history[-1]:
            rows, _, kind = name.rpartition("_")
            if name == "duration_s":
                history[_TIME] = [one[name] for one in training.history]
            elif kind != "top5" or len(training.classes) > 5:
                history[f"{rows}_{'accuracy' if kind == 'top1' else kind}"] = [
                    one[name] for one in training.history
                ]
        last = training.best_epoch == len(training.history)
        best = None if last else training.best_epoch
        return cls(history, best_epoch=best, most_epochs=most_epochs, title=title or training.folder.name)

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether the best head of a run was trained in epochs."""
        return super().suits(run) and run.best_head()["name"] in _epochs(run)

    def _n_axes(self) -> int:
        return len(self._kinds)

    def _new_axes(self) -> Any:
        columns = 3 if len(self._kinds) == 3 else 2
        rows = len(self._kinds) // columns
        return new_figure(4.5 * columns, 4.0 * rows).subplots(rows, columns)

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw the loss and, beside it, the accuracy: per epoch, or as bars where there was one only."""
        if self.n_epochs > 1:
            return super()._draw(panels, own=own)
        kinds = zip(panels, self._kinds.items(), strict=True)
        self._drawn = [(axes, self._bars(axes, kind, label)) for axes, (kind, label) in kinds]
        why = (
            "solved exactly, in one step: no epochs to follow"
            if self.solved
            else "one epoch: no course to follow"
        )
        return [Entry("Training"), note(why)]

    def _bars(self, axes: Axes, kind: str, label: str) -> Chart:
        """Draw what a head without a course reached, a bar for each kind of rows."""
        lines = self._lines(kind)
        shown = [self._points(name)[0].y for name, _, _ in lines]
        names = tuple((float(at), name) for at, (_, name, _) in enumerate(lines))
        x = Axis("Rows (split)", -0.5, max(len(lines), 1) - 0.5, names, names=True)
        y = linear_axis(label, [one * 1.1 for one in shown if not _is_share(kind)] or [100.0], floor=0.0)
        chart = Chart("", x, y, ())
        draw_chart(axes, chart)
        digits = 3 if inches_of(axes)[0] > 1.5 else 2  # as much as there is room for beside each other
        for at, ((_, _, look), value) in enumerate(zip(lines, shown, strict=True)):
            axes.bar(at, value, width=0.6, color=drawn_color(look.color))
            axes.annotate(
                f"{value:.1f}" if _is_share(kind) else f"{value:.{digits}g}",
                (at, value),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=text_size(0.9),
            )
        return chart

    def charts(self) -> list[Chart]:
        """Return loss, accuracy and what else is followed per epoch."""
        kept = f"epoch {self.best_epoch} kept" if self.best_epoch else ""
        of = f" of {self.title}" if self.title else ""
        found = []
        for kind, label in self._kinds.items():
            series = [Series(name, self._points(key), look) for key, name, look in self._lines(kind)]
            values = reached(series)
            if _is_share(kind):
                y = percent_axis(label, values)
            elif kind == "loss" and values and min(values) > 0 and max(values) / min(values) > 100:
                y = log_axis(label, values)
            else:
                y = linear_axis(label, values, floor=0.0)
            found.append(
                Chart(
                    f"Line chart of {_spelt(kind)} per epoch{of}; {self.n_epochs} epochs"
                    f"{', ' if kept else ''}{kept}. {ARROW_KEYS}",
                    epoch_axis(self.n_epochs),
                    y,
                    tuple(series),
                    by_row=True,
                    mark=(float(self.best_epoch), kept) if self.best_epoch else None,
                )
            )
        return found

    def _lines(self, kind: str) -> list[tuple[str, str, Look]]:
        """Return key, name and look of what is drawn on one of the axes."""
        if kind == "time":
            return [(_TIME, "whole epoch", Look("grey"))]
        return [
            (f"{split}_{kind}", name, SPLIT_LOOKS[split])
            for split, name in SPLIT_NAMES.items()
            if f"{split}_{kind}" in self.history
        ]

    def _points(self, name: str) -> tuple[Point, ...]:
        factor = 100.0 if _is_share(name) else 1.0
        return tuple(Point(at + 1.0, factor * float(self.history[name][at])) for at in self.epochs)

    def legend(self) -> list[Entry]:
        """Name the rows, and the epoch whose weights were kept."""
        entries = [Entry("Rows")]
        for split, name in SPLIT_NAMES.items():
            if any(key.startswith(f"{split}_") for key in self.history):
                entries.append(Entry(name, SPLIT_LOOKS[split]))
        if self.best_epoch is not None:
            entries += [Entry("Weights kept"), Entry(f"epoch {self.best_epoch}", MARK)]
        return entries

    def caption(self) -> str:
        """Return in sentences what the figure shows."""
        kept = f", epoch {self.best_epoch} kept" if self.best_epoch else ""
        every = f"; every {self.step} epochs are shown" if self.step > 1 else ""
        return f"{self.n_epochs} epochs{kept}{every}."

    def table(self) -> Table:
        """Return the numbers."""

        def cell(name: str, epoch: int) -> str:
            value = float(self.history[name][epoch])
            if _is_share(name):
                return percent(value)
            return f"{value:.4g}" if math.isfinite(value) else "–"

        split_and_kind = [name.partition("_") for name in self.history if name != _TIME]
        columns = [f"{SPLIT_NAMES[split].capitalize()} {_spelt(kind)}" for split, _, kind in split_and_kind]
        columns += ["Seconds"] if _TIME in self.history else []
        rows = tuple((f"{at + 1}", *(cell(name, at) for name in self.history)) for at in self.epochs)
        return Table(("Epoch", *columns), rows, 0)


def _is_share(name: str) -> bool:
    return name.endswith(("accuracy", "top5"))


def _spelt(kind: str) -> str:
    return {"top5": "top-5", "time": "seconds"}.get(kind, kind)


def _epochs(run: Run) -> dict[str, dict[str, list[float]]]:
    """Return the histories with a loss; a head that was solved in one step has a line of other things."""
    return {name: found for name, found in run.histories().items() if found.get("train_loss")}


#: Up to here every cell says its count and share; beyond, the pairs confused most are listed instead.
_MOST_NUMBERED = 12
#: Up to here every class has its name on the axes; beyond, only its number, now and then.
_MOST_NAMED = 40
#: Up to here every pair of classes has a cell of its own; beyond, a cell is of several classes.
_MOST_CELLS = 1000
_LONGEST_NAME = 18

_Cells = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
#: Smaller text, in points, is not written.
_SMALLEST = 4.5


def _short(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


class ConfusionDisplay(HeadDisplay):
    r"""True classes against predicted ones: counts and row percentages.

    Up to 12 classes every cell holds its count and its share of the true class. With more, the shares are
    shades only; beyond 40 classes the axes count classes instead of naming them, and beyond 1,000 each cell
    is the mean of several. The pairs confused most often are listed beside, with counts and shares.

    Parameters
    ----------
    matrix : array-like of int, shape (n_classes, n_classes)
        Counts, row = true class, as `featbank.metrics.confusion_matrix` gives them.
    classes : sequence of str, length n_classes
        Class names.
    title : str, optional
        Above the figure.

    Attributes
    ----------
    matrix : ndarray of int64, shape (n_classes, n_classes)
        As given.
    pairs : list of (true class, predicted class, count)
        The pairs confused most often, worst first.

    Raises
    ------
    InvalidInputError
        If the matrix is not square, empty, or has another size than there are classes.

    Examples
    --------
    >>> display = ConfusionDisplay([[8, 2], [1, 9]], ["cat", "dog"]).plot()
    >>> [text.get_text() for text in display.ax_.texts]
    ['8\n80 %', '2\n20 %', '1\n10 %', '9\n90 %']
    """

    def __init__(self, matrix: ArrayLike, classes: Sequence[str], *, title: str | None = None) -> None:
        counts = np.asarray(matrix)
        if counts.ndim != 2 or counts.shape != (len(classes), len(classes)) or not len(classes):
            raise InvalidInputError(
                f"a confusion matrix of {len(classes)} classes cannot have shape {counts.shape}"
            )
        true, pred = np.nonzero(counts)
        self._take((true, pred, counts[true, pred].astype(np.int64)), classes, title)

    def _take(self, cells: _Cells, classes: Sequence[str], title: str | None) -> None:
        #: True class, predicted class and count of each cell that is not 0: the matrix may be very large.
        self._cells = cells
        self.classes = tuple(classes)
        self.pairs = worst_cells(*cells, 20)
        self._n_true = np.bincount(cells[0], weights=cells[2], minlength=len(classes))
        self.title = title

    @property
    def matrix(self) -> NDArray[np.int64]:
        """The counts, shape (n_classes, n_classes)."""
        true, pred, counts = self._cells
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        matrix[true, pred] = counts
        return matrix

    @classmethod
    def from_predictions(
        cls, y_true: ArrayLike, y_pred: ArrayLike, classes: Sequence[str], *, title: str | None = None
    ) -> Self:
        """Count predictions and make a display of them.

        Parameters
        ----------
        y_true, y_pred : array-like of int, shape (n_samples,)
            Indices into `classes`.
        classes : sequence of str, length n_classes
            Class names.
        title : str, optional
            Above the figure.

        Returns
        -------
        ConfusionDisplay

        Examples
        --------
        >>> ConfusionDisplay.from_predictions([0, 1, 1], [0, 1, 0], ["cat", "dog"]).matrix.tolist()
        [[1, 0], [1, 1]]
        """
        if not len(classes):
            raise InvalidInputError("a confusion matrix of 0 classes says nothing; give the classes")
        display = cls.__new__(cls)
        display._take(confusion_cells(y_true, y_pred, len(classes)), classes, title)
        return display

    @classmethod
    def _of_entry(cls, run: Run, entry: dict[str, Any]) -> Self:
        told = run.predictions(entry["name"])
        return cls.from_predictions(told.y_true, told.y_pred, run.classes, title=head_title(run, entry))

    def shares(self) -> Any:
        """Return each row in percent of its true class, NaN for a class without rows, shape as `matrix`."""
        return self._mean_shares(1)

    def _mean_shares(self, size: int) -> NDArray[np.float64]:
        """Return the shares of cells of so many classes each way, the mean over true classes with rows."""
        true, pred, counts = self._cells
        n_cells = -(-len(self.classes) // size)
        with_rows = np.flatnonzero(self._n_true)
        of_cell = np.bincount(with_rows // size, minlength=n_cells)[:, None]
        shares = np.zeros((n_cells, n_cells))
        np.add.at(shares, (true // size, pred // size), 100.0 * counts / self._n_true[true])
        means: NDArray[np.float64] = np.full(shares.shape, np.nan)
        return np.divide(shares, of_cell, out=means, where=of_cell > 0)

    def _new_axes(self) -> Any:
        """Make axes for the matrix, and beside them the list of confused pairs where there is room."""
        n = len(self.classes)
        side_length = max(4.4, 2.8 + 0.62 * n) if n <= _MOST_NUMBERED else 7.6
        if self._narrow:
            return new_figure(side_length + 1.4, side_length).add_subplot()
        figure = new_figure(side_length + 5.2, side_length)
        axes, side = figure.subplots(1, 2, width_ratios=[side_length + 1.4, 3.8])
        self._list(side, most=min(20, int(3.0 * side_length) - 6))
        return axes

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        from matplotlib.colors import PowerNorm

        axes: Axes = panels[0]
        n = len(self.classes)
        numbered = n <= _MOST_NUMBERED
        cell = 72 * 0.8 * min(inches_of(axes)) / n  # points; the rest is for names and the bar
        size = -(-n // _MOST_CELLS)
        shares = self._mean_shares(size)
        # With many classes a confusion is a few pixels: its shade must be seen though its share is small.
        norm = PowerNorm(1.0 if numbered else 0.5, vmin=0, vmax=100)
        last = size * len(shares) - 0.5
        image = axes.imshow(
            shares,
            cmap="Blues",
            norm=norm,
            interpolation="nearest",
            aspect="equal",
            extent=(-0.5, last, last, -0.5),
        )
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        if numbered:
            self._number(axes, shares, cell)
        self._name(axes, cell)
        axes.set_xlabel("Predicted class (name)" if n <= _MOST_NAMED else "Predicted class (number)")
        axes.set_ylabel("True class (name)" if n <= _MOST_NAMED else "True class (number)")
        if own:
            what = "Share of the true class (%)"
            if size > 1:
                what = f"Share of the true classes (%), mean of {size} x {size} classes"
            color_bar(image, axes, what, shrink=0.8)
        return []

    def _number(self, axes: Axes, shares: Any, cell: float) -> None:
        both = min(text_size(0.85), cell / 3.1)  # a count above a share such as "100 %"
        size = both if both >= _SMALLEST else min(text_size(0.85), cell / 2.2)
        if size < _SMALLEST:
            return
        matrix = self.matrix
        for row, column in np.ndindex(matrix.shape):
            share = shares[row, column]
            text = f"{matrix[row, column]}"
            if both >= _SMALLEST and not np.isnan(share):
                text += f"\n{share:.0f} %"
            empty = matrix[row, column] == 0
            color = "white" if share > 55 else ("#9aa0a6" if empty else "#202124")
            axes.text(
                column,
                row,
                "0" if empty else text,
                ha="center",
                va="center",
                fontsize=size,
                color=color,
                in_layout=False,  # they lie within the axes, and measuring them takes a third of the drawing
            )

    def _name(self, axes: Axes, cell: float) -> None:
        n = len(self.classes)
        if n <= _MOST_NAMED:
            names = [_short(name) for name in self.classes]
            size = max(min(text_size(0.95 if n <= 20 else 0.75), 0.95 * cell), _SMALLEST)
            tilt: dict[str, Any] = (
                {} if n <= _MOST_NUMBERED and max(map(len, names)) <= 5 else {"rotation": 90}
            )
            axes.set_xticks(range(n), names, fontsize=size, **tilt)
            axes.set_yticks(range(n), names, fontsize=size)
            for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
                label.set_parse_math(False)
        else:
            steps = (digit * 10**power for power in range(1, 9) for digit in (1, 2, 5))
            step = next(one for one in steps if n / one <= 12)
            axes.set_xticks(range(0, n, step))
            axes.set_yticks(range(0, n, step))

    def _list(self, side: Axes, *, most: int) -> None:
        side.set_axis_off()
        cell_true, cell_pred, counts = self._cells
        right = counts[cell_true == cell_pred].sum() / max(1, counts.sum())
        side.set_title("Confused most often", fontweight="bold", fontsize=text_size(1.1))
        lines = []
        for true, pred, count in self.pairs[:most]:
            of = int(self._n_true[true])
            pair = f"{_short(self.classes[true])} → {_short(self.classes[pred])}"
            lines.append(f"{count} of {of} ({100 * count / of:.0f} %):  {pair}")
        lines = lines or ["none: every image was recognised"]
        n_pairs = int((cell_true != cell_pred).sum())
        if n_pairs > most:
            lines.append(f"and {n_pairs - most} more pair{'s' if n_pairs - most > 1 else ''}")
        lines += ["", "images of the true class: true → predicted", f"right in all: {100 * right:.1f} %"]
        side.text(
            0, 0.985, "\n".join(lines), va="top", fontsize=text_size(0.9), linespacing=1.7, parse_math=False
        )
