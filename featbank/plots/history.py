"""The training of one head: loss and accuracy per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank import drawing
from featbank.display import Display
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HistoryDisplay"]

_SPLITS = {"train": "training", "val": "validation", "test": "test"}


class HistoryDisplay(Display):
    """Loss and accuracy of a head per epoch, for training, validation and test rows.

    A head that has one epoch, or was solved in one step (``logreg``), has no course: what it reached is drawn
    as bars. Drawn on two axes: loss, accuracy.

    Parameters
    ----------
    history : mapping from str to sequence of float, length n_epochs each
        ``train_loss``, ``train_accuracy`` and the same with ``val_`` and ``test_``, where there are such
        rows; a fitted head's ``history_``. Accuracies in [0, 1]. Other keys are not drawn; ``lr`` of NaN says
        that the head was solved in one step.
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
        #: Whether the head was solved in one step; its learning rate is NaN then.
        self.solved = self.n_epochs == 1 and bool(np.isnan(np.asarray(history.get("lr", [0.0]), float)).all())
        self.best_epoch = best_epoch
        self.title = title

    _noun = "a history"

    def _n_axes(self) -> int:
        return 2

    def _new_axes(self) -> Any:
        return drawing.new_figure(9.0, 4.0).subplots(1, 2)

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw the loss and, beside it, the accuracy: per epoch, or as bars where there was one only."""
        draw = self._bars if self.n_epochs == 1 else self._lines
        draw(panels[0], "loss", "Cross-entropy loss (nats)")
        draw(panels[1], "accuracy", "Top-1 accuracy (%)")
        if self.n_epochs == 1:
            return self._only()
        losses = np.concatenate(
            [values for name, values in self.history.items() if name.endswith("loss")] or [np.zeros(0)]
        )
        finite = losses[np.isfinite(losses)]
        if finite.size and finite.min() > 0 and finite.max() / finite.min() > 100:
            self._log_axis(panels[0])
        drawing.percent_axis(panels[1])
        return self._entries()

    def _bars(self, axes: Axes, kind: str, label: str) -> None:
        """Draw what a head without a course reached, a bar for each kind of rows."""
        splits = [split for split in _SPLITS if f"{split}_{kind}" in self.history]
        values = [float(self.history[f"{split}_{kind}"][0]) for split in splits]
        shown = [100 * one if kind == "accuracy" else one for one in values]
        for at, (split, value) in enumerate(zip(splits, shown, strict=True)):
            axes.bar(at, value, width=0.6, color=drawing.split_look(split)["color"])
            said = f"{value:.1f} %" if kind == "accuracy" else f"{value:.3g}"
            axes.annotate(
                said, (at, value), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9
            )
        axes.set_xticks(range(len(splits)), [_SPLITS[split] for split in splits])
        axes.set_xlim(-0.7, max(len(splits), 1) - 0.3)
        axes.margins(y=0.12)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("Rows (split)")
        axes.set_ylabel(label)

    def _only(self) -> list[Any]:
        if not self.solved:
            return [
                drawing.heading("Training"),
                drawing.note("one epoch:"),
                drawing.note("no course to follow"),
            ]
        lines = ("solved exactly, in one", "step: no epochs to follow")
        return [drawing.heading("Training"), *map(drawing.note, lines)]

    @staticmethod
    def _log_axis(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        # matplotlib's own labels are formulas, and formulas are off here: a class may be called "$a"
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())

    def _lines(self, axes: Axes, kind: str, label: str) -> None:
        from matplotlib.ticker import MaxNLocator

        epochs = np.arange(1, self.n_epochs + 1)
        for split in _SPLITS:
            values = self.history.get(f"{split}_{kind}")
            if values is not None:
                shown = drawing.percent(values) if kind == "accuracy" else values
                axes.plot(epochs, shown, **drawing.split_look(split))
        if self.best_epoch is not None:
            axes.axvline(self.best_epoch, color=drawing.GREY, linestyle=(0, (2, 2)), linewidth=1.1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("Epoch (passes over the data)")
        axes.set_ylabel(label)

    def _entries(self) -> list[Any]:
        from matplotlib.lines import Line2D

        entries: list[Any] = [drawing.heading("Rows")]
        for split, name in _SPLITS.items():
            if any(key.startswith(f"{split}_") for key in self.history):
                entries.append(Line2D([], [], **drawing.split_look(split), label=name))
        if self.best_epoch is not None:
            kept: dict[str, Any] = {"color": drawing.GREY, "linestyle": (0, (2, 2)), "linewidth": 1.1}
            entries += [drawing.heading(""), drawing.heading("Weights kept")]
            entries.append(Line2D([], [], **kept, label=f"epoch {self.best_epoch}"))
        return entries
