"""Accuracy against depth: what each cut of the backbone is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank import drawing
from featbank.display import Display
from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.plots.spread import missing_intervals
from featbank.sampling import Size, size_order, size_words
from featbank.sweep import CurvePoint
from featbank.sweep.curves import judged_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CutsDisplay"]


class CutsDisplay(Display):
    """Test accuracy of each cut, shallow to deep, with the training accuracy beside it.

    Parameters
    ----------
    points : iterable of CurvePoint
        With ``top1`` and, where known, ``train_top1``. Where nothing was scored on test images, ``val_top1``
        is drawn instead.
    n_per_class : int or "all", optional
        Which size to show; by default the largest that every cut and head has.
    cuts : sequence of str, optional
        Order of the cuts, shallow to deep; the order of appearance by default.
    title : str, optional
        Above the figure.

    Raises
    ------
    InvalidInputError
        If there is no point, or not one of the size asked for.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> points = [
    ...     CurvePoint(cut, "mlp", 28, {"top1": Score(test), "train_top1": Score(1.0)})
    ...     for cut, test in [("block3_pool", 0.2876), ("block4_pool", 0.5322), ("block5_pool", 0.7129)]
    ... ]
    >>> display = CutsDisplay(points).plot()
    >>> [label.get_text() for label in display.ax_.get_xticklabels()]
    ['block3_pool', 'block4_pool', 'block5_pool']
    """

    def __init__(
        self,
        points: Iterable[CurvePoint],
        *,
        n_per_class: Size | None = None,
        cuts: Sequence[str] | None = None,
        title: str | None = None,
    ) -> None:
        everything = list(points)
        #: The accuracy that is drawn.
        self.metric = judged_by(everything)
        known = [one for one in everything if self.metric in one.scores]
        if not known:
            why = "none of the points has top1 or val_top1" if everything else "there are no points"
            raise InvalidInputError(f"no cut to draw: {why}; see the failed fits in results.csv")
        sizes = sorted({one.n_per_class for one in known}, key=size_order)
        if n_per_class is None:
            curves = {one.key for one in known}
            full = [size for size in sizes if sum(one.n_per_class == size for one in known) == len(curves)]
            n_per_class = full[-1] if full else sizes[-1]
        elif n_per_class not in sizes:
            listed = ", ".join(map(str, sizes))
            raise InvalidInputError(f"{n_per_class} samples per class were not fitted; the run has {listed}")
        self.n_per_class = n_per_class
        self.points = [one for one in known if one.n_per_class == n_per_class]
        names = [(one.cut, one.temperature) for one in self.points]
        order = [*(cuts or []), *(cut for cut, _ in names)]
        self.cuts = sorted(dict.fromkeys(names), key=lambda one: order.index(one[0]))
        self.heads = list(dict.fromkeys(one.head for one in self.points))
        self.title = title

    def _size(self) -> tuple[float, float]:
        return max(8.0, 4.0 + 0.55 * len(self.cuts)), 4.8

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw test accuracy (solid, filled) and training accuracy (dotted, open) per cut and head."""
        axes: Axes = panels[0]
        for of, head in enumerate(self.heads):
            # Heads stand a little beside each other, so that equal values do not hide.
            self._line(axes, head, of, 0.08 * (of - (len(self.heads) - 1) / 2))
        names = [printable(cut) if t is None else f"T = {t:g}" for cut, t in self.cuts]
        tilted: dict[str, Any] = {}
        if sum(map(len, names)) > 60:
            tilted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(names)), names, **tilted)
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.grid(visible=False, axis="x")
        drawing.percent_axis(axes)
        axes.set_xlabel("Cut of the backbone (shallow to deep)")
        axes.set_ylabel("Top-1 accuracy (%)")
        return self._entries()

    def _line_of(self, head: str) -> list[CurvePoint | None]:
        """Return the points of a head by cut; None where it was not fitted."""
        mine = {(one.cut, one.temperature): one for one in self.points if one.head == head}
        return [mine.get(cut) for cut in self.cuts]

    def _values(self, head: str, metric: str, ends: Sequence[str] = ("mean", "low", "high")) -> Any:
        """Return these in percent, NaN where a cut has none; shape (n_ends, n_cuts)."""
        scores = [one and one.scores.get(metric) for one in self._line_of(head)]
        return drawing.percent([[one and getattr(one, end) for one in scores] for end in ends])

    def _line(self, axes: Axes, head: str, of: int, shift: float) -> None:
        color = drawing.OKABE_ITO[of % len(drawing.OKABE_ITO)]
        marker = drawing.MARKERS[of % len(drawing.MARKERS)]
        x = np.arange(len(self.cuts)) + shift
        train, _, _ = self._values(head, "train_top1")
        axes.plot(
            x,
            train,
            color=color,
            marker=marker,
            linestyle=drawing.DASHES[2],
            markerfacecolor="white",
            linewidth=1.3,
        )
        mean, low, high = self._values(head, self.metric)
        draws = [one and one.n_draws for one in self._line_of(head)]
        two = np.array([n == 2 for n in draws]) & ~np.isfinite(low)
        for end in self._values(head, self.metric, ("min", "max")) if two.any() else ():
            axes.plot(x[two], end[two], ".", color=color, markersize=3.5, alpha=0.8)
        axes.errorbar(
            x,
            mean,
            yerr=np.stack([mean - low, high - mean]),
            color=color,
            marker=marker,
            capsize=3,
            elinewidth=1.1,
        )

    def _entries(self) -> list[Any]:
        from matplotlib.lines import Line2D

        entries: list[Any] = [drawing.heading("Head")]
        for of, head in enumerate(self.heads):
            look: dict[str, Any] = {
                "color": drawing.OKABE_ITO[of % len(drawing.OKABE_ITO)],
                "marker": drawing.MARKERS[of % 8],
            }
            entries.append(Line2D([], [], **look, label=printable(head)))
        judged = "test" if self.metric == "top1" else "validation"
        plain: dict[str, Any] = {"color": drawing.GREY, "marker": "o"}
        entries += [drawing.heading(""), drawing.heading("Images"), Line2D([], [], **plain, label=judged)]
        if any("train_top1" in one.scores for one in self.points):
            dotted = {"linestyle": drawing.DASHES[2], "markerfacecolor": "white", "linewidth": 1.3}
            entries.append(Line2D([], [], **plain, **dotted, label="training"))
        entries += [
            drawing.heading(""),
            drawing.heading("Training samples"),
            drawing.note(size_words(vars(self.points[0]))),
        ]
        if any(one.interval(self.metric) for one in self.points):
            entries.append(drawing.note("bars: 95 % interval"))
        for why in missing_intervals(self.points, self.metric):
            dots = " (dots)" if "2 draws" in why else ""
            entries.append(drawing.note(f"no interval: {why}{dots}"))
        return entries
