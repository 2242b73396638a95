"""Accuracy against the temperature of the softmax that features are read through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.plots import _style
from featbank.plots._style import Display

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

    The best epoch is the one training chose (by validation accuracy), never the best on the test rows. The
    temperature with the highest mean is marked for each line.

    Parameters
    ----------
    points : iterable of mapping
        As `featbank.sweep.SweepResult.curve` gives them; those without a temperature are left out.
    split : {"test", "val"}, default="test"
        Which rows the accuracy is of.
    n_per_class : float, optional
        Which size to show; the largest by default.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If no point has a temperature, or not one of the size asked for.

    Examples
    --------
    >>> points = [
    ...     {"cut": "softmax", "head": "softmax", "temperature": t, "n_per_class": 16,
    ...      "best_top1_mean": best, "final_top1_mean": best - 0.02}
    ...     for t, best in [(0.5, 0.38), (1.0, 0.43), (1.5, 0.45), (2.0, 0.44)]
    ... ]
    >>> TemperatureDisplay(points).plot().ax_.get_xlabel()
    'Softmax temperature T (dimensionless)'
    """

    def __init__(
        self,
        points: Iterable[Mapping[str, Any]],
        *,
        split: Literal["test", "val"] = "test",
        n_per_class: float | None = None,
        title: str | None = None,
    ) -> None:
        if split not in ("test", "val"):
            raise InvalidInputError(f"split={split!r} is not one of test, val")
        metric = "top1" if split == "test" else "val_top1"
        known = [one for one in points if one.get("temperature") is not None]
        if not known:
            raise InvalidInputError(
                "no point has a temperature; fit with --cut softmax --temperature 0.5,1,2"
            )
        sizes = sorted({one["n_per_class"] for one in known})
        if n_per_class is not None and n_per_class not in sizes:
            listed = ", ".join(f"{size:g}" for size in sizes)
            raise InvalidInputError(f"n_per_class={n_per_class!r} was not fitted; the run has {listed}")
        self.n_per_class = sizes[-1] if n_per_class is None else n_per_class
        self.split = split
        self.points = sorted(
            (one for one in known if one["n_per_class"] == self.n_per_class),
            key=lambda one: one["temperature"],
        )
        self.heads = list(dict.fromkeys(one["head"] for one in self.points))
        epochs = any(one.get(f"best_{metric}_mean") is not None for one in self.points)
        #: Name of each line and the keys it is drawn from; a head without epochs has one line only.
        self.lines = (
            {"best epoch": f"best_{metric}", "final epoch": f"final_{metric}"} if epochs else {"": metric}
        )
        self.title = title

    def plot(self, ax: Axes | None = None) -> TemperatureDisplay:
        """Draw the lines and mark their maxima.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes of the caller's; a new figure by default.

        Returns
        -------
        TemperatureDisplay
            This display, with `figure_` and `ax_`.
        """
        from matplotlib.lines import Line2D
        from matplotlib.ticker import NullFormatter, NullLocator

        with _style.styled():
            own = ax is None
            axes = self._start(ax, 8.0, 4.8)
            entries: list[Any] = []
            for of, head in enumerate(self.heads):
                entries += [_style.heading(f"Head {printable(head)}")]
                color = _style.OKABE_ITO[of % len(_style.OKABE_ITO)]
                for at, (name, keys) in enumerate(self.lines.items()):
                    look: dict[str, Any] = {
                        # Where the last epoch is the best, the lines coincide: both must be seen.
                        "color": _darker(color) if at else color,
                        "linewidth": 1.4 if at else 2.6,
                        "markersize": 4.5 if at else 7.5,
                        "marker": _style.MARKERS[of % len(_style.MARKERS)],
                        "linestyle": _style.DASHES[at],
                        "markerfacecolor": "white" if at else color,
                    }
                    best = self._draw(axes, head, keys, look)
                    if best is not None:
                        entries.append(
                            Line2D([], [], **look, label=f"{name}\nhighest at T = {best:g}".strip())
                        )
                entries += [_style.heading("")]
            values = sorted({float(one["temperature"]) for one in self.points})
            ticks = _style.tick_sizes(values, most=8)
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{one:g}" for one in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
            if len(values) == 1:
                axes.set_xlim(values[0] / 2, values[0] * 2)
            _style.percent_axis(axes)
            axes.set_xlabel("Softmax temperature T (dimensionless)")
            rows = "test" if self.split == "test" else "validation"
            axes.set_ylabel(f"Top-1 accuracy on {rows} images (%)")
            if self.title:
                axes.set_title(self.title)
            entries += [_style.heading("Training samples"), _style.note(f"{self.n_per_class:g} per class")]
            _style.grouped_legend(self.figure_ if own else axes, entries, outside=own)
        return self

    def _draw(self, axes: Axes, head: str, keys: str, look: Mapping[str, Any]) -> float | None:
        """Draw one line with its band; return the temperature of its highest mean."""
        points = [one for one in self.points if one["head"] == head and one.get(f"{keys}_mean") is not None]
        if not points:
            return None
        x = np.array([one["temperature"] for one in points], dtype=np.float64)
        mean, low, high = (
            _style.percent([one.get(f"{keys}_{end}") for one in points]) for end in ("mean", "low", "high")
        )
        axes.plot(x, mean, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
        top = int(mean.argmax())
        axes.plot(x[top], mean[top], marker="o", markersize=13, markerfacecolor="none", color=look["color"])
        return float(x[top])
