"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.metrics.accuracy import confusion_cells, worst_cells
from featbank.plots.display import Display, head_title, inches_of, kept_head
from featbank.plots.style import color_bar, new_figure, text_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.runs import Run

__all__ = ["ConfusionDisplay"]

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


class ConfusionDisplay(Display):
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
    ) -> ConfusionDisplay:
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
    def from_run(cls, run: Run, *, head: str | None = None, cuts: Sequence[str] = ()) -> ConfusionDisplay:
        """Make a display of what a kept head of a run answered on the test rows.

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
        """
        entry = kept_head(run, head, cuts)
        told = run.predictions(entry["name"])
        return cls.from_predictions(told.y_true, told.y_pred, run.classes, title=head_title(run, entry))

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether a run saved a head."""
        return any(one["saved"] for one in run.heads())

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
            lines.append(f"and {n_pairs - most} more pairs")
        lines += ["", "images of the true class: true → predicted", f"right in all: {100 * right:.1f} %"]
        side.text(
            0, 0.985, "\n".join(lines), va="top", fontsize=text_size(0.9), linespacing=1.7, parse_math=False
        )
