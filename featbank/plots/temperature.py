"""Accuracy against the temperature of the softmax that features are read through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from featbank import drawing
from featbank.display import Display
from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.plots.spread import missing_intervals
from featbank.sampling import Size, size_order, size_words
from featbank.sweep import CurvePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TemperatureDisplay"]


def _darker(color: str) -> str:
    """Return `color` mixed with as much black."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = to_rgb(color)
    return to_hex((red / 2, green / 2, blue / 2))


class TemperatureDisplay(Display):
    """Accuracy of the best and of the final epoch against the softmax temperature T.

    The best epoch is the one training chose, never the best on the test rows. The temperature that the
    validation images choose is marked for each line; the one with the highest mean of what is drawn is said
    beside it, because reading that off the test images is no choice one may report.

    Parameters
    ----------
    points : iterable of CurvePoint
        Those without a temperature are left out.
    split : {"test", "val"}, default="test"
        Which rows the accuracy is of.
    n_per_class : int or "all", optional
        Which size to show; the largest by default.
    chosen_by : mapping of str to str, optional
        Head -> what its best epoch was chosen by, e.g. ``"validation loss"``.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If no point has a temperature, or not one of the size asked for.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [
    ...     CurvePoint("softmax", "mlp", 16, {"best_top1": Score(best), "final_top1": Score(final)}, t)
    ...     for t, best, final in [(0.5, 0.38, 0.36), (1.0, 0.43, 0.41), (1.5, 0.45, 0.43), (2.0, 0.44, 0.42)]
    ... ]
    >>> TemperatureDisplay(points).plot().ax_.get_xlabel()
    'Softmax temperature T (dimensionless)'
    """

    def __init__(
        self,
        points: Iterable[CurvePoint],
        *,
        split: Literal["test", "val"] = "test",
        n_per_class: Size | None = None,
        chosen_by: Mapping[str, str] | None = None,
        title: str | None = None,
    ) -> None:
        if split not in ("test", "val"):
            raise InvalidInputError(f"split={split!r} is not one of test, val")
        metric = "top1" if split == "test" else "val_top1"
        known = [one for one in points if one.temperature is not None]
        if not known:
            raise InvalidInputError(
                "no point has a temperature; fit with --cut softmax --temperature 0.5,1,2"
            )
        sizes = sorted({one.n_per_class for one in known}, key=size_order)
        if n_per_class is not None and n_per_class not in sizes:
            listed = ", ".join(map(str, sizes))
            raise InvalidInputError(f"{n_per_class} samples per class were not fitted; the run has {listed}")
        self.n_per_class = sizes[-1] if n_per_class is None else n_per_class
        self.split = split
        self.points = sorted(
            (one for one in known if one.n_per_class == self.n_per_class),
            key=lambda one: one.temperature or 0.0,
        )
        self.heads = list(dict.fromkeys(one.head for one in self.points))
        best, final = ([one.mean(f"{which}_{metric}") for one in self.points] for which in ("best", "final"))
        # Heads that are solved in one step have one epoch: two equal lines would say that there is a choice.
        epochs = best != final
        #: Name of each line and the score it is of; a head without epochs has one line only.
        self.lines = (
            {"best epoch": f"best_{metric}", "final epoch": f"final_{metric}"} if epochs else {"": metric}
        )
        self.chosen_by = dict(chosen_by or {})
        self.title = title

    def _size(self) -> tuple[float, float]:
        return 9.2, 4.8

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw the lines, and say in the legend where they are highest."""
        from matplotlib.lines import Line2D

        axes: Axes = panels[0]
        entries: list[Any] = []
        for of, head in enumerate(self.heads):
            entries += [drawing.heading(f"Head {printable(head)}")]
            color = drawing.OKABE_ITO[of % len(drawing.OKABE_ITO)]
            for at, (name, metric) in enumerate(self.lines.items()):
                look: dict[str, Any] = {
                    # Where the last epoch is the best, the lines coincide: both must be seen.
                    "color": _darker(color) if at else color,
                    "linewidth": 1.4 if at else 2.6,
                    "markersize": 4.5 if at else 7.5,
                    "marker": drawing.MARKERS[of % len(drawing.MARKERS)],
                    "linestyle": drawing.DASHES[at],
                    "markerfacecolor": "white" if at else color,
                }
                if self._line(axes, head, metric, look):
                    entries.append(Line2D([], [], **look, label=self._label(head, name, metric)))
            entries += [drawing.heading("")]
        drawing.size_axis(axes, sorted({one.temperature for one in self.points if one.temperature}))
        drawing.percent_axis(axes)
        axes.set_xlabel("Softmax temperature T (dimensionless)")
        rows = "test" if self.split == "test" else "validation"
        axes.set_ylabel(f"Top-1 accuracy on {rows} images (%)")
        entries += [
            drawing.heading("Training samples"),
            drawing.note(size_words(vars(self.points[0]))),
        ]
        metric = next(iter(self.lines.values()))
        if any(one.interval(metric) for one in self.points):
            entries.append(drawing.note("band: 95 % interval"))
        for why in missing_intervals(self.points, metric):
            entries.append(drawing.note(f"no interval: {why}"))
        return entries

    def _of(self, head: str, metric: str) -> list[CurvePoint]:
        return [one for one in self.points if one.head == head and metric in one.scores]

    def _highest(self, head: str, metric: str) -> float | None:
        points = self._of(head, metric)
        return max(points, key=lambda one: one.scores[metric].mean).temperature if points else None

    def choice(self, head: str, metric: str) -> float | None:
        """Return the temperature with the highest mean on validation images, None where there are none.

        Parameters
        ----------
        head : str
            One of `heads`.
        metric : str
            A value of `lines`.
        """
        return self._highest(head, metric if "val_" in metric else metric.replace("top1", "val_top1"))

    def _label(self, head: str, name: str, metric: str) -> str:
        epoch = f" (by {self.chosen_by[head]})" if name == "best epoch" and head in self.chosen_by else ""
        chosen, highest = self.choice(head, metric), self._highest(head, metric)
        said = [name + epoch] if name else []
        if chosen is not None:
            said.append(f"ring: T = {chosen:g}, by validation accuracy")
        if self.split == "test":
            said.append(f"highest on test: T = {highest:g}" + (" too" if highest == chosen else ""))
        return "\n".join(said)

    def _line(self, axes: Axes, head: str, metric: str, look: Mapping[str, Any]) -> bool:
        """Draw one line with its band, and a ring where validation chooses; say whether there was any."""
        points = self._of(head, metric)
        if not points:
            return False
        x = np.array([one.temperature for one in points], dtype=np.float64)
        mean, low, high = (
            drawing.percent([getattr(one.scores[metric], end) for one in points])
            for end in ("mean", "low", "high")
        )
        axes.plot(x, mean, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
        chosen = self.choice(head, metric)
        for at in np.flatnonzero(x == chosen):
            axes.plot(x[at], mean[at], marker="o", markersize=13, markerfacecolor="none", color=look["color"])
        return True
