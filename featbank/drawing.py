"""How every figure looks: colours, lines, axes and legends, the same everywhere and with no display."""

from __future__ import annotations

import logging
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DASHES",
    "GREY",
    "MARKERS",
    "OKABE_ITO",
    "check_format",
    "color_bar",
    "depth_colors",
    "doublings",
    "fitted",
    "grouped_legend",
    "heading",
    "new_figure",
    "note",
    "percent",
    "percent_axis",
    "size_axis",
    "split_look",
    "styled",
    "tick_sizes",
    "use_installed_fonts",
]

logger = logging.getLogger(__name__)

#: Okabe and Ito's palette without its yellow, which no thin line on white survives; black comes last.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Solid first; the others keep their look on a thin line and in a small legend.
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
GREY = "#5f6368"
FORMATS = ("png", "svg")

#: Comes with matplotlib, so that a figure is the same everywhere.
_FONT = "DejaVu Sans"

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa0a6",
    "axes.grid": True,
    "axes.labelcolor": "#202124",
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "figure.facecolor": "white",
    "font.family": [_FONT],
    "font.size": 10,
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.title_fontsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "savefig.dpi": 160,
    "svg.fonttype": "path",
    "svg.hashsalt": "featbank",
    "text.parse_math": False,  # a class called "$a" is a name, not a formula
    "xtick.color": "#9aa0a6",
    "xtick.labelcolor": "#3c4043",
    "ytick.color": "#9aa0a6",
    "ytick.labelcolor": "#3c4043",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw with featbank's settings on top of matplotlib's defaults, whatever a matplotlibrc says.

    That a character comes out as a box is said by `use_installed_fonts`, once, not at every drawing of it.
    """
    import matplotlib

    base: dict[Any, Any] = {
        k: v for k, v in matplotlib.rcParamsDefault.items() if k not in ("backend", "backend_fallback")
    }
    with matplotlib.rc_context(base | _STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def use_installed_fonts(figure: Figure) -> None:
    """Have texts that the style's font lacks characters for drawn with fonts of this machine that have them.

    What no font has is said on the log, each character once.
    """
    from matplotlib.axis import Axis
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font
    from matplotlib.text import Text

    for axis in figure.findobj(Axis):
        axis.get_ticklabels()  # writes them, which is else left to the drawing
    own = FT2Font(findfont(_FONT))
    lacking = {}
    for text in figure.findobj(Text):
        chars = {ord(char) for char in text.get_text() if not char.isspace()}
        if foreign := frozenset(code for code in chars if not own.get_char_index(code)):
            lacking[text] = foreign
    if not lacking:
        return
    families, missing = _fonts_with(frozenset().union(*lacking.values()))
    for text in lacking:
        text.set_fontfamily([_FONT, *families])
    if new := missing - _told:
        _told.update(new)
        shown = "".join(map(chr, sorted(new)[:10]))
        logger.warning(
            "no font of this machine has %d of the characters in names (%s%s): they are drawn as boxes; "
            "install a font of their script, such as one of the Noto fonts",
            len(new),
            shown,
            "..." if len(new) > 10 else "",
        )


#: Characters that were said to be drawn as boxes.
_told: set[int] = set()


@cache
def _fonts_with(codes: frozenset[int]) -> tuple[list[str], frozenset[int]]:
    """Return installed fonts that have these characters, the one with most first, and those none has."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    having: dict[str, frozenset[int]] = {}
    for entry in fontManager.ttflist:
        if entry.style != "normal" or entry.name.startswith("Last Resort"):
            continue  # the last resort has boxes for everything
        try:
            font = FT2Font(entry.fname)
        except (OSError, RuntimeError):  # gone since matplotlib made its list, or no font
            continue
        if font.scalable and (found := frozenset(code for code in codes if font.get_char_index(code))):
            having[entry.name] = having.get(entry.name, frozenset()) | found
    families: list[str] = []
    while left := codes.difference(*(having[one] for one in families)):
        best = max(sorted(having), key=lambda name: len(having[name] & left), default=None)
        if best is None or not having[best] & left:
            return families, left
        families.append(best)
    return families, codes.difference(codes)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) that pyplot does not know, with room made for everything on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def depth_colors(n: int) -> list[str]:
    """Return `n` colours from dark to light for things that have an order, told apart in grey too."""
    import matplotlib
    from matplotlib.colors import to_hex

    # Viridis without its last fifth: its yellow is too light for a line on white.
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.82, max(n, 2)))[:n]]


def percent_axis(axes: Axes) -> None:
    """Give the vertical axis of percentages a little room, and no room above 100."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2.0), min(high, 102.0))


def color_bar(image: Any, axes: Any, label: str, *, shrink: float = 0.9) -> Any:
    """Draw and return a colour bar beside axes; the label says name and unit."""
    # Several axes keep where they stand; one alone moves up to its bar.
    kept: dict[str, Any] = {"panchor": False} if isinstance(axes, list) else {}
    bar = image.get_figure().colorbar(image, ax=axes, shrink=shrink, aspect=30, pad=0.02, **kept)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def heading(text: str) -> Any:
    """Return a legend entry that heads the ones below it."""
    from matplotlib.text import Text

    return Text(text=text, fontweight="bold", color="#202124")


def note(text: str) -> Any:
    """Return a legend entry that is only text, flush with the headings."""
    from matplotlib.text import Text

    return Text(text=text, color="#3c4043")


def grouped_legend(owner: Any, entries: Sequence[Any], *, outside: bool) -> Any:
    """Draw and return a legend of lines, headings and notes; outside the axes it makes its own room.

    Matplotlib has no headings inside a legend. Here a heading is drawn where the handle of a line would be,
    and the label beside it is only measured, so that the legend is as wide as it has to be.
    """
    from matplotlib.legend_handler import HandlerBase
    from matplotlib.text import Text

    class HeadingHandler(HandlerBase):
        def create_artists(  # type: ignore[no-untyped-def]  # matplotlib's own signature has no types
            self, legend, orig_handle, xdescent, ydescent, width, height, fontsize, trans
        ):
            return [
                Text(
                    -xdescent,
                    -ydescent,
                    orig_handle.get_text(),
                    fontsize=fontsize,
                    fontweight=orig_handle.get_fontweight(),
                    color=orig_handle.get_color(),
                    transform=trans,
                    verticalalignment="baseline",
                )
            ]

    labels = [one.get_text() if isinstance(one, Text) else one.get_label() for one in entries]
    legend = owner.legend(
        handles=list(entries),
        labels=labels,
        handler_map={Text: HeadingHandler()},
        handlelength=3.0,
        loc="outside right center" if outside else "best",
        frameon=not outside,
        framealpha=0.85,
    )
    for entry, text in zip(entries, legend.get_texts(), strict=True):
        text.set_parse_math(False)
        if isinstance(entry, Text):
            text.set_visible(False)
    return legend


def split_look(split: str) -> dict[str, Any]:
    """Return how training, validation and test are drawn wherever they stand side by side."""
    at = ("train", "val", "test").index(split)
    return {
        "color": (OKABE_ITO[0], OKABE_ITO[4], OKABE_ITO[1])[at],
        "linestyle": (DASHES[2], DASHES[1], "-")[at],
    }


def percent(values: Any) -> Any:
    """Return shares as percent; None (no interval) becomes NaN, which draws nothing."""
    return 100.0 * np.asarray(values, dtype=np.float64)


def _plain_number(value: float) -> str:
    return f"{value:g}"


def tick_sizes(
    sizes: Sequence[float], always: Sequence[float] = (), *, label: Callable[[float], str] = _plain_number
) -> list[float]:
    """Choose which of `sizes` get a tick on a log2 axis so that labels do not touch.

    Parameters
    ----------
    sizes : sequence of float
        Where there is something, over 0.
    always : sequence of float, default=()
        Those of them that come first; of two that touch the second gives way even so.
    label : callable, optional
        What is written at a tick.

    Returns
    -------
    list of float
        Ascending.

    Examples
    --------
    >>> tick_sizes([1, 2, 3, 4, 120, 128], always=[128])
    [1, 2, 3, 4, 128]
    """
    span = float(np.log2(max(sizes) / min(sizes))) or 1.0

    def half(size: float) -> float:  # what half a label takes of axes that are five inches wide, and a gap
        return 0.0095 * len(label(size)) + 0.008

    kept: list[float] = []
    # Powers of two before others: they are what such an axis counts by.
    ranked = sorted(sizes, key=lambda size: (not float(np.log2(size)).is_integer(), size))
    for size in dict.fromkeys([*always, min(sizes), max(sizes), *ranked]):
        if all(abs(float(np.log2(size / other))) / span > half(size) + half(other) for other in kept):
            kept.append(size)
    return sorted(kept)


def doublings(size: float, until: float) -> Iterator[float]:
    """Yield twice a size, four times it, ... up to `until`, which comes last.

    Examples
    --------
    >>> list(doublings(32, 200)), list(doublings(32, 32))
    ([64, 128, 200], [])
    """
    while size < until:
        size = min(2 * size, until)
        yield size


def size_axis(
    axes: Axes,
    sizes: Sequence[float],
    always: Sequence[float] = (),
    *,
    label: Callable[[float], str] = _plain_number,
) -> None:
    """Make the horizontal axis logarithmic to base 2, with ticks where there is something.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Whose axis.
    sizes, always, label
        See `tick_sizes`.
    """
    from matplotlib.ticker import NullFormatter, NullLocator

    low, high = min(sizes), max(sizes)
    ticks = tick_sizes(sorted(set(sizes)), always, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [label(one) for one in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    pad = 2.0 if low == high else (high / low) ** 0.04  # one size alone: an axis needs a width
    axes.set_xlim(low / pad, high * pad)


def fitted(text: str, inches: float, size: float = 11.0) -> str:
    """Break a title into lines that fit into a width, so that a long name is not cut off."""
    # DejaVu Sans is 0.6 of its size wide, on average and with a little to spare.
    width = max(8, int(72 * inches / (0.62 * size)))
    return "\n".join(line for one in text.splitlines() for line in textwrap.wrap(one, width) or [""])


def check_format(path: Path) -> str:
    """Return the format a file name asks for; raises `InvalidInputError` for other than PNG and SVG."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InvalidInputError(f"cannot write a figure to {str(path)!r}; end it in .png or .svg")
    return kind
