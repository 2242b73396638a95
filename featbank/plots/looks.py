"""How things are told apart, on paper and on the page: colours, line styles, markers, each in one table."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLORS", "DASHES", "MARK", "MARKERS", "N_PLAIN", "SPLITS", "Look", "depth", "page_style", "plain"]

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
SPLITS = {
    "train": ("training", Look("h0", dash=2)),
    "val": ("validation", Look("h4", dash=1)),
    "test": ("test", Look("h1")),
}
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
