"""Charts as inline SVG: points reached by pointer and keyboard, a wide and a narrow drawing.

Every text and attribute is escaped where its element is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from markupsafe import Markup, escape

from featbank.manifest import printable
from featbank.plots.chart import DASHES, MARKERS, Chart, Look, Point, Series

__all__ = ["alone", "both", "element", "number", "path_through", "shown", "swatch"]

#: Width and height in pixels. Text in an SVG shrinks with it, so a telephone gets a drawing of its own.
WIDE, NARROW = (720, 400), (380, 330)
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 36, 46
_TEXT, _ROW = 12.0, 14


def shown(value: object) -> Markup:
    r"""Return any value as text for a page: control characters and broken bytes spelled out, HTML escaped.

    Examples
    --------
    >>> shown("<b>\n")
    Markup('&lt;b&gt;\\n')
    """
    return value if isinstance(value, Markup) else escape(printable(str(value)))


def element(name: str, attributes: Mapping[str, object], *children: object) -> Markup:
    """Return one element; an attribute that is None is left out.

    Examples
    --------
    >>> element("text", {"x": 3, "id": None}, "a < b")
    Markup('<text x="3">a &lt; b</text>')
    """
    given = "".join(f' {key}="{shown(value)}"' for key, value in attributes.items() if value is not None)
    return Markup(f"<{name}{given}>{''.join(shown(one) for one in children)}</{name}>")  # escaped above


def number(value: float) -> str:
    """Return a coordinate with one decimal at most: a tenth of a pixel is enough, and the page stays small.

    Examples
    --------
    >>> number(3.04), number(3.96), number(-0.01)
    ('3', '4', '0')
    """
    text = f"{value:.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def path_through(points: list[tuple[float, float] | None]) -> str:
    """Return the ``d`` of a line through points; None interrupts it."""
    parts = []
    pen_up = True
    for point in points:
        if point is None:
            pen_up = True
            continue
        parts.append(f"{'M' if pen_up else 'L'}{number(point[0])} {number(point[1])}")
        pen_up = False
    return "".join(parts)


@dataclass(frozen=True)
class _Frame:
    chart: Chart
    width: int
    height: int

    @property
    def inner(self) -> int:
        return self.width - _LEFT - _RIGHT

    @property
    def bottom(self) -> int:
        return self.height - _BOTTOM - _ROW * (len(self.x_ticks) - 1)

    @cached_property
    def x_ticks(self) -> list[list[tuple[float, str]]]:
        """What is written below the axis: of names that are too long for one row every other in a second."""
        axis, length = self.chart.x, self.inner
        one = axis.ticks_within(length, _TEXT)
        if not axis.names or len(one) == len(axis.ticks):
            return [one]
        return [replace(axis, ticks=axis.ticks[at::2]).ticks_within(length, _TEXT) for at in (0, 1)]

    def x(self, value: float) -> float:
        return _LEFT + self.chart.x.share(value) * self.inner

    def y(self, value: float) -> float:
        return _TOP + (1 - self.chart.y.share(value)) * (self.bottom - _TOP)

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
        hair = {"class": "hair", "y1": _TOP, "y2": frame.bottom, "x1": 0, "x2": 0}
        parts.append(element("line", hair))
        extra: dict[str, object] = {"role": "img", "class": f"chart rows {shape}", **ends}
    else:
        parts += [_point(frame, one, at, p) for at, one in enumerate(chart.series) for p in one.points]
        # a picture would hide the points inside it from a screen reader
        extra = {"role": "group", "class": f"chart {shape}"}
    return element("svg", {**extra, "viewBox": f"0 0 {width} {height}", "aria-label": chart.words}, *parts)


def _grid(frame: _Frame) -> Iterator[Markup]:
    chart, inner, bottom = frame.chart, frame.inner, frame.bottom
    if chart.beyond is not None:
        left, height = frame.x(chart.beyond), bottom - _TOP
        at = {"x": number(left), "y": _TOP, "width": number(_LEFT + inner - left), "height": height}
        yield element("rect", {"class": "beyond", **at})
    for value, text in chart.y.ticks_within(bottom - _TOP, _TEXT, upright=True):
        y = number(frame.y(value))
        yield element("line", {"class": "grid", "x1": _LEFT, "x2": _LEFT + inner, "y1": y, "y2": y})
        yield element("text", {"class": "tick end", "x": _LEFT - 8, "y": y, "dy": "0.32em"}, text)
    for row, ticks in enumerate(frame.x_ticks):
        for value, text in ticks:
            x = number(frame.x(value))
            notch = {"x1": x, "x2": x, "y1": bottom, "y2": bottom + 5 + _ROW * row}
            yield element("line", {"class": "notch", **notch})
            yield element("text", {"class": "tick mid", "x": x, "y": bottom + 19 + _ROW * row}, text)
    yield element("line", {"class": "axis", "x1": _LEFT, "x2": _LEFT + inner, "y1": bottom, "y2": bottom})
    yield element("text", {"class": "name", "x": 0, "y": 12}, chart.y.label)
    yield element("text", {"class": "name mid", "x": _LEFT + inner / 2, "y": frame.height - 6}, chart.x.label)


def _mark(frame: _Frame, value: float, text: str) -> Iterator[Markup]:
    x, right = frame.x(value), frame.x(value) > frame.width * 0.6
    top = _TOP - 5
    yield element(
        "line",
        {"class": "mark", "x1": number(x), "x2": number(x), "y1": top, "y2": frame.bottom},
    )
    place = {"class": f"tick {'end' if right else ''}", "x": number(x + (3 if right else -3)), "y": top - 1}
    yield element("text", place, text)


def _line(frame: _Frame, one: Series, at: int) -> Markup:
    parts = []
    between = [point for point in one.points if point.low is not None and point.high is not None]
    if frame.chart.intervals == "bars":
        parts += [
            element("path", {"class": "whisker", "d": _bar(frame, point.x, point.low, point.high)})
            for point in between
            if one.spread and point.low is not None and point.high is not None
        ]
    elif len(between) > 1:
        upper = [(frame.x(point.x), frame.y(point.high or 0.0)) for point in between]
        lower = [(frame.x(point.x), frame.y(point.low or 0.0)) for point in reversed(between)]
        # of many lines a band shows when its line is lit
        outline = {"class": "band" if one.spread else "band more", "d": path_through([*upper, *lower]) + "Z"}
        parts.append(element("path", outline))
    if one.look.dash is not None:
        line = path_through([frame.at(point) for point in one.points if not point.apart])
        parts.append(element("path", {"class": "line", "d": line}))
    for point in one.points:
        for dot in point.dots:
            parts.append(
                element(
                    "circle",
                    {"class": "dot", "cx": number(frame.x(point.x)), "cy": number(frame.y(dot)), "r": 1.8},
                )
            )
        if point.ring and (place := frame.at(point)) is not None:
            centre = {"cx": number(place[0]), "cy": number(place[1])}
            parts.append(element("circle", {"class": "around", **centre, "r": 8.5}))
    return element("g", {"class": _line_class(one.look), "data-series": at}, *parts)


def _line_class(look: Look) -> str:
    weight = " thick" if look.weight > 1.2 else " thin" if look.weight < 0.9 else ""
    dash = "" if look.dash is None else f" l{look.dash % len(DASHES)}"
    return f"series {look.color}{dash}{weight}"


def _bar(frame: _Frame, value: float, low: float, high: float) -> str:
    x, top, bottom = number(frame.x(value)), number(frame.y(high)), number(frame.y(low))
    return f"M{x} {top}V{bottom}m-4 0h8M{x} {top}m-4 0h8"


def _point(frame: _Frame, one: Series, at: int, point: Point) -> Markup:
    place = frame.at(point)
    if place is None or one.look.marker is None:
        return Markup("")
    name, value, more = point.said
    attributes = {
        "class": _point_class(one.look),
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
    return element("g", attributes, ring, element("path", {"d": _outline(one.look.marker)}))


def _point_class(look: Look) -> str:
    return f"point {look.color}{'' if look.filled else ' open'}"


def _outline(marker: int) -> str:
    return MARKERS[marker % len(MARKERS)][1]


def swatch(look: Look) -> Markup:
    """Return a short piece of a line for a legend."""
    line = element("path", {"class": "line", "d": "M1 8H33"})
    parts = [] if look.dash is None else [element("g", {"class": _line_class(look)}, line)]
    if look.marker is not None:
        outline = element("path", {"d": _outline(look.marker), "transform": "translate(17 8)"})
        parts.append(element("g", {"class": _point_class(look)}, outline))
    return element("svg", {"class": "swatch", "viewBox": "0 0 34 16", "aria-hidden": "true"}, *parts)


def both(chart: Chart, wide: tuple[int, int] = WIDE) -> Markup:
    """Return the wide and the narrow drawing of a chart; the page's style shows the one that fits."""
    return _draw(chart, wide, "wide") + _draw(chart, NARROW, "narrow")


def alone(chart: Chart, size: tuple[int, int]) -> Markup:
    """Return one drawing that serves every screen: half the bytes, for charts there are many of."""
    return _draw(chart, size, "single")
