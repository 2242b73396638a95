"""The training of a head or a network: loss and accuracy per epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank.errors import InvalidInputError
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
    percent,
    percent_axis,
    reached,
)
from featbank.plots.display import Display, drawn_color, new_figure, text_size
from featbank.plots.figures import head_title, kept_head

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.runs import Run
    from featbank.training import TrainResult

__all__ = ["ARROW_KEYS", "HistoryDisplay", "epoch_axis", "thinned_epochs"]

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


class HistoryDisplay(Display):
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
    def from_run(cls, run: Run, *, head: str | None = None, cuts: Sequence[str] = ()) -> HistoryDisplay:
        """Make a display of how a kept head of a run was trained.

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
            If the head was not trained in epochs.
        """
        entry = kept_head(run, head, cuts)
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
        return any(one["saved"] for one in run.heads()) and run.best_head()["name"] in _epochs(run)

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
        for axes, (kind, label) in zip(panels, self._kinds.items(), strict=True):
            self._bars(axes, kind, label)
        why = (
            "solved exactly, in one step: no epochs to follow"
            if self.solved
            else "one epoch: no course to follow"
        )
        return [Entry("Training"), note(why)]

    def _bars(self, axes: Axes, kind: str, label: str) -> None:
        """Draw what a head without a course reached, a bar for each kind of rows."""
        lines = self._lines(kind)
        shown = [self._points(name)[0].y for name, _, _ in lines]
        for at, ((_, _, look), value) in enumerate(zip(lines, shown, strict=True)):
            axes.bar(at, value, width=0.6, color=drawn_color(look.color))
            said = f"{value:.1f} %" if _is_share(kind) else f"{value:.3g}"
            axes.annotate(
                said,
                (at, value),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=text_size(0.9),
            )
        axes.set_xticks(range(len(lines)), [name for _, name, _ in lines])
        axes.set_xlim(-0.7, max(len(lines), 1) - 0.3)
        axes.margins(y=0.12)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("Rows (split)")
        axes.set_ylabel(label)

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
