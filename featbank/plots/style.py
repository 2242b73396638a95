"""How every figure looks: colours, line styles and markers, settings, fonts, sizes, formats."""

from __future__ import annotations

import io
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featbank._lean_imports import import_matplotlib
from featbank.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "DASHES",
    "FORMATS",
    "MARK",
    "MARKERS",
    "N_PLAIN",
    "SPLITS",
    "Look",
    "check_format",
    "check_size",
    "color_bar",
    "depth",
    "fitted",
    "font_size_for",
    "image_of",
    "new_figure",
    "page_style",
    "plain",
    "points_of",
    "styled",
    "text_size",
    "use_installed_fonts",
]

logger = logging.getLogger(__name__)

FORMATS = ("png", "svg", "pdf", "eps")
#: Ink of words that are not what is shown.
INK, QUIET = "#202124", "#3c4043"


def _style(size: float) -> dict[str, Any]:
    """Return featbank's settings for a text of so many points."""
    return {
        "axes.axisbelow": True,
        "axes.edgecolor": "#9aa0a6",
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.labelsize": 1.1 * size,
        "axes.linewidth": 0.08 * size,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 1.2 * size,
        "figure.facecolor": "white",
        "font.size": size,
        "grid.color": "#e8eaed",
        "grid.linewidth": 0.08 * size,
        "legend.fontsize": size,
        "legend.frameon": False,
        "legend.title_fontsize": size,
        "lines.linewidth": 0.18 * size,
        "lines.markersize": 0.55 * size,
        # text that an editor, a search and a screen reader know as text
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "savefig.dpi": 160 if size >= 10 else 300,
        "svg.hashsalt": "featbank",
        "text.color": INK,
        "xtick.color": "#9aa0a6",
        "xtick.labelcolor": QUIET,
        "ytick.color": "#9aa0a6",
        "ytick.labelcolor": QUIET,
    }


@contextmanager
def styled(font_size: float | None = None, *, own: bool = True) -> Iterator[None]:
    """Draw with featbank's settings where the user has set nothing: what a matplotlibrc says stands.

    Axes of the user's own are drawn on with the user's settings alone. That a character comes out as a box is
    said by `use_installed_fonts`, once, not at every drawing of it.
    """
    import_matplotlib()
    import matplotlib

    given: Any = matplotlib.rcParams
    usual: Any = matplotlib.rcParamsDefault
    settings: dict[Any, Any] = {}
    if own:
        size = font_size or (10.0 if given["font.size"] == usual["font.size"] else given["font.size"])
        settings = {name: one for name, one in _style(size).items() if given[name] == usual[name]}
        if font_size is not None:
            settings["font.size"] = font_size
        for along in "xy":
            if f"{along}tick.color" not in settings:  # labels go with the user's ticks
                settings.pop(f"{along}tick.labelcolor", None)
    settings["text.parse_math"] = False  # a class called "$a" is a name, not a formula
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def text_size(factor: float = 1.0) -> float:
    """Return so many times the size of the text that is drawn now, in points."""
    import matplotlib

    return factor * float(matplotlib.rcParams["font.size"])


def points_of(size: float | str) -> float:
    """Return the points of a size that may be a word of matplotlib's, such as ``"medium"``."""
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size=size).get_size_in_points())


def font_size_for(width: float) -> float | None:
    """Return the size of the text of a figure so many inches wide; None for the usual one.

    A column of a journal is 3.3 inches wide, and its captions have 7 or 8 points.
    """
    return 7.0 if width < 4 else 8.0 if width < 6 else None


def check_size(size: tuple[float, float]) -> None:
    """Raise `InvalidInputError` unless `size` is a width and a height that a figure can have, in inches."""
    if len(size) != 2 or not all(1 <= one <= 60 for one in size):
        raise InvalidInputError(f"size={size!r} is no width and height between 1 and 60 inches")


def use_installed_fonts(figure: Figure) -> None:
    """Have texts that their font lacks characters for drawn with fonts of this machine that have them.

    What no font has is said on the log, each character once.
    """
    from matplotlib.axis import Axis
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font
    from matplotlib.text import Text

    for axis in figure.findobj(Axis):
        axis.get_ticklabels()  # writes them, which is else left to the drawing
    fonts: dict[str, Any] = {}
    lacking = {}
    for text in figure.findobj(Text):
        chars = {ord(char) for char in text.get_text() if not char.isspace()}
        if chars and max(chars) > 126:
            file = findfont(text.get_fontproperties())
            font = fonts.setdefault(file, FT2Font(file))
            if foreign := frozenset(code for code in chars if not font.get_char_index(code)):
                lacking[text] = foreign
    if not lacking:
        return
    families, missing = _fonts_with(frozenset().union(*lacking.values()))
    for text in lacking:
        text.set_fontfamily([*text.get_fontfamily(), *families])
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

    pad = text_size(0.01)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=pad, h_pad=pad))
    FigureCanvasAgg(figure)
    return figure


def color_bar(image: Any, axes: Any, label: str, *, shrink: float = 0.9) -> Any:
    """Draw and return a colour bar beside axes; the label says name and unit."""
    # Several axes keep where they stand; one alone moves up to its bar.
    kept: dict[str, Any] = {"panchor": False} if isinstance(axes, list) else {}
    bar = image.get_figure().colorbar(image, ax=axes, shrink=shrink, aspect=30, pad=0.02, **kept)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def fitted(text: str, inches: float, size: float = 11.0, *, balanced: bool = False) -> str:
    """Break a text into lines that fit into a width, so that a long name is not cut off.

    Lines are about equally long if `balanced`.
    """
    # DejaVu Sans is 0.6 of its size wide, on average and with a little to spare.
    width = max(8, int(72 * inches / (0.62 * size)))
    if balanced and len(text) > width:
        n_lines = len(textwrap.wrap(text, width))
        width = next(one for one in range(1, width + 1) if len(textwrap.wrap(text, one)) <= n_lines)
    return "\n".join(line for one in text.splitlines() for line in textwrap.wrap(one, width) or [""])


def check_format(path: Path) -> str:
    """Return the format a file name asks for; raises `InvalidInputError` for others than `FORMATS`."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        endings = ", ".join(f".{one}" for one in FORMATS[:-1])
        raise InvalidInputError(
            f"cannot write a figure to {str(path)!r}; end it in {endings} or .{FORMATS[-1]}"
        )
    return kind


def image_of(figure: Figure, kind: str, *, laid_out: bool = False) -> bytes:
    """Return a figure as a file of one of `FORMATS`; equal figures give equal bytes.

    With `laid_out` it is drawn as it stands: matplotlib draws a figure with a layout engine twice, and lays
    it out each time.
    """
    import matplotlib

    buffer = io.BytesIO()
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}, "eps": None}
    changed = _without_alpha(figure) if kind == "eps" else []
    engine = figure.get_layout_engine()
    if laid_out:
        with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
    figure.savefig(buffer, format=kind, metadata=dated[kind])
    if laid_out:
        figure.set_layout_engine(engine)
    for artist, alpha, color in changed:
        artist.set_alpha(alpha)
        if color is not None:
            artist.set_facecolor(color)
    data = buffer.getvalue()
    return re.sub(rb"%%CreationDate:[^\n]*\n", b"", data) if kind == "eps" else data


def _without_alpha(figure: Figure) -> list[tuple[Any, Any, Any]]:
    """Mix what is seen through with white, for PostScript knows no transparency; return what to set back."""
    import numpy as np
    from matplotlib.collections import Collection
    from matplotlib.patches import Patch

    changed: list[tuple[Any, Any, Any]] = []
    found: list[Any] = figure.findobj(lambda one: one.get_alpha() is not None)
    for artist in found:
        color = artist.get_facecolor() if isinstance(artist, Collection | Patch) else None
        changed.append((artist, artist.get_alpha(), color))
        artist.set_alpha(None)
        if color is not None:
            rgba = np.atleast_2d(color)
            artist.set_facecolor(1 - rgba[:, 3:] * (1 - rgba[:, :3]))
    return changed


# how things are told apart, on paper and on the page ---------------------------------------------------

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
