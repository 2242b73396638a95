"""What all displays share: whose axes, which title, how large a figure."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from featbank.errors import InvalidInputError
from featbank.plots import Display
from featbank.plots import display as drawing
from featbank.plots.chart import Entry, note


class Line(Display):
    """A display of one axes."""

    _noun = "a line"
    title = "a title"

    def _draw(self, panels, *, own):
        panels[0].plot([0, 1], [0, 1])
        self.own = own
        return []


class Pair(Line):
    def _n_axes(self):
        return 2

    def _new_axes(self):
        return Figure(figsize=(6, 3)).subplots(1, 2)


def test_a_display_draws_something() -> None:
    with pytest.raises(NotImplementedError, match="Display draws nothing yet"):
        Display().plot()


def test_one_axes_of_its_own_or_of_the_caller() -> None:
    display = Line().plot()
    assert (display.own, display.figure_.get_suptitle(), display.ax_.get_title(loc="left")) == (
        True,
        "a title",
        "",
    )
    axes = Figure().subplots()
    assert Line().plot(axes).ax_ is axes
    assert (axes.get_title(), axes.get_figure().get_suptitle()) == ("a title", "")


def test_several_axes() -> None:
    display = Pair().plot()
    assert (len(display.ax_), display.own) == (2, True)
    axes = Figure().subplots(1, 2)
    display = Pair().plot(axes)
    assert list(display.ax_) == list(axes)
    assert (display.own, display.figure_.get_suptitle()) == (False, "")


@pytest.mark.parametrize(
    ("kind", "n", "message"),
    [
        (Line, 2, "a line is drawn on 1 axes, got 2"),
        (Pair, 1, "a line is drawn on 2 axes, got 1"),
    ],
)
def test_the_wrong_number_of_axes(kind, n, message) -> None:
    with pytest.raises(InvalidInputError) as caught:
        kind().plot(Figure().subplots(1, n))
    assert str(caught.value) == message


def test_axes_that_were_removed() -> None:
    axes = Figure().subplots()
    axes.remove()
    with pytest.raises(InvalidInputError, match="ax belongs to no figure any more; make new axes"):
        Line().plot(axes)


NAMES = ["\u6f22\u5b57", "\u0939\u093f", "\U0001f98a fox", "plain"]


class Named(Display):
    """Names everywhere a display may write them."""

    def _draw(self, panels, *, own):
        panels[0].set_xticks(range(len(NAMES)), NAMES)
        panels[0].set_ylabel(NAMES[0])
        panels[0].text(0.5, 0.5, NAMES[1])
        return [Entry(NAMES[0]), note(NAMES[2])]


@pytest.fixture
def no_foreign_fonts(monkeypatch):
    """A machine with the fonts of matplotlib alone, which has not said anything yet."""
    own = [entry for entry in fontManager.ttflist if entry.name.startswith(("DejaVu", "cm", "Last Resort"))]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(drawing, "_told", set())
    drawing._fonts_with.cache_clear()
    yield
    drawing._fonts_with.cache_clear()


def test_what_no_font_has_is_said_once(no_foreign_fonts, caplog, tmp_path):
    for name in ("a.png", "b.svg"):
        Named().plot().save(tmp_path / name)
    (record,) = caplog.records
    assert "has 5 of the characters in names (\u0939\u093f\u5b57\u6f22\U0001f98a)" in record.message
    assert "drawn as boxes" in record.message


def test_names_are_drawn_with_a_font_that_has_them(no_foreign_fonts, caplog, tmp_path):
    boxes = Named().plot()._image("png")
    caplog.clear()
    file = tmp_path / "foreign.ttf"
    make_font(file, "".join(NAMES))
    fontManager.addfont(file)
    drawing._fonts_with.cache_clear()
    display = Named().plot()
    assert caplog.records == []
    labels = {one.get_text(): one.get_fontfamily() for one in display.ax_.get_xticklabels()}
    assert labels.pop("plain") == ["sans-serif"]
    assert set(map(tuple, labels.values())) == {("sans-serif", "Foreign Test")}
    assert display.ax_.yaxis.label.get_fontfamily() == ["sans-serif", "Foreign Test"]
    assert display._image("png") != boxes


def make_font(file, chars):
    """Write a font whose every character is a filled square."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(char): "square" for char in chars})
    builder.setupGlyf({".notdef": pen.glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Foreign Test", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(file)
