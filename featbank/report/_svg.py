"""SVG elements whose every text and attribute is escaped where they are made."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup, escape

from featbank.manifest import printable

__all__ = ["MARKERS", "element", "number", "path_through", "shown"]

#: Outlines about the origin, of equal visual weight; the order is that of `featbank.plots`.
MARKERS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
    "M-4 -4H4V4H-4Z",
    "M0 -5.2L5 3.8H-5Z",
    "M0 -5.4L5.4 0L0 5.4L-5.4 0Z",
    "M0 5.2L5 -3.8H-5Z",
    "M-1.7 -5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",
    "M-5 -2.6L-2.6 -5L0 -2.4L2.6 -5L5 -2.6L2.4 0L5 2.6L2.6 5L0 2.4L-2.6 5L-5 2.6L-2.4 0Z",
    "M0 -6L1.5 -2L5.7 -1.9L2.4 0.8L3.5 4.9L0 2.5L-3.5 4.9L-2.4 0.8L-5.7 -1.9L-1.5 -2Z",
)


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
