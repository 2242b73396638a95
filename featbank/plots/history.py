"""The training of one head: loss and accuracy per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import drawing
from featbank.drawing import Display
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HistoryDisplay"]

_SPLITS = {"train": "training", "val": "validation", "test": "test"}


class HistoryDisplay(Display):
    """Loss and accuracy of a head per epoch, for training, validation and test rows.

    Parameters
    ----------
    history : mapping from str to sequence of float, length n_epochs each
        ``train_loss``, ``train_accuracy`` and the same with ``val_`` and ``test_``, where there are such
        rows; a fitted head's ``history_``. Accuracies in [0, 1]. Other keys are not drawn.
    best_epoch : int, optional
        Epoch (counted from 1) whose weights were kept; marked.
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
        title: str | None = None,
    ) -> None:
        names = [f"{split}_{kind}" for kind in ("loss", "accuracy") for split in _SPLITS]
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
        self.best_epoch = best_epoch
        self.title = title

    def plot(self, ax: Sequence[Axes] | None = None) -> HistoryDisplay:
        """Draw the loss and, beside it, the accuracy.

        Parameters
        ----------
        ax : sequence of two matplotlib.axes.Axes, optional
            Axes of the caller's; a new figure by default.

        Returns
        -------
        HistoryDisplay
            This display, with `figure_` and `ax_` (both axes).

        Raises
        ------
        InvalidInputError
            If `ax` is not two axes.
        """
        with drawing.styled():
            own = ax is None
            pair = drawing.pair_of_axes(ax, 9.0, 4.0, "a history")
            self._start(pair[0], 0, 0)
            self.ax_ = pair
            self._draw(pair[0], "loss", "Cross-entropy loss (nats)")
            self._draw(pair[1], "accuracy", "Top-1 accuracy (%)")
            losses = np.concatenate(
                [values for name, values in self.history.items() if name.endswith("loss")] or [np.zeros(0)]
            )
            finite = losses[np.isfinite(losses)]
            if finite.size and finite.min() > 0 and finite.max() / finite.min() > 100:
                self._log_axis(pair[0])
            drawing.percent_axis(pair[1])
            self._legend(pair, own=own)
            if self.title and own:
                drawing.head_figure(self.figure_, self.title)
        return self

    @staticmethod
    def _log_axis(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        # matplotlib's own labels are formulas, and formulas are off here: a class may be called "$a"
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())

    def _draw(self, axes: Axes, kind: str, label: str) -> None:
        from matplotlib.ticker import MaxNLocator

        epochs = np.arange(1, self.n_epochs + 1)
        marker = "o" if self.n_epochs == 1 else None  # one epoch is a point, which a line does not show
        for split in _SPLITS:
            values = self.history.get(f"{split}_{kind}")
            if values is not None:
                shown = drawing.percent(values) if kind == "accuracy" else values
                axes.plot(epochs, shown, **drawing.split_look(split), marker=marker)
        if self.best_epoch is not None:
            axes.axvline(self.best_epoch, color=drawing.GREY, linestyle=(0, (2, 2)), linewidth=1.1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("Epoch (passes over the data)")
        axes.set_ylabel(label)

    def _legend(self, pair: Any, *, own: bool) -> None:
        from matplotlib.lines import Line2D

        entries: list[Any] = [drawing.heading("Rows")]
        for split, name in _SPLITS.items():
            if any(key.startswith(f"{split}_") for key in self.history):
                entries.append(Line2D([], [], **drawing.split_look(split), label=name))
        if self.best_epoch is not None:
            kept: dict[str, Any] = {"color": drawing.GREY, "linestyle": (0, (2, 2)), "linewidth": 1.1}
            entries += [drawing.heading(""), drawing.heading("Weights kept")]
            entries.append(Line2D([], [], **kept, label=f"epoch {self.best_epoch}"))
        drawing.grouped_legend(self.figure_ if own else pair[1], entries, outside=own)
