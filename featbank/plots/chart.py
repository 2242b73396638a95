"""What a chart shows, whoever draws it: axes with their ticks, lines with their looks, legend, table.

A display makes these from results; `featbank.plots.display` draws them with matplotlib, the report as SVG.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from featbank.manifest import printable
from featbank.metrics.catalogue import score_text, spelling
from featbank.sampling import size_order, size_words
from featbank.sweep import CurvePoint

__all__ = [
    "COLORS",
    "DASHES",
    "MARK",
    "MARKERS",
    "N_PLAIN",
    "SPLIT_LOOKS",
    "SPLIT_NAMES",
    "Axis",
    "Chart",
    "Entry",
    "Look",
    "Point",
    "Series",
    "Table",
    "category_axis",
    "curve_point",
    "depth",
    "interval_text",
    "linear_axis",
    "log_axis",
    "missing_intervals",
    "note",
    "page_style",
    "percent_axis",
    "plain",
    "reached",
    "size_axis",
    "span_text",
    "spelled",
]

#: Colours by name: in a figure, on the light page and on the dark one (both of which have text to keep apart
#: from: 3 to 1 at least). First those without an order: Okabe and Ito's palette without its yellow, which no
#: thin line on white survives. Then those from shallow to deep, told apart in grey too: viridis without its
#: last fifth, which is too light for a line on white.
COLORS = {
    "h0": ("#0072b2", "#0072b2", "#56b4e9"),
    "h1": ("#d55e00", "#c04f00", "#ff8c42"),
    "h2": ("#009e73", "#00835f", "#2ec79c"),
    "h3": ("#cc79a7", "#b0528a", "#e29ac6"),
    "h4": ("#e69f00", "#a87400", "#f0b73a"),
    "h5": ("#56b4e9", "#2f8fc4", "#8ac6f0"),
    "h6": ("#000000", "#333333", "#d6d9de"),
    "d0": ("#440154", "#440154", "#2e6f8e"),
    "d1": ("#481a6c", "#472071", "#287c8e"),
    "d2": ("#472f7d", "#443680", "#24888d"),
    "d3": ("#404588", "#3d4c89", "#20948b"),
    "d4": ("#38588c", "#34618d", "#20a187"),
    "d5": ("#306a8e", "#2c748e", "#29ae80"),
    "d6": ("#297a8e", "#24838d", "#3cbb75"),
    "d7": ("#228b8d", "#1e8c84", "#55c667"),
    "d8": ("#1e9b8a", "#218f6d", "#73cf55"),
    "d9": ("#25ac82", "#338f4e", "#95d840"),
    "d10": ("#3bbb75", "#558e29", "#b9de2a"),
    "d11": ("#5ec962", "#77890f", "#dde31a"),
    "d12": ("#86d549", "#968000", "#fde725"),
    "grey": ("#5f6368", "#5f6368", "#a8aeb8"),
}
#: Thirteen depths, so that two, three, four, five and seven of them lie equally far apart.
N_PLAIN, _N_DEPTHS = 7, 13
#: Matplotlib's name of a marker, and its outline about the origin, all of equal visual weight.
MARKERS = (
    ("o", "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z"),
    ("s", "M-4 -4H4V4H-4Z"),
    ("^", "M0 -5.2L5 3.8H-5Z"),
    ("D", "M0 -5.4L5.4 0L0 5.4L-5.4 0Z"),
    ("v", "M0 5.2L5 -3.8H-5Z"),
    ("P", "M-1.7 -5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z"),
    ("X", "M-5 -2.6L-2.6 -5L0 -2.4L2.6 -5L5 -2.6L2.4 0L5 2.6L2.6 5L0 2.4L-2.6 5L-5 2.6L-2.4 0Z"),
    ("*", "M0 -6L1.5 -2L5.7 -1.9L2.4 0.8L3.5 4.9L0 2.5L-3.5 4.9L-2.4 0.8L-5.7 -1.9L-1.5 -2Z"),
)
#: Strokes and gaps in widths of the line. Solid first; all keep their look on a thin line in a small legend.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2),
    (1, 1.3),
    (6, 1.5, 1, 1.5),
    (3, 1, 1, 1, 1, 1),
)


@dataclass(frozen=True)
class Look:
    """How one line is drawn.

    Parameters
    ----------
    color : str
        One of `COLORS`.
    dash, marker : int or None
        Places in `DASHES` and `MARKERS`, begun anew behind the last; None for no line, or no markers.
    filled : bool, default=True
        Whether markers are filled.
    weight : float, default=1.0
        How thick the line, and how large its markers, beside others.
    """

    color: str
    dash: int | None = 0
    marker: int | None = None
    filled: bool = True
    weight: float = 1.0

    @property
    def dashes(self) -> tuple[float, ...]:
        """Strokes and gaps in widths of the line; none if it is solid."""
        return DASHES[(self.dash or 0) % len(DASHES)]


#: Training, validation and test wherever they stand side by side: what they are called, and how drawn.
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
SPLIT_LOOKS = {"train": Look("h0", dash=2), "val": Look("h4", dash=1), "test": Look("h1")}
#: An x that is marked.
MARK = Look("grey", dash=1, weight=0.6)


def depth(at: int, of: int) -> str:
    """Return the colour of one of several things that have an order.

    Examples
    --------
    >>> [depth(at, 3) for at in range(3)]
    ['d0', 'd6', 'd12']
    """
    return f"d{round(at * (_N_DEPTHS - 1) / max(of - 1, 1))}"


def plain(at: int) -> str:
    """Return the colour of one of several things that have no order."""
    return f"h{at % N_PLAIN}"


def page_style() -> str:
    """Return colours and line styles as a style sheet; lines are two pixels wide, with round ends."""
    light, dark = ("".join(f"--{name}:{one[at]};" for name, one in COLORS.items()) for at in (1, 2))
    lines = [f".{name}{{color:var(--{name})}}" for name in COLORS]
    for at, dashes in enumerate(DASHES[1:], start=1):
        # a round end adds half a width at each side
        drawn = " ".join(f"{max(2 * one + (2 if gap % 2 else -2), 0.1):g}" for gap, one in enumerate(dashes))
        lines.append(f".l{at} .line{{stroke-dasharray:{drawn}}}")
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{''.join(lines)}\n"


_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
#: Half the widths of letters of DejaVu Sans that are narrower or wider than most, of its size.
_HALVES = dict.fromkeys("ijlI.,:;|' ", 0.16) | dict.fromkeys("frt()[]-", 0.2) | dict.fromkeys("mwMW@%", 0.48)


@dataclass(frozen=True)
class Axis:
    """One axis.

    Parameters
    ----------
    label : str
        Its name and unit.
    low, high : float
        Values at its two ends; positive and different if `log`.
    ticks : tuple of (float, str)
        What is written where, as far as there is room.
    log : bool, default=False
        Whether equal ratios are equally long.
    first : tuple of float, default=()
        Ticks that come first where there is no room for all.
    names : bool, default=False
        Whether ticks are names, all of which are worth some room.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    first: tuple[float, ...] = ()
    names: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value stands, 0..1 within it.

        Examples
        --------
        >>> round(Axis("n", 4, 16, (), log=True).share(8), 6)
        0.5
        """
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def ticks_within(self, length: float, size: float, *, upright: bool = False) -> list[tuple[float, str]]:
        """Return the ticks whose labels do not touch.

        Parameters
        ----------
        length : float
            Of the axis.
        size : float
            Of the text, in the same unit.
        upright : bool, default=False
            Whether labels stand above each other, as at a vertical axis.

        Returns
        -------
        list of (float, str)
            Ascending. Those of `first` come first; of two that touch the second gives way even so.

        Examples
        --------
        >>> axis = size_axis("n", {n: f"{n}" for n in (1, 2, 3, 4, 120, 128)}, first=[128])
        >>> [text for _, text in axis.ticks_within(360, 10)]
        ['1', '2', '3', '4', '128']
        """

        def half(text: str) -> float:  # of the width in DejaVu Sans, in names letter by letter; and a gap
            wide = sum(_HALVES.get(one, 0.31) for one in text) if self.names else 0.342 * len(text)
            return size * (0.75 if upright else wide + 0.29)

        shown = {value: text for value, text in self.ticks if self.low <= value <= self.high}
        kept: dict[float, str] = {}
        for value in dict.fromkeys([*(one for one in self.first if one in shown), *shown]):
            place, text = self.share(value) * length, shown[value]
            if all(
                abs(place - self.share(one) * length) > half(text) + half(other)
                for one, other in kept.items()
            ):
                kept[value] = text
        return sorted(kept.items())


def linear_axis(
    label: str,
    values: Iterable[float],
    *,
    floor: float | None = None,
    whole: bool = False,
    n_steps: int = 5,
) -> Axis:
    """Return an axis with round ticks around all finite values.

    Parameters
    ----------
    label : str
        Its name and unit.
    values : iterable of float
        What it must hold.
    floor : float, optional
        Where it starts at the latest.
    whole : bool, default=False
        Whether there is nothing between whole numbers.
    n_steps : int, default=5
        About how many ticks there are.

    Examples
    --------
    >>> [text for _, text in linear_axis("s", [0.2, 3.9], floor=0).ticks]
    ['0', '1', '2', '3', '4']
    """
    finite = [one for one in values if math.isfinite(one)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    low = low if floor is None else min(floor, low)
    raw = ((high - low) or max(abs(high), 1.0)) / n_steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in _STEPS if one * power >= raw * (1 - 1e-9))
    step = max(math.ceil(step), 1) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple((one * step, f"{one * step:.6g}") for one in range(first, last + 1))
    return Axis(label, first * step, last * step, ticks)


def percent_axis(label: str, values: Iterable[float]) -> Axis:
    """Return an axis of percentages with a little room, but none beyond 0 and 100.

    Values below 0 are of what has such, as Cohen's kappa, and are shown.

    Examples
    --------
    >>> axis = percent_axis("accuracy (%)", [61.0, 99.5])
    >>> axis.low, axis.high
    (60.0, 100.0)
    >>> percent_axis("kappa (%)", [-12.0, 30.0]).low
    -20.0
    """
    finite = [one for one in values if math.isfinite(one)] or [0.0, 100.0]
    low, high = min(finite), max(finite)
    least = -100.0 if low < 0 else 0.0
    if high - low < 5:  # a flat line must look flat
        low, high = low - 2.5, high + 2.5
    found = linear_axis(label, [max(low, least), min(high, 100.0)], n_steps=8)
    return Axis(label, max(found.low, least), min(found.high, 100.0), found.ticks)


def log_axis(label: str, values: Iterable[float]) -> Axis:
    """Return a logarithmic axis with powers of ten written, for positive values.

    Examples
    --------
    >>> [text for _, text in log_axis("loss (nats)", [0.004, 2.3]).ticks]
    ['0.001', '0.01', '0.1', '1', '10']
    """
    finite = [one for one in values if math.isfinite(one) and one > 0] or [0.1, 1.0]
    first = math.floor(math.log10(min(finite)))
    last = max(math.ceil(math.log10(max(finite))), first + 1)
    ticks = tuple((10.0**one, f"{10.0**one:g}") for one in range(first, last + 1))
    return Axis(label, 10.0**first, 10.0**last, ticks, log=True)


def size_axis(label: str, sizes: Mapping[float, str], first: Sequence[float] = ()) -> Axis:
    """Return an axis that doubles, with what is to be written at each value, and a little room at both ends.

    Examples
    --------
    >>> size_axis("samples per class (images)", {8: "8", 4: "4"}).ticks
    ((4, '4'), (8, '8'))
    """
    low, high = min(sizes), max(sizes)
    room = (high / low) ** 0.04 if high > low else 2.0  # one size alone: an axis needs a width
    # powers of two before others: they are what such an axis counts by
    whole = [one for one in sorted(sizes) if math.log2(one).is_integer()]
    return Axis(
        label,
        low / room,
        high * room,
        tuple(sorted(sizes.items())),
        log=True,
        first=(*first, low, high, *whole),
    )


def category_axis(label: str, names: Sequence[str]) -> Axis:
    """Return an axis of names at 0, 1, 2, ..."""
    ticks = tuple((float(at), name) for at, name in enumerate(names))
    return Axis(label, -0.4, len(names) - 0.6, ticks, names=True)


@dataclass(frozen=True)
class Point:
    """One point of a line.

    Parameters
    ----------
    x, y : float
        Its place; a y that is NaN interrupts the line.
    low, high : float or None
        Its interval, if it has one.
    dots : tuple of float
        Single values, where they are too few for an interval.
    said : tuple of (str, str, str)
        What is said of it: its name, its value, more.
    apart : bool
        Whether no line leads to it.
    ring : bool
        Whether it is ringed.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    dots: tuple[float, ...] = ()
    said: tuple[str, str, str] = ("", "", "")
    apart: bool = False
    ring: bool = False


@dataclass(frozen=True)
class Series:
    """One line.

    Parameters
    ----------
    name : str
        What it is of.
    points : tuple of Point
        From left to right.
    look : Look
        How it is drawn.
    spread : float, default=1.0
        How strongly intervals are drawn, 0 for not at all: of many lines not every one has room for a band.
    """

    name: str
    points: tuple[Point, ...]
    look: Look
    spread: float = 1.0


@dataclass(frozen=True)
class Chart:
    """Lines on two axes.

    Parameters
    ----------
    words : str
        What the chart shows, in words: its text alternative.
    x, y : Axis
    series : tuple of Series
    intervals : {"band", "bars"}
        How they are drawn.
    by_row : bool
        Whether its points stand in the rows of a table (epochs), which a page reads out, instead of being
        elements of their own.
    mark : (float, str), optional
        An x that is marked, and what it is.
    beyond : float, optional
        From which x on nothing was measured.
    """

    words: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    intervals: Literal["band", "bars"] = "band"
    by_row: bool = False
    mark: tuple[float, str] | None = None
    beyond: float | None = None


@dataclass(frozen=True)
class Entry:
    """One line of a legend.

    Parameters
    ----------
    text : str
    look : Look, optional
        Of the line it names; without one the entry is a heading, or a note if `plain`.
    series : tuple of int
        Places of the series it stands for.
    plain : bool
        Whether it is a note.
    short : str
        What it is called where there is little room; `text` if empty.
    """

    text: str
    look: Look | None = None
    series: tuple[int, ...] = ()
    plain: bool = False
    short: str = ""


def note(text: str) -> Entry:
    """Return an entry that is only text."""
    return Entry(text, plain=True)


@dataclass(frozen=True)
class Table:
    """A table: column names, rows of texts, and how many of the first columns are texts, not numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_texts: int = 1


def spelled(cut: str, temperature: float | None) -> str:
    """Return how a cut is called.

    Examples
    --------
    >>> spelled("fc7", None), spelled("softmax", 1.5)
    ('fc7', 'softmax at T = 1.5')
    """
    return printable(cut) if temperature is None else f"{printable(cut)} at T = {temperature:g}"


def interval_text(point: CurvePoint, metric: str) -> str:
    """Return the interval of a score, a share in percent, ``""`` where there is none."""
    interval = point.interval(metric)
    if interval is None:
        return ""
    unit, factor, digits = spelling(metric)
    low, high = (f"{factor * end:.{digits}f}" for end in interval)
    return f"{low} – {high}{' %' if unit else ''}"


def curve_point(
    x: float, point: CurvePoint, metric: str, name: str, *, apart: bool = False, ring: bool = False
) -> Point:
    """Return a point of a learning curve in percent, with what is said of it.

    Parameters
    ----------
    x : float
        Where it stands.
    point : CurvePoint
    metric : str
        Which of its scores.
    name : str
        The line it is on.
    apart, ring : bool, default=False
        See `Point`.
    """
    score, interval = point.scores.get(metric), point.interval(metric)
    factor = spelling(metric)[1]
    low, high = (factor * interval[0], factor * interval[1]) if interval else (None, None)
    repeats = point.n_repeats or 0
    two = score is not None and interval is None and point.n_draws == 2
    dots = (score.min, score.max) if score is not None and two else ()
    more = (
        size_words(vars(point)),
        f"95 % interval {interval_text(point, metric)}" if interval else "",
        f"{repeats} repeat{'' if repeats == 1 else 's'}" if repeats else "",
    )
    return Point(
        x,
        math.nan if score is None else factor * score.mean,
        low,
        high,
        tuple(factor * one for one in dots if one is not None),
        (
            name,
            score_text(None if score is None else score.mean, metric),
            "; ".join(part for part in more if part),
        ),
        apart,
        ring,
    )


def reached(series: Iterable[Series]) -> list[float]:
    """Return every value that an axis must hold."""
    values = [(point.y, point.low, point.high, *point.dots) for one in series for point in one.points]
    return [value for of_point in values for value in of_point if value is not None and math.isfinite(value)]


def span_text(one: Series, unit: str = " %", digits: int = 1) -> str:
    """Say where a line, by default of percentages, begins and ends."""
    ends = [point for point in one.points if math.isfinite(point.y)]
    if not ends:
        return f"{one.name}: not known"
    if len(ends) == 1:
        return f"{one.name}: {ends[0].y:.{digits}f}{unit}"
    return f"{one.name}: from {ends[0].y:.{digits}f}{unit} to {ends[-1].y:.{digits}f}{unit}"


def missing_intervals(points: Iterable[CurvePoint], metric: str) -> list[str]:
    """Say where there is no interval and why.

    Parameters
    ----------
    points : iterable of CurvePoint
    metric : str
        What is shown of them.

    Returns
    -------
    list of str
        E.g. ``"32 (one draw)"``; no sizes where it holds for all, nothing where every point has an interval.

    Examples
    --------
    >>> from featbank.sweep import Score
    >>> point = CurvePoint("fc7", "mlp", 4, {"top1": Score(0.5, 0.4, 0.6)}, n_draws=5)
    >>> alone = CurvePoint("fc7", "mlp", 8, {"top1": Score(0.5)}, n_draws=1)
    >>> missing_intervals([point, alone], "top1"), missing_intervals([alone], "top1")
    (['8 (one draw)'], ['one draw'])
    """
    shown = [one for one in points if metric in one.scores]
    without: dict[str, list[str]] = {}
    for one in sorted(shown, key=lambda point: size_order(point.n_per_class)):
        if one.interval(metric) is None and one.n_draws is not None:
            why = "one draw" if one.n_draws == 1 else f"{one.n_draws} draws"
            if one.all_samples and one.n_per_class != "all":
                why += ", all samples"
            without.setdefault(why, []).append(f"{one.n_per_class}")
    if len(without) == 1 and sum(map(len, without.values())) == len(shown):
        return list(without)
    return [f"{', '.join(dict.fromkeys(sizes))} ({why})" for why, sizes in without.items()]
