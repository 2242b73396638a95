"""The learning curve: accuracy against samples per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featbank import drawing
from featbank.display import Display
from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.plots.spread import missing_intervals
from featbank.sampling import size_label, size_order
from featbank.sweep import CurvePoint, Score
from featbank.sweep.curves import judged_by
from featbank.sweep.records import Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featbank.metrics import PowerLaw

__all__ = ["METRICS", "CurveDisplay", "all_words", "size_place"]

#: What can stand on the vertical axis: prefix of a point's keys, and the axis's name.
METRICS = {
    "top1": "Top-1 accuracy on test images (%)",
    "top5": "Top-5 accuracy on test images (%)",
    "val_top1": "Top-1 accuracy on validation images (%)",
    "val_top5": "Top-5 accuracy on validation images (%)",
    "train_top1": "Top-1 accuracy on training images (%)",
    "train_top5": "Top-5 accuracy on training images (%)",
}

#: With more curves than that not every one gets a band.
MOST_BANDS = 5


def size_place(point: CurvePoint) -> float:
    """Return where a point stands on the axis: all of uneven classes at their mean."""
    return float(point.mean_per_class or 0) if point.n_per_class == "all" else float(point.n_per_class)


def all_words(point: CurvePoint) -> str:
    """Say what "all" stands for at a point that has all samples of uneven classes."""
    return f"{size_label(vars(point))}, mean {point.mean_per_class:.4g}"


def _label(cut: str, temperature: float | None) -> str:
    return printable(cut) if temperature is None else f"{printable(cut)}, T = {temperature:g}"


def _named(heads: Sequence[str]) -> tuple[str, list[str]]:
    """Return what heads are told apart by, and what to call each: ``logreg, by C`` and ``C = 0.1``, ..."""
    parted = [head.removesuffix(")").partition("(") for head in heads]
    families = {family for family, _, _ in parted}
    names = {given.partition("=")[0] for _, _, given in parted}
    if len(heads) > 1 and len(families) == len(names) == 1 and "," not in "".join(heads):
        (name,) = names
        if name:
            return f"{printable(*families)}, by {name}", [one.replace("=", " = ", 1) for _, _, one in parted]
    return "Head", [printable(head) for head in heads]


class CurveDisplay(Display):
    """Accuracy against samples per class: the mean over repeats and its interval, per cut and head.

    Several cuts are told apart by colour (dark to light in the order given: shallow to deep) and marker,
    several heads by line style and filled or open markers; a single cut's heads get colours of their own.
    The horizontal axis is logarithmic to base 2, because gains come with each doubling. All samples of uneven
    classes stand at their mean per class, ringed and without a line to them: so many of each class they are
    not. A band takes three draws of training samples; of two both are dots, and the legend says where there
    was one.

    Parameters
    ----------
    points : iterable of CurvePoint
        As `featbank.sweep.SweepResult.points` gives them.
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
    ...     CurvePoint("fc7", "softmax", n, {"top1": Score(mean, mean - 0.02, mean + 0.02)})
    ...     for n, mean in [(4, 0.61), (8, 0.70), (16, 0.76)]
    ... ]
    >>> display = CurveDisplay(points).plot()
    >>> display.ax_.get_xlabel()
    'Training samples per class (images)'
    """

    def __init__(
        self,
        points: Iterable[CurvePoint],
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
            metric = judged_by(everything)
        if metric not in METRICS:
            raise InvalidInputError(f"metric={metric!r} is not one of {', '.join(METRICS)}")
        self.points = [one for one in everything if metric in one.scores]
        if not self.points:
            why = (
                f"none of the {len(everything)} points has {metric}" if everything else "there are no points"
            )
            raise InvalidInputError(f"no curve to draw: {why}; see the failed fits in results.csv")
        order = list(cuts or []) + [point.cut for point in self.points]
        series: dict[Key, list[CurvePoint]] = {}
        for point in sorted(self.points, key=lambda one: (order.index(one.cut), size_order(one.n_per_class))):
            series.setdefault(point.key, []).append(point)
        self.metric = metric
        self.series = series
        self.laws = dict(laws or {})
        self.until = until
        self.title = title
        self.band = band

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        axes: Axes = panels[0]
        looks = self._looks()
        banded = self._banded()
        opacity = 0.18 if len(self.series) <= 4 else 0.12
        # the mean of one run's "all" may be a size of another run
        at = {(size_place(point), f"{point.n_per_class}") for point in self.points}
        names = {place: ", ".join(sorted(name for one, name in at if one == place)) for place, _ in at}
        sizes = sorted(names)
        largest = max((law.n_max for law in self.laws.values()), default=sizes[-1])
        until = (self.until or 4 * largest) if self.laws else largest
        further = list(drawing.doublings(largest, until))
        drawing.size_axis(
            axes,
            [*sizes, *further],
            [sizes[-1], until],
            label=lambda size: names.get(size, f"{size:g}"),
        )
        if further:
            axes.axvspan(largest, max(until, sizes[-1]) * 2, color="#f1f3f4", linewidth=0, zorder=0)
        for key, points in self.series.items():
            self._line(axes, key, points, looks[key], opacity if key in banded else 0.0)
        drawing.percent_axis(axes)
        axes.set_xlabel("Training samples per class (images)")
        axes.set_ylabel(METRICS[self.metric])
        return self._entries(looks)

    def _one_size(self) -> bool:
        return len({point.n_per_class for point in self.points}) == 1

    def _places(self) -> list[tuple[str, float | None]]:
        return list(dict.fromkeys((cut, temperature) for cut, _, temperature in self.series))

    def _heads(self) -> list[str]:
        return list(dict.fromkeys(head for _, head, _ in self.series))

    def _looks(self) -> dict[Key, dict[str, Any]]:
        """Choose colour, line and marker of each curve."""
        places, heads = self._places(), self._heads()
        by_cut = len(places) > 1
        n = len(places) if by_cut else len(heads)
        # What has an order, and more heads than the palette has colours, goes from dark to light.
        ordered = by_cut or _named(heads)[0] != "Head" or n > len(drawing.OKABE_ITO)
        colors: Sequence[str] = drawing.depth_colors(n) if ordered else drawing.OKABE_ITO
        looks = {}
        for key in self.series:
            of = heads.index(key[1])
            at = places.index((key[0], key[2])) if by_cut else of
            # Markers begin anew after eight; then they are open where they were filled.
            filled = (of % 2 == 0) if by_cut else (at // len(drawing.MARKERS) % 2 == 0)
            looks[key] = {
                "color": colors[at],
                "linestyle": drawing.DASHES[of % len(drawing.DASHES)],
                "marker": drawing.MARKERS[at % len(drawing.MARKERS)],
                "markerfacecolor": colors[at] if filled else "white",
                "markeredgewidth": 1.2,
            }
        return looks

    def _banded(self) -> set[Key]:
        """Choose the curves that get a band: all of a few, of many the best head of each cut.

        Bands on top of each other hide the lines, and tell nobody which is whose.
        """
        if len(self.series) <= MOST_BANDS or self._one_size():
            return set(self.series)
        last = {
            key: (size_order(points[-1].n_per_class), points[-1].scores[self.metric].mean)
            for key, points in self.series.items()
        }
        best: dict[tuple[str, float | None], Key] = {}
        for key in self.series:
            cut, _, temperature = key
            rival = best.get((cut, temperature))
            if rival is None or last[key] > last[rival]:
                best[cut, temperature] = key
        return set(sorted(best.values(), key=lambda key: last[key], reverse=True)[:MOST_BANDS])

    def _line(
        self,
        axes: Axes,
        key: Key,
        points: Sequence[CurvePoint],
        look: Mapping[str, Any],
        opacity: float,
    ) -> None:
        sizes = np.array([size_place(point) for point in points])
        uneven = np.array([point.n_per_class == "all" for point in points])
        if self._one_size():  # curves are points above each other: side by side they do not hide
            sizes = sizes * 1.8 ** ((list(self.series).index(key) + 1) / (len(self.series) + 1) - 0.5)
        mean, low, high, least, most = (
            drawing.percent([getattr(point.scores[self.metric], end) for point in points])
            for end in Score._fields
        )
        cut, head, temperature = key
        size = _marker_size(sizes, len(self.series))
        label = f"{_label(cut, temperature)}, {head}"
        axes.plot(sizes[~uneven], mean[~uneven], **look, markersize=size, label=label)
        if uneven.any():
            axes.plot(sizes[uneven], mean[uneven], **{**look, "linestyle": "none"}, markersize=size)
            ring = {"color": look["color"], "fillstyle": "none", "markeredgewidth": 1.0}
            axes.plot(sizes[uneven], mean[uneven], "o", **ring, markersize=2.2 * size)
        if opacity:
            axes.fill_between(sizes, low, high, color=look["color"], alpha=opacity, linewidth=0)
            # A band needs a neighbour; an interval that has none is a bar.
            known = np.isfinite(low)
            alone = known & ~np.roll(known & (np.arange(len(known)) < len(known) - 1), 1)
            alone &= ~np.append(known[1:], False)
            bars = np.stack([mean - low, high - mean])[:, alone]
            if alone.any():
                axes.errorbar(sizes[alone], mean[alone], bars, color=look["color"], fmt="none", capsize=3)
            two = np.array([point.n_draws == 2 for point in points]) & ~known
            for end in (least, most) if two.any() else ():
                axes.plot(sizes[two], end[two], ".", color=look["color"], markersize=3.5, alpha=0.8)
        law = self.laws.get(key)
        if law is None:
            return
        further = np.geomspace(law.n_max, self.until or 4 * law.n_max, 60)
        expected = drawing.percent(law.predict(further))
        axes.plot(further, expected, color=look["color"], linestyle=":", linewidth=1.4)
        axes.plot(further[-1:], expected[-1:], **{**look, "linestyle": "none", "markersize": size})
        if opacity:
            below, above = (drawing.percent(one) for one in law.band(further))
            axes.fill_between(further, below, above, color=look["color"], alpha=opacity / 2, linewidth=0)

    def _whose(self) -> str:
        """Say which curves have a band, where not all have."""
        banded = self._banded()
        if len(banded) == len(self.series):
            return ""
        cuts = {(cut, temperature) for cut, _, temperature in self.series}
        if len(cuts) == 1:
            return "(of the best head)"
        return "(best head of each cut)" if len(banded) == len(cuts) else f"(of the {len(banded)} best)"

    def _entries(self, looks: Mapping[Key, Mapping[str, Any]]) -> list[Any]:
        """Say colours and line styles once each, instead of every pair of them."""
        from matplotlib.lines import Line2D

        places, heads = self._places(), self._heads()
        by_cut = len(places) > 1
        entries: list[Any] = []
        if by_cut:
            one_cut = len({cut for cut, _ in places}) == 1
            warm = any(temperature is not None for _, temperature in places)
            also = "; T of the softmax" if warm else ""
            entries.append(
                drawing.heading("Softmax temperature T" if one_cut else f"Cut, shallow to deep{also}")
            )
            for cut, temperature in places:
                look = next(one for key, one in looks.items() if (key[0], key[2]) == (cut, temperature))
                plain = {**look, "linestyle": "-", "markerfacecolor": look["color"]}
                said = f"T = {temperature:g}" if one_cut else _label(cut, temperature)
                entries.append(Line2D([], [], **plain, label=said))
            entries.append(drawing.heading(""))
        what, names = _named(heads)
        entries.append(drawing.heading(what if by_cut else f"{what} on {_label(*places[0])}"))
        for of, (head, name) in enumerate(zip(heads, names, strict=True)):
            look = dict(next(one for key, one in looks.items() if key[1] == head))
            if by_cut:
                face = drawing.GREY if of % 2 == 0 else "white"
                look |= {"color": drawing.GREY, "marker": "o", "markerfacecolor": face}
            entries.append(Line2D([], [], **look, label=name))
        entries += self._spread()
        everything = [one for one in self.points if one.n_per_class == "all"]
        if everything:
            entries += [drawing.heading(""), drawing.heading("Ring: all samples")]
            entries += map(drawing.note, dict.fromkeys(map(all_words, everything)))
        if self.laws:
            dotted = Line2D([], [], color=drawing.GREY, linestyle=":", label="fitted power law")
            entries += [drawing.heading(""), drawing.heading("Extrapolation (grey area)"), dotted]
        return entries

    def _spread(self) -> list[Any]:
        """Say what the bands are, and where there is none and why."""
        points = self.points
        banded = [one for one in points if one.interval(self.metric)]
        n_draws = {one.n_draws for one in banded if one.n_draws is not None}
        missing = [] if self.band else missing_intervals(points, self.metric)
        dots = any("2 draws" in why for why in missing)
        lines = []
        if banded:
            spread = f" of {_between(n_draws)} draws" if n_draws else ""
            lines = [self.band or f"95 % interval of the\nmean{spread}"]
        if missing:
            lines.append(drawing.fitted(f"no interval: {'; '.join(missing)}", 2.2, 10.0))
        if dots:
            lines.append("small dots: the 2 draws")
        if (banded or dots) and (whose := self._whose()):
            lines.append(whose)
        if not lines:
            return []
        head = drawing.heading("Band" if banded else "Spread")
        return [
            drawing.heading(""),
            head,
            *(drawing.note(part) for one in lines for part in one.splitlines()),
        ]


def _between(numbers: set[int]) -> str:
    return "-".join(str(one) for one in sorted({min(numbers), max(numbers)}))


def _marker_size(sizes: NDArray[np.float64], n_curves: int) -> float:
    """Return a size in points at which markers of a line do not run into each other."""
    largest = 5.5 if n_curves <= 6 else 4.5
    if len(sizes) < 2:
        return largest
    gaps = np.diff(np.log2(sizes)) / np.log2(sizes[-1] / sizes[0])
    return float(np.clip(0.8 * 5 * 72 * gaps.min(), 2.0, largest))  # axes are some five inches wide
