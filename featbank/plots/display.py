"""What all displays share: axes made or taken, charts drawn, legend, looks, fonts, files with equal bytes."""

from __future__ import annotations

import io
import logging
import os
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from featbank import _atomic
from featbank._cache import user_path
from featbank._process import import_matplotlib
from featbank.errors import InvalidInputError
from featbank.manifest import printable
from featbank.plots.chart import COLORS, MARK, MARKERS, Chart, Entry, Look, Series, Table, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from featbank.runs import Run

__all__ = [
    "FORMATS",
    "Display",
    "LegendPlace",
    "check_format",
    "check_size",
    "color_bar",
    "draw_chart",
    "drawn_color",
    "fitted",
    "font_size_for",
    "image_of",
    "inches_of",
    "line_style",
    "new_figure",
    "points_of",
    "styled",
    "text_size",
    "use_installed_fonts",
]

logger = logging.getLogger(__name__)

#: Where a legend stands: beside the axes, inside them (lines only, no notes), nowhere.
LegendPlace = Literal["outside", "inside", "none"]
#: A legend that covers more of axes than this is not drawn inside them.
_MOST_COVERED = 0.35


class Display:
    """What all displays share: `plot` draws and returns the display, `save` writes the figure.

    A display that is made of charts says which (`charts`), with their `legend` and its `notes`, and what a
    page says of them besides (`caption`, `table`). Any other draws itself (`_draw`) on as many axes as it
    needs (`_n_axes`, `_new_axes`). Whose axes these are, title, legend, sizes and formats are settled here.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure drawn last.
    ax_ : matplotlib.axes.Axes or ndarray of them
        The axes drawn on last.

    Examples
    --------
    A figure of one's own draws on the axes that it is given:

    >>> class FitsDisplay(Display):
    ...     _noun = "a figure of single fits"
    ...     def __init__(self, fits, title=None):
    ...         self.fits, self.title = list(fits), title
    ...     @classmethod
    ...     def from_run(cls, run):
    ...         return cls(run.fits(), title=run.facts["name"])
    ...     def _draw(self, panels, *, own):
    ...         panels[0].scatter([one.n_per_class for one in self.fits], [one.top1 for one in self.fits])
    ...         panels[0].set_xlabel("Training samples per class")
    ...         return []  # entries of the legend
    >>> import featbank
    >>> display = FitsDisplay.from_run(featbank.open_run()).plot()
    >>> display.ax_.get_xlabel(), display.save("fits.png").name
    ('Training samples per class', 'fits.png')
    """

    figure_: Figure
    ax_: Any
    #: Above the figure.
    title: str | None = None
    #: What it is, for messages.
    _noun = "a figure"
    #: The axes that charts were drawn on.
    _drawn: Sequence[tuple[Any, Chart]] = ()
    #: Whether there is no room beside them.
    _narrow = False
    #: Above it on the page of a run, and whether it has a place there.
    page_title: str = "Figure"
    on_page: ClassVar[bool] = False

    @classmethod
    def suits(cls, run: Run) -> bool:
        """Say whether the results of a run have something to show in this figure."""
        return True

    def charts(self) -> Sequence[Chart]:
        """Return what is drawn, a chart for each of the axes."""
        raise NotImplementedError(
            f"{type(self).__name__} draws nothing yet; give it charts, or a _draw method"
        )

    def legend(self) -> list[Entry]:
        """Return what tells the lines of the charts apart."""
        return []

    def notes(self) -> list[tuple[str, list[str]]]:
        """Return what else has to be known to read the figure, as headings with their lines."""
        return []

    def caption(self) -> str:
        """Return in sentences what stands beside the lines of the legend."""
        return " ".join(f"{head}: {'; '.join(lines)}." for head, lines in self.notes())

    def table(self) -> Table:
        """Return the numbers."""
        raise NotImplementedError(f"{type(self).__name__} has no table")

    def plot(
        self,
        ax: Any = None,
        *,
        size: tuple[float, float] | None = None,
        font_size: float | None = None,
        legend: LegendPlace | None = None,
    ) -> Self:
        """Draw on a new figure, or on axes of the caller's.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or sequence of them, optional
            As many as the display says; by default a new figure, with room for its title and legend. On axes
            of yours matplotlib's settings are yours, too.
        size : (float, float), optional
            Width and height of a new figure in inches; by default as large as it has to be. A column of a
            journal is about 3.3 inches wide.
        font_size : float, optional
            Points of its text, lines and markers in proportion: 10, but 7 below 4 inches and 8 below 6.
        legend : {"outside", "inside", "none"}, optional
            Beside the axes, with notes; inside them, the lines alone; or none. By default outside where the
            figure has its own size or is 5 inches wide; else inside, or below where it would hide a line. On
            axes of yours it is left out, which is said, if it would cover more than a third of them.

        Returns
        -------
        Display
            This display, with `figure_` and `ax_` (the axes, an array of them where there are several).

        Raises
        ------
        InvalidInputError
            If these are more or fewer axes than the display is drawn on, or they belong to no figure; if a
            size is given for a figure that is yours, or is none.
        """
        own = ax is None
        if not own and (size is not None or font_size is not None):
            raise InvalidInputError("size and font_size are of a new figure; with ax, set them on your own")
        if legend not in (None, "outside", "inside", "none"):
            raise InvalidInputError(f"legend={legend!r} is not one of outside, inside, none")
        if font_size is not None and not 1 <= font_size <= 100:
            raise InvalidInputError(f"font_size={font_size!r} is not between 1 and 100 points")
        if size is not None:
            check_size(size)
        with styled(font_size or (font_size_for(size[0]) if size else None), own=own):
            self._narrow = legend == "none" or (size is not None and size[0] < 6)
            panels = np.ravel(np.array(self._new_axes() if own else ax, dtype=object))
            n_axes = self._n_axes()
            if len(panels) != (n_axes or 1):
                raise InvalidInputError(f"{self._noun} is drawn on {n_axes or 1} axes, got {len(panels)}")
            figure = panels[0].get_figure(root=True)
            if figure is None:
                raise InvalidInputError("ax belongs to no figure any more; make new axes")
            self.figure_, self.ax_ = figure, panels[0] if n_axes is None else panels
            if size is not None:
                figure.set_size_inches(*size)
            place = legend or ("outside" if own and (size is None or size[0] >= 5) else None)
            entries = self._draw(panels, own=own)
            self._write_title(panels, own=own)
            if entries and place != "none":
                if own and place != "outside":  # whether it would hide a line
                    _lay_out(figure)
                _add_legend(figure, panels, entries, place, grow=size is None, own=own)
            use_installed_fonts(figure)
            if own and self._drawn:  # how much room there is for ticks is known when all else stands
                _lay_out(figure)
                for axes, chart in self._drawn:
                    _place_ticks(axes, chart)
        return self

    def _n_axes(self) -> int | None:
        """How many axes it is drawn on; None for one, which `ax_` then is."""
        return None

    def _new_axes(self) -> Any:
        """Make a figure, and return the axes on it that are drawn on."""
        return new_figure(*self._size()).add_subplot()

    def _size(self) -> tuple[float, float]:
        """Width and height of a figure with one axes, in inches."""
        return 8.0, 4.8

    def _heading(self) -> str | None:
        return self.title

    def _draw(self, panels: NDArray[Any], *, own: bool) -> list[Any]:
        """Draw on the axes, and return the entries of the legend; `own` if the figure is the display's."""
        self._drawn = list(zip(panels, self.charts(), strict=True))
        for axes, chart in self._drawn:
            draw_chart(axes, chart)
        entries = self.legend()
        for head, lines in self.notes():
            entries += [Entry(head), *map(note, lines)]
        return entries

    def _write_title(self, panels: NDArray[Any], *, own: bool) -> None:
        title = "\n".join(printable(line) for line in (self._heading() or "").splitlines())
        if not title:
            return
        figure = self.figure_
        if own:
            size = text_size(1.1)
            text = fitted(title, float(figure.get_size_inches()[0]) - 0.4, size)
            figure.suptitle(text, x=0.01, horizontalalignment="left", fontsize=size, parse_math=False)
        elif self._n_axes() is None:
            axes = panels[0]
            size = points_of(axes.title.get_fontsize())
            axes.set_title(fitted(title, inches_of(axes)[0], size), parse_math=False)

    def save(self, path: str | os.PathLike[str], format: str | None = None) -> Path:
        """Write the figure as PNG, SVG, PDF or EPS; it is drawn first if it was not yet.

        Text of a PDF, EPS or SVG is text, which can be searched and edited. Equal data give equal bytes (for
        one version of matplotlib and the same settings). The file is whole or absent.

        Parameters
        ----------
        path : path-like
            Where to; missing folders are made.
        format : {"png", "svg", "pdf", "eps"}, optional
            By the ending of `path` by default.

        Returns
        -------
        pathlib.Path
            `path`.

        Raises
        ------
        InvalidInputError
            If it is none of these formats.
        CacheWriteError
            If the file cannot be written.
        """
        target = user_path(path)
        if format is not None and format not in FORMATS:
            raise InvalidInputError(f"format={format!r} is not one of {', '.join(FORMATS)}")
        data = self._image(format or check_format(target))
        _atomic.make_folder(target.parent)
        _atomic.write_file(target, data)
        return target

    def _image(self, kind: str) -> bytes:
        untouched = not hasattr(self, "figure_")
        if untouched:
            self.plot()
        with styled(self._drawn_size()):
            if untouched:
                _lay_out(self.figure_)
            return image_of(self.figure_, kind, laid_out=untouched)

    def _drawn_size(self) -> float | None:
        """Return the size of the text that the figure was drawn with, if it is small."""
        return font_size_for(float(self.figure_.get_size_inches()[0]))

    def _repr_png_(self) -> bytes:
        """Show the figure where the last line of a notebook cell is a display."""
        return self._image("png")


# settings, fonts and files ------------------------------------------------------------------------------

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
    _lay_out(image.get_figure())
    text = bar.ax.yaxis.label
    bar.set_label(fitted(label, inches_of(bar.ax)[1], points_of(text.get_fontsize()), balanced=True))
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


def drawn_color(name: str) -> str:
    """Return the colour of a name of `chart.COLORS` as figures have it: on dark axes, that of a dark page."""
    import matplotlib
    from matplotlib.colors import to_rgba

    behind = to_rgba(matplotlib.rcParams["axes.facecolor"])
    if not behind[3]:  # axes that are seen through
        behind = to_rgba(matplotlib.rcParams["figure.facecolor"])
    dark = bool(behind[3]) and sum(behind[:3]) < 1
    return COLORS[name][2 if dark else 0]


def line_style(look: Look) -> dict[str, Any]:
    """Return a look as matplotlib's line has it, in widths and sizes of the settings that are in force."""
    import matplotlib

    settings = matplotlib.rcParams
    width, size = float(settings["lines.linewidth"]), float(settings["lines.markersize"])
    color = drawn_color(look.color)
    style: dict[str, Any] = {
        "color": color,
        "linestyle": "none" if look.dash is None else (0, look.dashes) if look.dashes else "-",
        "linewidth": look.weight * width,
    }
    if look.marker is not None:
        style |= {
            "marker": MARKERS[look.marker % len(MARKERS)][0],
            "markersize": look.weight * size,
            "markerfacecolor": color if look.filled else settings["axes.facecolor"],
            "markeredgewidth": 0.22 * size,
        }
    return style


def _lay_out(figure: Figure) -> None:
    """Have the figure's layout done now, so that its axes know how large they are."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def inches_of(axes: Axes) -> tuple[float, float]:
    """Return how wide and high axes are."""
    figure: Any = axes.get_figure(root=True)
    box, (width, height) = axes.get_position(), figure.get_size_inches()
    return float(box.width * width), float(box.height * height)


# charts ----------------------------------------------------------------------------------------------


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Draw lines, intervals and marks of a chart; ticks follow when it is known how much room there is."""
    opacity = 0.18 if len(chart.series) <= 4 else 0.12
    for along, of in (("x", chart.x), ("y", chart.y)):
        if of.log:
            getattr(axes, f"set_{along}scale")("log")
    if chart.beyond is not None:
        axes.axvspan(chart.beyond, chart.x.high, color="#f1f3f4", linewidth=0, zorder=0)
    if chart.mark is not None:
        axes.axvline(chart.mark[0], **line_style(MARK))
    crowded = 0.8 if len(chart.series) > 6 else 1.0
    for one in chart.series:
        _draw_series(axes, one, chart.intervals, opacity, crowded)
    axes.set_xlim(chart.x.low, chart.x.high)
    low, high = chart.y.low, chart.y.high
    room = (high / low) ** 0.025 if chart.y.log else 0.025 * (high - low)  # half a marker
    axes.set_ylim((low / room, high * room) if chart.y.log else (low - room, high + room))
    if chart.x.names:
        axes.grid(visible=False, axis="x")
    _place_ticks(axes, chart)


def _draw_series(axes: Axes, one: Series, intervals: str, opacity: float, crowded: float) -> None:
    style = line_style(one.look)
    color, size = style["color"], crowded * style.get("markersize", 0.0)
    x = np.array([point.x for point in one.points])
    y = np.array([point.y for point in one.points])
    low, high = (
        np.array([np.nan if end is None else end for end in ends])
        for ends in ([point.low for point in one.points], [point.high for point in one.points])
    )
    apart = np.array([point.apart for point in one.points])
    size = min(size, _marker_room(x, axes))
    if size:
        style["markersize"] = size
    if (~apart).any():
        axes.plot(x[~apart], y[~apart], **style, label=one.name)
    if apart.any():
        axes.plot(x[apart], y[apart], **{**style, "linestyle": "none"})
    for point in one.points:
        if point.ring:
            ring = {"color": color, "fillstyle": "none", "markeredgewidth": 0.18 * size}
            axes.plot([point.x], [point.y], "o", **ring, markersize=2.2 * size)
    if not one.spread:
        return
    for at in range(max((len(point.dots) for point in one.points), default=0)):
        dotted = [point for point in one.points if point.dots]
        values = [point.dots[at] for point in dotted]
        axes.plot([point.x for point in dotted], values, ".", color=color, markersize=0.65 * size, alpha=0.8)
    known = np.isfinite(low)
    if known.any() and intervals == "band":
        axes.fill_between(x, low, high, color=color, alpha=opacity * one.spread, linewidth=0)
        # a band needs a neighbour; an interval that has none is a bar
        known &= ~np.append(False, known[:-1]) & ~np.append(known[1:], False)
    if known.any():
        bars = np.stack([y - low, high - y])[:, known]
        axes.errorbar(
            x[known], y[known], bars, color=color, fmt="none", capsize=0.5 * size, elinewidth=0.2 * size
        )


def _marker_room(x: NDArray[np.float64], axes: Axes) -> float:
    """Return a size in points at which markers of a line do not run into each other."""
    if len(x) < 2 or x[0] <= 0 or axes.get_xscale() != "log":
        return np.inf
    gaps = np.diff(np.log(np.unique(x))) / np.log(x.max() / x.min()) if x.max() > x.min() else np.ones(1)
    return float(max(0.8 * 72 * inches_of(axes)[0] * 0.75 * gaps.min(), 2.0))


def _place_ticks(axes: Axes, chart: Chart) -> None:
    """Write as many ticks, and as much of the names of the axes, as there is room for."""
    from matplotlib.ticker import NullFormatter, NullLocator

    for axis, of, inches, upright in zip(
        (axes.xaxis, axes.yaxis), (chart.x, chart.y), inches_of(axes), (False, True), strict=True
    ):
        size = points_of(axis.get_major_ticks(1)[0].label1.get_fontsize())
        ticks = of.ticks_within(72 * inches, size, upright=upright)
        tilted: dict[str, Any] = {}
        if of.names and len(ticks) < len(of.ticks):
            ticks, tilted = list(of.ticks), {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axis.set_ticks([value for value, _ in ticks], [text for _, text in ticks], **tilted)
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
        size = points_of(axis.label.get_fontsize())
        axis.set_label_text(fitted(of.label, inches, size, balanced=True))


# legends ---------------------------------------------------------------------------------------------


def _add_legend(
    figure: Figure,
    panels: NDArray[Any],
    entries: Sequence[Any],
    place: LegendPlace | None,
    *,
    grow: bool,
    own: bool,
) -> None:
    """Draw a legend beside the axes, with headings and notes, or inside them with what tells lines apart."""
    wide, high = (float(one) * figure.dpi for one in figure.get_size_inches())
    if place == "outside" and own:
        legend = _legend(figure, _spaced(entries), loc="outside right center")
        box = legend.get_window_extent()
        if grow:  # its own figure gets as large as it has to be
            head = 0.03 * text_size() * len(figure.get_suptitle().splitlines())
            figure.set_size_inches(
                max(wide, box.width + 0.48 * text_size() * figure.dpi) / figure.dpi,
                max(high, box.height + (0.04 * text_size() + head) * figure.dpi) / figure.dpi,
            )
        elif box.width > 0.45 * wide or box.height > 0.95 * high:
            legend.remove()
            _legend_below(figure, entries, wide)
        return
    told, axes = _lines(entries), panels[-1]
    if len(told) < 2 and place is None:
        return
    legend = _legend(axes, _spaced(entries) if place == "outside" else told, loc="best")
    if place is not None:
        return
    box, room = legend.get_window_extent(), axes.get_window_extent()
    covered = box.width * box.height / max(room.width * room.height, 1.0)
    if own and _hides(axes, box.padded(0.4 * text_size() * figure.dpi / 72)):
        legend.remove()
        _legend_below(figure, entries, wide)
    elif not own and (covered > _MOST_COVERED or box.width > room.width or box.height > room.height):
        legend.remove()
        logger.warning(
            "the legend would cover %.0f %% of these axes and is left out; make them larger, their text "
            "smaller, or ask for it with legend='inside'",
            100 * min(covered, 1.0),
        )


def _hides(axes: Axes, box: Any) -> bool:
    """Say whether lines or bars of axes run through a box."""
    shown: list[Any] = [*axes.lines, *axes.patches]
    paths = [one.get_path().transformed(one.get_transform()) for one in shown]
    return any(path.intersects_bbox(box, filled=False) for path in paths if len(path.vertices))


def _legend_below(figure: Figure, entries: Sequence[Any], wide: float) -> None:
    """Draw what tells lines apart below the axes, in as many columns as there is room for."""
    told = _lines(entries)
    first = _legend(figure, told, loc="outside lower center")
    n_columns = min(max(1, int(wide / first.get_window_extent().width)), len(told))
    first.remove()
    _legend(figure, told, loc="outside lower center", ncols=n_columns)


def _spaced(entries: Sequence[Any]) -> list[Any]:
    """Put an empty line above every heading but the first."""
    found: list[Any] = []
    for one in entries:
        if found and isinstance(one, Entry) and one.look is None and not one.plain:
            found.append(Entry(""))
        if isinstance(one, Entry) and one.plain:
            found += [note(line) for line in fitted(one.text, 0.22 * text_size(), text_size()).splitlines()]
        else:
            found.append(one)
    return found


def _lines(entries: Sequence[Any]) -> list[Any]:
    """Return the lines of those groups that have more than one; of the only group else."""
    groups: list[list[Any]] = [[]]
    for one in entries:
        if isinstance(one, Entry) and one.look is None:
            groups.append([])
        else:
            groups[-1].append(one)
    told = [group for group in groups if group]
    lines = [one for group in [each for each in told if len(each) > 1] or told[:1] for one in group]
    return [replace(one, text=one.short or one.text) if isinstance(one, Entry) else one for one in lines]


def _legend(owner: Any, entries: Sequence[Any], *, loc: str, ncols: int = 1) -> Any:
    """Draw and return a legend of lines, headings and notes.

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

    handles = [_handle(one) for one in entries]
    labels = [one.get_text() if isinstance(one, Text) else one.get_label() for one in handles]
    legend = owner.legend(
        handles=handles,
        labels=labels,
        handler_map={Text: HeadingHandler()},
        handlelength=3.0 if "outside" in loc else 2.4,
        loc=loc,
        ncols=ncols,
        frameon=loc == "best",
        framealpha=0.85,
    )
    for handle, text in zip(handles, legend.get_texts(), strict=True):
        text.set_parse_math(False)
        if isinstance(handle, Text):
            text.set_visible(False)
    return legend


def _handle(entry: Any) -> Any:
    """Return what stands for an entry; what is matplotlib's already (a bar) stands for itself."""
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    if not isinstance(entry, Entry):
        return entry
    if entry.look is None:
        text = Text(text=entry.text, fontweight="normal" if entry.plain else "bold")
        if entry.plain and text.get_color() == INK:
            text.set_color(QUIET)
        return text
    return Line2D([], [], **line_style(entry.look), label=entry.text)
