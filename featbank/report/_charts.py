"""Line charts as inline SVG: points reached by pointer and keyboard, a wide and a narrow drawing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from featbank.report._axes import Axis
from featbank.report._svg import MARKERS, element, number, path_through

__all__ = ["Chart", "Point", "Series", "alone", "both", "swatch"]

#: Width and height in pixels. Text in an SVG shrinks with it, so a telephone gets a drawing of its own.
WIDE, NARROW = (720, 400), (380, 330)
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 36, 46


@dataclass(frozen=True)
class Point:
    """One point: place, interval, what is said of it (name, value, more); no line leads to one `apart`."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    said: tuple[str, str, str] = ("", "", "")
    apart: bool = False


@dataclass(frozen=True)
class Series:
    """One line.

    Parameters
    ----------
    name : str
        In the legend.
    points : tuple of Point
        From left to right; a y that is NaN interrupts the line.
    color : str
        A colour class of the page's style, such as ``"h0"``.
    dash, marker : int
        Line style and marker.
    filled : bool
        Whether markers are filled.
    joined : bool
        Whether a line goes through the points; none goes from one name to another.
    """

    name: str
    points: tuple[Point, ...]
    color: str
    dash: int = 0
    marker: int = 0
    filled: bool = True
    joined: bool = True


@dataclass(frozen=True)
class Chart:
    """Lines on two axes.

    Parameters
    ----------
    label : str
        What the chart shows, in words: its text alternative.
    x, y : Axis
    series : tuple of Series
    by_row : bool
        Whether its points stand in rows of the table below (epochs), which the page reads out, instead of
        being elements of their own.
    mark : (float, str), optional
        An x that is marked, and what it is.
    whiskers : bool
        Draw intervals as bars instead of bands.
    """

    label: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    by_row: bool = False
    mark: tuple[float, str] | None = None
    whiskers: bool = False


@dataclass(frozen=True)
class _Frame:
    chart: Chart
    width: int
    height: int

    @property
    def inner(self) -> tuple[int, int]:
        return self.width - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM

    def x(self, value: float) -> float:
        return _LEFT + self.chart.x.share(value) * self.inner[0]

    def y(self, value: float) -> float:
        return _TOP + (1 - self.chart.y.share(value)) * self.inner[1]

    def at(self, point: Point) -> tuple[float, float] | None:
        return (self.x(point.x), self.y(point.y)) if math.isfinite(point.y) else None


def _draw(chart: Chart, size: tuple[int, int], shape: str) -> Markup:
    frame = _Frame(chart, *size)
    width, height = size
    parts: list[Markup] = [*_grid(frame)]
    if chart.mark is not None:
        parts += _mark(frame, *chart.mark)
    for at, one in enumerate(chart.series):
        parts.append(_line(frame, one, at))
    if chart.by_row:
        first, last = chart.series[0].points[0].x, chart.series[0].points[-1].x
        ends = {"data-first": number(frame.x(first)), "data-last": number(frame.x(last))}
        hair = {"class": "hair", "y1": _TOP, "y2": height - _BOTTOM, "x1": 0, "x2": 0}
        parts.append(element("line", hair))
        extra: dict[str, object] = {"role": "img", "class": f"chart rows {shape}", **ends}
    else:
        parts += [_point(frame, one, at, p) for at, one in enumerate(chart.series) for p in one.points]
        # a picture would hide the points inside it from a screen reader
        extra = {"role": "group", "class": f"chart {shape}"}
    return element("svg", {**extra, "viewBox": f"0 0 {width} {height}", "aria-label": chart.label}, *parts)


def _grid(frame: _Frame) -> Iterator[Markup]:
    chart, (inner, _) = frame.chart, frame.inner
    bottom = frame.height - _BOTTOM
    for value, text in chart.y.ticks:
        if not chart.y.low <= value <= chart.y.high:
            continue
        y = number(frame.y(value))
        yield element("line", {"class": "grid", "x1": _LEFT, "x2": _LEFT + inner, "y1": y, "y2": y})
        yield element("text", {"class": "tick end", "x": _LEFT - 8, "y": y, "dy": "0.32em"}, text)
    for value, text in chart.x.ticks_within(inner, room=26):
        x = number(frame.x(value))
        yield element("line", {"class": "notch", "x1": x, "x2": x, "y1": bottom, "y2": bottom + 5})
        yield element("text", {"class": "tick mid", "x": x, "y": bottom + 19}, text)
    yield element("line", {"class": "axis", "x1": _LEFT, "x2": _LEFT + inner, "y1": bottom, "y2": bottom})
    yield element("text", {"class": "name", "x": 0, "y": 12}, chart.y.label)
    yield element("text", {"class": "name mid", "x": _LEFT + inner / 2, "y": frame.height - 6}, chart.x.label)


def _mark(frame: _Frame, value: float, text: str) -> Iterator[Markup]:
    x, right = frame.x(value), frame.x(value) > frame.width * 0.6
    top = _TOP - 5
    yield element(
        "line",
        {"class": "mark", "x1": number(x), "x2": number(x), "y1": top, "y2": frame.height - _BOTTOM},
    )
    place = {"class": f"tick {'end' if right else ''}", "x": number(x + (3 if right else -3)), "y": top - 1}
    yield element("text", place, text)


def _line(frame: _Frame, one: Series, at: int) -> Markup:
    parts = []
    between = [point for point in one.points if point.low is not None and point.high is not None]
    if frame.chart.whiskers:
        parts += [
            element("path", {"class": "whisker", "d": _bar(frame, point.x, point.low, point.high)})
            for point in between
            if point.low is not None and point.high is not None
        ]
    elif len(between) > 1:
        upper = [(frame.x(point.x), frame.y(point.high or 0.0)) for point in between]
        lower = [(frame.x(point.x), frame.y(point.low or 0.0)) for point in reversed(between)]
        parts.append(element("path", {"class": "band", "d": path_through([*upper, *lower]) + "Z"}))
    if one.joined:
        line = path_through([frame.at(point) for point in one.points if not point.apart])
        parts.append(element("path", {"class": "line", "d": line}))
    return element("g", {"class": f"series {one.color} l{one.dash}", "data-series": at}, *parts)


def _bar(frame: _Frame, value: float, low: float, high: float) -> str:
    x, top, bottom = number(frame.x(value)), number(frame.y(high)), number(frame.y(low))
    return f"M{x} {top}V{bottom}m-4 0h8M{x} {top}m-4 0h8"


def _point(frame: _Frame, one: Series, at: int, point: Point) -> Markup:
    place = frame.at(point)
    if place is None:
        return Markup("")
    name, value, more = point.said
    attributes = {
        "class": f"point {one.color}{'' if one.filled else ' open'}",
        "transform": f"translate({number(place[0])} {number(place[1])})",
        "tabindex": 0,
        "role": "img",
        "aria-label": ", ".join(part for part in (name, value, more) if part),
        "data-series": at,
        "data-name": name,
        "data-value": value,
        "data-more": more,
    }
    ring = element("circle", {"class": "ring", "r": 10})
    return element("g", attributes, ring, element("path", {"d": MARKERS[one.marker % len(MARKERS)]}))


def swatch(color: str, dash: int, marker: int | None, *, filled: bool = True) -> Markup:
    """Return a short piece of a line for a legend."""
    line = element("path", {"class": "line", "d": "M1 8H33"})
    parts = [element("g", {"class": f"series {color} l{dash}"}, line)]
    if marker is not None:
        outline = element("path", {"d": MARKERS[marker % len(MARKERS)], "transform": "translate(17 8)"})
        parts.append(element("g", {"class": f"point {color}{'' if filled else ' open'}"}, outline))
    return element("svg", {"class": "swatch", "viewBox": "0 0 34 16", "aria-hidden": "true"}, *parts)


def both(chart: Chart, wide: tuple[int, int] = WIDE) -> Markup:
    """Return the wide and the narrow drawing of a chart; the page's style shows the one that fits."""
    return _draw(chart, wide, "wide") + _draw(chart, NARROW, "narrow")


def alone(chart: Chart, size: tuple[int, int]) -> Markup:
    """Return one drawing that serves every screen: half the bytes, for charts there are many of."""
    return _draw(chart, size, "single")
