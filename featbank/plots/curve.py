"""The learning curve: accuracy against samples per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank import drawing
from featbank.drawing import Display
from featbank.errors import InvalidInputError
from featbank.manifest import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.metrics import PowerLaw

__all__ = ["METRICS", "CurveDisplay"]

#: What can stand on the vertical axis: prefix of a point's keys, and the axis's name.
METRICS = {
    "top1": "Top-1 accuracy on test images (%)",
    "top5": "Top-5 accuracy on test images (%)",
    "val_top1": "Top-1 accuracy on validation images (%)",
    "val_top5": "Top-5 accuracy on validation images (%)",
    "train_top1": "Top-1 accuracy on training images (%)",
    "train_top5": "Top-5 accuracy on training images (%)",
}

Key = tuple[str, str, float | None]

#: With more curves than that not every one gets a band.
MOST_BANDS = 5


def _key(point: Mapping[str, Any]) -> Key:
    return point["cut"], point["head"], point.get("temperature")


def _label(cut: str, temperature: float | None) -> str:
    return printable(cut) if temperature is None else f"{printable(cut)}, T = {temperature:g}"


class CurveDisplay(Display):
    """Accuracy against samples per class: the mean over repeats and its interval, per cut and head.

    Several cuts are told apart by colour (dark to light in the order given: shallow to deep) and marker,
    several heads by line style and filled or open markers; a single cut's heads get colours of their own.
    The horizontal axis is logarithmic to base 2, because gains come with each doubling.

    Parameters
    ----------
    points : iterable of mapping
        As `featbank.sweep.SweepResult.curve` gives them: ``cut``, ``head``, ``temperature`` (may be
        missing), ``n_per_class``, and ``<metric>_mean``, ``_low``, ``_high`` in [0, 1], low and high None
        where a single repeat has no interval.
    metric : str, optional
        One of ``top1``, ``top5``, ``val_top1``, ``val_top5``, ``train_top1``, ``train_top5``; by default
        ``top1``, or ``val_top1`` where nothing was scored on test images.
    cuts : sequence of str, optional
        Order of the cuts, shallow to deep; the order of appearance by default.
    laws : mapping from (cut, head, temperature) to `featbank.metrics.PowerLaw`, optional
        Drawn on as dotted lines with their bands up to `until`.
    until : float, optional
        Samples per class the laws are drawn to; four times the largest size by default.
    title : str, optional
        Above the figure.
    band : str, optional
        What the legend says of the bands; intervals over repeats by default.

    Raises
    ------
    InvalidInputError
        If there is no point, or the metric is unknown or none of the points has it.

    Examples
    --------
    >>> points = [
    ...     {"cut": "fc7", "head": "softmax", "n_per_class": n, "top1_mean": mean, "top1_low": mean - 0.02,
    ...      "top1_high": mean + 0.02}
    ...     for n, mean in [(4, 0.61), (8, 0.70), (16, 0.76)]
    ... ]
    >>> display = CurveDisplay(points).plot()
    >>> display.ax_.get_xlabel()
    'Training samples per class (images)'
    """

    def __init__(
        self,
        points: Iterable[Mapping[str, Any]],
        *,
        metric: str | None = None,
        cuts: Sequence[str] | None = None,
        laws: Mapping[Key, PowerLaw] | None = None,
        until: float | None = None,
        title: str | None = None,
        band: str | None = None,
    ) -> None:
        everything = list(points)
        if metric is None:
            tested = any(one.get("top1_mean") is not None for one in everything)
            validated = any(one.get("val_top1_mean") is not None for one in everything)
            metric = "val_top1" if validated and not tested else "top1"
        if metric not in METRICS:
            raise InvalidInputError(f"metric={metric!r} is not one of {', '.join(METRICS)}")
        self.points = [one for one in everything if one.get(f"{metric}_mean") is not None]
        if not self.points:
            why = (
                f"none of the {len(everything)} points has {metric}" if everything else "there are no points"
            )
            raise InvalidInputError(f"no curve to draw: {why}; see the failed fits in results.csv")
        order = list(cuts or []) + [point["cut"] for point in self.points]
        series: dict[Key, list[Mapping[str, Any]]] = {}
        for point in sorted(self.points, key=lambda one: (order.index(one["cut"]), one["n_per_class"])):
            series.setdefault(_key(point), []).append(point)
        self.metric = metric
        self.series = series
        self.laws = dict(laws or {})
        self.until = until
        self.title = title
        self.band = band

    def plot(self, ax: Axes | None = None) -> CurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes of the caller's; a new figure by default.

        Returns
        -------
        CurveDisplay
            This display, with `figure_` and `ax_`.
        """
        with drawing.styled():
            own = ax is None
            axes = self._start(ax, 8.0, 4.8)
            cuts = list(dict.fromkeys((cut, temperature) for cut, _, temperature in self.series))
            heads = list(dict.fromkeys(head for _, head, _ in self.series))
            by_cut = len(cuts) > 1
            colors: Sequence[str] = drawing.depth_colors(len(cuts)) if by_cut else drawing.OKABE_ITO
            opacity = 0.18 if len(self.series) <= 4 else 0.12
            banded = self._banded()
            for (cut, head, temperature), points in self.series.items():
                at, of = cuts.index((cut, temperature)), heads.index(head)
                look = {
                    "color": colors[(at if by_cut else of) % len(colors)],
                    "linestyle": drawing.DASHES[of % len(drawing.DASHES)],
                    "marker": drawing.MARKERS[(at if by_cut else of) % len(drawing.MARKERS)],
                }
                shade = opacity if (cut, head, temperature) in banded else 0.0
                self._draw(axes, (cut, head, temperature), points, look, filled=of % 2 == 0, opacity=shade)
            self._finish(axes)
            self._legend(axes, cuts, heads, colors, own=own)
        return self

    def _banded(self) -> set[Key]:
        """Choose the curves that get a band: all of a few, of many the best head of each cut.

        Bands on top of each other hide the lines, and tell nobody which is whose.
        """
        if len(self.series) <= MOST_BANDS:
            return set(self.series)
        last = {
            key: (points[-1]["n_per_class"], points[-1][f"{self.metric}_mean"])
            for key, points in self.series.items()
        }
        best: dict[tuple[str, float | None], Key] = {}
        for key in self.series:
            cut, _, temperature = key
            rival = best.get((cut, temperature))
            if rival is None or last[key] > last[rival]:
                best[cut, temperature] = key
        return set(sorted(best.values(), key=lambda key: last[key], reverse=True)[:MOST_BANDS])

    def _draw(
        self,
        axes: Axes,
        key: Key,
        points: Sequence[Mapping[str, Any]],
        look: Mapping[str, Any],
        *,
        filled: bool,
        opacity: float,
    ) -> None:
        sizes = np.array([point["n_per_class"] for point in points], dtype=np.float64)
        mean, low, high = (
            drawing.percent([point.get(f"{self.metric}_{end}") for point in points])
            for end in ("mean", "low", "high")
        )
        face = look["color"] if filled else "white"
        cut, head, temperature = key
        axes.plot(
            sizes,
            mean,
            **look,
            markerfacecolor=face,
            markeredgewidth=1.2,
            label=f"{_label(cut, temperature)}, {head}",
        )
        if opacity:
            axes.fill_between(sizes, low, high, color=look["color"], alpha=opacity, linewidth=0)
        law = self.laws.get(key)
        if law is None:
            return
        further = np.geomspace(law.n_max, self.until or 4 * law.n_max, 60)
        below, above = law.band(further)
        axes.plot(
            further, drawing.percent(law.predict(further)), color=look["color"], linestyle=":", linewidth=1.4
        )
        if not opacity:
            return
        axes.fill_between(
            further,
            drawing.percent(below),
            drawing.percent(above),
            color=look["color"],
            alpha=opacity / 2,
            linewidth=0,
        )

    def _finish(self, axes: Axes) -> None:
        from matplotlib.ticker import NullFormatter, NullLocator

        sizes = sorted({float(point["n_per_class"]) for point in self.points})
        drawn = [*sizes, 2 * sizes[-1], self.until or 4 * sizes[-1]] if self.laws else sizes
        ticks = drawing.tick_sizes(sorted(set(drawn)))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{size:g}" for size in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        if drawn[0] == drawn[-1]:  # one size: a logarithmic axis of no width
            axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
        else:
            pad = (drawn[-1] / drawn[0]) ** 0.04
            axes.set_xlim(drawn[0] / pad, drawn[-1] * pad)
        drawing.percent_axis(axes)
        axes.set_xlabel("Training samples per class (images)")
        axes.set_ylabel(METRICS[self.metric])
        if self.title:
            drawing.head_axes(axes, self.title, 5.0)

    def _whose(self) -> str:
        """Say which curves have a band, where not all have."""
        banded = self._banded()
        if len(banded) == len(self.series):
            return ""
        cuts = {(cut, temperature) for cut, _, temperature in self.series}
        if len(cuts) == 1:
            return "(of the best head)"
        return "(best head of each cut)" if len(banded) == len(cuts) else f"(of the {len(banded)} best cuts)"

    def _legend(
        self,
        axes: Axes,
        cuts: Sequence[tuple[str, float | None]],
        heads: Sequence[str],
        colors: Sequence[str],
        *,
        own: bool,
    ) -> None:
        """Say colours and line styles once each, instead of every pair of them."""
        from matplotlib.lines import Line2D

        by_cut = len(cuts) > 1
        n_repeats = sorted({int(point["n_repeats"]) for point in self.points if point.get("n_repeats")})
        entries: list[Any] = []
        if by_cut:
            entries.append(drawing.heading("Cut, shallow to deep"))
            for at, (cut, temperature) in enumerate(cuts):
                shape: dict[str, Any] = {
                    "color": colors[at % len(colors)],
                    "marker": drawing.MARKERS[at % len(drawing.MARKERS)],
                }
                entries.append(Line2D([], [], **shape, label=_label(cut, temperature)))
            entries.append(drawing.heading(""))
        entries.append(drawing.heading("Head" if by_cut else f"Head on {_label(*cuts[0])}"))
        for of, head in enumerate(heads):
            shown = drawing.GREY if by_cut else colors[of % len(colors)]
            entries.append(
                Line2D(
                    [],
                    [],
                    color=shown,
                    linestyle=drawing.DASHES[of % len(drawing.DASHES)],
                    marker=drawing.MARKERS[0 if by_cut else of % len(drawing.MARKERS)],
                    markerfacecolor=shown if of % 2 == 0 else "white",
                    label=printable(head),
                )
            )
        if any(point.get(f"{self.metric}_low") is not None for point in self.points):
            spread = (
                "-".join(str(one) for one in sorted({min(n_repeats), max(n_repeats)})) if n_repeats else ""
            )
            entries += [drawing.heading(""), drawing.heading("Band")]
            of_repeats = f"95 % interval of the\nmean{f' of {spread} repeats' if spread else ''}"
            entries += [drawing.note(one) for one in (self.band or of_repeats, self._whose()) if one]
        if self.laws:
            dotted = Line2D([], [], color=drawing.GREY, linestyle=":", label="power law, fitted")
            entries += [drawing.heading(""), drawing.heading("Extrapolation"), dotted]
        drawing.grouped_legend(self.figure_ if own else axes, entries, outside=own)
